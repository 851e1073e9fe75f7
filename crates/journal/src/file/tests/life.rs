//! A journal on a simulated disk, driven step by step in one thread, beside a model of it.
//!
//! The model is the list of everything appended. After every opening the journal must equal the
//! model cut at some position, and that position must not lie before one that was told durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use unanimous_core::commit::{self, Begun, Branch, Ending, Key, Mode, Phases, Shape};
use unanimous_core::id::{BranchId, Epoch, Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::txn::Record;
use unanimous_core::{Decision, Opaque, Vote};

use super::Rng;
use super::disk::{Disk, Mounted};
use crate::Listener;
use crate::entry::{End, Entry, Stored};
use crate::error::JournalError;
use crate::file::follow::Follower;
use crate::file::keeper::{Busy, Keeper};
use crate::file::layout;
use crate::file::recover;
use crate::file::state::Shared;
use crate::file::storage::Storage;
use crate::file::writer::{Figures, Next, Writer};

/// Small, so that a few dozen steps fill one; enough for a snapshot of what a life has open.
const SEGMENT_BYTES: u64 = 8 << 10;
const BATCH_BYTES_MAX: usize = 1_200;
const OPEN_MAX: usize = 4;

/// What was appended, by position.
#[derive(Clone, Debug)]
enum Appended {
    Entry { txn: TxnId, records: Vec<Record>, end: End },
    Claim(ShardId, Epoch),
}

/// Records with the positions of their entries.
type Placed = Vec<(Lsn, Record)>;

/// What the journal should hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    log: BTreeMap<Lsn, Appended>,
    /// Told durable, or acted on after an opening.
    pub(super) promised: Lsn,
    /// As far as a history would have been made.
    pub(super) projected: Lsn,
    minted: u64,
}

impl Model {
    fn last(&self) -> Lsn {
        self.log.last_key_value().map_or(Lsn(0), |(&lsn, _)| lsn)
    }

    /// Records of each transaction by position, and where it ended.
    fn fold(&self) -> BTreeMap<TxnId, (Placed, Option<Lsn>)> {
        let mut txns: BTreeMap<TxnId, (Placed, Option<Lsn>)> = BTreeMap::new();
        for (&lsn, appended) in &self.log {
            if let Appended::Entry { txn, records, end } = appended {
                let held = txns.entry(*txn).or_default();
                held.0.extend(records.iter().map(|record| (lsn, record.clone())));
                held.1 = (*end == End::Ended).then_some(lsn);
            }
        }
        txns
    }

    fn open(&self) -> BTreeMap<TxnId, Placed> {
        let open = self.fold().into_iter().filter(|(_, (_, ended))| ended.is_none());
        open.map(|(txn, (records, _))| (txn, records)).collect()
    }

    /// How many records each open transaction holds.
    fn counts(&self) -> Vec<(TxnId, usize)> {
        let mut counts = BTreeMap::new();
        for appended in self.log.values() {
            if let Appended::Entry { txn, records, end } = appended {
                *counts.entry(*txn).or_default() += records.len();
                if *end == End::Ended {
                    counts.remove(txn);
                }
            }
        }
        counts.into_iter().collect()
    }
}

#[derive(Default)]
struct Told {
    flushed: AtomicU64,
    failures: AtomicU64,
}

impl Listener for Told {
    fn flushed(&self, lsn: Lsn) {
        self.flushed.store(lsn.0, Ordering::SeqCst);
    }

    fn failed(&self, _: Arc<JournalError>) {
        self.failures.fetch_add(1, Ordering::SeqCst);
    }
}

/// An open journal without threads.
pub(super) struct Life {
    disk: Arc<Disk>,
    storage: Arc<dyn Storage>,
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    writer: Writer,
    told: Arc<Told>,
}

