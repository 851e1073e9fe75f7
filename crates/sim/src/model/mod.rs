//! Small models of commit protocols, explored exhaustively.
//!
//! A model is every state that a protocol can reach, with every order in which its messages can arrive,
//! be repeated or be lost. Each state has to be consistent and each step has to be one that
//! transaction commit allows (`tcommit`): that is, each model refines it. The models follow the
//! specifications that Gray and Lamport published with "Consensus on transaction commit" (2006).
//!
//! `checker` explores; `tcommit`, `two_phase` and `paxos_commit` are the models. What the real
//! machine does is held against `tcommit` as well, in `oracle::refinement`.

mod checker;
mod paxos_commit;
pub(crate) mod tcommit;
mod two_phase;

pub use checker::{Broken, Explored};
pub use paxos_commit::{PaxosCommit, PaxosMistake};
pub use tcommit::TCommit;
pub use two_phase::{TwoPhase, TwoPhaseMistake};

/// Explores every model, each with what it is of.
pub fn explore_all() -> Vec<(&'static str, Explored)> {
    vec![
        ("transaction commit, 3 resource managers", TCommit.explore()),
        ("two-phase commit, 3 resource managers", TwoPhase::default().explore()),
        (
            "Paxos commit, 2 resource managers, 3 acceptors, 3 ballots",
            PaxosCommit::default().explore(),
        ),
        ("the same with one acceptor dead", PaxosCommit::with_dead_acceptors(1).explore()),
    ]
}
