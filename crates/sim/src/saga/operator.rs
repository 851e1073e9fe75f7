//! Operators: they have stuck steps called again, or settle them by hand and say so.
//!
//! An operator who says how a step ended has seen to it that it did; what the oracles hold against
//! the system never comes from an operator who lies.

use std::sync::Arc;

use unanimous_core::barrier::Mark;
use unanimous_core::saga::{Durable, Phase, SagaTxn, Standing};
use unanimous_core::{Decision, Force, Resolution};

use super::event::Request;
use super::world::World;
use crate::event::Slot;

/// Stands for an operator where a request names an order.
const OPERATOR: u8 = u8::MAX;

pub(super) fn resolution(outcome: Decision) -> Resolution {
    let (by, reason) = (Arc::from("ops"), Arc::from("looked"));
    Resolution { outcome, force: Force::No, by, reason }
}

impl World {
    /// An operator meddles with a saga that is still going on.
    pub(super) fn operate(&mut self) {
        let open: Vec<_> = self.journal.open().collect();
        if open.is_empty() {
            return;
        }
        let slot = self.rng.pick(&open);
        self.look_into(slot);
    }

    fn look_into(&mut self, slot: Slot) {
        let request = match self.rng.below(4) {
            0 | 1 => Request::Retry(slot),
            2 => Request::Resolve(slot, Decision::Abort),
            _ => Request::Resolve(slot, Decision::Commit),
        };
        self.request(OPERATOR, request);
    }

    /// Once faults have stopped, operators work through what needs them.
    pub(super) fn settle_by_hand(&mut self) {
        for slot in self.journal.open().collect::<Vec<_>>() {
            let stuck = SagaTxn::replay(self.journal.durable_records(slot))
                .is_ok_and(|machine| machine.durable().needs_attention());
            if stuck {
                self.look_into(slot);
            }
        }
    }

    /// Sees to it that every step that is stuck is as the operator is about to say.
    pub(super) fn settle(&mut self, slot: Slot, durable: &Durable, decision: Decision) {
        for step in durable.steps() {
            let Standing::Stuck(_) = durable.standing(step) else { continue };
            let index = step.0 as u8;
            let cell = self.cell_mut(slot, index);
            cell.settled = true;
            match (durable.phase(), decision) {
                (Phase::Running, Decision::Commit) => {
                    cell.acted = cell.acted.max(1);
                    cell.mark = Mark::Committed;
                }
                (Phase::Unwinding, Decision::Abort) => {
                    cell.undone = cell.acted;
                    cell.mark = Mark::RolledBack;
                }
                // It stays as it is, and nothing is to come of calls that are still under way.
                (Phase::Running, Decision::Abort)
                | (Phase::Unwinding, Decision::Commit)
                | (Phase::Ended(_), _) => {
                    if cell.mark == Mark::Absent {
                        cell.mark = Mark::Refused;
                    }
                }
            }
            self.note(|| format!("operator  settles {slot} {index}: {decision:?}"));
        }
    }
}
