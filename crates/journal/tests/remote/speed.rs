//! How fast it is. Run with `cargo test --release -p unanimous-journal --features etcd,postgres,testing
//! --test remote -- --ignored --nocapture --test-threads 1`.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use unanimous_core::id::{Lsn, ShardId, TxnId};
use unanimous_journal::{End, Journal, JournalError, Listener};

use crate::history::{Client, begun, finished, mint, mint_in};
use crate::listener::Heard;

#[derive(Default)]
struct Flushes {
    flushed: Mutex<Lsn>,
    heard: Condvar,
}

impl Listener for Flushes {
    fn flushed(&self, lsn: Lsn) {
        *self.flushed.lock().expect("no test thread panics") = lsn;
        self.heard.notify_all();
    }

    fn failed(&self, error: Arc<JournalError>) {
        panic!("{error}");
    }
}

impl Flushes {
    fn beyond(&self, lsn: Lsn) -> Lsn {
        let flushed = self.flushed.lock().expect("no test thread panics");
        *self.heard.wait_while(flushed, |it| *it <= lsn).expect("no test thread panics")
    }
}

/// Prints how many decisions a second become durable, with so many under way.
pub(crate) fn decisions(open: impl Fn(Arc<dyn Listener>) -> Box<dyn Journal>) {
    for in_flight in [1, 64, 1_024, 4_096] {
        let flushes = Arc::new(Flushes::default());
        let journal = open(Arc::clone(&flushes) as _);
        let client = Client::of(&*journal);
        let mut waiting: VecDeque<(TxnId, Lsn, Instant)> = VecDeque::new();
        let (mut decisions, mut slowest) = (0_u64, Duration::ZERO);
        let (start, mut flushed) = (Instant::now(), Lsn(0));
        while start.elapsed() < Duration::from_secs(5) {
            while waiting.len() < in_flight {
                let txn = mint();
                waiting.push_back((
                    txn,
                    client.decide(txn).expect("there is room"),
                    Instant::now(),
                ));
            }
            flushed = flushes.beyond(flushed);
            while let Some((txn, _, since)) = waiting.pop_front_if(|it| it.1 <= flushed) {
                client.append(txn, 2, &finished(), End::Ended).expect("it is open");
                decisions += 1;
                slowest = slowest.max(since.elapsed());
            }
        }
        let stats = journal.stats();
        println!(
            "{in_flight:5} in flight: {:7.0} decisions/s, slowest {slowest:?}, {:.3} commits each, \
             {:.2} ms a commit",
            decisions as f64 / start.elapsed().as_secs_f64(),
            stats.syncs as f64 / decisions as f64,
            stats.sync_nanos as f64 / stats.syncs as f64 / 1e6,
        );
    }
}

/// Prints how long it takes to take over ten thousand open transactions: by one journal, and by eight
/// of an eighth of the shards each.
pub(crate) fn takeovers(open: impl Fn(Arc<dyn Listener>) -> Box<dyn Journal> + Sync) {
    let all: Vec<ShardId> = ShardId::all().collect();
    let heard = Arc::new(Heard::default());
    let first = open(Arc::clone(&heard) as _);
    let epoch = first.claim_all(&all).expect("claimable")[0];
    let client = Client { journal: &*first, epoch };
    let begin =
        |shard| client.append(mint_in(shard), 0, &[begun(None)], End::Open).expect("there is room");
    let last = all.iter().cycle().take(10_000).map(|&shard| begin(shard)).last();
    heard.wait(last.expect("some")).expect("it is written");
    for parts in [1, 8, 8] {
        let opened = || open(Arc::new(Heard::default()));
        let journals: Vec<_> = (0..parts).map(|_| opened()).collect();
        let start = Instant::now();
        let counts: usize = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (journal, shards) in journals.iter().zip(all.chunks(all.len() / parts)) {
                threads.push(scope.spawn(move || {
                    journal.claim_all(shards).expect("claimable");
                    journal.load().expect("readable").len()
                }));
            }
            threads.into_iter().map(|it| it.join().expect("it does not panic")).sum()
        });
        println!("{counts} open ones taken over by {parts} after {:?}", start.elapsed());
        assert_eq!(counts, 10_000);
    }
}
