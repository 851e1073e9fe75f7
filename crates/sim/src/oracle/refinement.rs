//! Every history is one of transaction commit: the truth about the branches maps to its state, and what
//! a call changes is one of its steps.
//!
//! The other oracles ask whether this implementation keeps its own rules. This one knows nothing of
//! coordinators, journals and messages; it holds what the participants did against the specification.

use unanimous_core::barrier::Mark;

use crate::event::{BRANCHES, Slot};
use crate::model::tcommit::{self, Manager};
use crate::participant::Cell;
use crate::world::World;

/// How the branches of a transaction stand; `None` if the protocol is not to blame for one of them.
pub(crate) type Standing = Option<([Manager; BRANCHES], usize)>;

impl World {
    pub(crate) fn standing(&self, slot: Slot) -> Standing {
        let cells = &self.txns.get(slot.index())?.cells;
        if cells.iter().any(Cell::is_excused) {
            return None;
        }
        let mut managers = [Manager::Working; BRANCHES];
        for (manager, cell) in managers.iter_mut().zip(cells) {
            *manager = manager_of(cell);
        }
        Some((managers, cells.len()))
    }

    /// A call was carried out.
    pub(crate) fn check_refinement(&mut self, slot: Slot, before: Standing) {
        let (Some((before, count)), Some((after, _))) = (before, self.standing(slot)) else {
            return;
        };
        let (before, after) = (&before[..count], &after[..count]);
        let both_phases = |(before, after): (&Manager, &Manager)| {
            (*before, *after) == (Manager::Working, Manager::Committed)
        };
        // One phase is two steps of a transaction that has no other branch.
        let one_phase = count == 1 && before.iter().zip(after).any(both_phases);
        if !one_phase && !tcommit::is_step(before, after) {
            let what = format!("{before:?} became {after:?}, which is no step of commit");
            self.violated("I1", slot, || what);
        }
    }
}

/// How a branch stands, in the terms of transaction commit.
pub(crate) fn manager_of(cell: &Cell) -> Manager {
    match cell.mark {
        _ if cell.effects > 0 => Manager::Committed,
        // What a manager does when a late call comes after its rollback is in vain.
        _ if cell.barred => Manager::Aborted,
        Mark::Absent if cell.read_only => Manager::Prepared,
        Mark::Absent => Manager::Working,
        Mark::Prepared | Mark::ReadOnly => Manager::Prepared,
        Mark::Committed => Manager::Committed,
        Mark::Refused | Mark::RolledBack | Mark::Heuristic(_) => Manager::Aborted,
    }
}
