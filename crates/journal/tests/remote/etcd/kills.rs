//! Members are killed under load, and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use unanimous_core::id::{Lsn, TxnId};
use unanimous_journal::{End, Journal, JournalError};

use super::private::{Cluster, open};
use crate::history::{Client, begun, finished, mint};
use crate::listener::Heard;
use crate::patience::until;

#[test]
fn what_was_reported_durable_outlives_kills_of_members_and_of_their_leader() {
    let Some(mut cluster) = Cluster::start(3, &[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&cluster.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let over = AtomicBool::new(false);
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
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            begun
        };
        let workers = [scope.spawn(work), scope.spawn(work)];
        for round in 0..4 {
            let some_load = |heard: &Heard| {
                let before = heard.flushed();
                until("some load", || heard.flushed().0 > before.0 + 300);
            };
            some_load(&heard);
            let leader = cluster.leader();
            let victim = if round % 2 == 0 { leader } else { (leader + 1) % cluster.len() };
            cluster.kill(victim);
            some_load(&heard);
            cluster.up(victim);
        }
        over.store(true, Ordering::SeqCst);
        workers.into_iter().flat_map(|it| it.join().expect("it does not panic")).collect()
    });
    until("all of it is durable", || told.iter().all(|(_, lsn)| *lsn <= heard.flushed()));
    assert!(heard.failure().is_none(), "{:?}", heard.failure());
    drop(journal);
    let journal = open(&cluster.url(), Arc::new(Heard::default()));
    assert!(told.len() > 1_000, "{}", told.len());
    for (txn, _) in told {
        assert_eq!(journal.read(txn).expect("readable").len(), 4, "{txn}");
    }
    assert!(journal.load().expect("readable").is_empty());
}

#[test]
fn while_etcd_has_no_majority_nothing_is_begun_and_nothing_is_lost() {
    let Some(mut cluster) = Cluster::start(3, &[]) else { return };
    let heard = Arc::new(Heard::default());
    let journal = open(&cluster.url(), Arc::clone(&heard) as _);
    let client = Client::of(&journal);
    let (idle, open_txn) = (mint(), mint());
    heard.wait(client.decide(open_txn).expect("it is ours")).expect("it is ours");
    cluster.kill(0);
    cluster.kill(1);
    until("it is noticed without any work", || !journal.has_room());
    let refused = client.append(idle, 0, &[begun(None)], End::Open);
    assert!(matches!(refused, Err(JournalError::Full(_))), "{refused:?}");
    let lsn = client.append(open_txn, 2, &finished(), End::Ended).expect("open ones go on");
    assert!(heard.flushed() < lsn);
    cluster.up(0);
    heard.wait(lsn).expect("it goes on");
    until("there is room", || journal.has_room());
    heard.wait(client.decide(idle).expect("there is room")).expect("it goes on");
    assert_eq!(journal.read(open_txn).expect("readable").len(), 4);
}
