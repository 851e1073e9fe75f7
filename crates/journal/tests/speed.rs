//! How fast the file journal is. Run with
//! `cargo test --release -p unanimous-journal --test speed -- --ignored --nocapture --test-threads 1`.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use unanimous_core::commit::{self, Begun, Branch, Ending, Mode, Phases, Shape};
use unanimous_core::id::{BranchId, Epoch, Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::txn::Record;
use unanimous_core::{Decision, Opaque, Vote};
use unanimous_journal::{
    End, Entry, FileJournal, Filter, Journal, JournalError, Listener, Options,
};

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

fn now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).expect("past 1970");
    Timestamp(elapsed.as_millis() as u64)
}

/// Mints transactions of one shard and appends their records.
struct Client {
    journal: Arc<FileJournal>,
    epoch: Epoch,
    begin: [Record; 1],
    decide: [Record; 1],
    finish: [Record; 2],
}

impl Client {
    fn new(journal: &Arc<FileJournal>) -> Self {
        let epoch = journal.claim(shard()).expect("claimable");
        let branch = |name: &str| Branch {
            name: name.into(),
            resource: name.into(),
            phases: Phases::Two,
            work: Opaque::default(),
        };
        let record = Record::Commit;
        let finished = |index| record(commit::Record::Finished(BranchId(index), Ending::Done));
        Self {
            journal: Arc::clone(journal),
            epoch,
            begin: [record(commit::Record::Begun(Arc::new(Begun {
                shape: Shape::Atomic,
                mode: Mode::Run,
                timeout_ms: 30_000,
                deadline: now().after_ms(30_000),
                branches: vec![branch("wallet"), branch("ledger")],
                key: None,
                memo: Opaque::default(),
            })))],
            decide: [record(commit::Record::Decided {
                decision: Decision::Commit,
                votes: vec![Some(Vote::Yes); 2],
                reason: None,
                results: Vec::new(),
            })],
            finish: [finished(0), finished(1)],
        }
    }

    fn append(&self, txn: TxnId, expected: u32, records: &[Record], end: End) -> Lsn {
        let entry = Entry { txn, epoch: self.epoch, expected, at: now(), records, end };
        loop {
            match self.journal.append(entry) {
                Ok(lsn) => return lsn,
                Err(JournalError::Full(_)) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn begin(&self) -> (TxnId, Lsn) {
        let txn = mint();
        self.append(txn, 0, &self.begin, End::Open);
        (txn, self.append(txn, 1, &self.decide, End::Open))
    }

    fn finish(&self, txn: TxnId) -> Lsn {
        self.append(txn, 2, &self.finish, End::Ended)
    }
}

fn shard() -> ShardId {
    ShardId::of(0)
}

fn mint() -> TxnId {
    static MINTED: AtomicU64 = AtomicU64::new(0);
    let serial = MINTED.fetch_add(1, Ordering::Relaxed);
    TxnId::mint(now().0, shard(), u128::from(serial.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

fn open(dir: &Path) -> (Arc<FileJournal>, Arc<Flushes>) {
    let flushes = Arc::new(Flushes::default());
    let journal = FileJournal::open(dir, Options::default(), Arc::clone(&flushes) as _);
    (Arc::new(journal.expect("opens")), flushes)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = status.split(' ').nth(1).expect("a field").parse().expect("a number");
    (pages * 4_096) >> 20
}

#[test]
#[ignore = "measures"]
fn decisions_per_second() {
    for in_flight in [1, 64, 1_024, 8_192] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (journal, flushes) = open(folder.path());
        let client = Client::new(&journal);
        let mut waiting: VecDeque<(TxnId, Lsn, Instant)> = VecDeque::new();
        let (mut decisions, mut slowest) = (0_u64, Duration::ZERO);
        let (start, mut flushed) = (Instant::now(), Lsn(0));
        while start.elapsed() < Duration::from_secs(3) {
            while waiting.len() < in_flight {
                let (txn, lsn) = client.begin();
                waiting.push_back((txn, lsn, Instant::now()));
            }
            flushed = flushes.beyond(flushed);
            while let Some((txn, _, since)) = waiting.pop_front_if(|it| it.1 <= flushed) {
                client.finish(txn);
                decisions += 1;
                slowest = slowest.max(since.elapsed());
            }
        }
        let stats = journal.stats();
        println!(
            "{in_flight:5} in flight: {:9.0} decisions/s, slowest {slowest:?}, {:.0} bytes and \
             {:.3} syncs each, sync {:.0} us, {} MiB resident, {} MiB behind",
            decisions as f64 / start.elapsed().as_secs_f64(),
            stats.bytes as f64 / decisions as f64,
            stats.syncs as f64 / decisions as f64,
            stats.sync_nanos as f64 / stats.syncs as f64 / 1e3,
            resident_mib(),
            stats.projection_lag_bytes >> 20,
        );
    }
}

#[test]
#[ignore = "measures"]
fn cost_of_an_append() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (journal, _) = open(folder.path());
    let client = Client::new(&journal);
    for _ in 0..3 {
        const TXNS: u32 = 100_000;
        let start = Instant::now();
        for _ in 0..TXNS {
            let (txn, _) = client.begin();
            client.finish(txn);
        }
        println!(
            "{} ns an append, clock and identity included",
            (start.elapsed() / TXNS / 3).as_nanos()
        );
        journal.query(&Filter { limit: 1, ..Filter::default() }).expect("readable");
    }
}

#[test]
#[ignore = "measures"]
fn opening_with_a_million_finished_and_ten_thousand_open() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (journal, _) = open(folder.path());
    let client = Client::new(&journal);
    for _ in 0..10_000 {
        client.begin();
    }
    let start = Instant::now();
    for index in 0..1_000_000 {
        let (txn, _) = client.begin();
        client.finish(txn);
        if index % 100_000 == 0 {
            println!("{index}: {} MiB resident", resident_mib());
        }
    }
    println!("appended in {:?}", start.elapsed());
    let start = Instant::now();
    while journal.stats().projection_lag_bytes > 64 << 20 {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("history made in another {:?}, {} MiB resident", start.elapsed(), resident_mib());
    drop((client, journal));
    for _ in 0..3 {
        let start = Instant::now();
        let (journal, _) = open(folder.path());
        let opened = start.elapsed();
        let all: Vec<ShardId> = ShardId::all().collect();
        journal.claim_all(&all).expect("claimable");
        let loaded = journal.load().expect("readable").len();
        println!("opened in {opened:?}, {loaded} loaded after {:?}", start.elapsed());
        let start = Instant::now();
        let page = journal.query(&Filter { limit: 50, ..Filter::default() }).expect("readable");
        println!("page of {} in {:?}", page.rows.len(), start.elapsed());
    }
}
