//! A disk that fails or fills up, with the journal's own threads at work.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use unanimous_core::Decision;
use unanimous_core::id::{Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::txn::Record;

use super::disk::{Disk, Mounted};
use super::life::{begin, decided, finished};
use crate::Listener;
use crate::conformance::Ear;
use crate::entry::{End, Entry};
use crate::error::JournalError;
use crate::file::keeper::Keeper;
use crate::file::recover;
use crate::file::state::Shared;
use crate::file::storage::Storage;
use crate::file::writer::{Figures, Writer};
use crate::limits::{BEGIN_BYTES_MAX, WAITING_BYTES_MAX};

const SEGMENT_BYTES: u64 = 16 << 10;

/// A journal without a history, on a simulated disk.
struct Running {
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    ear: Arc<Ear>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(disk: &Arc<Disk>) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(Mounted(Arc::clone(disk)));
        let found = recover::open(&storage, SEGMENT_BYTES).expect("a sound disk");
        let keeper = Keeper::new(storage, SEGMENT_BYTES, u64::MAX, &found.segments);
        let keeper = Arc::new(keeper);
        let shared = Arc::new(Shared::new(found.table, found.epochs, found.next));
        let ear = Arc::new(Ear::default());
        let writer = Writer::new(
            Arc::clone(&shared),
            Arc::clone(&keeper),
            Arc::clone(&ear) as Arc<dyn Listener>,
            Arc::new(Figures::default()),
            found.log,
        );
        let (keeping, sharing) = (Arc::clone(&keeper), Arc::clone(&shared));
        let threads =
            vec![thread::spawn(move || writer.run()), thread::spawn(move || keeping.run(&sharing))];
        Self { shared, keeper, ear, threads }
    }

    fn append(&self, txn: u64, expected: u32, record: Record) -> Result<Lsn, JournalError> {
        let txn = TxnId::mint(txn, ShardId::of(1), 0);
        let end = if expected == 2 { End::Ended } else { End::Open };
        let epoch = self.shared.lock().epochs[1];
        let (at, records) = (Timestamp(1), &[record]);
        self.shared.append(&Entry { txn, epoch, expected, at, records, end })
    }

    fn stop(self) {
        self.shared.stop();
        self.keeper.stop();
        for thread in self.threads {
            thread.join().expect("the journal's threads do not panic");
        }
    }
}

/// Waits until `holds`, for a while.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_nothing_is_taken_afterwards() {
    let disk = Disk::new(1);
    let journal = Running::start(&disk);
    journal.append(1, 0, begin(TxnId(1))).expect("sound so far");
    let told = journal.append(1, 1, decided(Decision::Commit)).expect("sound so far");
    journal.ear.wait_flushed(told);
    disk.fail_sync_after(0);
    let lost = journal.append(2, 0, begin(TxnId(2))).expect("not known yet");
    let lost = journal.append(2, 1, decided(Decision::Commit)).map_or(lost, |lsn| lsn);
    until("the failure is told", || journal.ear.failures() == 1);
    assert!(journal.shared.flushed() < lost);
    for _ in 0..3 {
        let refused = journal.append(3, 0, begin(TxnId(3)));
        assert!(matches!(refused, Err(JournalError::Failed(_))), "{refused:?}");
    }
    assert!(journal.shared.claim(&[ShardId::of(2)]).is_err());
    assert_eq!(journal.ear.failures(), 1);
    journal.stop();
}

#[test]
fn a_full_disk_refuses_what_is_new_finishes_what_is_open_and_resumes_by_itself() {
    const OPEN: usize = 12;
    let disk = Disk::new(2);
    let journal = Running::start(&disk);
    until("a spare is prepared", || disk.used() > 2 * SEGMENT_BYTES);
    disk.set_room(disk.used());
    let mut begun = Vec::new();
    let refused = loop {
        let txn = begun.len() as u64 + 1;
        match journal.append(txn, 0, begin(TxnId(1))) {
            Ok(_) => begun.push(txn),
            Err(error) => break error,
        }
        // Slower than the keeper, so that it can tell in time.
        let lsn = journal.append(txn, 1, decided(Decision::Commit)).expect("it is open");
        journal.ear.wait_flushed(lsn);
        if begun.len() > OPEN {
            journal.append(txn - OPEN as u64, 2, finished()).expect("it is open");
        }
        assert!(begun.len() < 10_000, "the disk is full long since");
    };
    assert!(matches!(refused, JournalError::Full(_)), "{refused}");
    for &txn in &begun[begun.len() - OPEN..] {
        let lsn = journal.append(txn, 2, finished()).expect("it is open");
        journal.ear.wait_flushed(lsn);
    }
    disk.set_room(u64::MAX);
    until("there is room", || journal.shared.lock().room().is_ok());
    let lsn = journal.append(90_000, 0, begin(TxnId(1))).expect("there is room");
    journal.ear.wait_flushed(lsn);
    journal.stop();
}

#[test]
fn a_full_disk_does_not_keep_a_journal_from_closing() {
    let disk = Disk::new(3);
    let journal = Running::start(&disk);
    until("a spare is prepared", || disk.used() > 2 * SEGMENT_BYTES);
    disk.set_room(disk.used());
    // Enough for both segments, at once.
    for txn in 1..400 {
        if journal.append(txn, 0, begin(TxnId(1))).is_err() {
            break;
        }
    }
    let last = Lsn(journal.shared.lock().batch().next().0 - 1);
    journal.shared.begin_close().expect("open so far");
    let closed = journal.shared.wait_flushed(last);
    assert!(closed.is_ok() || matches!(closed, Err(JournalError::Failed(_))));
    journal.stop();
}

#[test]
fn a_disk_that_is_stuck_bounds_what_waits_for_it_and_open_transactions_go_on() {
    let storage: Arc<dyn Storage> = Arc::new(Mounted(Disk::new(4)));
    let found = recover::open(&storage, SEGMENT_BYTES).expect("a sound disk");
    // Nobody writes.
    let shared = Arc::new(Shared::new(found.table, found.epochs, found.next));
    let append = |txn: u64, expected, record: Record| {
        let txn = TxnId::mint(txn, ShardId::of(1), 0);
        let (epoch, at, end) = (Default::default(), Timestamp(1), End::Open);
        shared.append(&Entry { txn, epoch, expected, at, records: &[record], end })
    };
    let large = super::life::begin_with(1 << 20);
    for txn in 1.. {
        match append(txn, 0, large.clone()) {
            Ok(_) => assert!(txn <= (WAITING_BYTES_MAX >> 20) as u64 + 1),
            Err(JournalError::Full(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    append(1, 1, decided(Decision::Commit)).expect("it is open");
    let too_large = append(90_000, 0, super::life::begin_with(BEGIN_BYTES_MAX));
    assert!(matches!(too_large, Err(JournalError::Full(_))));
}
