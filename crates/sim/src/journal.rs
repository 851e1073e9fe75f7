//! A journal with the contract of the real ones, whose unsynced tail a crash can cut anywhere.
//!
//! All transactions are of one shard. What was appended and not flushed belongs to the current
//! owner of the shard, because a claim is a flush.

use unanimous_core::Decision;
use unanimous_core::commit;
use unanimous_core::commit::Record;
use unanimous_core::id::{Epoch, Lsn};

use crate::event::Slot;
use crate::exhibit::Exhibit;

/// Why an append was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lost {
    /// The transaction holds other records than the appender knew of.
    Conflict,
    /// Another coordinator owns the shard.
    Fenced,
}

/// The records of one step.
pub(crate) struct Entry<'a, R> {
    pub(crate) slot: Slot,
    pub(crate) epoch: Epoch,
    pub(crate) expected: usize,
    pub(crate) records: &'a [R],
    pub(crate) ends: bool,
}

pub(crate) struct Journal<R> {
    epoch: Epoch,
    /// Whose records each entry holds, and how many.
    entries: Vec<(Slot, u8)>,
    txns: Vec<Kept<R>>,
    flushed: usize,
    /// Entries from here on were read back from memory only: the next crash takes them.
    unsafe_from: Option<usize>,
    exhibit: Option<Exhibit>,
}

/// The records of one transaction, each with the position of its entry.
struct Kept<R> {
    records: Vec<R>,
    lsns: Vec<u32>,
    ended: bool,
}

impl<R> Default for Kept<R> {
    fn default() -> Self {
        Self { records: Vec::new(), lsns: Vec::new(), ended: false }
    }
}

/// How much of the unflushed tail survives a crash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tail {
    /// So many entries; the rest is gone.
    Kept(usize),
    /// So many entries, and some bytes of the next one.
    Torn(usize),
}

impl<R: Clone> Journal<R> {
    pub(crate) fn new(exhibit: Option<Exhibit>) -> Self {
        Self {
            epoch: Epoch(0),
            entries: Vec::new(),
            txns: Vec::new(),
            flushed: 0,
            unsafe_from: None,
            exhibit,
        }
    }

    /// Takes the shard, and makes everything durable that its last owner appended.
    pub(crate) fn claim(&mut self) -> Epoch {
        self.flush(self.appended());
        if self.exhibit != Some(Exhibit::ClaimKeepsTheEpoch) || self.epoch == Epoch(0) {
            self.epoch.0 += 1;
        }
        self.epoch
    }

    pub(crate) fn append(&mut self, entry: &Entry<'_, R>) -> Result<Lsn, Lost> {
        if entry.epoch != self.epoch && self.exhibit != Some(Exhibit::NoEpochCheck) {
            return Err(Lost::Fenced);
        }
        if entry.slot.index() >= self.txns.len() {
            self.txns.resize_with(entry.slot.index() + 1, Kept::default);
        }
        let kept = &mut self.txns[entry.slot.index()];
        if kept.records.len() != entry.expected && self.exhibit != Some(Exhibit::NoExpectedCheck) {
            return Err(Lost::Conflict);
        }
        self.entries.push((entry.slot, entry.records.len() as u8));
        kept.records.extend_from_slice(entry.records);
        kept.lsns.resize(kept.records.len(), self.entries.len() as u32);
        kept.ended |= entry.ends;
        Ok(self.appended())
    }

    /// Position of the last entry.
    pub(crate) fn appended(&self) -> Lsn {
        Lsn(self.entries.len() as u64)
    }

    pub(crate) fn flushed(&self) -> Lsn {
        Lsn(self.flushed as u64)
    }

    pub(crate) fn flush(&mut self, upto: Lsn) {
        self.flushed = self.flushed.max(upto.0 as usize);
    }

    /// Entries that a crash can take.
    pub(crate) fn tail(&self) -> usize {
        self.entries.len() - self.flushed
    }

    /// Crashes and reopens: cuts the tail, syncs what is left, and returns how many records it lost.
    pub(crate) fn crash(&mut self, tail: Tail) -> usize {
        let (Tail::Kept(count) | Tail::Torn(count)) = tail;
        let survive = match self.unsafe_from.take() {
            Some(from) => from,
            None => (self.flushed + count).min(self.entries.len()),
        };
        let replays_torn = self.exhibit == Some(Exhibit::TornEntryReplayed)
            && matches!(tail, Tail::Torn(_))
            && survive < self.entries.len();
        if replays_torn {
            self.unsafe_from = Some(survive);
        }
        if self.exhibit == Some(Exhibit::RecoveredTailNotSynced) && survive > self.flushed {
            self.unsafe_from = Some(self.flushed);
        }
        let lost = self.cut(survive + usize::from(replays_torn));
        self.flushed = self.entries.len();
        lost
    }

