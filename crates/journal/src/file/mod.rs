//! The journal in a folder: segments that are only appended to, and a history made from them.
//!
//! | file | what it is for |
//! |---|---|
//! | `layout` | the bytes |
//! | `storage` | the seam to the file system |
//! | `state` | appending, and what the threads share |
//! | `table` | transactions in memory |
//! | `log` | the segment written to |
//! | `writer` | the thread that writes |
//! | `keeper` | the thread that prepares and removes segments |
//! | `segment`, `fold` | reading back |
//! | `recover` | opening |
//! | `follow` | reading what is durable for the history, `crate::projection` |
//! | `list` | lists of open and ended transactions together |
//!
//! # Invariants
//!
//! 1. One frame is one batch, one write and one sync; the next begins after the sync succeeded.
//! 2. Nothing durable is overwritten, and a journal that is opened goes on in a fresh segment.
//! 3. A failed write or sync ends the journal.

mod fold;
pub(crate) mod follow;
pub(crate) mod keeper;
pub(crate) mod layout;
mod list;
mod log;
pub(crate) mod recover;
mod segment;
pub(crate) mod state;
pub(crate) mod storage;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use unanimous_core::id::{Epoch, Lsn, ShardId, TxnId};

use crate::entry::{Entry, OpenTxn, Stored};
use crate::error::JournalError;
use crate::projection::{self, Projection, Site};
use crate::query::{Filter, Page};
use crate::{Journal, Listener, Stats};
use keeper::Keeper;
use state::Shared;
use storage::{Folder, Storage};
use writer::{Figures, Writer};

/// How a file journal is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a segment. Restart reads one, and old ones go as a whole. A segment is longer if
    /// its snapshot needs it. Default 32 MiB.
    pub segment_bytes: u64,
    /// Milliseconds for which an ended transaction can still be read. Default 7 days.
    pub retention_ms: u64,
    /// Bytes of segments that may wait to enter the history; beyond that nothing new is begun.
    /// Default 4 GiB.
    pub backlog_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 32 << 20,
            retention_ms: 7 * 24 * 60 * 60 * 1_000,
            backlog_bytes_max: 4 << 30,
        }
    }
}

/// A journal in a folder of its own.
pub struct FileJournal {
    instance: String,
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    projection: Arc<Projection>,
    figures: Arc<Figures>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl FileJournal {
    /// Opens the journal in the folder `dir`, which is made if it is missing.
    ///
    /// `listener` hears of what becomes durable from now on, in calls from the journal's thread.
    ///
    /// # Errors
    ///
    /// [`JournalError::Locked`] if another process has the folder; [`JournalError::Damaged`] if
    /// what was durable is not whole, with the file and the place; [`JournalError::Full`] if there
    /// is no room for a fresh segment; [`JournalError::Failed`] if the folder cannot be used.
    pub fn open(
        dir: &Path,
        options: Options,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, JournalError> {
        let storage: Arc<dyn Storage> = Arc::new(Folder::open(dir)?);
        let found = recover::open(&storage, options.segment_bytes)?;
        let (segment_bytes, backlog) = (options.segment_bytes, options.backlog_bytes_max);
        let keeper = Keeper::new(Arc::clone(&storage), segment_bytes, backlog, &found.segments);
        let keeper = Arc::new(keeper);
        keeper.advanced(found.log.generation(), found.log.offset());
        let shared = Arc::new(Shared::new(found.table, found.epochs, found.next));
        let (projection, projector) = projection::open(Site {
            dir: dir.to_owned(),
            instance: found.instance.clone(),
            retention_ms: options.retention_ms,
            shared: Arc::clone(&shared),
            keeper: Arc::clone(&keeper),
            storage,
        })?;
        shared.lock().table.index_ended(recover::key_of);
        let figures = Arc::new(Figures::default());
        let writer = Writer::new(
            Arc::clone(&shared),
            Arc::clone(&keeper),
            Arc::clone(&listener),
            Arc::clone(&figures),
            found.log,
        );
        let (keeping, sharing) = (Arc::clone(&keeper), Arc::clone(&shared));
        let threads = Mutex::default();
        let instance = found.instance;
        let journal = Self { instance, shared, keeper, projection, figures, threads };
        journal.spawn("journal-writer", move || writer.run())?;
        journal.spawn("journal-keeper", move || keeping.run(&sharing))?;
        journal.spawn("journal-history", move || projector.run(listener.as_ref()))?;
        Ok(journal)
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), JournalError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
        let thread = thread.map_err(|error| JournalError::Failed(format!("{name}: {error}")))?;
        self.threads.lock().expect("joining does not panic").push(thread);
        Ok(())
    }

    fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().expect("joining does not panic"));
        for thread in threads {
            // A thread that panicked has told so; nothing it did is taken for durable.
            let _ = thread.join();
        }
    }
}

