//! Looking through transactions, ended or not.

use unanimous_core::Outcome;
use unanimous_core::id::{Timestamp, TxnId};
use unanimous_core::txn::Kind;

/// Which transactions to list. Empty fields let everything through.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those of this shape.
    pub kind: Option<Kind>,
    /// Only those in this state.
    pub status: Option<Status>,
    /// Only those with this resource among their participants.
    pub resource: Option<String>,
    /// Only those begun before this.
    pub begun_before: Option<Timestamp>,
    /// Only those that are older (by identity) than this one: the last of the page before.
    pub after: Option<TxnId>,
    /// At most so many.
    pub limit: usize,
}

/// The state of a transaction, in the words of the wire.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Status {
    /// Participants may be added.
    Initiated,
    /// Votes are being collected.
    Preparing,
    /// Commit is decided, branches are being told.
    Committing,
    /// Every branch has committed.
    Committed,
    /// Abort is decided, branches are being told.
    Aborting,
    /// Every branch has rolled back.
    Aborted,
    /// A saga whose steps act.
    Running,
    /// A saga whose steps are being undone.
    Compensating,
    /// A saga of which a step goes neither on nor back by itself.
    NeedsAttention,
    /// A saga all of whose steps have acted.
    Completed,
    /// A saga that was undone.
    Compensated,
}

impl Status {
    /// Whether nothing more happens.
    pub(crate) fn has_ended(self) -> bool {
        match self {
            Self::Committed | Self::Aborted | Self::Completed | Self::Compensated => true,
            Self::Initiated
            | Self::Preparing
            | Self::Committing
            | Self::Aborting
            | Self::Running
            | Self::Compensating
            | Self::NeedsAttention => false,
        }
    }
}

/// One line of a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Summary {
    /// Which transaction.
    pub txn: TxnId,
    /// Its shape.
    pub kind: Kind,
    /// Where it stands.
    pub status: Status,
    /// How it ended; `None` while it is not settled.
    pub outcome: Option<Outcome>,
    /// When it began.
    pub begun_at: Timestamp,
    /// When its last record was written.
    pub updated_at: Timestamp,
    /// Names of its resources, in the order of the branches.
    pub resources: Vec<String>,
    /// The client's own name for it.
    pub key: Option<String>,
}

/// Part of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Newest first.
    pub rows: Vec<Summary>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<TxnId>,
}
