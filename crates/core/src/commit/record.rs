//! The facts about one atomic transaction, as the journal keeps them.
//!
//! Each kind says why it is forced or lazy. A change here is a change of the journal's format.

use std::sync::Arc;

use crate::id::{BranchId, Timestamp};
use crate::step::{Decision, Durability, HeuristicKind, Opaque, Reason, Resolution, Vote};

/// A fact about one transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// The transaction exists.
    Begun(Arc<Begun>),
    /// The client added a participant.
    Enlisted(Branch),
    /// The client asked for commit: the participants are fixed, and votes are being collected.
    Preparing,
    /// The only branch was asked to decide by itself.
    Delegated(BranchId),
    /// The point of no return.
    Decided {
        /// Whether to keep or to undo.
        decision: Decision,
        /// The vote of each branch; `None` if it is not known.
        votes: Vec<Option<Vote>>,
        /// Why it was aborted; `None` for a commit.
        reason: Option<(Option<BranchId>, Reason)>,
        /// What the branches returned with their votes, where it is not empty.
        results: Vec<(BranchId, Opaque)>,
    },
    /// A branch needs no more calls.
    Finished(BranchId, Ending),
    /// An operator settled what the protocol could not.
    Resolved(Resolution),
}

impl Record {
    /// Whether effects must wait for this record.
    pub fn durability(&self) -> Durability {
        match self {
            // Without a commit recovery presumes abort, after a branch may have committed. Without
            // an abort the next request under its key, or the next commit of a transaction that is
            // still active in the journal, may commit after somebody was told that it aborted.
            Self::Decided { .. } => Durability::Forced,
            // The branch may have committed, and only it knows.
            Self::Delegated(_) => Durability::Forced,
            // An operator was told that it is settled.
            Self::Resolved(_) => Durability::Forced,
            Self::Begun(begun) => begun.mode.durability(),
            // The application works under the identifier it got: a restart must not forget it.
            Self::Enlisted(_) => Durability::Forced,
            // Votes do not survive a restart, so nothing rests on it.
            Self::Preparing => Durability::Lazy,
            // A resource may forget how a branch ended by itself once that was heard.
            Self::Finished(_, Ending::Heuristic(_)) => Durability::Forced,
            // The branch will be told once more.
            Self::Finished(_, Ending::Done | Ending::Settled) => Durability::Lazy,
        }
    }
}

/// The first record of a transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Begun {
    /// What its two phases are to its participants.
    pub shape: Shape,
    /// Who drives it, and who was told of it.
    pub mode: Mode,
    /// Milliseconds within which it must be decided.
    pub timeout_ms: u64,
    /// When an undecided transaction aborts.
    pub deadline: Timestamp,
    /// The participants known from the start.
    pub branches: Vec<Branch>,
    /// The client's own name for it.
    pub key: Option<Key>,
    /// What the driver wants back after a restart: the trace context.
    pub memo: Opaque,
}

/// An idempotency key, with what was asked for under it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// As the client wrote it.
    pub text: Arc<str>,
    /// Digest of the request: the same key with another request is refused.
    pub fingerprint: [u8; 16],
}

/// What the two phases of a transaction are to its participants. The rules are the same.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Shape {
    /// Prepare, then commit or roll back: a participant holds locks in between.
    #[default]
    Atomic,
    /// Try, then confirm or cancel (TCC): a participant sets something aside in between, for all to
    /// see. What was not tried cannot be confirmed, so there is no commit in one phase.
    Tcc,
}

/// Who drives a transaction to its commit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// The coordinator, at once; the client hears of it when it is decided. A crash that forgets it
    /// has aborted it.
    Run,
    /// The coordinator, at once; the client got the identity in advance and may have left.
    RunLater,
    /// The client: it enlists participants and asks for commit.
    Interactive,
}

impl Mode {
    fn durability(self) -> Durability {
        match self {
            Self::Run => Durability::Lazy,
            Self::RunLater | Self::Interactive => Durability::Forced,
        }
    }
}

/// One participant's share of a transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Branch {
    /// The participant's name, unique within the transaction.
    pub name: Arc<str>,
    /// The configured resource that carries it out.
    pub resource: Arc<str>,
    /// Whether the resource can decide for a transaction of which it is the only branch.
    pub phases: Phases,
    /// What it is asked to do; the adapter of the resource reads it.
    pub work: Opaque,
}

/// How few phases a resource can commit in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phases {
    /// Prepare, then commit.
    Two,
    /// Both at once, if it is alone. Only for a resource that remembers its answer, a refusal too:
    /// a first call that was thought lost must not commit after the second was refused.
    One,
}

/// How a branch ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// It did what was decided.
    Done,
    /// It had ended by itself.
    Heuristic(HeuristicKind),
    /// An operator vouches that it has ended as decided.
    Settled,
}
