//! The journal in PostgreSQL: tables that anybody can read, and one owner that writes.
//!
//! | file | what it is for |
//! |---|---|
//! | `address` | the URL |
//! | `encryption` | TLS, as the driver asks for it |
//! | `session` | a connection, and what its errors mean |
//! | `tables` | making the tables, and what the server must be like |
//! | `book` | the rows of one batch |
//! | `writer` | the task that writes |
//! | `readers` | reading, claiming and removing |
//! | `directory` | who takes part |
//! | `words` | what the columns say |
//!
//! # Invariants
//!
//! 1. A batch of entries is one statement and one commit, and the next begins after it.
//! 2. The statement compares what each transaction holds and which epoch each shard has; if one is
//!    not as this process knows it, nothing is written, nothing more is reported durable, and the
//!    journal ends: another coordinator has taken over.
//! 3. `txn_log.record` alone is the truth; every other column is made from it, for people.

mod address;
mod book;
mod directory;
mod encryption;
mod id;
mod limits;
mod readers;
mod session;
mod tables;
mod words;
mod writer;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use unanimous_core::id::{Epoch, Lsn, ShardId, TxnId};

use crate::entry::{Entry, OpenTxn, Stored};
use crate::error::JournalError;
use crate::query::{Filter, Page};
use crate::remote::engine::Engine;
use crate::remote::questions::Answers;
use crate::remote::state::Shared;
use crate::remote::{Figures, questions, scribe, this_process};
use crate::{Journal, Listener, Stats};
use address::Address;
use book::Books;
pub use directory::PostgresDirectory;
use limits::{BATCHES, PRUNE_PAUSE};
use readers::Readers;
use tables::Opened;
use writer::Writer;

/// How a journal in PostgreSQL is kept.
#[derive(Clone)]
pub struct PostgresOptions {
    /// What the server asks for, if it asks.
    pub password: Option<String>,
    /// Who writes: shown beside each transaction. Default: machine and process.
    pub coordinator: String,
    /// Milliseconds for which an ended transaction can still be read. Default 7 days.
    pub retention_ms: u64,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { password: None, coordinator: this_process(), retention_ms: 7 * 24 * 60 * 60 * 1_000 }
    }
}

/// A journal in a PostgreSQL database.
///
/// Several processes may open it; the one that claims a shard last owns it. The one before hears of
/// that at its next entry, or within a second, as a failure with [`JournalError::Fenced`]; from the
/// claim on nothing that it appends is reported durable.
pub struct PostgresJournal {
    instance: String,
    coordinator: String,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    figures: Arc<Figures>,
    /// Held while shards are claimed.
    claiming: Mutex<()>,
    engine: Engine,
}

impl PostgresJournal {
    /// Opens the journal in the database at `url`, and makes its tables if they are missing.
    ///
    /// `url` is `postgres://user@host:port/database`, with `?schema=NAME` for another schema than
    /// `unanimous`. `listener` hears of what becomes durable from now on, in calls from the journal's
    /// thread. What is open is read when its shards are claimed.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unusable`] with one line that says what to change.
    pub fn open(
        url: &str,
        options: PostgresOptions,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, JournalError> {
        let PostgresOptions { password, coordinator, retention_ms } = options;
        let address = Address::parse(url, password.as_deref()).map_err(JournalError::Unusable)?;
        let engine = Engine::start("journal-postgres")?;
        let first = address.clone();
        let opening = async move {
            let session = tables::connect(&first).await.map_err(JournalError::Unusable)?;
            tables::open(&first, session).await.map_err(JournalError::Unusable)
        };
        let (Opened { instance, base }, desk) = engine.run(opening)?;
        let shared = Arc::new(Shared::new(base, BATCHES));
        let figures = Arc::new(Figures::default());
        let writer = Writer {
            shared: Arc::clone(&shared),
            address: address.clone(),
            books: Books::new(coordinator.clone()),
            desk: Some(desk),
        };
        engine.spawn(scribe::run(writer, Arc::clone(&shared), listener, Arc::clone(&figures)));
        let readers = Arc::new(Readers::new(address));
        let retention = Duration::from_millis(retention_ms);
        engine.spawn(prune(Arc::clone(&shared), Arc::clone(&readers), retention));
        let claiming = Mutex::default();
        Ok(Self { instance, coordinator, shared, readers, figures, claiming, engine })
    }

    /// Runs what reads on the journal's own thread.
    fn ask<T: Send + 'static, F>(
        &self,
        question: impl FnOnce(Arc<Readers>) -> F,
    ) -> Result<T, JournalError>
    where
        F: Future<Output = Result<T, JournalError>> + Send + 'static,
    {
        self.shared.reachable()?;
        self.engine.run(question(Arc::clone(&self.readers)))
    }

