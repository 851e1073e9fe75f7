//! I4: once faults have stopped, everything ends: every transaction, every prepared branch of ours,
//! every client's wait.

use unanimous_core::barrier::Mark;

use crate::client::Progress;
use crate::event::Slot;
use crate::participant::Whose;
use crate::world::World;

impl World {
    /// Whether nothing is left to do and nothing is on its way.
    pub(crate) fn is_settled(&self) -> bool {
        self.queue.messages() == 0 && self.unsettled().is_none()
    }

    /// Something that has not ended.
    fn unsettled(&self) -> Option<(Slot, String)> {
        if let Some(slot) = self.journal.open().next() {
            return Some((slot, format!("still {:?}", self.stored_stage(slot))));
        }
        for (index, truth) in self.txns.iter().enumerate() {
            let held = truth.cells.iter().position(|cell| cell.mark == Mark::Prepared);
            if let Some(branch) = held {
                return Some((Slot(index as u8), format!("b{branch} is still prepared")));
            }
        }
        if let Some(order) = self.orders.iter().position(|it| it.stage != Progress::Done) {
            let stage = self.orders[order].stage;
            return Some((Slot(0), format!("order {order} still waits: {stage:?}")));
        }
        let mut planted = self.resources.iter().flat_map(|resource| &resource.planted);
        let orphan = planted.find(|it| it.held && it.whose == Whose::Ours)?;
        Some((Slot(0), format!("the orphan {} is still prepared", orphan.name)))
    }

    /// Time is up.
    pub(crate) fn check_termination(&mut self) {
        if let Some((slot, what)) = self.unsettled() {
            self.violated("I4", slot, || what);
        }
    }
}
