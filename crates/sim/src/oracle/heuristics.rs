//! I8: a branch that ended by itself against the decision is recorded and shown; nobody but an
//! operator clears it, and none is invented.

use unanimous_core::barrier::Mark;
use unanimous_core::commit::{CommitTxn, Record};
use unanimous_core::commit::{Ending, Record as CommitRecord};
use unanimous_core::id::BranchId;
use unanimous_core::{Decision, Outcome, Stage, Verb};

use crate::event::Slot;
use crate::world::World;

impl World {
    /// Records were appended.
    pub(super) fn check_heuristic_records(&mut self, slot: Slot, records: &[Record]) {
        let decision = self.journal.decision(slot);
        for record in records {
            match record {
                CommitRecord::Finished(branch, Ending::Heuristic(kind)) => {
                    let contradicts = decision.is_some_and(|it| kind.contradicts(it));
                    let cell = &self.txns[slot.index()].cells[branch.index()];
                    if contradicts && !cell.is_excused() {
                        self.violated("I8", slot, || format!("{branch} did not end by itself"));
                    }
                }
                CommitRecord::Finished(branch, Ending::Settled) => {
                    let cell = &mut self.txns[slot.index()].cells[branch.index()];
                    let committed = cell.effects > 0;
                    let obeyed = committed == (decision == Some(Decision::Commit));
                    // The operator's word was overtaken: it was about an undecided transaction.
                    cell.vouched |= cell.mark == Mark::Prepared || !obeyed;
                }
                CommitRecord::Resolved(_) if !self.txns[slot.index()].operated => {
                    self.violated("I8", slot, || "settled without an operator".into());
                }
                CommitRecord::Begun(_)
                | CommitRecord::Enlisted(_)
                | CommitRecord::Preparing
                | CommitRecord::Delegated(_)
                | CommitRecord::Decided { .. }
                | CommitRecord::Finished(_, Ending::Done)
                | CommitRecord::Resolved(_) => {}
            }
        }
    }

    /// A participant was told to commit; it says so if the work is not there.
    pub(crate) fn look_for_lost_work(&mut self, slot: Slot, branch: u8, verb: Verb) {
        let cell = self.cell(slot, branch).expect("a call found it");
        // What it said before its disk was lost may be on its way still, and is believed.
        let said = cell.missed || cell.committed;
        if verb != Verb::Commit || cell.effects > 0 || cell.read_only || said {
            return;
        }
        let Ok(machine) = CommitTxn::replay(self.journal.read(slot)) else { return };
        if machine.durable().ending(BranchId(u16::from(branch))).is_none() {
            self.cell_mut(slot, branch).missed = true;
        }
    }

    /// At the end: what contradicts the decision shows in the outcome.
    pub(super) fn check_heuristics(&mut self, slot: Slot) {
        let (Some(Stage::Ended(outcome)), Some(decision)) =
            (self.stored_stage(slot), self.journal.decision(slot))
        else {
            return;
        };
        let cells = &self.txns[slot.index()].cells;
        // What a restored backup has taken back after its end, nobody can know.
        let contradiction = cells.iter().position(|cell| {
            let took_effect = cell.effects > 0;
            let against = match decision {
                Decision::Commit => !took_effect && !cell.read_only,
                Decision::Abort => took_effect,
            };
            (cell.missed || cell.alone && !cell.lost) && !cell.vouched && against
        });
        let excused = cells.iter().any(|cell| cell.is_excused());
        match (contradiction, outcome) {
            (Some(branch), Outcome::Committed | Outcome::Aborted) => {
                self.violated("I8", slot, || {
                    format!("{outcome:?}, but b{branch} ended against it")
                });
            }
            (None, Outcome::Mixed) if !excused => {
                self.violated("I8", slot, || "mixed, but no branch ended by itself".into());
            }
            (Some(_) | None, Outcome::Mixed | Outcome::Committed | Outcome::Aborted) => {}
        }
    }
}
