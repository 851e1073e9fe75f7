//! Who takes part in a journal that several processes share, and who owns what.
//!
//! # Invariants
//!
//! 1. A name has one entry: whoever writes it says which one it knows of, and is told if another
//!    one stands there.
//! 2. All of it is hints for finding each other. What is safe rests on the epochs alone, so an entry
//!    may be old, and a node may be gone that has one.
//! 3. A shard that was given to another journal is claimed in this one never again, so that what is not
//!    known of a transaction here is not taken for all that there is.

use unanimous_core::id::{Epoch, ShardId};

use crate::error::JournalError;

/// A node as the others find it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeEntry {
    /// What it is called, by its operator.
    pub name: String,
    /// Where it answers: `http://host:port`.
    pub address: String,
    /// Random: tells one life of its process from the next.
    pub incarnation: u64,
    /// Whether it takes shards.
    pub state: NodeState,
}

/// Whether a node takes shards.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NodeState {
    /// It takes shards.
    Active,
    /// It takes none, and gives away those it has.
    Draining,
}

/// What stands in a directory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sight {
    /// In the order of their names.
    pub nodes: Vec<NodeEntry>,
    /// Every shard in its order: its epoch, and the coordinator that claimed it last. A shard that
    /// nobody has claimed yet has epoch zero.
    pub owners: Vec<(ShardId, Epoch, Option<String>)>,
    /// Shards that are kept in another journal, and what that is called.
    pub moved: Vec<(ShardId, String)>,
}

/// Who is there and who owns what, as the database of a journal has it.
///
/// The methods wait for the database, so call them where waiting is allowed.
pub trait Directory: Send + Sync + 'static {
    /// Writes an entry over the one that stands under its name, if that is of the incarnation
    /// `replaces`, or of its own. A name under which nothing stands is free.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::NameTaken`] with the entry of another incarnation that stands there;
    /// [`DirectoryError::Journal`] if the database cannot be asked.
    fn announce(&self, entry: &NodeEntry, replaces: Option<u64>) -> Result<(), DirectoryError>;

    /// Removes the entry under a name, if it is still of this incarnation.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unreachable`] if the database does not answer; ask again later.
    fn leave(&self, name: &str, incarnation: u64) -> Result<(), JournalError>;

    /// All that stands there now.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unreachable`] if the database does not answer within ten seconds;
    /// [`JournalError::Failed`] if there is what no node writes.
    fn read(&self) -> Result<Sight, JournalError>;

    /// Gives shards to another journal, for good: from now on nobody claims them here, and who has loses
    /// them. Shards that it has been given before stay its own.
    ///
    /// # Errors
    ///
    /// [`GiveError`], and then everything is as it was before.
    fn give(&self, shards: &[ShardId], journal: &str) -> Result<(), GiveError>;
}

/// Why shards were not given to another journal.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    /// So many transactions of them have not ended.
    #[error("{0} transactions have not ended")]
    Open(usize),
    /// A third journal has one of them.
    #[error("they are kept in journal {0}")]
    Elsewhere(String),
    /// The database cannot be asked.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Why an entry was not written.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process stands under the name: this one. If it is gone for good, replace it; else
    /// choose another name.
    #[error("the name {:?} is taken by a node at {}", .0.name, .0.address)]
    NameTaken(NodeEntry),
    /// The database cannot be asked.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

#[cfg(any(feature = "etcd", feature = "postgres"))]
impl NodeEntry {
    /// Whether an entry that replaces `replaces` may be written over this one. A process may always
    /// write over its own: what it wrote last may have come out without its knowing.
    pub(crate) fn yields_to(&self, entry: &Self, replaces: Option<u64>) -> bool {
        self.incarnation == entry.incarnation || replaces == Some(self.incarnation)
    }
}

#[cfg(any(feature = "etcd", feature = "postgres"))]
impl NodeState {
    /// As it is stored.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Draining => "DRAINING",
        }
    }

    /// The state that is stored so, if there is one.
    pub(crate) fn of(word: &str) -> Option<Self> {
        [Self::Active, Self::Draining].into_iter().find(|state| state.word() == word)
    }
}
