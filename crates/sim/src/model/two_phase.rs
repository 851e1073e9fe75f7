//! Two-phase commit with one coordinator, as a model of three resource managers.
//!
//! A message that was sent can arrive at any time, any number of times, or never. (TwoPhase in Gray
//! and Lamport, 2006.)

use super::checker::{Explored, Model, explore};
use super::tcommit::Manager;

const MANAGERS: usize = 3;

/// A deliberate mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TwoPhaseMistake {
    /// The coordinator commits when a vote is missing.
    CommitsEarly,
    /// A resource manager aborts alone after a yes.
    AbortsAlone,
    /// The coordinator decides once more: it has forgotten its decision.
    DecidesAgain,
}

/// The model, right or with a mistake.
#[derive(Default)]
pub struct TwoPhase {
    mistake: Option<TwoPhaseMistake>,
}

#[derive(Clone, Eq, Hash, PartialEq)]
pub(super) struct State {
    managers: [Manager; MANAGERS],
    /// Who has sent its yes, and whose was received.
    sent: [bool; MANAGERS],
    received: [bool; MANAGERS],
    commit_sent: bool,
    abort_sent: bool,
}

impl TwoPhase {
    /// The model with a deliberate mistake.
    pub fn with(mistake: TwoPhaseMistake) -> Self {
        Self { mistake: Some(mistake) }
    }

    /// Explores every state.
    pub fn explore(&self) -> Explored {
        explore(self)
    }

    fn coordinator(&self, from: &State, to: &mut dyn FnMut(&'static str, State)) {
        let undecided = !from.commit_sent && !from.abort_sent;
        if !undecided && self.mistake != Some(TwoPhaseMistake::DecidesAgain) {
            return;
        }
        for index in (0..MANAGERS).filter(|&it| from.sent[it] && !from.received[it]) {
            let mut state = from.clone();
            state.received[index] = true;
            to("the coordinator receives a yes", state);
        }
        let votes = from.received.iter().filter(|&&it| it).count();
        let missing = usize::from(self.mistake == Some(TwoPhaseMistake::CommitsEarly));
        if votes + missing >= MANAGERS && !from.commit_sent {
            to("the coordinator commits", State { commit_sent: true, ..from.clone() });
        }
        if !from.abort_sent {
            to("the coordinator aborts", State { abort_sent: true, ..from.clone() });
        }
    }

    fn manager(&self, from: &State, index: usize, to: &mut dyn FnMut(&'static str, State)) {
        let becomes = |after: Manager| {
            let mut state = from.clone();
            state.managers[index] = after;
            state.sent[index] |= after == Manager::Prepared;
            state
        };
        let now = from.managers[index];
        if now == Manager::Working {
            to("a resource manager prepares", becomes(Manager::Prepared));
            to("a resource manager chooses to abort", becomes(Manager::Aborted));
        }
        if now == Manager::Prepared && self.mistake == Some(TwoPhaseMistake::AbortsAlone) {
            to("a resource manager aborts alone", becomes(Manager::Aborted));
        }
        if from.commit_sent && now != Manager::Committed {
            to("a resource manager is told to commit", becomes(Manager::Committed));
        }
        if from.abort_sent && now != Manager::Aborted {
            to("a resource manager is told to abort", becomes(Manager::Aborted));
        }
    }
}

impl Model for TwoPhase {
    type State = State;

    fn initial(&self) -> State {
        State {
            managers: [Manager::Working; MANAGERS],
            sent: [false; MANAGERS],
            received: [false; MANAGERS],
            commit_sent: false,
            abort_sent: false,
        }
    }

    fn steps(&self, from: &State, to: &mut dyn FnMut(&'static str, State)) {
        self.coordinator(from, to);
        (0..MANAGERS).for_each(|index| self.manager(from, index, to));
    }

    fn managers<'a>(&self, state: &'a State) -> &'a [Manager] {
        &state.managers
    }
}
