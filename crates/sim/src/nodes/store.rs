//! The journal that all coordinators share: compare-and-append, and an epoch for each part.
//!
//! It stands for a database or a consensus store, so what it has taken is durable and seen by the
//! next reader. A batch is taken whole or not at all.

use std::rc::Rc;

use unanimous_core::Decision;
use unanimous_core::commit::{self, Record};
use unanimous_core::id::Epoch;

use super::event::{Loaded, Part};
use super::exhibit::NodesExhibit;
use crate::event::Slot;
use crate::journal::decided;

/// A coordinator in one of its lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Owner {
    pub(super) node: u8,
    pub(super) life: u32,
}

/// Who owns a part.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Shard {
    pub(super) epoch: Epoch,
    pub(super) owner: Option<Owner>,
}

/// Entries that are written together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) part: Part,
    pub(super) epoch: Epoch,
    pub(super) entries: Vec<Entry>,
}

/// The records of one step.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) slot: Slot,
    /// Records of the transaction before this one.
    pub(super) expected: usize,
    pub(super) records: Vec<Record>,
    pub(super) ends: bool,
}

/// What a claim does to an epoch that has been raised since its sender looked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Claims {
    /// It loses.
    Compare,
    /// It raises the epoch once more, also when it comes late or twice.
    Raise,
}

pub(super) struct Store {
    pub(super) shards: Vec<Shard>,
    claims: Claims,
    txns: Vec<Kept>,
    exhibit: Option<NodesExhibit>,
}

#[derive(Default)]
struct Kept {
    part: Part,
    records: Vec<Record>,
    ended: bool,
    /// The order it was begun for, if that has a key.
    key: Option<u8>,
}

impl Store {
    pub(super) fn new(parts: u8, claims: Claims, exhibit: Option<NodesExhibit>) -> Self {
        let shards = vec![Shard::default(); usize::from(parts)];
        Self { shards, claims, txns: Vec::new(), exhibit }
    }

    pub(super) fn shard(&self, part: Part) -> Shard {
        self.shards[usize::from(part)]
    }

    /// Takes a batch if its epoch is the part's, and if each transaction holds what its writer thinks.
    pub(super) fn append(&mut self, batch: &Batch, key_of: impl Fn(Slot) -> Option<u8>) -> bool {
        let current = self.shard(batch.part).epoch;
        if batch.epoch != current && self.exhibit != Some(NodesExhibit::EpochNotCompared) {
            return false;
        }
        let fits = |entry: &Entry| self.expects(batch, entry);
        if !batch.entries.iter().all(fits) && self.exhibit != Some(NodesExhibit::HoldsNotCompared) {
            return false;
        }
        for entry in &batch.entries {
            if entry.slot.index() >= self.txns.len() {
                self.txns.resize_with(entry.slot.index() + 1, Kept::default);
            }
            let kept = &mut self.txns[entry.slot.index()];
            kept.part = batch.part;
            kept.key = key_of(entry.slot);
            kept.records.extend_from_slice(&entry.records);
            kept.ended |= entry.ends;
        }
        true
    }

    /// Whether a transaction holds what it has to, after the entries of the batch before this one.
    fn expects(&self, batch: &Batch, entry: &Entry) -> bool {
        let before = batch.entries.iter().take_while(|it| !std::ptr::eq(*it, entry));
        let ours = before.filter(|it| it.slot == entry.slot).map(|it| it.records.len());
        self.read(entry.slot).len() + ours.sum::<usize>() == entry.expected
    }

    /// Gives a part to a new owner, or not if another claim was first.
    pub(super) fn claim(&mut self, part: Part, seen: Epoch, owner: Owner) -> Option<Epoch> {
        let shard = &mut self.shards[usize::from(part)];
        let epoch = match (self.exhibit, self.claims) {
            (Some(NodesExhibit::ClaimsNotCompared), _) => Epoch(seen.0 + 1),
            (Some(NodesExhibit::ClaimKeepsTheEpoch), _) if seen > Epoch(0) => seen,
            (_, Claims::Compare) if shard.epoch != seen => return None,
            (_, Claims::Compare | Claims::Raise) => Epoch(shard.epoch.0 + 1),
        };
        *shard = Shard { epoch, owner: Some(owner) };
        Some(epoch)
    }

    /// Leaves a part to whoever comes first, unless it has another owner already.
    pub(super) fn release(&mut self, part: Part, epoch: Epoch) {
        let shard = &mut self.shards[usize::from(part)];
        if shard.epoch == epoch {
            shard.owner = None;
        }
    }

    pub(super) fn load(&self, part: Part) -> Loaded {
        let all = (0_u8..).map(Slot).zip(&self.txns);
        let here = all.filter(|(_, kept)| kept.part == part && !kept.records.is_empty());
        let mut loaded = Loaded::default();
        for (slot, kept) in here {
            if !kept.ended {
                loaded.open.push((slot, kept.records.clone()));
            }
            loaded.keys.extend(kept.key.map(|key| (key, slot)));
        }
        loaded
    }

    pub(super) fn look(&self, slots: &[Slot]) -> Rc<[(Slot, Vec<Record>)]> {
        slots.iter().map(|&slot| (slot, self.read(slot).to_vec())).collect()
    }

    pub(super) fn read(&self, slot: Slot) -> &[Record] {
        self.txns.get(slot.index()).map_or(&[], |kept| &kept.records)
    }

    pub(super) fn decision(&self, slot: Slot) -> Option<Decision> {
        self.read(slot).iter().find_map(decided)
    }

    pub(super) fn is_delegated(&self, slot: Slot) -> bool {
        self.read(slot).iter().any(|it| matches!(it, commit::Record::Delegated(_)))
    }

    /// A transaction that has not ended.
    pub(super) fn open(&self) -> Option<Slot> {
        let open = self.txns.iter().position(|kept| !kept.records.is_empty() && !kept.ended)?;
        Some(Slot(open as u8))
    }
}
