//! What goes into a journal and comes back.

use unanimous_core::id::{Epoch, Lsn, Timestamp, TxnId};
use unanimous_core::txn::Record;

/// The records of one step of one transaction, kept together.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Whose records they are. Names the shard too.
    pub txn: TxnId,
    /// The appender's epoch of that shard.
    pub epoch: Epoch,
    /// How many records the transaction holds before these, counted from zero.
    pub expected: u32,
    /// When the step was taken.
    pub at: Timestamp,
    /// At least one.
    pub records: &'a [Record],
    /// Whether these are the transaction's last records.
    pub end: End,
}

/// Whether a transaction has ended with an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// More records may follow.
    Open,
    /// None will: it need not be loaded again.
    Ended,
}

/// A record as it was stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// Position of the entry it came in. What others have appended to a journal in a database since
    /// this one was opened has the position before the first of this one: it is durable.
    pub lsn: Lsn,
    /// When the step was taken.
    pub at: Timestamp,
    /// The record.
    pub record: Record,
}

/// A transaction that has not ended.
#[derive(Clone, Debug)]
pub struct OpenTxn {
    /// Which one.
    pub txn: TxnId,
    /// Its records so far, or why they cannot be read. A transaction that cannot be read is set
    /// aside; the others go on.
    pub records: Result<Vec<Stored>, String>,
}
