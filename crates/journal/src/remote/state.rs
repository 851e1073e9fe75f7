//! What the appending threads and the writer share.
//!
//! Appending takes one short lock: compare with what this process knows, give out a position, put
//! the entry into the queue. This process owns the shards it has claimed, so what it knows is what
//! is there; if it is not any more, the database says so when the entry is written, nothing is
//! reported durable, and the journal ends.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::Notify;
use unanimous_core::Durability;
use unanimous_core::id::{Epoch, Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::txn::Record;

use super::POSITIONS_BITS;
use super::limits::{LOOK_PAUSE, PATIENCE, SLOW, WAITING_BYTES_MAX, WAITING_ENTRIES_MAX};
use crate::codec;
use crate::entry::{End, Entry, OpenTxn, Stored};
use crate::error::JournalError;
use crate::limits::{BEGIN_BYTES_MAX, LINGER_MS};

const SHARDS: usize = unanimous_core::limits::SHARDS as usize;

/// How much goes into one batch. More gains nothing, and makes those wait longer who wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchBounds {
    pub(crate) entries_max: usize,
    /// Unless a single entry has more.
    pub(crate) bytes_max: usize,
}

/// The state, and the means to wait for it to change.
pub(crate) struct Shared {
    batches: BatchBounds,
    /// The last position before this opening.
    base: Lsn,
    state: Mutex<State>,
    /// The writer waits here for something to write.
    work: Notify,
    /// Everybody else waits here for the writer.
    progress: Condvar,
    flushed: AtomicU64,
}

struct State {
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    urgency: Urgency,
    next: Lsn,
    /// Transactions that are open, or whose end is not durable yet.
    table: HashMap<TxnId, Slot>,
    /// Keys of transactions whose beginning is not durable yet.
    keys: HashMap<Arc<str>, TxnId>,
    /// Zero for a shard that this journal has not claimed.
    epochs: [Epoch; SHARDS],
    /// Shards that are being claimed.
    claiming: Vec<ShardId>,
    /// Claimed transactions that the writer has not taken over yet.
    adopted: Vec<(TxnId, Vec<Stored>)>,
    /// What was read when all shards that are ours were claimed, until it is asked for or changes.
    loaded: Option<Vec<OpenTxn>>,
    open: usize,
    health: Health,
    /// Why the database takes nothing now, if it does not.
    trouble: Option<String>,
    /// Since when a batch is under way.
    writing: Option<Instant>,
}

struct Slot {
    count: u32,
    last: Lsn,
    end: End,
}

/// An entry on its way.
pub(crate) struct Queued {
    pub(crate) txn: TxnId,
    pub(crate) epoch: Epoch,
    pub(crate) expected: u32,
    pub(crate) lsn: Lsn,
    pub(crate) at: Timestamp,
    pub(crate) end: End,
    pub(crate) records: Vec<Record>,
    /// The same as bytes.
    pub(crate) encoded: Vec<Vec<u8>>,
}

