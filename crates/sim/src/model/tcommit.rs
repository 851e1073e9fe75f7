//! Transaction commit itself: what any commit protocol may do, and nothing of how.
//!
//! Resource managers prepare on their own. One commits only when all have prepared, and aborts only
//! while none has committed. (TCommit in Gray and Lamport, 2006.)

use super::checker::{Explored, Model, explore};

/// How a resource manager stands.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Manager {
    Working,
    Prepared,
    Committed,
    Aborted,
}

impl Manager {
    pub(crate) fn has_ended(self) -> bool {
        match self {
            Self::Working | Self::Prepared => false,
            Self::Committed | Self::Aborted => true,
        }
    }
}

/// Whether no resource manager has committed while another has aborted.
pub(crate) fn is_consistent(managers: &[Manager]) -> bool {
    !(managers.contains(&Manager::Committed) && managers.contains(&Manager::Aborted))
}

/// Whether transaction commit allows to go from one state to the other at once, or nothing changed.
pub(crate) fn is_step(before: &[Manager], after: &[Manager]) -> bool {
    let mut changes = before.iter().zip(after).filter(|(before, after)| before != after);
    let Some((&from, &to)) = changes.next() else { return true };
    changes.next().is_none() && may_change(before, from, to)
}

/// Whether one resource manager may change, as all of them stand.
fn may_change(all: &[Manager], from: Manager, to: Manager) -> bool {
    let promised = |it: &Manager| matches!(it, Manager::Prepared | Manager::Committed);
    match (from, to) {
        (Manager::Working, Manager::Prepared) => true,
        (Manager::Prepared, Manager::Committed) => all.iter().all(promised),
        (Manager::Working | Manager::Prepared, Manager::Aborted) => {
            !all.contains(&Manager::Committed)
        }
        (
            Manager::Working | Manager::Prepared | Manager::Committed | Manager::Aborted,
            Manager::Working | Manager::Prepared | Manager::Committed | Manager::Aborted,
        ) => false,
    }
}

/// The specification as a model of its own, of three resource managers.
pub struct TCommit;

impl TCommit {
    /// Explores every state.
    pub fn explore(&self) -> Explored {
        explore(self)
    }
}

impl Model for TCommit {
    type State = [Manager; 3];

    fn initial(&self) -> Self::State {
        [Manager::Working; 3]
    }

    fn steps(&self, from: &Self::State, to: &mut dyn FnMut(&'static str, Self::State)) {
        let changes = [
            ("prepare", Manager::Prepared),
            ("commit", Manager::Committed),
            ("abort", Manager::Aborted),
        ];
        for index in 0..from.len() {
            for (name, after) in changes {
                if may_change(from, from[index], after) {
                    let mut state = *from;
                    state[index] = after;
                    to(name, state);
                }
            }
        }
    }

    fn managers<'a>(&self, state: &'a Self::State) -> &'a [Manager] {
        state
    }
}
