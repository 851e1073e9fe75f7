//! The history on real folders: made anew, caught up, pruned, and not trusted blindly.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use unanimous_core::Decision;
use unanimous_core::id::{Epoch, Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::txn::Kind;

use super::now_ms;
use crate::conformance::Ear;
use crate::file::tests::life::{begin_with_key, decided, finished};
use crate::{End, Entry, FileJournal, Filter, Journal, JournalError, Options, Status};

const SHARD: u64 = 3;

/// Small segments, so that a history spans several.
fn options() -> Options {
    Options { segment_bytes: 16 << 10, ..Options::default() }
}

struct Opened {
    journal: FileJournal,
    ear: Arc<Ear>,
    epoch: Epoch,
}

fn open(dir: &Path, options: Options) -> Result<Opened, JournalError> {
    let ear = Arc::new(Ear::default());
    let journal = FileJournal::open(dir, options, Arc::clone(&ear) as _)?;
    let epoch = journal.claim(ShardId::of(SHARD))?;
    Ok(Opened { journal, ear, epoch })
}

fn id(number: u64) -> TxnId {
    TxnId::mint(number, ShardId::of(SHARD), 0)
}

fn key(number: u64) -> String {
    format!("key {number}")
}

impl Opened {
    fn append(&self, number: u64, at: Timestamp, expected: u32, end: End) -> Lsn {
        let record = match expected {
            0 => begin_with_key(&key(number)),
            1 => decided(Decision::Commit),
            _ => finished(),
        };
        let (txn, epoch, records) = (id(number), self.epoch, &[record]);
        let entry = Entry { txn, epoch, expected, at, records, end };
        self.journal.append(entry).expect("it follows")
    }

    /// Runs transactions to their end, and waits until that is durable.
    fn run(&self, numbers: std::ops::Range<u64>, at: Timestamp) {
        let mut last = Lsn(0);
        for number in numbers {
            self.append(number, at, 0, End::Open);
            self.append(number, at, 1, End::Open);
            last = self.append(number, at, 2, End::Ended);
        }
        self.ear.wait_flushed(last);
    }

    fn assert_all_there(&self, numbers: std::ops::Range<u64>) {
        for number in numbers.clone() {
            let stored = self.journal.read(id(number)).expect("readable");
            assert_eq!(stored.len(), 3, "transaction {number}");
            let found = self.journal.find_key(&key(number)).expect("readable");
            assert_eq!(found, Some(id(number)));
        }
        let filter = Filter {
            status: Some(Status::Committed),
            limit: numbers.clone().count() + 1,
            ..Filter::default()
        };
        let page = self.journal.query(&filter).expect("readable");
        let rows: Vec<_> = page.rows.into_iter().map(|row| row.txn).collect();
        assert_eq!(rows, numbers.rev().map(id).collect::<Vec<_>>());
    }
}

fn now() -> Timestamp {
    Timestamp(now_ms())
}

fn sizes(dir: &Path, suffix: &str) -> Vec<(std::path::PathBuf, u64)> {
    let entries = fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").path());
    let mut found: Vec<_> = entries
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .filter_map(|path| Some((path.clone(), fs::metadata(path).ok()?.len())))
        .collect();
    found.sort();
    found
}

#[test]
fn a_history_that_is_missing_or_not_usable_is_made_anew_from_the_segments() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // One segment, so that it has everything.
    let roomy = Options { segment_bytes: 4 << 20, ..Options::default() };
    let opened = open(folder.path(), roomy.clone()).expect("opens");
    opened.run(1..80, now());
    drop(opened);
    let history = folder.path().join("history.sqlite");
    let spoil: [fn(&Path); 3] = [
        |path| fs::remove_file(path).expect("removable"),
        |path| fs::write(path, b"SQLite format 3\0 and then nothing of it").expect("writable"),
        |path| {
            let other = rusqlite::Connection::open(path).expect("opens");
            other.execute_batch("UPDATE progress SET instance = 'another'").expect("writable");
        },
    ];
    for spoil in spoil {
        spoil(&history);
        let opened = open(folder.path(), roomy.clone()).expect("opens");
        opened.assert_all_there(1..80);
        opened.journal.close().expect("the disk is sound");
    }
    assert!(folder.path().join("history.sqlite.broken").exists());
}

#[test]
fn a_history_of_the_version_before_is_changed_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = open(folder.path(), options()).expect("opens");
    opened.run(1..800, now());
    opened.journal.close().expect("the disk is sound");
    drop(opened);
    let older = rusqlite::Connection::open(folder.path().join("history.sqlite")).expect("opens");
    older
        .execute_batch(
            "DROP INDEX txn_of_shape; ALTER TABLE txn DROP COLUMN shape; PRAGMA user_version = 1",
        )
        .expect("writable");
    drop(older);
    // The first segments are gone by now: only the history has what was in them.
    let opened = open(folder.path(), options()).expect("opens");
    opened.assert_all_there(1..800);
    assert!(!folder.path().join("history.sqlite.broken").exists());
    let tcc = Filter { kind: Some(Kind::Tcc), limit: 5, ..Filter::default() };
    assert!(opened.journal.query(&tcc).expect("readable").rows.is_empty());
}