    /// Whoever owned the shards writes nothing more once their epochs are raised; what it left open
    /// is read after that.
    fn take_over(
        &self,
        shards: &[ShardId],
        fenced: crate::OnceFenced,
    ) -> Result<Vec<Epoch>, JournalError> {
        let last = self.shared.begin_claim(shards)?;
        self.shared.wait_flushed(last)?;
        let (ours, owner) = (shards.to_vec(), self.coordinator.clone());
        let epochs = self.ask(|readers| async move {
            let claimed = readers.claim(&ours, &owner).await?;
            let epochs = ours.iter().map(|&shard| match claimed.get(&shard.index()) {
                Some(&epoch) => Ok((shard, epoch)),
                None => Err(JournalError::Unusable(format!(
                    "shard {} is kept in another journal: see moved_to in its table shard",
                    shard.index()
                ))),
            });
            epochs.collect::<Result<Vec<_>, _>>()
        })?;
        let claimed: Vec<Epoch> = epochs.iter().map(|it| it.1).collect();
        fenced(&claimed);
        let ours = epochs.clone();
        let open = self.ask(|readers| async move { questions::open(&*readers, &ours).await })?;
        self.shared.end_claim(&epochs, open);
        Ok(claimed)
    }
}

impl Drop for PostgresJournal {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Journal for PostgresJournal {
    fn instance(&self) -> &str {
        &self.instance
    }

    fn claim(&self, shard: ShardId) -> Result<Epoch, JournalError> {
        Ok(self.claim_all(&[shard])?[0])
    }

    fn claim_all(&self, shards: &[ShardId]) -> Result<Vec<Epoch>, JournalError> {
        self.claim_all_fencing(shards, Box::new(|_| ()))
    }

    fn claim_all_fencing(
        &self,
        shards: &[ShardId],
        fenced: crate::OnceFenced,
    ) -> Result<Vec<Epoch>, JournalError> {
        let turn = self.claiming.lock().expect("claiming does not panic");
        let claimed = self.take_over(shards, fenced);
        self.shared.leave_claim();
        drop(turn);
        claimed
    }

    fn epochs(&self, shards: &[ShardId]) -> Result<Vec<Epoch>, JournalError> {
        let shards = shards.to_vec();
        self.ask(|readers| async move { readers.epochs_of(shards).await })
    }

    fn load(&self) -> Result<Vec<OpenTxn>, JournalError> {
        self.shared.wait_flushed(self.shared.last())?;
        let ours = self.shared.claims();
        let open = match self.shared.take_loaded() {
            Some(open) => open,
            None => self.ask(|readers| async move { questions::open(&*readers, &ours).await })?,
        };
        let placed = |OpenTxn { txn, records }| OpenTxn {
            txn,
            records: records.map(|stored| self.shared.placed(stored)),
        };
        Ok(open.into_iter().map(placed).collect())
    }

    fn append(&self, entry: Entry<'_>) -> Result<Lsn, JournalError> {
        self.shared.append(&entry)
    }

    fn flushed(&self) -> Lsn {
        self.shared.flushed()
    }

    fn has_room(&self) -> bool {
        self.shared.has_room()
    }

    fn read(&self, txn: TxnId) -> Result<Vec<Stored>, JournalError> {
        self.read_all(&[txn]).pop().expect("one for each")
    }

    fn read_all(&self, txns: &[TxnId]) -> Vec<Result<Vec<Stored>, JournalError>> {
        questions::read_all(&self.engine, &self.shared, &self.readers, txns)
    }

    fn find_key(&self, key: &str) -> Result<Option<TxnId>, JournalError> {
        self.find_keys(&[key.to_owned()]).pop().expect("one for each")
    }

    fn find_keys(&self, keys: &[String]) -> Vec<Result<Option<TxnId>, JournalError>> {
        questions::find_keys(&self.engine, &self.shared, &self.readers, keys)
    }

    fn query(&self, filter: &Filter) -> Result<Page, JournalError> {
        self.shared.wait_flushed(self.shared.last())?;
        let filter = filter.clone();
        self.ask(|readers| async move { readers.page(&filter).await })
    }

    fn stats(&self) -> Stats {
        self.figures.stats(self.shared.open_count())
    }

    fn close(&self) -> Result<(), JournalError> {
        let last = self.shared.last();
        self.shared.begin_close()?;
        self.shared.wait_flushed(last)?;
        self.shared.stop();
        self.shared.failure()
    }
}

/// Removes what ended longer ago than `retention` in the shards that the journal owns: the others
/// are for their owners.
async fn prune(shared: Arc<Shared>, readers: Arc<Readers>, retention: Duration) {
    while !shared.is_over() {
        tokio::time::sleep(PRUNE_PAUSE).await;
        let ours = shared.claimed();
        if let Some(before) = SystemTime::now().checked_sub(retention)
            && !ours.is_empty()
        {
            // A database that cannot be asked now is asked again.
            drop(readers.prune(before, &ours).await);
        }
    }
}
