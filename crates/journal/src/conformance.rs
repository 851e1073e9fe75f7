//! What every journal must do, as one suite that all of them run.
//!
//! The suite only uses the [`Journal`] trait. It may run on a journal that holds other
//! transactions: it finds its own by identities and names that nobody else uses.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use unanimous_core::commit::{self, Begun, Branch, Ending, Key, Mode, Phases, Shape};
use unanimous_core::id::{BranchId, Epoch, Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::txn::{Kind, Record};
use unanimous_core::{Decision, Opaque, Outcome, Reason, Vote};

use crate::{End, Entry, Filter, Journal, JournalError, Listener, Page, Status, Stored, Summary};

/// Longest wait for anything, in the suite.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens the journal under test, as a process does that starts: what an earlier opening made
/// durable is there. The suite has at most one open at a time, and drops it before the next.
pub type Open<'a> = dyn Fn(Arc<dyn Listener>) -> Box<dyn Journal> + 'a;

/// Runs every check.
///
/// # Panics
///
/// If one fails.
pub fn suite(open: &Open<'_>) {
    let checks: [Check; 14] = [
        ("a forced record is reported durable by itself", forced_is_flushed),
        ("a lazy record is reported durable after a while", lazy_is_flushed),
        ("records come back in order, whether or not they are durable", reads_what_was_appended),
        ("an entry that does not follow is a conflict and changes nothing", conflicts),
        ("nothing is taken under an epoch that is over", fences),
        ("claims only raise epochs, also across openings", claims),
        ("open transactions are loaded after an opening, ended ones are not", loads),
        ("what is open in a shard that was not claimed is not loaded", loads_its_own),
        ("an ended transaction is read after an opening", reads_the_end),
        ("a transaction is found by its key, before and after its end", finds_keys),
        ("each of many that are asked about at once gets its own answer", answers_many),
        ("a list shows each transaction as it stands", lists_states),
        ("a list is paged from the newest to the oldest", pages),
        ("nothing is taken after a close", closes),
    ];
    for (what, check) in checks {
        let mut bench = Bench::new(open);
        println!("conformance: {what}");
        check(&mut bench);
    }
}

type Check = (&'static str, fn(&mut Bench<'_>));

/// Remembers what a listener was told.
#[derive(Default)]
pub struct Ear {
    flushed: Mutex<Lsn>,
    heard: Condvar,
    failures: AtomicU64,
}

impl Ear {
    /// Waits until everything up to `lsn` was reported durable.
    ///
    /// # Panics
    ///
    /// If that does not happen.
    pub fn wait_flushed(&self, lsn: Lsn) {
        let flushed = self.flushed.lock().expect("no listener panics");
        let waited = self.heard.wait_timeout_while(flushed, PATIENCE, |it| *it < lsn);
        let (flushed, _) = waited.expect("no listener panics");
        assert!(*flushed >= lsn, "{lsn:?} was not reported durable");
    }

    /// How often a failure was reported.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }
}

impl Listener for Ear {
    fn flushed(&self, lsn: Lsn) {
        let mut flushed = self.flushed.lock().expect("no listener panics");
        assert!(lsn >= *flushed, "positions only grow");
        *flushed = lsn;
        self.heard.notify_all();
    }

    fn failed(&self, _: Arc<JournalError>) {
        self.failures.fetch_add(1, Ordering::SeqCst);
    }
}

/// Mints identities that no other run of the suite uses.
fn mint(shard: ShardId) -> TxnId {
    static MINTED: AtomicU64 = AtomicU64::new(0);
    let serial = MINTED.fetch_add(1, Ordering::SeqCst);
    let entropy = u128::from(std::process::id()) << 32 | u128::from(serial);
    // Later ones are newer, also within one millisecond.
    TxnId::mint(now().0 + serial, shard, entropy)
}

fn now() -> Timestamp {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(elapsed.expect("the clock is past 1970").as_millis() as u64)
}

/// An open journal with the epoch of one shard.
struct Bench<'a> {
    open: &'a Open<'a>,
    ear: Arc<Ear>,
    journal: Option<Box<dyn Journal>>,
    shard: ShardId,
    epoch: Epoch,
    /// When the first entry of each transaction is taken to happen.
    start: Timestamp,
}