#[test]
fn segments_go_once_the_history_has_them_and_the_history_outlives_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = open(folder.path(), options()).expect("opens");
    for round in 0..20 {
        opened.run(1 + 40 * round..41 + 40 * round, now());
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while sizes(folder.path(), ".seg").len() > crate::limits::RETIRED_MAX + 2 {
        assert!(Instant::now() < deadline, "{:?}", sizes(folder.path(), ".seg"));
        std::thread::yield_now();
    }
    opened.assert_all_there(1..801);
    drop(opened);
    open(folder.path(), options()).expect("opens").assert_all_there(1..801);
}

#[test]
fn ended_transactions_are_forgotten_after_the_retention_time_and_open_ones_never() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = open(folder.path(), options()).expect("opens");
    let long_ago = Timestamp(now().0 - 8 * 24 * 60 * 60 * 1_000);
    opened.append(1, long_ago, 0, End::Open);
    opened.run(2..1_200, long_ago);
    opened.run(2_000..2_010, now());
    let deadline = Instant::now() + Duration::from_secs(20);
    let filter = Filter { limit: 5_000, ..Filter::default() };
    while opened.journal.query(&filter).expect("readable").rows.len() > 11 {
        assert!(Instant::now() < deadline, "the old ones are forgotten");
        std::thread::yield_now();
    }
    assert_eq!(opened.journal.read(id(1)).expect("readable").len(), 1);
    assert!(opened.journal.read(id(2)).expect("readable").is_empty());
    assert_eq!(opened.journal.find_key(&key(7)).expect("readable"), None);
    assert_eq!(opened.journal.read(id(2_005)).expect("readable").len(), 3);
}

#[test]
fn a_log_that_ends_before_its_history_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let older = tempfile::tempdir().expect("a temporary folder");
    let opened = open(folder.path(), options()).expect("opens");
    opened.run(1..10, now());
    opened.journal.close().expect("the disk is sound");
    drop(opened);
    for (path, _) in sizes(folder.path(), ".seg") {
        fs::copy(&path, older.path().join(path.file_name().expect("named"))).expect("copied");
    }
    let opened = open(folder.path(), options()).expect("opens");
    opened.run(10..60, now());
    let deadline = Instant::now() + Duration::from_secs(20);
    while opened.journal.stats().projection_lag_bytes > 0 {
        assert!(Instant::now() < deadline, "the history catches up");
        std::thread::yield_now();
    }
    drop(opened);
    for (path, _) in sizes(folder.path(), ".seg") {
        fs::remove_file(path).expect("removable");
    }
    for (path, _) in sizes(older.path(), ".seg") {
        fs::copy(&path, folder.path().join(path.file_name().expect("named"))).expect("copied");
    }
    let refused = open(folder.path(), options()).err().expect("segments are missing");
    assert!(matches!(refused, JournalError::Damaged { .. }), "{refused}");
}

#[test]
fn damage_to_an_old_segment_stops_the_journal_and_names_the_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = open(folder.path(), options()).expect("opens");
    for round in 0..20 {
        opened.run(1 + 10 * round..11 + 10 * round, now());
    }
    drop(opened);
    fs::remove_file(folder.path().join("history.sqlite")).expect("removable");
    let segments = sizes(folder.path(), ".seg");
    assert!(segments.len() > 1, "{segments:?}");
    let (path, _) = &segments[0];
    let mut bytes = fs::read(path).expect("readable");
    bytes[2_000] ^= 0x40;
    fs::write(path, bytes).expect("writable");
    let ear = Arc::new(Ear::default());
    let journal = FileJournal::open(folder.path(), options(), Arc::clone(&ear) as _)
        .expect("the newest segment is whole");
    let refused = journal.find_key("nobody's").expect_err("something is missing");
    assert!(refused.to_string().contains("is damaged at offset"), "{refused}");
    let deadline = Instant::now() + Duration::from_secs(20);
    while ear.failures() == 0 {
        assert!(Instant::now() < deadline, "the failure is told");
        std::thread::yield_now();
    }
    let name = path.file_name().expect("named").to_string_lossy().into_owned();
    assert!(refused.to_string().contains(&name), "{refused}");
}

#[test]
fn a_second_opening_of_a_folder_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = open(folder.path(), options()).expect("opens");
    let refused = open(folder.path(), options()).err().expect("it is held");
    assert!(matches!(refused, JournalError::Locked { .. }), "{refused}");
    drop(opened);
    open(folder.path(), options()).expect("nobody holds it");
}
