//! Journals that are opened before anybody needs them.
//!
//! Whoever takes over from a node that died needs connections, a range of positions, and statements that
//! the database has understood. On a busy machine that takes a tenth of a second, and for as long locks are
//! held that everybody waits for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use unanimous_journal::{Journal, JournalError};

use super::limits::{SPARES, SPARES_LOOKED_AT, SPARES_PAUSE};
use super::node::Node;
use super::partition::Partition;
use crate::config::Config;
use crate::driver::Ears;
use crate::journal::JournalConfig;

/// A journal that is open, and in which nothing is claimed.
pub(super) struct Opened {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) ears: Arc<Ears>,
}

/// Whether somebody may be waiting for what a claim sets free.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Haste {
    Yes,
    No,
}

impl Opened {
    /// To claim nothing takes all that a claim takes.
    fn is_of_use(&self) -> bool {
        self.journal.claim_all(&[]).is_ok()
    }
}

/// Spares of the journal that all nodes have in common.
pub(super) struct Spares {
    place: JournalConfig,
    retention_ms: u64,
    owner: String,
    ready: Mutex<Vec<Opened>>,
    taken: Notify,
}

impl Spares {
    /// None yet. What is opened is opened for the node `owner`.
    pub(super) fn new(config: &Config, owner: &str) -> Arc<Self> {
        Arc::new(Self {
            place: config.journal.clone(),
            retention_ms: config.retention_ms(),
            owner: owner.to_owned(),
            ready: Mutex::default(),
            taken: Notify::new(),
        })
    }

    /// The journal in this place: a spare one in haste, if there is any. Waits for its database otherwise.
    pub(super) fn take(&self, place: &JournalConfig, haste: Haste) -> Result<Opened, JournalError> {
        let spare = match haste {
            Haste::Yes if *place == self.place => self.ready().pop(),
            Haste::Yes | Haste::No => None,
        };
        match spare {
            Some(spare) => {
                self.taken.notify_one();
                Ok(spare)
            }
            None => self.open(place),
        }
    }

    fn open(&self, place: &JournalConfig) -> Result<Opened, JournalError> {
        let ears = Ears::new();
        let journal = place.open(self.retention_ms, Some(&self.owner), Arc::clone(&ears) as _)?;
        Ok(Opened { journal, ears })
    }

    /// Sees to it that there are some, until it is dropped: as many as there are partitions that another
    /// node may leave. Not while one is needed: a takeover has the machine to itself.
    pub(super) async fn keep(self: Arc<Self>, node: Arc<Node>) {
        loop {
            sleep(SPARES_PAUSE).await;
            let elsewhere = Partition::all().filter(|&it| node.peers.owner(it).is_some()).count();
            let keeper = Arc::clone(&self);
            // A database that cannot be asked now is asked again.
            drop(spawn_blocking(move || keeper.look(SPARES.min(elsewhere))).await);
            // Who comes when nothing is left opens one.
            drop(timeout(SPARES_LOOKED_AT, self.taken.notified()).await);
        }
    }

    /// Drops those that are of no use any more, and opens as many as are missing.
    fn look(&self, wanted: usize) {
        let surplus = {
            let mut ready = self.ready();
            let kept = wanted.min(ready.len());
            ready.split_off(kept)
        };
        drop(surplus);
        for _ in 0..wanted {
            let spare = self.ready().pop();
            let spare = spare.filter(Opened::is_of_use);
            let spare = spare.or_else(|| self.open(&self.place).ok().filter(Opened::is_of_use));
            let Some(spare) = spare else { return };
            self.ready().insert(0, spare);
        }
    }

    fn ready(&self) -> MutexGuard<'_, Vec<Opened>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