impl<'a> Bench<'a> {
    fn new(open: &'a Open<'a>) -> Self {
        let ear = Arc::default();
        let (shard, epoch, start) = (ShardId::of(5), Epoch::default(), now());
        let mut bench = Self { open, ear, journal: None, shard, epoch, start };
        bench.reopen();
        bench
    }

    fn journal(&self) -> &dyn Journal {
        self.journal.as_deref().expect("opened")
    }

    /// Drops the journal without closing it, and opens it again.
    fn reopen(&mut self) {
        self.journal = None;
        self.ear = Arc::default();
        let ear: Arc<dyn Listener> = Arc::clone(&self.ear) as _;
        self.journal = Some((self.open)(ear));
        self.epoch = self.journal().claim(self.shard).expect("a shard can be claimed");
    }

    fn append(
        &self,
        txn: TxnId,
        expected: u32,
        records: &[Record],
        end: End,
    ) -> Result<Lsn, JournalError> {
        let at = self.at(expected);
        self.journal().append(Entry { txn, epoch: self.epoch, expected, at, records, end })
    }

    /// The time of the entry after so many records.
    fn at(&self, expected: u32) -> Timestamp {
        self.start.after_ms(u64::from(expected))
    }

    fn must(&self, txn: TxnId, expected: u32, records: &[Record], end: End) -> Lsn {
        self.append(txn, expected, records, end).expect("it follows")
    }

    /// Runs a transaction of one branch to its end.
    fn whole(&self, txn: TxnId, begun: Begun, decision: Decision) -> Lsn {
        self.must(txn, 0, &[Record::Commit(commit::Record::Begun(begun.into()))], End::Open);
        self.must(txn, 1, &[decided(decision)], End::Open);
        self.must(txn, 2, &[finished()], End::Ended)
    }

    fn records(&self, txn: TxnId) -> Vec<Record> {
        let stored = self.journal().read(txn).expect("readable");
        stored.into_iter().map(|stored: Stored| stored.record).collect()
    }

    fn query(&self, filter: &Filter) -> Page {
        self.journal().query(filter).expect("readable")
    }
}

fn begun(resource: &str, key: Option<&str>) -> Begun {
    let key = key.map(|text| Key { text: Arc::from(text), fingerprint: [7; 16] });
    Begun {
        shape: Shape::Atomic,
        mode: Mode::Run,
        timeout_ms: 30_000,
        deadline: Timestamp(31_000),
        branches: vec![Branch {
            name: Arc::from("only"),
            resource: Arc::from(resource),
            phases: Phases::Two,
            work: Opaque::new(b"{}"),
        }],
        key,
        memo: Opaque::default(),
    }
}

fn begin() -> Record {
    Record::Commit(commit::Record::Begun(begun("wallet", None).into()))
}

fn decided(decision: Decision) -> Record {
    let (vote, reason) = match decision {
        Decision::Commit => (Vote::Yes, None),
        Decision::Abort => (Vote::Yes, Some((None, Reason::new("client", "changed its mind")))),
    };
    let votes = vec![Some(vote)];
    Record::Commit(commit::Record::Decided { decision, votes, reason, results: Vec::new() })
}

fn finished() -> Record {
    Record::Commit(commit::Record::Finished(BranchId(0), Ending::Done))
}

fn forced_is_flushed(bench: &mut Bench<'_>) {
    let txn = mint(bench.shard);
    bench.must(txn, 0, &[begin()], End::Open);
    let lsn = bench.must(txn, 1, &[decided(Decision::Commit)], End::Open);
    bench.ear.wait_flushed(lsn);
    assert!(bench.journal().flushed() >= lsn);
}

fn lazy_is_flushed(bench: &mut Bench<'_>) {
    let lsn = bench.must(mint(bench.shard), 0, &[begin()], End::Open);
    bench.ear.wait_flushed(lsn);
}

