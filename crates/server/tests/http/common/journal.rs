//! A journal whose disk the test holds in its hand.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use unanimous_core::commit;
use unanimous_core::id::{Epoch, Lsn, ShardId, TxnId};
use unanimous_core::txn::Record;
use unanimous_journal::{
    End, Entry, FileJournal, Filter, Journal, JournalError, Listener, OpenTxn, Options, Page,
    Stats, Stored,
};
use unanimous_server::driver::Ears;

/// A file journal that reports as durable only what the test lets it.
pub(crate) struct HeldJournal {
    inner: FileJournal,
    hand: Hand,
}

/// Decides what is durable.
#[derive(Clone)]
pub(crate) struct Hand(Arc<Held>);

struct Held {
    ears: Arc<Ears>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    holding: bool,
    full: bool,
    on_disk: Lsn,
    told: Lsn,
    decisions: usize,
    appended: Vec<(TxnId, Step)>,
}

/// What an entry is to its transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    First,
    Next,
    Last,
}

impl HeldJournal {
    pub(crate) fn open(folder: &Path, ears: Arc<Ears>) -> Result<(Self, Hand), JournalError> {
        let hand = Hand(Arc::new(Held { ears, state: Mutex::default() }));
        let listener: Arc<dyn Listener> = Arc::<Held>::clone(&hand.0);
        let inner = FileJournal::open(folder, Options::default(), listener)?;
        hand.0.flushed(inner.flushed());
        Ok((Self { inner, hand: hand.clone() }, hand))
    }
}

impl Listener for Held {
    fn flushed(&self, lsn: Lsn) {
        let mut state = self.state.lock().expect("nothing panics while it is held");
        state.on_disk = state.on_disk.max(lsn);
        if !state.holding {
            state.told = state.on_disk;
            self.ears.flushed(state.told);
        }
    }

    fn failed(&self, error: Arc<JournalError>) {
        self.ears.failed(error);
    }
}

impl Hand {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while it is held")
    }

    /// Nothing more is reported durable.
    pub(crate) fn hold(&self) {
        self.state().holding = true;
    }

    /// What was held back is reported now, and the rest when it comes.
    pub(crate) fn let_go(&self) {
        let on_disk = {
            let mut state = self.state();
            state.holding = false;
            state.on_disk
        };
        self.0.flushed(on_disk);
    }

    /// There is no room for new transactions from now on, although it looks like it.
    pub(crate) fn fill(&self) {
        self.state().full = true;
    }

    /// There is room again.
    pub(crate) fn make_room(&self) {
        self.state().full = false;
    }

    /// The disk fails.
    pub(crate) fn fail(&self) {
        self.0.failed(Arc::new(JournalError::Failed("input/output error".into())));
    }

    /// Decisions appended so far, durable or not.
    pub(crate) fn decisions(&self) -> usize {
        self.state().decisions
    }

    /// The entries of these transactions so far, in order.
    pub(crate) fn appended(&self, of: &[TxnId]) -> Vec<(TxnId, Step)> {
        let state = self.state();
        state.appended.iter().filter(|(txn, _)| of.contains(txn)).copied().collect()
    }
}

impl Journal for HeldJournal {
    fn instance(&self) -> &str {
        self.inner.instance()
    }

    fn claim(&self, shard: ShardId) -> Result<Epoch, JournalError> {
        self.inner.claim(shard)
    }

    fn claim_all(&self, shards: &[ShardId]) -> Result<Vec<Epoch>, JournalError> {
        self.inner.claim_all(shards)
    }

    fn epochs(&self, shards: &[ShardId]) -> Result<Vec<Epoch>, JournalError> {
        self.inner.epochs(shards)
    }

    fn load(&self) -> Result<Vec<OpenTxn>, JournalError> {
        self.inner.load()
    }

    fn append(&self, entry: Entry<'_>) -> Result<Lsn, JournalError> {
        let mut state = self.hand.state();
        if state.full && entry.expected == 0 {
            return Err(JournalError::Full("the disk is full".into()));
        }
        let decided =
            |record: &&Record| matches!(record, Record::Commit(commit::Record::Decided { .. }));
        state.decisions += entry.records.iter().filter(decided).count();
        let step = match (entry.end, entry.expected) {
            (End::Open, 0) => Step::First,
            (End::Open, _) => Step::Next,
            (End::Ended, _) => Step::Last,
        };
        state.appended.push((entry.txn, step));
        drop(state);
        self.inner.append(entry)
    }

    fn flushed(&self) -> Lsn {
        self.hand.state().told
    }

    fn has_room(&self) -> bool {
        self.inner.has_room()
    }

    fn read(&self, txn: TxnId) -> Result<Vec<Stored>, JournalError> {
        self.inner.read(txn)
    }

    fn find_key(&self, key: &str) -> Result<Option<TxnId>, JournalError> {
        self.inner.find_key(key)
    }

    fn query(&self, filter: &Filter) -> Result<Page, JournalError> {
        self.inner.query(filter)
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn close(&self) -> Result<(), JournalError> {
        self.inner.close()
    }
}
