//! What the journal says is true: every record at the moment it is written (a saga that is undone has
//! sent no message), recovery as the same
//! code (replay), and fencing (I9).

use unanimous_core::barrier::Mark;
use unanimous_core::id::{BranchId, Epoch};
use unanimous_core::saga::{Action, Record, SagaTxn};

use crate::event::Slot;
use crate::saga::world::World;

impl World {
    /// A coordinator took the shard.
    pub(in crate::saga) fn check_claim(&mut self, node: u8, epoch: Epoch) {
        let other = &self.nodes[usize::from(1 - node)];
        if other.epoch >= epoch {
            self.violated("I9", Slot(0), || format!("{epoch:?} was claimed twice"));
        }
    }

    /// The journal has taken records.
    pub(in crate::saga) fn check_append(&mut self, slot: Slot, epoch: Epoch, records: &[Record]) {
        let newest = self.nodes.iter().map(|node| node.epoch).max().unwrap_or_default();
        if epoch != newest {
            self.violated("I9", slot, || format!("{epoch:?} appended when {newest:?} owned"));
        }
        for record in records {
            self.check_record(slot, record);
        }
    }

    fn check_record(&mut self, slot: Slot, record: &Record) {
        let cell = |step: &BranchId| &self.txns[slot.index()].cells[step.index()];
        let has_effect = |step: &BranchId| self.order_of(slot).has_effect(step.index());
        let wrong = match record {
            Record::Acted(step, _) if has_effect(step) => cell(step).acted == 0,
            Record::Acted(step, _) => {
                let waits =
                    matches!(self.order_of(slot).steps[step.index()].action, Action::Signal(_));
                waits && !cell(step).signalled
            }
            Record::Refused(step, _) => cell(step).acted > 0,
            Record::Undone(step) => {
                cell(step).is_in_effect()
                    || !matches!(cell(step).mark, Mark::RolledBack | Mark::Refused)
            }
            Record::Unwinding { .. } => {
                let order = self.order_of(slot);
                let cells = self.txns[slot.index()].cells.iter().enumerate();
                cells.into_iter().any(|(index, cell)| order.is_message(index) && cell.acted > 0)
            }
            Record::Begun(_)
            | Record::Started
            | Record::Timed(..)
            | Record::Announced(_)
            | Record::Kept(_)
            | Record::Stuck(..)
            | Record::Unstuck(_)
            | Record::Resolved(_) => false,
        };
        if wrong {
            self.violated("I6", slot, || format!("{record:?} is written and not so"));
        }
    }

    /// A machine has taken an input, and its records are in the journal.
    pub(in crate::saga) fn check_replay(&mut self, node: u8, slot: Slot) {
        let Some(live) = self.nodes[usize::from(node)].live(slot) else { return };
        let records = self.journal.read(slot);
        match SagaTxn::replay(&records[..live.stored.min(records.len())]) {
            Ok(replayed) if replayed.durable() == live.machine.durable() => {}
            Ok(_) => {
                self.violated("replay", slot, || "the journal replays to another state".into());
            }
            Err(misfit) => self.violated("replay", slot, || misfit.to_string()),
        }
    }
}
