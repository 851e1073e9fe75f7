//! What the appending threads and the journal's own threads share.
//!
//! Appending takes one short lock: compare, encode into the batch, note it in the table. Positions
//! are given out under that lock, so the order of positions is the order of bytes. Nothing is
//! written to a disk under the lock.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use unanimous_core::Durability;
use unanimous_core::id::{Epoch, Lsn, ShardId, TxnId};

use super::layout::{self, Epochs};
use super::log::Batch;
use super::table::{Table, Taken};
use crate::entry::Entry;
use crate::error::JournalError;
use crate::limits::{BEGIN_BYTES_MAX, EVICTED_AT_ONCE, LINGER_MS, WAITING_BYTES_MAX};

/// The state, and the means to wait for it to change.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// The writer waits here for something to write.
    work: Condvar,
    /// Everybody else waits here for the writer.
    progress: Condvar,
    flushed: AtomicU64,
    /// How far the projection has come.
    projected: AtomicU64,
}

pub(crate) struct State {
    batch: Batch,
    urgency: Urgency,
    writer: Writer,
    pub(crate) table: Table,
    pub(crate) epochs: Epochs,
    /// Shards that were claimed since the journal was opened.
    claimed: BTreeSet<ShardId>,
    health: Health,
    room: Room,
}

/// How soon the batch must be flushed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Urgency {
    /// Nobody waits for it.
    Lazy,
    /// Somebody does.
    Forced,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Writer {
    Busy,
    Waiting,
}

#[derive(Clone, Debug)]
enum Health {
    Running,
    /// Takes nothing more; what was taken is still to be flushed.
    Closing,
    /// Stopped in good order.
    Closed,
    Failed(Arc<str>),
}

/// Whether new transactions are taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Room {
    Enough,
    None(Arc<str>),
}

/// What the writer is to do next.
pub(crate) enum Work {
    /// Write the batch.
    Write,
    /// Write the batch, then stop.
    Finish,
    /// Stop at once.
    Abandon,
}

