//! The history: every ended transaction, made from the log behind the writer's back.
//!
//! A thread of its own reads what is durable from the segments and writes it to SQLite in batches,
//! gently unless somebody waits for it. The decision path does not know of it, except that a
//! segment goes only when the history durably has what it says, and that nothing new is begun while
//! too many segments wait for that.

mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use unanimous_core::id::{Lsn, TxnId};

use crate::Listener;
use crate::error::JournalError;
use crate::file::follow::Follower;
use crate::file::keeper::Keeper;
use crate::file::state::Shared;
use crate::file::storage::Storage;
use crate::limits::{
    HISTORY_BATCH_BYTES, HISTORY_BATCH_TXNS, HISTORY_HURRY_BYTES, HISTORY_IDLE_MS,
    HISTORY_NICENESS, HISTORY_PRUNE, HISTORY_REST, HISTORY_RETRY_MS,
};
use crate::query::Filter;
use store::{Row, Store, StoreError, Synced};

/// The history as the journal asks it.
pub(crate) struct Projection {
    dir: PathBuf,
    shared: Arc<Shared>,
    reader: Mutex<Option<Store>>,
    desk: Mutex<Desk>,
    wake: Condvar,
}

/// What the asking threads leave for the one that writes.
#[derive(Debug, Default)]
struct Desk {
    /// Threads that wait for the history to catch up.
    waiting: usize,
    duty: Duty,
    /// What went wrong last, until it goes well.
    trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Duty {
    #[default]
    On,
    Off,
}

/// The part that writes.
pub(crate) struct Projector {
    projection: Arc<Projection>,
    keeper: Arc<Keeper>,
    storage: Arc<dyn Storage>,
    instance: String,
    retention_ms: u64,
    store: Store,
    follower: Follower,
    /// Read and not yet written, with the bytes of the log that they were read from.
    rows: Vec<Row>,
    rows_bytes: u64,
    synced: Lsn,
}

/// Where the pieces of a projection are.
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    pub(crate) instance: String,
    pub(crate) retention_ms: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) storage: Arc<dyn Storage>,
}

/// Opens the history; one that cannot be used is made anew.
///
/// # Errors
///
/// [`JournalError::Damaged`] if the history is ahead of the log: segments are missing.
pub(crate) fn open(site: Site) -> Result<(Arc<Projection>, Projector), JournalError> {
    let Site { dir, instance, retention_ms, shared, keeper, storage } = site;
    let store = match Store::open(&dir, &instance) {
        Err(StoreError::Broken(_)) => anew(&dir, &instance)?,
        opened => opened.map_err(failed)?,
    };
    let applied = store.applied().map_err(failed)?;
    if applied > shared.flushed() {
        return Err(JournalError::Damaged {
            path: dir,
            offset: 0,
            what: format!(
                "history.sqlite knows of position {}, the segments end at {}: some are missing",
                applied.0,
                shared.flushed().0
            ),
        });
    }
    let follower = Follower::start(Arc::clone(&storage), Arc::clone(&keeper), applied)?;
    shared.publish_projected(applied);
    let projection = Arc::new(Projection {
        dir,
        shared,
        reader: Mutex::default(),
        desk: Mutex::default(),
        wake: Condvar::new(),
    });
    let projector = Projector {
        projection: Arc::clone(&projection),
        keeper,
        storage,
        instance,
        retention_ms,
        store,
        follower,
        rows: Vec::new(),
        rows_bytes: 0,
        synced: Lsn(0),
    };
    Ok((projection, projector))
}

fn anew(dir: &std::path::Path, instance: &str) -> Result<Store, JournalError> {
    store::set_aside(dir)
        .map_err(|error| JournalError::Failed(format!("{}: {error}", dir.display())))?;
    Store::open(dir, instance).map_err(failed)
}

fn failed(error: StoreError) -> JournalError {
    JournalError::Failed(error.to_string())
}