impl Life {
    /// Opens the journal and compares it with the model, which is cut to what is there.
    pub(super) fn open(disk: &Arc<Disk>, model: &mut Model) -> Result<Self, JournalError> {
        let storage: Arc<dyn Storage> = Arc::new(Mounted(Arc::clone(disk)));
        let found = recover::open(&storage, SEGMENT_BYTES)?;
        let last = Lsn(found.next.0 - 1);
        assert!(last >= model.promised, "{:?} was promised, {last:?} is there", model.promised);
        assert!(last <= model.last(), "position {last:?} was never appended");
        model.log.split_off(&Lsn(last.0 + 1));
        model.promised = last;
        let epochs = model.log.values().fold(layout::NO_EPOCHS, |mut epochs, appended| {
            if let Appended::Claim(shard, epoch) = appended {
                epochs[shard.index()] = *epoch;
            }
            epochs
        });
        assert_eq!(found.epochs, epochs);
        let loaded: BTreeMap<_, _> =
            found.table.open().map(|(txn, kept)| (txn, records(kept))).collect();
        assert!(loaded == model.open(), "the open transactions are not those appended");

        let keeper = Keeper::new(Arc::clone(&storage), SEGMENT_BYTES, u64::MAX, &found.segments);
        let keeper = Arc::new(keeper);
        let shared = Arc::new(Shared::new(found.table, found.epochs, found.next));
        let told = Arc::new(Told::default());
        told.flushed.store(last.0, Ordering::SeqCst);
        let writer = Writer::new(
            Arc::clone(&shared),
            Arc::clone(&keeper),
            Arc::clone(&told) as _,
            Arc::new(Figures::default()),
            found.log,
        );
        Ok(Self { disk: Arc::clone(disk), storage, shared, keeper, writer, told })
    }

    /// Reads the history from where the model has it, and compares.
    pub(super) fn check_history(&self, model: &Model) -> Result<(), JournalError> {
        let (storage, keeper) = (Arc::clone(&self.storage), Arc::clone(&self.keeper));
        let mut follower = Follower::start(storage, keeper, model.projected)?;
        let mut ended = BTreeMap::new();
        let flushed = self.shared.flushed();
        while follower
            .advance(flushed, |it| assert_eq!(ended.insert(it.txn, records(&it.kept)), None))?
            .is_some()
        {}
        assert_eq!(follower.seen(), flushed.max(model.projected));
        let due = model.fold().into_iter().filter_map(|(txn, (records, end))| {
            let due = end.is_some_and(|end| end > model.projected && end <= flushed);
            due.then_some((txn, records))
        });
        assert!(ended == due.collect(), "the history is not what was appended");
        Ok(())
    }

    /// Makes a random step. Errors are those of a journal that has failed.
    pub(super) fn step(&mut self, model: &mut Model, rng: &mut Rng) -> Result<(), JournalError> {
        if rng.below(20) == 0 {
            // A history made so far as something is durable, as if it were synced.
            model.projected = self.shared.flushed();
            self.keeper.projected(model.projected);
        }
        self.work(model, rng)
    }

    /// Makes a random step, and no history.
    pub(super) fn work(&mut self, model: &mut Model, rng: &mut Rng) -> Result<(), JournalError> {
        if self.shared.lock().batch().bytes.len() > BATCH_BYTES_MAX {
            return self.flush(model);
        }
        match rng.below(19) {
            0..11 => self.append(model, rng),
            11..18 => self.flush(model),
            _ => {
                let shard = ShardId::of(rng.below(64));
                let (epochs, lsn) = self.shared.append_claims(&[shard])?;
                model.log.insert(lsn, Appended::Claim(shard, epochs[0]));
                Ok(())
            }
        }
    }

