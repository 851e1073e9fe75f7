//! I1: the branches of a transaction end one way, and it is the way the journal says.
//!
//! Participants learn outcomes only from the journal: an order to commit or to roll back that
//! arrives anywhere must rest on a record that no crash can take. A rollback may also rest on there
//! being nobody left who could commit.

use unanimous_core::barrier::Mark;
use unanimous_core::commit::{CommitTxn, Mode, Phase, Record};
use unanimous_core::{Decision, Outcome, Stage, Verb};

use crate::event::Slot;
use crate::journal::decided;
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
                durable == Some(Decision::Abort)
                    || self.journal.read(slot).is_empty()
                    || self.can_only_abort(slot)
            }
        };
        if !rests {
            self.violated("I1", slot, || {
                format!("b{branch} is told to {verb:?}, but durably decided is {durable:?}")
            });
        }
    }

    /// Whether it will abort without a durable decision: recovery would not commit it, and whoever
    /// drives it has decided.
    fn can_only_abort(&self, slot: Slot) -> bool {
        let current = self.nodes.iter().filter(|it| it.up && it.epoch == self.journal.epoch());
        let mut driven = current.filter_map(|it| it.live(slot));
        recovery_aborts(self.journal.read(slot))
            && self.journal.decision(slot) != Some(Decision::Commit)
            && driven.all(|live| live.machine.durable().decision() == Some(Decision::Abort))
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

/// Whether whoever rebuilds it from these records without a decision aborts it, whatever its client asks.
pub(crate) fn recovery_aborts(records: &[Record]) -> bool {
    let undecided = records.iter().take_while(|record| decided(record).is_none());
    CommitTxn::replay(undecided).is_ok_and(|machine| {
        let known = machine.durable();
        let is_voting = known.phase() == Phase::Preparing && known.branches().len() > 1;
        is_voting && known.begun().mode != Mode::Interactive
    })
}
