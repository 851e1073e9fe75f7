//! How the drivers hear of the journal.

use std::sync::Arc;

use tokio::sync::watch;
use unanimous_core::id::Lsn;
use unanimous_journal::{JournalError, Listener};

/// Hears of the journal on behalf of the drivers. Made before the journal, which is made with it.
pub struct Ears {
    pub(super) flushed: watch::Sender<Lsn>,
    pub(super) failed: watch::Sender<Option<Arc<JournalError>>>,
}

impl Ears {
    /// Makes a pair of them.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { flushed: watch::Sender::default(), failed: watch::Sender::default() })
    }
}

impl Listener for Ears {
    fn flushed(&self, lsn: Lsn) {
        self.flushed.send_replace(lsn);
    }

    fn failed(&self, error: Arc<JournalError>) {
        self.failed.send_replace(Some(error));
    }
}
