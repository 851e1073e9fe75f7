//! The journal in etcd: keys that a majority of its members has, and one owner that writes.
//!
//! | file | what it is for |
//! |---|---|
//! | `address` | the URL |
//! | `tls`, `wire`, `proto` | a connection, a call over it, its messages |
//! | `client` | calls to whichever member answers, and what its errors mean |
//! | `opening` | the first calls, and what the cluster must be like |
//! | `keys`, `value` | what stands where |
//! | `claims` | who owns which shards |
//! | `book`, `writer` | what one batch writes, and the task that writes it |
//! | `readers`, `list` | reading and claiming; lists |
//! | `upkeep` | removing what ended long ago |
//! | `directory` | who takes part |
//!
//! # Invariants
//!
//! 1. A batch of entries is one transaction of etcd, and the next begins after it.
//! 2. It compares who owns each shard, how many batches were written, and that its keys are not there
//!    yet; if one is not as this process knows it, nothing more is reported durable, and the journal
//!    ends: another coordinator has taken over.
//! 3. No old revision is needed: they may be given up at any time. No lease and no watch is used.

mod address;
mod book;
mod claims;
mod client;
mod directory;
mod keys;
mod limits;
mod list;
mod opening;
mod proto;
mod readers;
mod upkeep;
mod value;
mod wire;
mod writer;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use unanimous_core::id::{Epoch, Lsn, ShardId, TxnId};

use crate::entry::{Entry, OpenTxn, Stored};
use crate::error::JournalError;
use crate::file::recover::salt;
use crate::query::{Filter, Page};
use crate::remote::engine::Engine;
use crate::remote::questions::Answers;
use crate::remote::state::Shared;
use crate::remote::{Figures, questions, scribe, this_process};
use crate::{Journal, Listener, Stats};
use address::Address;
use book::Books;
use claims::Claims;
use client::Client;
pub use directory::EtcdDirectory;
use keys::Keys;
use limits::BATCHES;
use opening::Opened;
use readers::Readers;
use upkeep::Upkeep;
use writer::{Head, Writer};

/// How a journal in etcd is kept.
#[derive(Clone)]
pub struct EtcdOptions {
    /// What etcd asks for, if it asks.
    pub password: Option<String>,
    /// Who writes: shown beside each shard. Default: machine and process.
    pub coordinator: String,
    /// Milliseconds for which an ended transaction can still be read, unless there are too many:
    /// the URL says how many are kept. Default 7 days.
    pub retention_ms: u64,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self { password: None, coordinator: this_process(), retention_ms: 7 * 24 * 60 * 60 * 1_000 }
    }
}

/// A journal in an etcd cluster.
///
/// Several processes may open it; the one that claims a shard last owns it. The one before hears of
/// that at its next entry, or within a second, as a failure with [`JournalError::Fenced`]; from the
/// claim on nothing that it appends is reported durable, or there.
pub struct EtcdJournal {
    instance: String,
    coordinator: String,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    claims: Arc<Claims>,
    figures: Arc<Figures>,
    /// Held while shards are claimed.
    claiming: Mutex<()>,
    engine: Engine,
}

impl EtcdJournal {
    /// Opens the journal in the cluster at `url`, and begins it if there is none.
    ///
    /// `url` is `etcd://user@host1:2379,host2:2379/prefix`, where user and prefix may be left out,
    /// with `?tls=on` and more as docs/journal-etcd.md has it. `listener` hears of what becomes
    /// durable from now on, in calls from the journal's thread. What is open is read when its shards
    /// are claimed.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unusable`] with one line that says what to change.
    pub fn open(
        url: &str,
        options: EtcdOptions,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, JournalError> {
        let EtcdOptions { password, coordinator, retention_ms } = options;
        let address = Address::parse(url).map_err(JournalError::Unusable)?;
        let keys = Keys::new(&address.prefix);
        let connect = || {
            let client = Client::new(address.clone(), password.clone());
            client.map_err(|why| JournalError::Unusable(format!("{}: {why}", address.shown)))
        };
        let (client, reading) = (connect()?, connect()?);
        let engine = Engine::start("journal-etcd")?;
        let first = (address.clone(), keys.clone());
        let opening = async move {
            let opened = opening::open(&first.0, &client, &first.1).await;
            Ok((opened.map_err(JournalError::Unusable)?, client))
        };
        let (Opened { instance, base }, client) = engine.run(opening)?;
        let shared = Arc::new(Shared::new(base, BATCHES));
        let (figures, claims) = (Arc::<Figures>::default(), Arc::new(Claims::new(salt())));
        let readers = Arc::new(Readers::new(reading, keys.clone()));
        let writer = Writer {
            shared: Arc::clone(&shared),
            client,
            readers: Arc::clone(&readers),
            claims: Arc::clone(&claims),
            books: Books::new(keys.clone()),
            head: Head { key: keys.head(claims.word), count: 0 },
            keys,
        };
        engine.spawn(scribe::run(writer, Arc::clone(&shared), listener, Arc::clone(&figures)));
        let upkeep = Upkeep {
            shared: Arc::clone(&shared),
            readers: Arc::clone(&readers),
            claims: Arc::clone(&claims),
            retention: Duration::from_millis(retention_ms),
            ended_max: address.ended_max,
            compaction: address.compaction,
        };
        engine.spawn(upkeep.run());
        let claiming = Mutex::default();
        Ok(Self { instance, coordinator, shared, readers, claims, figures, claiming, engine })
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
        if shards.is_empty() {
            return Ok(Vec::new());
        }
        let last = self.shared.begin_claim(shards)?;
        self.shared.wait_flushed(last)?;
        let (ours, owner) = (shards.to_vec(), self.coordinator.clone());
        let claims = Arc::clone(&self.claims);
        let claimed =
            |readers: Arc<Readers>| async move { readers.claim(&ours, &owner, &claims).await };
        let epochs = self.ask(claimed)?;
        let claimed: Vec<Epoch> = epochs.iter().map(|it| it.1).collect();
        fenced(&claimed);
        let ours = epochs.clone();
        let open = self.ask(|readers| async move { questions::open(&*readers, &ours).await })?;
        self.shared.end_claim(&epochs, open);
        Ok(claimed)
    }
}

impl Drop for EtcdJournal {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Journal for EtcdJournal {
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
        self.ask(|readers| async move { list::page(&readers, &filter).await })
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