    fn cut(&mut self, entries: usize) -> usize {
        let mut lost = 0;
        while self.entries.len() > entries {
            let (slot, count) = self.entries.pop().expect("longer than that");
            let kept = &mut self.txns[slot.index()];
            let left = kept.records.len() - usize::from(count);
            kept.records.truncate(left);
            kept.lsns.truncate(left);
            kept.ended = false;
            lost += usize::from(count);
        }
        lost
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// All records of a transaction, durable or not.
    pub(crate) fn read(&self, slot: Slot) -> &[R] {
        self.txns.get(slot.index()).map_or(&[], |kept| &kept.records)
    }

    /// Position of a transaction's last entry.
    pub(crate) fn last(&self, slot: Slot) -> Option<Lsn> {
        let lsn = self.txns.get(slot.index())?.lsns.last()?;
        Some(Lsn(u64::from(*lsn)))
    }

    pub(crate) fn has_ended(&self, slot: Slot) -> bool {
        self.txns.get(slot.index()).is_some_and(|kept| kept.ended)
    }

    /// Transactions that have records and have not ended.
    pub(crate) fn open(&self) -> impl Iterator<Item = Slot> {
        (0_u8..)
            .zip(&self.txns)
            .filter(|(_, kept)| !kept.records.is_empty() && !kept.ended)
            .map(|(index, _)| Slot(index))
    }

    /// The transaction whose first record fits.
    pub(crate) fn find_first(&self, fits: impl Fn(&R) -> bool) -> Option<Slot> {
        let index = self.txns.iter().position(|kept| kept.records.first().is_some_and(&fits))?;
        Some(Slot(index as u8))
    }

    /// The records of a transaction that would survive any crash.
    pub(crate) fn durable_records(&self, slot: Slot) -> &[R] {
        let Some(kept) = self.txns.get(slot.index()) else { return &[] };
        let count = kept.lsns.partition_point(|&lsn| lsn as usize <= self.flushed);
        &kept.records[..count]
    }
}

impl Journal<Record> {
    /// The transaction that was begun under a key.
    pub(crate) fn find_key(&self, key: &str) -> Option<Slot> {
        let text = |begun: &commit::Begun| begun.key.as_ref().is_some_and(|it| *it.text == *key);
        self.find_first(|record| matches!(record, Record::Begun(begun) if text(begun)))
    }

    /// What was decided, durable or not.
    pub(crate) fn decision(&self, slot: Slot) -> Option<Decision> {
        self.find(slot, usize::MAX, decided)
    }

    pub(crate) fn durable_decision(&self, slot: Slot) -> Option<Decision> {
        self.find(slot, self.flushed, decided)
    }

    /// Whether the journal has durably asked one branch to decide.
    pub(crate) fn durably_delegated(&self, slot: Slot) -> bool {
        self.find(slot, self.flushed, delegated).is_some()
    }

    fn find<T>(
        &self,
        slot: Slot,
        upto: usize,
        pick: fn(&commit::Record) -> Option<T>,
    ) -> Option<T> {
        let kept = self.txns.get(slot.index())?;
        let within =
            kept.records.iter().zip(&kept.lsns).take_while(|&(_, &lsn)| lsn as usize <= upto);
        within.map(|(record, _)| record).find_map(pick)
    }
}

pub(crate) fn decided(record: &commit::Record) -> Option<Decision> {
    match record {
        commit::Record::Decided { decision, .. } => Some(*decision),
        commit::Record::Begun(_)
        | commit::Record::Enlisted(_)
        | commit::Record::Preparing
        | commit::Record::Delegated(_)
        | commit::Record::Finished(..)
        | commit::Record::Resolved(_) => None,
    }
}

fn delegated(record: &commit::Record) -> Option<()> {
    match record {
        commit::Record::Delegated(_) => Some(()),
        commit::Record::Begun(_)
        | commit::Record::Enlisted(_)
        | commit::Record::Preparing
        | commit::Record::Decided { .. }
        | commit::Record::Finished(..)
        | commit::Record::Resolved(_) => None,
    }
}
