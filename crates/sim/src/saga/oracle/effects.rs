//! I6 and I7: every action and every compensation takes effect at most once, none after its
//! compensation, none before what it rests on, nothing is undone before what rests on it, and no message
//! is sent by a saga that may still be undone.

use unanimous_core::barrier::Mark;
use unanimous_core::id::BranchId;
use unanimous_core::saga::{SagaTxn, Standing};

use crate::event::Slot;
use crate::saga::world::World;

impl World {
    /// A step has just taken effect. `barred` says that it was compensated before.
    pub(in crate::saga) fn check_act(&mut self, slot: Slot, step: u8, barred: bool) {
        let index = usize::from(step);
        let truth = &self.txns[slot.index()];
        let order = self.order_of(slot);
        let compensable = order.steps[index].compensation.is_some();
        let kept = self.kept(slot);
        let is_before = |it: &usize| order.is_before(*it, index);
        let not_acted = |it: &usize| {
            let cell = &truth.cells[*it];
            // A message before it is sent later.
            let is_due = order.has_effect(*it) && !order.is_message(*it);
            is_due && cell.acted == 0 && !cell.settled
        };
        let undone = |it: &usize| {
            order.steps[*it].compensation.is_some() && truth.cells[*it].mark == Mark::RolledBack
        };
        let steps = || (0..truth.cells.len()).filter(is_before);
        let missing = steps().find(not_acted);
        let gone = steps().find(undone).filter(|_| compensable);
        let over = kept.acted | kept.announced;
        let unkept = steps().find(|it| over >> it & 1 == 0).filter(|_| !kept.resolved);
        let undoable = match order.pivot() {
            _ if !order.is_message(index) || kept.resolved => None,
            Some(pivot) => (kept.acted >> pivot & 1 == 0).then_some(pivot),
            None => (0..truth.cells.len()).find(|it| over >> it & 1 == 0),
        };
        let unreached = kept.unwinds && self.is_unreached(slot, step);
        let unstarted = order.start_in_ms.is_some() && !kept.started;
        let again = truth.cells[index].acted > 1;
        if again {
            self.violated("I6", slot, || format!("step {step} has acted twice"));
        }
        if barred {
            self.violated("I6", slot, || format!("step {step} acts after its compensation"));
        }
        if let Some(missing) = missing {
            self.violated("I7", slot, || format!("step {step} acts before step {missing}"));
        }
        if let Some(gone) = gone {
            self.violated("I7", slot, || format!("step {step} acts, but {gone} is undone"));
        }
        if unreached {
            self.violated("I7", slot, || format!("step {step} begins to act while unwinding"));
        }
        if unstarted {
            self.violated("I3", slot, || {
                format!("step {step} acts, but a crash could forget that the saga started")
            });
        }
        if let Some(open) = undoable {
            self.violated("I7", slot, || {
                format!("message {step} is sent, but while {open} is open all may be undone")
            });
        }
        if let Some(unkept) = unkept {
            self.violated("I3", slot, || {
                format!("step {step} acts on step {unkept}, which a crash could forget")
            });
        }
    }

    fn is_unreached(&self, slot: Slot, step: u8) -> bool {
        let machine = SagaTxn::replay(self.journal.durable_records(slot));
        let step = BranchId(u16::from(step));
        machine.is_ok_and(|it| it.durable().standing(step) == Standing::Unreached)
    }

    /// A step has just been undone, or barred.
    pub(in crate::saga) fn check_compensation(&mut self, slot: Slot, step: u8) {
        let index = usize::from(step);
        let truth = &self.txns[slot.index()];
        let order = self.order_of(slot);
        let standing = |it: &usize| {
            let cell = &truth.cells[*it];
            order.is_before(index, *it)
                && order.steps[*it].compensation.is_some()
                && cell.is_in_effect()
                && !cell.settled
        };
        let later = (0..truth.cells.len()).find(standing);
        let again = truth.cells[index].undone > 1;
        let unwinds = self.kept(slot).unwinds;
        if again {
            self.violated("I6", slot, || format!("step {step} was undone twice"));
        }
        if let Some(later) = later {
            self.violated("I7", slot, || format!("step {step} was undone before step {later}"));
        }
        if !unwinds {
            self.violated("I3", slot, || {
                format!("step {step} is undone, but a crash could forget why")
            });
        }
    }
}