fn reads_what_was_appended(bench: &mut Bench<'_>) {
    let txn = mint(bench.shard);
    let first = bench.must(txn, 0, &[begin(), decided(Decision::Abort)], End::Open);
    let second = bench.must(txn, 2, &[finished()], End::Ended);
    assert!(second > first, "positions only grow");
    let stored = bench.journal().read(txn).expect("readable");
    let expected = vec![
        Stored { lsn: first, at: bench.at(0), record: begin() },
        Stored { lsn: first, at: bench.at(0), record: decided(Decision::Abort) },
        Stored { lsn: second, at: bench.at(2), record: finished() },
    ];
    assert_eq!(stored, expected);
    assert!(bench.records(mint(bench.shard)).is_empty());
}

fn conflicts(bench: &mut Bench<'_>) {
    let txn = mint(bench.shard);
    bench.must(txn, 0, &[begin()], End::Open);
    for wrong in [0, 2, 9] {
        let refused = bench.append(txn, wrong, &[decided(Decision::Commit)], End::Open);
        match refused {
            Err(JournalError::Conflict { found: 1, expected, .. }) => assert_eq!(expected, wrong),
            other => panic!("expected a conflict, got {other:?}"),
        }
    }
    let unknown = bench.append(mint(bench.shard), 1, &[finished()], End::Open);
    assert!(matches!(unknown, Err(JournalError::Conflict { .. })), "{unknown:?}");
    assert_eq!(bench.records(txn), [begin()]);
    bench.must(txn, 1, &[decided(Decision::Commit)], End::Open);
    bench.must(txn, 2, &[finished()], End::Ended);
    let late = bench.append(txn, 3, &[finished()], End::Open);
    assert!(matches!(late, Err(JournalError::Conflict { .. })), "{late:?}");
}

fn fences(bench: &mut Bench<'_>) {
    let txn = mint(bench.shard);
    bench.must(txn, 0, &[begin()], End::Open);
    let newer = bench.journal().claim(bench.shard).expect("a shard can be claimed");
    let refused = bench.append(txn, 1, &[decided(Decision::Commit)], End::Open);
    match refused {
        Err(JournalError::Fenced { ours, current }) => {
            assert_eq!((ours, current), (bench.epoch, newer));
        }
        other => panic!("expected to be fenced off, got {other:?}"),
    }
    assert_eq!(bench.records(txn), [begin()]);
    bench.epoch = newer;
    bench.must(txn, 1, &[decided(Decision::Abort)], End::Open);
}

fn claims(bench: &mut Bench<'_>) {
    let other = ShardId::of(6);
    let claimed = bench.journal().claim_all(&[bench.shard, other]).expect("claimable");
    assert!(claimed[0] > bench.epoch);
    assert_eq!(bench.journal().claim_all(&[]).expect("nothing to claim"), []);
    assert!(bench.journal().claim(other).expect("claimable") > claimed[1]);
    bench.reopen();
    assert!(bench.epoch > claimed[0]);
    assert!(bench.journal().claim(other).expect("claimable") > claimed[1]);
}

fn loads(bench: &mut Bench<'_>) {
    let (older, newer, ended) = (mint(bench.shard), mint(bench.shard), mint(bench.shard));
    bench.must(newer, 0, &[begin()], End::Open);
    bench.must(older, 0, &[begin()], End::Open);
    bench.whole(ended, begun("wallet", None), Decision::Commit);
    let lsn = bench.must(older, 1, &[decided(Decision::Commit)], End::Open);
    bench.ear.wait_flushed(lsn);
    for _ in 0..2 {
        bench.reopen();
        let ours = [older, newer, ended];
        let loaded = bench.journal().load().expect("readable");
        let loaded: Vec<_> = loaded.into_iter().filter(|it| ours.contains(&it.txn)).collect();
        let found: Vec<_> = loaded.iter().map(|it| it.txn).collect();
        assert_eq!(found, [older, newer], "oldest first, without the ended one");
        let records = loaded[0].records.clone().expect("readable");
        let records: Vec<_> = records.into_iter().map(|stored| stored.record).collect();
        assert_eq!(records, [begin(), decided(Decision::Commit)]);
    }
    bench.must(older, 2, &[finished()], End::Ended);
}

