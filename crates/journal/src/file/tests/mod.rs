//! Tests of the file journal: on real folders here, on simulated disks beside.

mod crash;
mod disk;
pub(crate) mod life;
mod trouble;

use std::sync::Arc;

use unanimous_core::Decision;
use unanimous_core::id::{Lsn, ShardId, Timestamp, TxnId};

use crate::conformance::{self, Ear};
use crate::file::{FileJournal, Options};
use crate::{End, Entry, Journal};
use life::{begin_with_key, decided, finished};

#[test]
fn the_file_journal_conforms() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    conformance::suite(&|listener| {
        let options = Options { segment_bytes: 64 << 10, ..Options::default() };
        Box::new(FileJournal::open(folder.path(), options, Arc::clone(&listener)).expect("opens"))
    });
}

#[test]
fn threads_that_append_at_once_each_find_their_own_records_in_order() {
    const THREADS: u64 = 4;
    const TXNS: u64 = 300;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = || {
        let options = Options { segment_bytes: 32 << 10, ..Options::default() };
        let ear = Arc::new(Ear::default());
        let journal = FileJournal::open(folder.path(), options, Arc::clone(&ear) as _);
        (journal.expect("opens"), ear)
    };
    let id = |thread: u64, number: u64| TxnId::mint(number, ShardId::of(thread), 0);
    let (journal, ear) = open();
    let work = |thread: u64| {
        let shard = ShardId::of(thread);
        let epoch = journal.claim(shard).expect("claimable");
        let mut last = Lsn(0);
        for number in 0..TXNS {
            let records = [begin_with_key("k"), decided(Decision::Commit), finished()];
            for (expected, record) in (0..).zip(records) {
                let end = if expected == 2 { End::Ended } else { End::Open };
                let (txn, at) = (id(thread, number), now());
                let entry = Entry { txn, epoch, expected, at, records: &[record], end };
                let lsn = journal.append(entry).expect("it follows");
                assert!(lsn > last);
                last = lsn;
            }
            if number % 7 == thread {
                ear.wait_flushed(last);
            }
        }
    };
    std::thread::scope(|scope| {
        let work = &work;
        (0..THREADS).for_each(|thread| drop(scope.spawn(move || work(thread))));
    });
    journal.close().expect("a sound disk");
    drop(journal);
    let (journal, _) = open();
    assert!(journal.load().expect("readable").is_empty());
    for (thread, number) in (0..THREADS).flat_map(|it| (0..TXNS).map(move |n| (it, n))) {
        assert_eq!(journal.read(id(thread, number)).expect("readable").len(), 3);
    }
}

fn now() -> Timestamp {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(elapsed.expect("the clock is past 1970").as_millis() as u64)
}

/// Numbers by chance, the same for the same seed (SplitMix64; Steele, Lea and Flood, 2014).
#[derive(Clone)]
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// Below `bound`; zero if that is zero.
    fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }
}

/// How many seeds to try: `SEEDS` in the environment, or else `usual`.
fn seeds(usual: u64) -> u64 {
    std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