impl Projection {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("no thread panics while it holds the desk")
    }

    /// Waits until everything up to `lsn` has entered the history.
    pub(crate) fn catch_up(&self, lsn: Lsn) -> Result<(), JournalError> {
        if self.shared.projected() >= lsn {
            return Ok(());
        }
        self.shared.hurry();
        self.desk().waiting += 1;
        self.wake.notify_all();
        let caught_up = self.shared.wait_projected(lsn, || self.desk().trouble.clone());
        self.desk().waiting -= 1;
        caught_up
    }

    /// All entries of an ended transaction.
    pub(crate) fn entries(&self, txn: TxnId) -> Result<Option<Vec<u8>>, JournalError> {
        self.ask(|store| store.entries(txn))
    }

    /// The newest ended transaction begun under this key.
    pub(crate) fn find_key(&self, key: &str) -> Result<Option<TxnId>, JournalError> {
        self.ask(|store| store.find_key(key))
    }

    /// Ended transactions that the filter shows, newest first, with their entries.
    pub(crate) fn page(
        &self,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<(TxnId, Vec<u8>)>, JournalError> {
        self.ask(|store| store.page(filter, limit))
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<T, JournalError> {
        let mut reader = self.reader.lock().expect("no thread panics while it reads");
        let store = match reader.take() {
            Some(store) => store,
            None => Store::reader(&self.dir).map_err(failed)?,
        };
        let answer = question(&store).map_err(failed)?;
        *reader = Some(store);
        Ok(answer)
    }

    /// Ends the projector's thread.
    pub(crate) fn stop(&self) {
        self.desk().duty = Duty::Off;
        self.wake.notify_all();
    }
}

impl Projector {
    /// Works until the journal stops.
    pub(crate) fn run(mut self, listener: &dyn Listener) {
        // On Linux a thread has a niceness of its own. Where that is not to be had, decisions only
        // share the processor with the history of earlier ones.
        let _ = rustix::process::nice(HISTORY_NICENESS);
        let mut pause = Duration::ZERO;
        while self.rest(pause) == Duty::On {
            let start = Instant::now();
            pause = match self.step() {
                Ok(Progress::Caught) => Duration::from_millis(HISTORY_IDLE_MS),
                Ok(Progress::Behind) => start.elapsed() * HISTORY_REST,
                Err(Trouble::Journal(error @ JournalError::Damaged { .. })) => {
                    let shared = &self.projection.shared;
                    shared.fail(&error.to_string());
                    self.keeper.stop();
                    return listener.failed(Arc::new(error));
                }
                Err(trouble) => {
                    self.mend(&trouble);
                    Duration::from_millis(HISTORY_RETRY_MS)
                }
            };
        }
    }

    /// Pauses, unless somebody waits or too much has come together.
    fn rest(&self, pause: Duration) -> Duty {
        let desk = self.projection.desk();
        let behind = self.keeper.lag_bytes() > HISTORY_HURRY_BYTES;
        let waited = self.projection.wake.wait_timeout_while(desk, pause, |desk| {
            let caught = self.follower.seen() >= self.projection.shared.flushed();
            let hurried = (behind || desk.waiting > 0) && desk.trouble.is_none();
            desk.duty == Duty::On && (caught || !hurried)
        });
        waited.expect("no thread panics with the desk").0.duty
    }

    /// Takes one batch in, syncs if segments wait for it, and prunes.
    fn step(&mut self) -> Result<Progress, Trouble> {
        // In this order: whoever has seen all that is flushed has come to that end, or further.
        let end = self.keeper.end();
        let flushed = self.projection.shared.flushed();
        while self.rows.len() < HISTORY_BATCH_TXNS && self.rows_bytes < HISTORY_BATCH_BYTES {
            let rows = &mut self.rows;
            let read = self.follower.advance(flushed, |ended| {
                rows.push(Row { lsn: ended.lsn, txn: ended.txn, kept: ended.kept });
            })?;
            match read {
                Some(bytes) => self.rows_bytes += bytes,
                None => break,
            }
        }
        let seen = self.follower.seen();
        if self.rows_bytes > 0 {
            self.store.write(&self.rows, seen)?;
            self.rows.clear();
            self.rows_bytes = 0;
            self.projection.shared.publish_projected(seen);
        }
        self.keeper.taken(if seen < flushed { self.follower.place() } else { end });
        self.sync()?;
        let pruned = self.store.prune(now_ms().saturating_sub(self.retention_ms), HISTORY_PRUNE)?;
        self.projection.desk().trouble = None;
        match seen < flushed || pruned == HISTORY_PRUNE {
            true => Ok(Progress::Behind),
            false => Ok(Progress::Caught),
        }
    }

    /// Lets segments go that are taken in.
    fn sync(&mut self) -> Result<(), Trouble> {
        let seen = self.follower.seen();
        if self.keeper.rests_on(seen) > self.keeper.rests_on(self.synced)
            && self.store.sync()? == Synced::Yes
        {
            self.synced = seen;
            self.keeper.projected(seen);
        }
        Ok(())
    }

    /// Tells those who wait, and makes the store anew if that is what it needs.
    fn mend(&mut self, trouble: &Trouble) {
        self.projection.desk().trouble = Some(trouble.to_string());
        self.projection.shared.wake_waiting();
        let Trouble::Store(StoreError::Broken(_)) = trouble else { return };
        self.keeper.projected(Lsn(0));
        *self.projection.reader.lock().expect("no thread panics while it reads") = None;
        let made = anew(&self.projection.dir, &self.instance).and_then(|store| {
            let (storage, keeper) = (Arc::clone(&self.storage), Arc::clone(&self.keeper));
            Follower::start(storage, keeper, Lsn(0)).map(|follower| (store, follower))
        });
        match made {
            Ok((store, follower)) => {
                self.projection.shared.publish_projected(Lsn(0));
                (self.store, self.follower, self.synced) = (store, follower, Lsn(0));
                self.rows.clear();
                self.rows_bytes = 0;
            }
            Err(error) => self.projection.desk().trouble = Some(error.to_string()),
        }
    }
}

/// Whether the history has everything that is durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Progress {
    Caught,
    Behind,
}

/// What can stop the projector.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
