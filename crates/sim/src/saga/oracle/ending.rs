//! I4, I6 and I11 at the end: every saga has ended, and what the services hold is what its outcome
//! says.

use unanimous_core::Outcome;
use unanimous_core::saga::{Phase, SagaTxn};

use crate::event::Slot;
use crate::saga::service::Cell;
use crate::saga::world::World;

impl World {
    /// Whether nothing is left to do and nothing is on its way.
    pub(in crate::saga) fn is_settled(&self) -> bool {
        self.queue.messages() == 0 && self.unsettled().is_none()
    }

    fn unsettled(&self) -> Option<(Slot, String)> {
        if let Some(slot) = self.journal.open().next() {
            return Some((slot, format!("still {:?}", self.stored_phase(slot))));
        }
        let waiting = self.orders.iter().position(|it| !it.done)?;
        Some((Slot(0), format!("order {waiting} still waits")))
    }

    /// Time is up.
    pub(in crate::saga) fn check_termination(&mut self) {
        if let Some((slot, what)) = self.unsettled() {
            self.violated("I4", slot, || what);
        }
    }

    /// Looks at the whole history once it is over.
    pub(in crate::saga) fn check_end(&mut self) {
        self.check_survivors();
        for index in 0..self.txns.len() {
            let slot = Slot(index as u8);
            if let Some(Phase::Ended(outcome)) = self.stored_phase(slot) {
                self.check_effects(slot, outcome);
                self.check_cancels(slot, outcome);
            }
        }
    }

    /// What the services hold now is what an outcome says.
    pub(super) fn check_effects(&mut self, slot: Slot, outcome: Outcome) {
        let order = self.order_of(slot);
        let unwinds = match outcome {
            Outcome::Committed => false,
            Outcome::Aborted => true,
            Outcome::Mixed => self.kept(slot).unwinds,
        };
        let is_wrong = |&(index, cell): &(usize, &Cell)| {
            let plan = &order.steps[index];
            let wrong = match (unwinds, plan.compensation.is_some()) {
                (false, _) => cell.acted != 1 || cell.undone != 0,
                (true, true) => cell.is_in_effect(),
                (true, false) => {
                    let is_sent = order.pivot() == Some(index) || order.is_message(index);
                    is_sent && cell.acted > 0
                }
            };
            order.has_effect(index) && wrong && !cell.settled
        };
        let cells = &self.txns[slot.index()].cells;
        let found = cells.iter().enumerate().find(is_wrong).map(|(index, _)| index);
        if let Some(step) = found {
            let cell = self.txns[slot.index()].cells[step].clone();
            self.violated("I6", slot, || format!("{outcome:?}, but step {step} is {cell:?}"));
        }
    }

    fn check_cancels(&mut self, slot: Slot, outcome: Outcome) {
        let told = self.txns[slot.index()].told.clone();
        let Ok(machine) = SagaTxn::replay(self.journal.read(slot)) else { return };
        let Some((step, reason)) = machine.durable().reason() else {
            if told.cancelled && outcome == Outcome::Committed {
                self.violated("I11", slot, || "told cancelled, and completed".into());
            }
            return;
        };
        let lost = told.lost.iter().any(|number| *number.to_string() == *reason.detail);
        if lost && &*reason.kind == "cancel" {
            self.violated("I11", slot, || format!("undone by a cancel that lost: {reason:?}"));
        }
        let pivot = self.order_of(slot).pivot();
        if told.too_late && step.map(|it| it.index()) != pivot {
            self.violated("I11", slot, || format!("could not be undone, and was: {reason:?}"));
        }
    }
}