impl Shared {
    pub(crate) fn new(table: Table, epochs: Epochs, next: Lsn) -> Self {
        let state = State {
            batch: Batch::new(next),
            urgency: Urgency::Lazy,
            writer: Writer::Busy,
            table,
            epochs,
            claimed: BTreeSet::new(),
            health: Health::Running,
            room: Room::Enough,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
            flushed: AtomicU64::new(next.0 - 1),
            projected: AtomicU64::new(0),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the state")
    }

    pub(crate) fn flushed(&self) -> Lsn {
        Lsn(self.flushed.load(Ordering::Acquire))
    }

    pub(crate) fn projected(&self) -> Lsn {
        Lsn(self.projected.load(Ordering::Acquire))
    }

    pub(crate) fn append(&self, entry: &Entry<'_>) -> Result<Lsn, JournalError> {
        assert!(!entry.records.is_empty(), "an entry has at least one record");
        let begins = entry.expected == 0;
        let mut state = self.lock();
        state.running()?;
        state.owned(entry.txn.shard(), entry.epoch)?;
        state.table.appendable(entry.txn, entry.expected).map_err(|found| {
            JournalError::Conflict { txn: entry.txn, expected: entry.expected, found }
        })?;
        if begins {
            state.room()?;
        }
        let State { batch, table, .. } = &mut *state;
        let start = batch.bytes.len();
        layout::put_entry(&mut batch.bytes, entry);
        if begins && batch.bytes.len() - start > BEGIN_BYTES_MAX {
            let len = batch.bytes.len() - start;
            batch.bytes.truncate(start);
            let text =
                format!("{len} bytes to begin one transaction, of at most {BEGIN_BYTES_MAX}");
            return Err(JournalError::Full(text));
        }
        let lsn = batch.next();
        batch.count += 1;
        table.take(&Taken {
            txn: entry.txn,
            lsn,
            expected: entry.expected,
            count: u32::try_from(entry.records.len()).expect("a step writes a few records"),
            end: entry.end,
            bytes: &batch.bytes[start..],
            key: begins.then(|| entry.records[0].key().map(|key| &key.text)).flatten(),
        });
        // More than one, so that a backlog shrinks.
        table.evict(self.projected(), 2);
        let forced = entry.records.iter().any(|it| it.durability() == Durability::Forced);
        self.wake(state, if forced { Urgency::Forced } else { Urgency::Lazy });
        Ok(lsn)
    }

    /// The entries of every transaction that has not ended in the shards that were claimed.
    pub(crate) fn open(&self) -> Vec<(TxnId, Vec<u8>)> {
        let state = self.lock();
        let ours = state.table.open().filter(|(txn, _)| state.claimed.contains(&txn.shard()));
        ours.map(|(txn, bytes)| (txn, bytes.to_vec())).collect()
    }

    /// The epochs of shards.
    pub(crate) fn epochs(&self, shards: &[ShardId]) -> Vec<Epoch> {
        let state = self.lock();
        shards.iter().map(|shard| state.epochs[shard.index()]).collect()
    }

    /// Raises the epochs of shards and returns them once they are durable.
    pub(crate) fn claim(&self, shards: &[ShardId]) -> Result<Vec<Epoch>, JournalError> {
        let (claimed, last) = self.append_claims(shards)?;
        self.wait_flushed(last)?;
        Ok(claimed)
    }

    /// Raises the epochs of shards, and gives the position at which all of that is durable.
    pub(crate) fn append_claims(
        &self,
        shards: &[ShardId],
    ) -> Result<(Vec<Epoch>, Lsn), JournalError> {
        let mut state = self.lock();
        state.running()?;
        let mut claimed = Vec::with_capacity(shards.len());
        for &shard in shards {
            let held = &mut state.epochs[shard.index()];
            held.0 += 1;
            let epoch = *held;
            layout::put_claim(&mut state.batch.bytes, shard, epoch);
            state.batch.count += 1;
            claimed.push(epoch);
        }
        state.claimed.extend(shards);
        let last = Lsn(state.batch.next().0 - 1);
        if state.batch.count > 0 {
            self.wake(state, Urgency::Forced);
        }
        Ok((claimed, last))
    }

    /// Has everything appended so far flushed without delay.
    pub(crate) fn hurry(&self) {
        let state = self.lock();
        if state.batch.count > 0 {
            self.wake(state, Urgency::Forced);
        }
    }

    fn wake(&self, mut state: MutexGuard<'_, State>, urgency: Urgency) {
        let first = state.batch.count == 1;
        let sooner = urgency == Urgency::Forced && state.urgency == Urgency::Lazy;
        if sooner {
            state.urgency = Urgency::Forced;
        }
        let waiting = state.writer == Writer::Waiting;
        drop(state);
        if waiting && (first || sooner) {
            self.work.notify_one();
        }
    }

    /// Waits until everything up to `lsn` is durable.
    pub(crate) fn wait_flushed(&self, lsn: Lsn) -> Result<(), JournalError> {
        let mut state = self.lock();
        while self.flushed() < lsn {
            if let Health::Closed | Health::Failed(_) = state.health {
                return state.running();
            }
            state = self.progress.wait(state).expect("no thread panics with the state");
        }
        Ok(())
    }

    /// Waits until the projection has come to `lsn`, or says what keeps it from that.
    pub(crate) fn wait_projected(
        &self,
        lsn: Lsn,
        trouble: impl Fn() -> Option<String>,
    ) -> Result<(), JournalError> {
        let mut state = self.lock();
        while self.projected() < lsn {
            state.running()?;
            if let Some(text) = trouble() {
                return Err(JournalError::Failed(text));
            }
            state = self.progress.wait(state).expect("no thread panics with the state");
        }
        Ok(())
    }

    /// Waits until there is something for the writer to do, and leaves the lock with it.
    pub(crate) fn next_work(&self) -> (MutexGuard<'_, State>, Work) {
        let mut state = self.lock();
        // Whoever waits for what was flushed just now took the lock before the writer did.
        self.progress.notify_all();
        let mut lingering: Option<Instant> = None;
        loop {
            match state.health {
                Health::Running => {}
                Health::Closing => return (state, Work::Finish),
                Health::Closed | Health::Failed(_) => return (state, Work::Abandon),
            }
            let linger = Duration::from_millis(LINGER_MS);
            let patience = match (state.urgency, state.batch.count) {
                (Urgency::Forced, _) => return (state, Work::Write),
                (Urgency::Lazy, 0) => None,
                (Urgency::Lazy, _) => {
                    let since = lingering.get_or_insert_with(Instant::now);
                    match linger.checked_sub(since.elapsed()) {
                        Some(left) => Some(left),
                        None => return (state, Work::Write),
                    }
                }
            };
            state.writer = Writer::Waiting;
            state = match patience {
                None => self.work.wait(state).expect("no thread panics with the state"),
                Some(left) => {
                    let waited = self.work.wait_timeout(state, left);
                    waited.expect("no thread panics with the state").0
                }
            };
            state.writer = Writer::Busy;
        }
    }

    /// Everything up to `lsn` is durable.
    pub(crate) fn publish_flushed(&self, lsn: Lsn) {
        self.flushed.store(lsn.0, Ordering::Release);
    }

    /// The projection has come to `lsn`.
    pub(crate) fn publish_projected(&self, lsn: Lsn) {
        let state = self.lock();
        self.projected.store(lsn.0, Ordering::Release);
        drop(state);
        self.progress.notify_all();
        while self.lock().table.evict(lsn, EVICTED_AT_ONCE) == EVICTED_AT_ONCE {}
    }

    /// Has those who wait look again.
    pub(crate) fn wake_waiting(&self) {
        drop(self.lock());
        self.progress.notify_all();
    }

    pub(crate) fn set_room(&self, room: Room) {
        self.lock().room = room;
    }

    pub(crate) fn closing(&self) -> bool {
        matches!(self.lock().health, Health::Closing)
    }

    /// Takes nothing more; what was taken is still flushed.
    pub(crate) fn begin_close(&self) -> Result<(), JournalError> {
        let mut state = self.lock();
        state.running()?;
        state.health = Health::Closing;
        drop(state);
        self.work.notify_all();
        Ok(())
    }

    /// Ends everything; what is not flushed is given up.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        if let Health::Running | Health::Closing = state.health {
            state.health = Health::Closed;
        }
        drop(state);
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// Notes a failure. The first one stands.
    pub(crate) fn fail(&self, text: &str) {
        let mut state = self.lock();
        if let Health::Running | Health::Closing = state.health {
            state.health = Health::Failed(Arc::from(text));
        }
        drop(state);
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// The failure that ended the journal, if one did.
    pub(crate) fn failure(&self) -> Result<(), JournalError> {
        match &self.lock().health {
            Health::Running | Health::Closing | Health::Closed => Ok(()),
            Health::Failed(text) => Err(JournalError::Failed(text.to_string())),
        }
    }
}

impl State {
    fn running(&self) -> Result<(), JournalError> {
        match &self.health {
            Health::Running => Ok(()),
            Health::Closing | Health::Closed => Err(JournalError::Failed("it is closed".into())),
            Health::Failed(text) => Err(JournalError::Failed(text.to_string())),
        }
    }

    fn owned(&self, shard: ShardId, ours: Epoch) -> Result<(), JournalError> {
        let current = self.epochs[shard.index()];
        match ours == current {
            true => Ok(()),
            false => Err(JournalError::Fenced { ours, current }),
        }
    }

    /// Whether a new transaction is taken.
    pub(crate) fn room(&self) -> Result<(), JournalError> {
        if self.batch.bytes.len() > WAITING_BYTES_MAX {
            let waiting = self.batch.bytes.len();
            return Err(JournalError::Full(format!("{waiting} bytes are waiting for the disk")));
        }
        match &self.room {
            Room::Enough => Ok(()),
            Room::None(text) => Err(JournalError::Full(text.to_string())),
        }
    }

    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Gives the batch away and goes on with `empty`.
    pub(crate) fn swap_batch(&mut self, empty: &mut Batch) {
        empty.restart(self.batch.next());
        std::mem::swap(&mut self.batch, empty);
        self.urgency = Urgency::Lazy;
    }
}
