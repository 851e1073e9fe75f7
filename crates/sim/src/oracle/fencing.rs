//! I9: once a shard has a new owner, the former one adds nothing to it.

use unanimous_core::id::Epoch;
use unanimous_core::txn::Record;

use super::Oracle;
use crate::event::Slot;
use crate::world::World;

impl Oracle {
    /// A coordinator took the shard.
    pub(crate) fn claimed(&mut self, epoch: Epoch) -> bool {
        let newer = epoch > self.epoch;
        self.epoch = self.epoch.max(epoch);
        newer
    }
}

impl World {
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