impl Queued {
    fn bytes(&self) -> usize {
        self.encoded.iter().map(Vec::len).sum()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Urgency {
    Lazy,
    Forced,
}

enum Health {
    Running,
    /// Takes nothing more; what was taken is still to be written.
    Closing,
    Closed,
    Failed(Arc<JournalError>),
}

/// What the writer is to do next.
pub(crate) enum Work {
    /// Take over these transactions, then write these entries.
    Write(Vec<(TxnId, Vec<Stored>)>, Vec<Queued>),
    /// Look whether the shards are still ours.
    Look,
    /// Everything is written: stop.
    Finish,
    /// Stop at once.
    Abandon,
}

impl Shared {
    /// Gives out positions beyond `base`.
    pub(crate) fn new(base: Lsn, batches: BatchBounds) -> Self {
        let state = State {
            queue: VecDeque::new(),
            queue_bytes: 0,
            urgency: Urgency::Lazy,
            next: Lsn(base.0 + 1),
            table: HashMap::new(),
            keys: HashMap::new(),
            epochs: [Epoch::default(); SHARDS],
            claiming: Vec::new(),
            adopted: Vec::new(),
            loaded: None,
            open: 0,
            health: Health::Running,
            trouble: None,
            writing: None,
        };
        Self {
            batches,
            base,
            state: Mutex::new(state),
            work: Notify::new(),
            progress: Condvar::new(),
            flushed: AtomicU64::new(base.0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the state")
    }

    pub(crate) fn flushed(&self) -> Lsn {
        Lsn(self.flushed.load(Ordering::Acquire))
    }

    pub(crate) fn append(&self, entry: &Entry<'_>) -> Result<Lsn, JournalError> {
        assert!(!entry.records.is_empty(), "an entry has at least one record");
        let begins = entry.expected == 0;
        let encoded: Vec<Vec<u8>> = entry.records.iter().map(encode).collect();
        let bytes: usize = encoded.iter().map(Vec::len).sum();
        if begins && bytes > BEGIN_BYTES_MAX {
            let text =
                format!("{bytes} bytes to begin one transaction, of at most {BEGIN_BYTES_MAX}");
            return Err(JournalError::Full(text));
        }
        let mut state = self.lock();
        state.running()?;
        let current = state.epochs[entry.txn.shard().index()];
        if entry.epoch != current {
            return Err(JournalError::Fenced { ours: entry.epoch, current });
        }
        state.appendable(entry.txn, entry.expected).map_err(|found| JournalError::Conflict {
            txn: entry.txn,
            expected: entry.expected,
            found,
        })?;
        if begins {
            state.room()?;
        }
        let lsn = state.take(entry, encoded);
        if begins && let Some(key) = entry.records[0].key() {
            state.keys.insert(Arc::clone(&key.text), entry.txn);
        }
        let forced = entry.records.iter().any(|it| it.durability() == Durability::Forced);
        let first = state.queue.len() == 1;
        let sooner = forced && state.urgency == Urgency::Lazy;
        if forced {
            state.urgency = Urgency::Forced;
        }
        drop(state);
        if first || sooner {
            self.work.notify_one();
        }
        Ok(lsn)
    }

    /// Whether a new transaction would be taken.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.lock();
        state.running().and_then(|()| state.room()).is_ok()
    }

    pub(crate) fn open_count(&self) -> usize {
        self.lock().open
    }

    /// The transaction begun under a key, if that is not durable yet.
    pub(crate) fn find_key(&self, key: &str) -> Option<TxnId> {
        self.lock().keys.get(key).copied()
    }

    /// The last position that a reader of this transaction has to wait for.
    pub(crate) fn last_of(&self, txn: TxnId) -> Lsn {
        self.lock().table.get(&txn).map_or(Lsn(0), |slot| slot.last)
    }

    /// The last position that was given out.
    pub(crate) fn last(&self) -> Lsn {
        Lsn(self.lock().next.0 - 1)
    }

    /// The shards that are claimed.
    pub(crate) fn claimed(&self) -> Vec<ShardId> {
        self.lock().claimed().collect()
    }

    /// The same with their epochs.
    pub(crate) fn claims(&self) -> Vec<(ShardId, Epoch)> {
        let state = self.lock();
        state.claimed().map(|shard| (shard, state.epochs[shard.index()])).collect()
    }

    /// The same with no position that only others have got to: openings that began after this one
    /// have higher ones, and what is read of them is as durable as what was there before this one.
    pub(crate) fn placed(&self, mut stored: Vec<Stored>) -> Vec<Stored> {
        let later = |lsn: Lsn| lsn.0 >> POSITIONS_BITS > self.base.0 >> POSITIONS_BITS;
        stored.iter_mut().filter(|it| later(it.lsn)).for_each(|it| it.lsn = self.base);
        stored
    }

    /// What it means that a shard has this epoch: whether another coordinator has claimed it.
    pub(crate) fn owned(&self, shard: ShardId, current: Epoch) -> Result<(), JournalError> {
        let state = self.lock();
        let ours = state.epochs[shard.index()];
        match ours.0 > 0 && current > ours && !state.claiming.contains(&shard) {
            true => Err(JournalError::Fenced { ours, current }),
            false => Ok(()),
        }
    }

    /// What it means that nothing is there of a transaction of this shard, which has this epoch: that
    /// nobody has begun it, if nobody else can have.
    pub(crate) fn absent(&self, shard: ShardId, current: Epoch) -> Result<(), JournalError> {
        let ours = self.lock().epochs[shard.index()];
        match ours == current {
            true => Ok(()),
            false => Err(JournalError::Fenced { ours, current }),
        }
    }

    /// Takes nothing more under the epochs that these shards have now, and gives the last position
    /// that was taken under them.
    pub(crate) fn begin_claim(&self, shards: &[ShardId]) -> Result<Lsn, JournalError> {
        let mut state = self.lock();
        state.running()?;
        state.loaded = None;
        for &shard in shards {
            state.epochs[shard.index()] = Epoch::default();
            state.claiming.push(shard);
        }
        Ok(Lsn(state.next.0 - 1))
    }

    /// No shard is being claimed any more. One whose claim failed belongs to nobody here.
    pub(crate) fn leave_claim(&self) {
        self.lock().claiming.clear();
    }

    /// These shards are ours, with what is open in them.
    pub(crate) fn end_claim(&self, epochs: &[(ShardId, Epoch)], open: Vec<OpenTxn>) {
        let mut state = self.lock();
        for &(shard, epoch) in epochs {
            state.epochs[shard.index()] = epoch;
        }
        let taken = |shard: ShardId| epochs.iter().any(|it| it.0 == shard);
        state.table.retain(|txn, _| !taken(txn.shard()));
        for OpenTxn { txn, records } in &open {
            // One that cannot be read is set aside: nothing is appended to it.
            let Ok(stored) = records else { continue };
            let count = u32::try_from(stored.len()).expect("it was written as one");
            let (last, end) = (self.base, End::Open);
            state.table.insert(*txn, Slot { count, last, end });
            state.adopted.push((*txn, stored.clone()));
        }
        state.open = state.table.values().filter(|slot| slot.end == End::Open).count();
        let all = state.claimed().all(taken);
        state.loaded = all.then_some(open);
    }

    /// What is open in the shards that are ours, if that is known: a journal that claims and then
    /// loads need not read it twice.
    pub(crate) fn take_loaded(&self) -> Option<Vec<OpenTxn>> {
        self.lock().loaded.take()
    }

    /// Waits until everything up to `lsn` is durable.
    pub(crate) fn wait_flushed(&self, lsn: Lsn) -> Result<(), JournalError> {
        let mut state = self.lock();
        let deadline = Instant::now() + PATIENCE;
        while self.flushed() < lsn {
            if let Health::Closed | Health::Failed(_) = state.health {
                return state.running();
            }
            if state.urgency == Urgency::Lazy {
                state.urgency = Urgency::Forced;
                self.work.notify_one();
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                let why = state.trouble.clone().unwrap_or_else(|| "it is slow".to_owned());
                return Err(JournalError::Unreachable(why));
            };
            let waited = self.progress.wait_timeout(state, left);
            state = waited.expect("no thread panics with the state").0;
        }
        Ok(())
    }

    /// Waits until there is something for the writer to do.
    pub(crate) async fn next_work(&self) -> Work {
        let mut lingering: Option<Instant> = None;
        let idle = Instant::now() + LOOK_PAUSE;
        loop {
            let until = {
                let mut state = self.lock();
                match state.health {
                    Health::Running => {}
                    Health::Closing if state.queue.is_empty() => return Work::Finish,
                    Health::Closing => return state.work(self.batches),
                    Health::Closed | Health::Failed(_) => return Work::Abandon,
                }
                match (state.urgency, state.queue.is_empty()) {
                    (Urgency::Forced, false) => return state.work(self.batches),
                    (Urgency::Forced | Urgency::Lazy, true) => idle,
                    (Urgency::Lazy, false) => {
                        let linger = std::time::Duration::from_millis(LINGER_MS);
                        *lingering.get_or_insert_with(|| Instant::now() + linger)
                    }
                }
            };
            if tokio::time::timeout_at(until.into(), self.work.notified()).await.is_err() {
                let mut state = self.lock();
                match (&state.health, state.queue.is_empty()) {
                    (Health::Running, true) => return Work::Look,
                    (Health::Running, false) => return state.work(self.batches),
                    (Health::Closing | Health::Closed | Health::Failed(_), _) => {}
                }
            }
        }
    }

    /// These entries are durable.
    pub(crate) fn publish(&self, batch: &[Queued]) -> Lsn {
        let mut state = self.lock();
        state.writing = None;
        state.trouble = None;
        let mut last = self.flushed();
        for entry in batch {
            last = last.max(entry.lsn);
            if entry.expected == 0
                && let Some(key) = entry.records[0].key()
                && state.keys.get(&key.text) == Some(&entry.txn)
            {
                state.keys.remove(&key.text);
            }
            if entry.end == End::Ended {
                state.table.remove(&entry.txn);
            }
        }
        self.flushed.store(last.0, Ordering::Release);
        drop(state);
        self.progress.notify_all();
        last
    }

    /// Whether the database answers, as far as is known: so that readers need not find out.
    pub(crate) fn reachable(&self) -> Result<(), JournalError> {
        match &self.lock().trouble {
            Some(trouble) => Err(JournalError::Unreachable(trouble.clone())),
            None => Ok(()),
        }
    }

    /// Notes that the database takes nothing now; `None` that it does again.
    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        self.lock().trouble = trouble;
    }

    /// Whether the journal has been dropped, or has ended.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.lock().health, Health::Closed | Health::Failed(_))
    }

    /// Takes nothing more; what was taken is still written.
    pub(crate) fn begin_close(&self) -> Result<(), JournalError> {
        let mut state = self.lock();
        state.running()?;
        state.health = Health::Closing;
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Ends everything; what is not durable is given up.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        if let Health::Running | Health::Closing = state.health {
            state.health = Health::Closed;
        }
        drop(state);
        self.work.notify_one();
        self.progress.notify_all();
    }

    /// Notes what ended the journal.
    pub(crate) fn fail(&self, error: &Arc<JournalError>) {
        let mut state = self.lock();
        if let Health::Running | Health::Closing = state.health {
            state.health = Health::Failed(Arc::clone(error));
        }
        drop(state);
        self.work.notify_one();
        self.progress.notify_all();
    }

    /// What ended the journal, if something did.
    pub(crate) fn failure(&self) -> Result<(), JournalError> {
        match &self.lock().health {
            Health::Running | Health::Closing | Health::Closed => Ok(()),
            Health::Failed(error) => Err(JournalError::Failed(error.to_string())),
        }
    }
}

impl State {
    fn running(&self) -> Result<(), JournalError> {
        match &self.health {
            Health::Running => Ok(()),
            Health::Closing | Health::Closed => Err(JournalError::Failed("it is closed".into())),
            Health::Failed(error) => Err(JournalError::Failed(error.to_string())),
        }
    }