impl Drop for FileJournal {
    fn drop(&mut self) {
        self.shared.stop();
        self.keeper.stop();
        self.projection.stop();
        self.join();
    }
}

impl Journal for FileJournal {
    fn instance(&self) -> &str {
        &self.instance
    }

    fn claim(&self, shard: ShardId) -> Result<Epoch, JournalError> {
        Ok(self.shared.claim(&[shard])?[0])
    }

    fn claim_all(&self, shards: &[ShardId]) -> Result<Vec<Epoch>, JournalError> {
        self.shared.claim(shards)
    }

    fn epochs(&self, shards: &[ShardId]) -> Result<Vec<Epoch>, JournalError> {
        Ok(self.shared.epochs(shards))
    }

    fn load(&self) -> Result<Vec<OpenTxn>, JournalError> {
        let mut open = self.shared.open();
        open.sort_unstable_by_key(|(txn, _)| *txn);
        let decode = |(txn, bytes): (TxnId, Vec<u8>)| OpenTxn {
            txn,
            records: layout::stored(&bytes).map_err(|error| error.to_string()),
        };
        Ok(open.into_iter().map(decode).collect())
    }

    fn append(&self, entry: Entry<'_>) -> Result<Lsn, JournalError> {
        self.shared.append(&entry)
    }

    fn flushed(&self) -> Lsn {
        self.shared.flushed()
    }

    fn has_room(&self) -> bool {
        self.shared.lock().room().is_ok()
    }

    fn read(&self, txn: TxnId) -> Result<Vec<Stored>, JournalError> {
        let (held, evicted) = {
            let state = self.shared.lock();
            (state.table.get(txn).map(<[u8]>::to_vec), state.table.evicted())
        };
        let kept = match held {
            Some(kept) => Some(kept),
            None => {
                self.projection.catch_up(evicted)?;
                self.projection.entries(txn)?
            }
        };
        layout::stored(&kept.unwrap_or_default())
            .map_err(|error| JournalError::Failed(format!("transaction {txn}: {error}")))
    }

    fn find_key(&self, key: &str) -> Result<Option<TxnId>, JournalError> {
        let (held, evicted) = {
            let state = self.shared.lock();
            (state.table.find_key(key), state.table.evicted())
        };
        match held {
            Some(txn) => Ok(Some(txn)),
            None => {
                self.projection.catch_up(evicted)?;
                self.projection.find_key(key)
            }
        }
    }

    fn query(&self, filter: &Filter) -> Result<Page, JournalError> {
        list::page(&self.shared, &self.projection, filter)
    }

    fn stats(&self) -> Stats {
        let figure = |it: &std::sync::atomic::AtomicU64| it.load(Ordering::Relaxed);
        Stats {
            syncs: figure(&self.figures.syncs),
            sync_nanos: figure(&self.figures.sync_nanos),
            entries: figure(&self.figures.entries),
            bytes: figure(&self.figures.bytes),
            open: self.shared.lock().table.open_count() as u64,
            projection_lag_bytes: self.keeper.lag_bytes(),
        }
    }

    fn close(&self) -> Result<(), JournalError> {
        let last = Lsn(self.shared.lock().batch().next().0 - 1);
        self.shared.begin_close()?;
        self.shared.wait_flushed(last)?;
        self.projection.stop();
        self.join();
        self.shared.failure()
    }
}
