//! I2: commit is decided only when every branch has durably promised, or the one that was asked to
//! decide has committed.

use unanimous_core::Decision;
use unanimous_core::barrier::Mark;
use unanimous_core::commit::Record as CommitRecord;
use unanimous_core::commit::Record;

use crate::event::Slot;
use crate::journal::decided;
use crate::world::World;

impl World {
    /// Records were appended.
    pub(super) fn check_validity(&mut self, slot: Slot, records: &[Record]) {
        let decision = records.iter().find_map(decided);
        let by_operator = records.iter().any(|it| matches!(it, CommitRecord::Resolved(_)));
        if decision != Some(Decision::Commit) || by_operator {
            return;
        }
        let delegated = self.journal.durably_delegated(slot);
        let cells = &self.txns[slot.index()].cells;
        let unpromised = cells.iter().position(|cell| {
            let promised = match cell.mark {
                Mark::Prepared => !delegated,
                Mark::ReadOnly | Mark::Committed => true,
                Mark::Absent => cell.read_only,
                Mark::Refused | Mark::RolledBack | Mark::Heuristic(_) => false,
            };
            !promised && !cell.is_excused()
        });
        if let Some(branch) = unpromised {
            let mark = cells[branch].mark;
            self.violated("I2", slot, || format!("commit decided, but b{branch} is {mark:?}"));
        }
    }
}