fn loads_its_own(bench: &mut Bench<'_>) {
    let other = ShardId::of(7);
    let (ours, theirs) = (mint(bench.shard), mint(other));
    bench.must(ours, 0, &[begin()], End::Open);
    let epoch = bench.journal().claim(other).expect("claimable");
    let (at, records) = (bench.start, &[begin()]);
    let entry = Entry { txn: theirs, epoch, expected: 0, at, records, end: End::Open };
    bench.ear.wait_flushed(bench.journal().append(entry).expect("it follows"));
    bench.reopen();
    let loaded = |bench: &Bench<'_>| -> Vec<TxnId> {
        let open = bench.journal().load().expect("readable").into_iter().map(|it| it.txn);
        open.filter(|txn| [ours, theirs].contains(txn)).collect()
    };
    assert_eq!(loaded(bench), [ours]);
    assert_eq!(bench.records(theirs), [begin()], "it can be read");
    bench.journal().claim(other).expect("claimable");
    assert_eq!(loaded(bench), [ours, theirs]);
}

fn reads_the_end(bench: &mut Bench<'_>) {
    let txn = mint(bench.shard);
    let lsn = bench.whole(txn, begun("wallet", None), Decision::Commit);
    bench.ear.wait_flushed(lsn);
    let before = bench.journal().read(txn).expect("readable");
    bench.reopen();
    assert_eq!(bench.journal().read(txn).expect("readable"), before);
    let again = bench.append(txn, 3, &[finished()], End::Open);
    assert!(matches!(again, Err(JournalError::Conflict { .. })), "{again:?}");
}

fn finds_keys(bench: &mut Bench<'_>) {
    let txn = mint(bench.shard);
    let key = format!("key of {txn}");
    let found = |bench: &Bench<'_>| bench.journal().find_key(&key).expect("readable");
    assert_eq!(found(bench), None);
    let record = Record::Commit(commit::Record::Begun(begun("wallet", Some(&key)).into()));
    bench.must(txn, 0, &[record], End::Open);
    assert_eq!(found(bench), Some(txn));
    bench.must(txn, 1, &[decided(Decision::Commit)], End::Open);
    let lsn = bench.must(txn, 2, &[finished()], End::Ended);
    assert_eq!(found(bench), Some(txn));
    bench.ear.wait_flushed(lsn);
    bench.reopen();
    assert_eq!(found(bench), Some(txn));
    assert_eq!(bench.journal().find_key(&format!("{key}!")).expect("readable"), None);
}

fn answers_many(bench: &mut Bench<'_>) {
    // More than any server is asked about in one request, a third of them never begun.
    let txns: [TxnId; 400] = std::array::from_fn(|_| mint(bench.shard));
    let keys = txns.each_ref().map(|txn| format!("key of {txn}"));
    let mut last = Lsn::default();
    for (index, (&txn, key)) in txns.iter().zip(&keys).enumerate() {
        let begun = begun("wallet", Some(key));
        last = last.max(match index % 3 {
            0 => Lsn::default(),
            1 => bench.must(
                txn,
                0,
                &[Record::Commit(commit::Record::Begun(begun.into()))],
                End::Open,
            ),
            _ => bench.whole(txn, begun, Decision::Commit),
        });
    }
    let answered = |bench: &Bench<'_>| {
        let found = bench.journal().find_keys(&keys);
        let read = bench.journal().read_all(&txns);
        assert_eq!((found.len(), read.len()), (txns.len(), txns.len()));
        for (index, (found, read)) in found.into_iter().zip(read).enumerate() {
            let (found, read) = (found.expect("readable"), read.expect("readable"));
            assert_eq!(found, (index % 3 > 0).then_some(txns[index]), "{index}");
            assert_eq!(read.len(), [0, 1, 3][index % 3], "{index}");
        }
    };
    answered(bench);
    bench.ear.wait_flushed(last);
    bench.reopen();
    answered(bench);
}