    fn append(&self, model: &mut Model, rng: &mut Rng) -> Result<(), JournalError> {
        let open = model.counts();
        let pick = rng.below(OPEN_MAX as u64) as usize;
        let (txn, expected, records, end) = match open.get(pick) {
            Some(&(txn, 1)) => (txn, 1, vec![decided(Decision::Commit)], End::Open),
            Some(&(txn, held)) => (txn, held as u32, vec![finished()], End::Ended),
            None => {
                model.minted += 1;
                let shard = ShardId::of(rng.below(64));
                let txn = TxnId::mint(model.minted, shard, u128::from(model.minted));
                match rng.below(4) {
                    0 => (txn, 0, vec![begin(txn), decided(Decision::Abort)], End::Open),
                    1 => (txn, 0, vec![begin(txn), decided(Decision::Commit)], End::Ended),
                    _ => (txn, 0, vec![begin(txn)], End::Open),
                }
            }
        };
        let epoch = self.shared.lock().epochs[txn.shard().index()];
        let at = Timestamp(5);
        let entry = Entry { txn, epoch, expected, at, records: &records, end };
        let lsn = self.shared.append(&entry)?;
        model.log.insert(lsn, Appended::Entry { txn, records, end });
        Ok(())
    }

    /// Makes everything appended durable.
    pub(super) fn flush(&mut self, model: &mut Model) -> Result<(), JournalError> {
        while let Ok(Busy::Yes) = self.keeper.step(&self.shared) {}
        if self.disk.crashed() {
            self.keeper.stop();
        }
        if self.shared.lock().batch().count > 0 {
            self.shared.hurry();
            let next = self.writer.step();
            let flushed = Lsn(self.told.flushed.load(Ordering::SeqCst));
            model.promised = model.promised.max(flushed);
            if next == Next::Stop {
                self.shared.failure()?;
                return Err(JournalError::Failed("stopped".into()));
            }
            assert_eq!(flushed, model.last(), "a flush takes everything");
            while let Ok(Busy::Yes) = self.keeper.step(&self.shared) {}
        }
        Ok(())
    }

    /// Closes in good order.
    pub(super) fn close(mut self, model: &mut Model) -> Result<(), JournalError> {
        while let Ok(Busy::Yes) = self.keeper.step(&self.shared) {}
        if self.disk.crashed() {
            self.keeper.stop();
        }
        self.shared.begin_close()?;
        assert_eq!(self.writer.step(), Next::Stop);
        model.promised = model.promised.max(Lsn(self.told.flushed.load(Ordering::SeqCst)));
        self.shared.failure()
    }

    pub(super) fn failures(&self) -> u64 {
        self.told.failures.load(Ordering::SeqCst)
    }

    /// Segments there are.
    pub(super) fn segments(&self) -> BTreeSet<u64> {
        self.keeper.segments().into_iter().map(|(number, _)| number).collect()
    }
}

fn records(kept: &[u8]) -> Placed {
    let stored = layout::stored(kept).expect("as it was written");
    stored.into_iter().map(|Stored { lsn, record, .. }| (lsn, record)).collect()
}

pub(super) fn begin(txn: TxnId) -> Record {
    begin_with(txn.0 as usize % 90)
}

/// Begins a transaction with so many bytes of work.
pub(super) fn begin_with(len: usize) -> Record {
    begun(&vec![0x5A; len], "k")
}

/// Begins a transaction under a key.
pub(crate) fn begin_with_key(key: &str) -> Record {
    begun(b"{}", key)
}

fn begun(work: &[u8], key: &str) -> Record {
    Record::Commit(commit::Record::Begun(Arc::new(Begun {
        shape: Shape::Atomic,
        mode: Mode::Run,
        timeout_ms: 30_000,
        deadline: Timestamp(31_000),
        branches: vec![Branch {
            name: Arc::from("only"),
            resource: Arc::from("wallet"),
            phases: Phases::Two,
            work: Opaque::new(work),
        }],
        key: Some(Key { text: Arc::from(key), fingerprint: [3; 16] }),
        memo: Opaque::default(),
    })))
}

pub(crate) fn decided(decision: Decision) -> Record {
    let votes = vec![Some(Vote::Yes)];
    let record = commit::Record::Decided { decision, votes, reason: None, results: Vec::new() };
    Record::Commit(record)
}

pub(crate) fn finished() -> Record {
    Record::Commit(commit::Record::Finished(BranchId(0), Ending::Done))
}
