//! I3: whatever anybody was told survives every crash.

use unanimous_core::Decision;
use unanimous_core::commit::CommitTxn;

use crate::event::Slot;
use crate::world::World;

impl World {
    /// Somebody is being told an outcome.
    pub(super) fn check_durable(&mut self, slot: Slot, told: Decision) {
        let durable = self.journal.durable_decision(slot);
        if durable != Some(told) {
            self.violated("I3", slot, || {
                format!("{told:?} is told, but durably decided is {durable:?}")
            });
        }
    }

    /// Somebody is being given an identity, or a branch of it.
    pub(super) fn check_given(&mut self, slot: Slot, branches: usize) {
        let durable = match CommitTxn::replay(self.journal.durable_records(slot)) {
            Ok(machine) => Some(machine.durable().branches().len()),
            Err(_) => None,
        };
        if durable.is_none_or(|durable| durable < branches) {
            self.violated("I3", slot, || {
                format!("{branches} branches were given, but durable are {durable:?}")
            });
        }
        self.txns[slot.index()].told.given = true;
    }

    /// Branches that the journal has of a transaction; `None` if it knows nothing of it.
    pub(crate) fn branches_in_journal(&self, slot: Slot) -> Option<usize> {
        let machine = CommitTxn::replay(self.journal.read(slot)).ok()?;
        Some(machine.durable().branches().len())
    }

    /// After a crash, and at the end.
    pub(crate) fn check_survivors(&mut self) {
        for index in 0..self.txns.len() {
            let slot = Slot(index as u8);
            let told = &self.txns[index].told;
            let (given, decision) = (told.given, told.decision);
            if given && self.journal.read(slot).is_empty() {
                self.violated("I3", slot, || {
                    "a crash took a transaction that was given out".into()
                });
            }
            if let Some(decision) = decision
                && self.journal.decision(slot) != Some(decision)
            {
                self.violated("I3", slot, || format!("a crash took the told {decision:?}"));
            }
        }
    }
}
