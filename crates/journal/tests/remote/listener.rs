//! What a journal told.

use std::sync::{Arc, Condvar, Mutex};

use unanimous_core::id::Lsn;
use unanimous_journal::{JournalError, Listener};

use crate::patience::PATIENCE;

/// Remembers what it was told.
#[derive(Default)]
pub(crate) struct Heard {
    told: Mutex<(Lsn, Option<Arc<JournalError>>)>,
    news: Condvar,
}

impl Heard {
    /// Everything up to here was reported durable.
    pub(crate) fn flushed(&self) -> Lsn {
        self.told.lock().expect("no test thread panics with it").0
    }

    /// What ended the journal, if something did.
    pub(crate) fn failure(&self) -> Option<Arc<JournalError>> {
        self.told.lock().expect("no test thread panics with it").1.clone()
    }

    /// Waits until everything up to `lsn` is reported durable, or the journal has ended.
    pub(crate) fn wait(&self, lsn: Lsn) -> Result<(), Arc<JournalError>> {
        let told = self.told.lock().expect("no test thread panics with it");
        let waited = self.news.wait_timeout_while(told, PATIENCE, |(flushed, failure)| {
            *flushed < lsn && failure.is_none()
        });
        let (told, _) = waited.expect("no test thread panics with it");
        match (told.0 >= lsn, &told.1) {
            (true, _) => Ok(()),
            (false, Some(failure)) => Err(Arc::clone(failure)),
            (false, None) => panic!("{lsn:?} was not reported durable"),
        }
    }

    /// Waits until the journal has ended.
    pub(crate) fn wait_failed(&self) -> Arc<JournalError> {
        self.wait(Lsn(u64::MAX)).expect_err("positions never come so far")
    }
}

impl Listener for Heard {
    fn flushed(&self, lsn: Lsn) {
        let mut told = self.told.lock().expect("no test thread panics with it");
        assert!(lsn >= told.0, "positions only grow");
        assert!(told.1.is_none(), "nothing is reported durable after the end");
        told.0 = lsn;
        self.news.notify_all();
    }

    fn failed(&self, error: Arc<JournalError>) {
        self.told.lock().expect("no test thread panics with it").1 = Some(error);
        self.news.notify_all();
    }
}
