//! I1: the branches of a transaction end one way, and it is the way the journal says.
//!
//! Participants learn outcomes only from the journal: an order to commit or to roll back that
//! arrives anywhere must rest on a record that no crash can take.

use unanimous_core::barrier::Mark;
use unanimous_core::{Decision, Outcome, Stage, Verb};

use crate::event::Slot;
use crate::world::World;

impl World {
    /// A coordinator's order arrives at a participant.
    pub(crate) fn check_order(&mut self, slot: Slot, branch: u8, verb: Verb) {
        let durable = self.journal.durable_decision(slot);
        let rests = match verb {
            Verb::Prepare => true,
            Verb::Act | Verb::Compensate => unreachable!("two phases have no steps"),
            Verb::Commit => durable == Some(Decision::Commit),
            Verb::CommitOnePhase => self.journal.durably_delegated(slot),
            // Presumed abort: a transaction without a record has aborted.
            Verb::Rollback => {
                durable == Some(Decision::Abort) || self.journal.read(slot).is_empty()
            }
        };
        if !rests {
            self.violated("I1", slot, || {
                format!("b{branch} is told to {verb:?}, but durably decided is {durable:?}")
            });
        }
    }

    /// At the end every branch did what was decided, unless it is not the protocol's fault.
    pub(super) fn check_agreement(&mut self, slot: Slot) {
        let outcome = match self.stored_stage(slot) {
            Some(Stage::Ended(outcome)) => outcome,
            None => Outcome::Aborted,
            Some(Stage::Begun | Stage::Decided(_) | Stage::NeedsAttention) => return,
        };
        let cells = &self.txns[slot.index()].cells;
        let wrong = cells.iter().position(|cell| {
            let committed = cell.mark == Mark::Committed || cell.effects > 0;
            let agrees = match outcome {
                Outcome::Committed => committed || cell.read_only,
                Outcome::Aborted => !committed && cell.mark != Mark::Prepared,
                Outcome::Mixed => true,
            };
            !agrees && !cell.is_excused()
        });
        if let Some(branch) = wrong {
            let mark = cells[branch].mark;
            self.violated("I1", slot, || format!("{outcome:?}, but b{branch} is {mark:?}"));
        }
    }
}