    fn claimed(&self) -> impl Iterator<Item = ShardId> {
        ShardId::all().filter(|shard| self.epochs[shard.index()].0 > 0)
    }

    /// Records that the transaction holds, if another entry may follow them.
    fn appendable(&self, txn: TxnId, expected: u32) -> Result<(), u32> {
        match self.table.get(&txn) {
            None if expected == 0 => Ok(()),
            None => Err(0),
            Some(slot) if slot.end == End::Open && slot.count == expected => Ok(()),
            Some(slot) => Err(slot.count),
        }
    }

    fn room(&self) -> Result<(), JournalError> {
        if let Some(trouble) = &self.trouble {
            return Err(JournalError::Full(format!("the database takes nothing: {trouble}")));
        }
        if self.writing.is_some_and(|since| since.elapsed() > SLOW) {
            return Err(JournalError::Full("the database does not answer".to_owned()));
        }
        let (count, bytes) = (self.queue.len(), self.queue_bytes);
        match count > WAITING_ENTRIES_MAX || bytes > WAITING_BYTES_MAX {
            true => Err(JournalError::Full(format!(
                "{count} entries of {bytes} bytes are waiting for the database"
            ))),
            false => Ok(()),
        }
    }

    fn take(&mut self, entry: &Entry<'_>, encoded: Vec<Vec<u8>>) -> Lsn {
        let lsn = self.next;
        self.next.0 += 1;
        self.loaded = None;
        let count = u32::try_from(entry.records.len()).expect("a step writes a few records");
        let slot = Slot { count: entry.expected + count, last: lsn, end: entry.end };
        self.open += usize::from(entry.expected == 0);
        self.open -= usize::from(entry.end == End::Ended);
        self.table.insert(entry.txn, slot);
        let queued = Queued {
            txn: entry.txn,
            epoch: entry.epoch,
            expected: entry.expected,
            lsn,
            at: entry.at,
            end: entry.end,
            records: entry.records.to_vec(),
            encoded,
        };
        self.queue_bytes += queued.bytes();
        self.queue.push_back(queued);
        lsn
    }

    fn work(&mut self, bounds: BatchBounds) -> Work {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < bounds.entries_max
            && bytes < bounds.bytes_max
            && let Some(entry) = self.queue.pop_front()
        {
            bytes += entry.bytes();
            batch.push(entry);
        }
        self.queue_bytes -= bytes;
        if self.queue.is_empty() {
            self.urgency = Urgency::Lazy;
        }
        self.writing = Some(Instant::now());
        Work::Write(std::mem::take(&mut self.adopted), batch)
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    codec::encode(record, &mut bytes);
    bytes
}
