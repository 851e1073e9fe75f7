//! The server is killed under load, and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use unanimous_core::id::{Lsn, TxnId};
use unanimous_journal::{End, Journal, JournalError};

use super::private::{Private, open};
use crate::history::{Client, begun, finished, mint};
use crate::listener::Heard;
use crate::patience::until;

#[test]
fn everything_that_was_reported_durable_outlives_a_server_that_is_killed() {
    let Some(mut server) = Private::start(&[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&server.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let told: Vec<(TxnId, Lsn)> = std::thread::scope(|scope| {
        let work = || {
            let mut begun = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let txn = mint();
                match client.whole(txn) {
                    Ok(lsn) => begun.push((txn, lsn)),
                    Err(JournalError::Full(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
            begun
        };
        let workers = [scope.spawn(work), scope.spawn(work)];
        for _ in 0..3 {
            let before = heard.flushed();
            until("some load", || heard.flushed().0 > before.0 + 1_500);
            server.kill();
            until("it is noticed", || !journal.has_room());
            server.up();
            until("it goes on", || journal.has_room());
        }
        over.store(true, Ordering::SeqCst);
        workers.into_iter().flat_map(|it| it.join().expect("it does not panic")).collect()
    });
    let flushed = heard.flushed();
    assert!(heard.failure().is_none(), "{:?}", heard.failure());
    drop(journal);
    let journal = open(&server.url(), Arc::new(Heard::default()));
    let durable: Vec<_> = told.into_iter().filter(|(_, lsn)| *lsn <= flushed).collect();
    assert!(durable.len() > 1_000, "{}", durable.len());
    for (txn, _) in durable {
        assert_eq!(journal.read(txn).expect("readable").len(), 4, "{txn}");
    }
}

#[test]
fn while_the_database_is_gone_nothing_is_begun_and_nothing_is_lost() {
    let Some(mut server) = Private::start(&[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&server.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let (idle, open_txn) = (mint(), mint());
    heard.wait(client.decide(open_txn).expect("it is ours")).expect("it is ours");
    server.kill();
    until("it is noticed without any work", || !journal.has_room());
    let refused = client.append(idle, 0, &[begun(None)], End::Open);
    assert!(matches!(refused, Err(JournalError::Full(_))), "{refused:?}");
    let lsn = client.append(open_txn, 2, &finished(), End::Ended).expect("open ones go on");
    assert!(heard.flushed() < lsn);
    server.up();
    heard.wait(lsn).expect("it goes on");
    heard.wait(client.decide(idle).expect("there is room")).expect("it goes on");
    assert_eq!(journal.read(open_txn).expect("readable").len(), 4);
}