fn lists_states(bench: &mut Bench<'_>) {
    let ids: [TxnId; 4] = std::array::from_fn(|_| mint(bench.shard));
    let resource = format!("resource of {}", ids[0]);
    let key = format!("key of {}", ids[0]);
    let open = |key| Record::Commit(commit::Record::Begun(begun(&resource, key).into()));
    bench.must(ids[0], 0, &[open(Some(&key))], End::Open);
    bench.must(ids[1], 0, &[open(None)], End::Open);
    bench.must(ids[1], 1, &[decided(Decision::Commit)], End::Open);
    bench.whole(ids[2], begun(&resource, None), Decision::Commit);
    let lsn = bench.whole(ids[3], begun(&resource, None), Decision::Abort);
    let start = bench.start;
    let row = |index: usize, status, outcome| Summary {
        txn: ids[index],
        kind: Kind::Atomic,
        status,
        outcome,
        begun_at: start,
        updated_at: start.after_ms([0, 1, 2, 2][index]),
        resources: vec![resource.clone()],
        key: (index == 0).then(|| key.clone()),
    };
    let rows = [
        row(3, Status::Aborted, Some(Outcome::Aborted)),
        row(2, Status::Committed, Some(Outcome::Committed)),
        row(1, Status::Committing, Some(Outcome::Committed)),
        row(0, Status::Preparing, None),
    ];
    let all = Filter { resource: Some(resource.clone()), limit: 10, ..Filter::default() };
    assert_eq!(bench.query(&all).rows, rows);
    bench.ear.wait_flushed(lsn);
    bench.reopen();
    assert_eq!(bench.query(&all).rows, rows);
    for expected in rows {
        let filter = Filter { status: Some(expected.status), ..all.clone() };
        assert_eq!(bench.query(&filter).rows, [expected]);
    }
    let before = Filter { begun_before: Some(start), ..all.clone() };
    assert!(bench.query(&before).rows.is_empty());
    let before = Filter { begun_before: Some(start.after_ms(1)), ..all.clone() };
    assert_eq!(bench.query(&before).rows.len(), 4);
    for (kind, count) in [(Kind::Atomic, 4), (Kind::Tcc, 0), (Kind::Saga, 0)] {
        let filter = Filter { kind: Some(kind), ..all.clone() };
        assert_eq!(bench.query(&filter).rows.len(), count, "{kind:?}");
    }
    let nobody = Filter { resource: Some(format!("{resource}!")), ..all };
    assert!(bench.query(&nobody).rows.is_empty());
}

fn pages(bench: &mut Bench<'_>) {
    let ids: Vec<TxnId> = (0..25).map(|_| mint(bench.shard)).collect();
    let resource = format!("resource of {}", ids[0]);
    for (index, &txn) in ids.iter().enumerate() {
        match index % 3 {
            0 => {
                let record = Record::Commit(commit::Record::Begun(begun(&resource, None).into()));
                bench.must(txn, 0, &[record], End::Open);
            }
            _ => {
                bench.whole(txn, begun(&resource, None), Decision::Commit);
            }
        }
    }
    let mut filter = Filter { resource: Some(resource), limit: 7, ..Filter::default() };
    let mut seen = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the pages come to an end");
        let page = bench.query(&filter);
        assert!(page.rows.len() <= 7);
        seen.extend(page.rows.iter().map(|row| row.txn));
        assert_eq!(page.next.is_some(), page.next == page.rows.last().map(|row| row.txn));
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    let newest_first: Vec<_> = ids.into_iter().rev().collect();
    assert_eq!(seen, newest_first);
}

fn closes(bench: &mut Bench<'_>) {
    let txn = mint(bench.shard);
    let lsn = bench.must(txn, 0, &[begin()], End::Open);
    bench.journal().close().expect("the disk is sound");
    assert!(bench.journal().flushed() >= lsn);
    let refused = bench.append(txn, 1, &[decided(Decision::Commit)], End::Open);
    assert!(matches!(refused, Err(JournalError::Failed(_))), "{refused:?}");
    assert!(bench.journal().claim(bench.shard).is_err());
    bench.reopen();
    assert_eq!(bench.records(txn), [begin()]);
    assert_eq!(bench.ear.failures(), 0);
}
