//! I9: once a shard has a new owner, the former one adds nothing to it.

use unanimous_core::commit::Record;
use unanimous_core::id::Epoch;

use crate::event::Slot;
use crate::world::World;

impl World {
    /// A coordinator took the shard.
    pub(crate) fn check_claim(&mut self, epoch: Epoch) {
        let before = self.oracle.epoch;
        if epoch <= before {
            self.violated("I9", Slot(0), || format!("{epoch:?} was claimed after {before:?}"));
        }
        self.oracle.epoch = epoch;
    }

    /// The journal has taken records.
    pub(crate) fn check_append(&mut self, slot: Slot, epoch: Epoch, records: &[Record]) {
        let current = self.oracle.epoch;
        if epoch != current {
            self.violated("I9", slot, || format!("{epoch:?} appended when {current:?} owned"));
        }
        self.check_validity(slot, records);
        self.check_heuristic_records(slot, records);
    }
}
