//! Records made durable, in order, and read back.
//!
//! The journal is the only truth: the state of a transaction is the fold of its records, and its
//! outcome is whichever record of the fold settles it. Every implementation passes the same
//! conformance suite. docs/journal-format.md draws the bytes of the file journal.
//!
//! # Invariants
//!
//! 1. The records of one [`Entry`] are kept together: after a crash all of them are there or none.
//! 2. If an entry is there, so is every entry appended before it (by position).
//! 3. An entry whose position was reported flushed survives every crash.
//! 4. No entry of an older epoch is taken after a newer one was claimed for its shard.

pub mod codec;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod directory;
mod entry;
mod error;
#[cfg(feature = "etcd")]
mod etcd;
mod file;
mod limits;
#[cfg(feature = "postgres")]
mod postgres;
mod projection;
mod query;
#[cfg(any(feature = "etcd", feature = "postgres"))]
mod remote;
mod summary;

pub use directory::{Directory, DirectoryError, GiveError, NodeEntry, NodeState, Sight};
pub use entry::{End, Entry, OpenTxn, Stored};
pub use error::JournalError;
#[cfg(feature = "etcd")]
pub use etcd::{EtcdDirectory, EtcdJournal, EtcdOptions};
pub use file::{FileJournal, Options};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresDirectory, PostgresJournal, PostgresOptions};
pub use query::{Filter, Page, Status, Summary};

use std::sync::Arc;

use unanimous_core::id::{Epoch, Lsn, ShardId, TxnId};

/// Called with the epochs of shards that were claimed, as soon as nobody before can append to them.
pub type OnceFenced = Box<dyn FnOnce(&[Epoch]) + Send>;

/// Where records are kept.
///
/// A journal in a database may be open several times, in one process or in many; each opening claims
/// some shards, or none and only reads. One that loses a shard to another is over as a whole
/// ([`Listener::failed`]).
///
/// All methods may be called from any thread. [`Journal::append`] is short and never waits for the
/// disk; the reading methods do, so call them where waiting is allowed. Those of a journal in a
/// database fail with [`JournalError::Unreachable`] while it is away.
pub trait Journal: Send + Sync + 'static {
    /// The random name this journal got when it was created: the default name of the cluster.
    fn instance(&self) -> &str;

    /// Takes ownership of a shard from whoever had it, and returns the new epoch.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if that cannot be made durable.
    fn claim(&self, shard: ShardId) -> Result<Epoch, JournalError>;

    /// Takes ownership of several shards at once, and returns the new epochs in the same order.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if that cannot be made durable.
    fn claim_all(&self, shards: &[ShardId]) -> Result<Vec<Epoch>, JournalError> {
        shards.iter().map(|&shard| self.claim(shard)).collect()
    }

    /// The same, and calls `fenced` with the epochs on this thread once nobody before can append to these
    /// shards any more, if what is open in them is read after that only. That may take a while, and begins
    /// when `fenced` returns.
    ///
    /// # Errors
    ///
    /// As [`Journal::claim_all`], before `fenced` is called or after it; [`JournalError::Fenced`] if
    /// somebody else has claimed them before what is open was read: some of it may be his.
    fn claim_all_fencing(
        &self,
        shards: &[ShardId],
        fenced: OnceFenced,
    ) -> Result<Vec<Epoch>, JournalError> {
        drop(fenced);
        self.claim_all(shards)
    }

    /// The epochs that these shards have now, whoever has claimed them.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    fn epochs(&self, shards: &[ShardId]) -> Result<Vec<Epoch>, JournalError>;

    /// Every transaction that has not ended of the shards that this journal has claimed, oldest
    /// first, with its records so far.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read; [`JournalError::Fenced`] if another
    /// coordinator has claimed one of the shards since: some of it may be his.
    fn load(&self) -> Result<Vec<OpenTxn>, JournalError>;

    /// Appends the records of one step and returns their position, before they are durable.
    ///
    /// Until [`Listener::flushed`] reports that position a crash may take them back. They are
    /// flushed soon if one of them is forced, and otherwise with the next that is, or when the
    /// journal has been idle for some milliseconds.
    ///
    /// A journal in a database compares with what this process knows, and may hear only later that
    /// another coordinator has taken over: then [`Listener::failed`] says so, and the entry is never
    /// reported flushed.
    ///
    /// # Errors
    ///
    /// [`JournalError::Conflict`] or [`JournalError::Fenced`] if another coordinator has taken over;
    /// [`JournalError::Full`] if the entry begins a transaction and there is no room for new ones;
    /// [`JournalError::Failed`] if the disk refused before: nothing more is taken.
    fn append(&self, entry: Entry<'_>) -> Result<Lsn, JournalError>;

    /// Everything up to this position is durable.
    fn flushed(&self) -> Lsn;

    /// Whether a new transaction would be taken. A hint that saves work when the disk is full.
    fn has_room(&self) -> bool;

    /// All records of a transaction, ended or not, oldest first; empty if it is not known or
    /// forgotten after the retention time. Of a shard that this journal has not claimed it may be any
    /// transaction's: then empty says only that nothing is there yet.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read; [`JournalError::Fenced`] if it holds
    /// nothing of the transaction and another coordinator has claimed the shard since this journal
    /// did: that nothing is there then tells nothing.
    fn read(&self, txn: TxnId) -> Result<Vec<Stored>, JournalError>;

    /// The transaction that was begun under an idempotency key.
    ///
    /// Sees every entry appended before the call, durable or not.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    fn find_key(&self, key: &str) -> Result<Option<TxnId>, JournalError>;

    /// What [`Journal::read`] says of each of these, in their order. A journal in a database asks for all
    /// of them at once.
    fn read_all(&self, txns: &[TxnId]) -> Vec<Result<Vec<Stored>, JournalError>> {
        txns.iter().map(|&txn| self.read(txn)).collect()
    }

    /// What [`Journal::find_key`] says of each of these, in their order, in the same way.
    fn find_keys(&self, keys: &[String]) -> Vec<Result<Option<TxnId>, JournalError>> {
        keys.iter().map(|key| self.find_key(key)).collect()
    }

    /// Transactions that have ended or not, newest first, as far as the filter lets them through.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    fn query(&self, filter: &Filter) -> Result<Page, JournalError>;

    /// Figures for metrics.
    fn stats(&self) -> Stats;

    /// Makes everything appended so far durable and stops. Nothing is taken afterwards.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the disk refused.
    fn close(&self) -> Result<(), JournalError>;
}

/// Hears what becomes of appended entries. Called from the journal's own thread: return at once.
pub trait Listener: Send + Sync + 'static {
    /// Every entry up to and including `lsn` is durable.
    fn flushed(&self, lsn: Lsn);

    /// The disk or the database refused, or another coordinator has taken over
    /// ([`JournalError::Fenced`], [`JournalError::Conflict`]). Nothing beyond the last flushed
    /// position may be taken for durable: stop the process.
    fn failed(&self, error: Arc<JournalError>);
}

/// Figures of a journal since it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Syncs done.
    pub syncs: u64,
    /// Nanoseconds spent in them.
    pub sync_nanos: u64,
    /// Entries made durable.
    pub entries: u64,
    /// Bytes made durable.
    pub bytes: u64,
    /// Transactions that have not ended.
    pub open: u64,
    /// Bytes on disk that are not yet in the projection.
    pub projection_lag_bytes: u64,
}
