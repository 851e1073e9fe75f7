//! What can go wrong with a journal: one variant for each thing the caller can do.

use std::path::PathBuf;

use unanimous_core::id::{Epoch, TxnId};

/// Why a journal did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// Another coordinator has written to the transaction: reload it and answer with what was
    /// decided.
    #[error("transaction {txn} holds {found} records, not {expected}")]
    Conflict {
        /// Which one.
        txn: TxnId,
        /// Records the appender knew of.
        expected: u32,
        /// Records there are.
        found: u32,
    },
    /// Another coordinator owns the shard now: drop it.
    #[error("epoch {} is over, the shard has {}", ours.0, current.0)]
    Fenced {
        /// The appender's epoch.
        ours: Epoch,
        /// The owner's epoch.
        current: Epoch,
    },
    /// There is no room for new transactions. Those that are open go on; try again later.
    #[error("no room for new transactions: {0}")]
    Full(String),
    /// Another process has the folder: stop it, or use another folder.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A record that was durable is damaged: restore the file from a backup. Nothing was changed.
    #[error("{} is damaged at offset {offset}: {what}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where, in bytes from its beginning.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The database cannot be used as it is: change what the line names, and start again.
    #[error("{0}")]
    Unusable(String),
    /// The database does not answer: ask again later. What is decided is safe, and goes on then.
    #[error("the journal's database does not answer: {0}")]
    Unreachable(String),
    /// The disk refused, or the journal is closed. Nothing beyond the last flushed position is
    /// durable: stop the process.
    #[error("journal failed: {0}")]
    Failed(String),
}
