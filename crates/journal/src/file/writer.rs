//! The one thread that writes: takes a batch, makes it durable, says so.
//!
//! A write or sync that fails ends the journal. It is never tried again: after a failed sync the
//! page cache may claim what the disk does not have.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use unanimous_core::id::Lsn;

use super::keeper::Keeper;
use super::log::{Batch, Head, Log};
use super::recover;
use super::state::{Shared, Work};
use crate::Listener;
use crate::error::JournalError;
use crate::limits::BUFFER_KEPT_BYTES;

/// Figures of the writer.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_nanos: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    Again,
    Stop,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    listener: Arc<dyn Listener>,
    figures: Arc<Figures>,
    log: Log,
    batch: Batch,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        keeper: Arc<Keeper>,
        listener: Arc<dyn Listener>,
        figures: Arc<Figures>,
        log: Log,
    ) -> Self {
        Self { shared, keeper, listener, figures, log, batch: Batch::new(Lsn(0)) }
    }

    /// Works until the journal is closed or fails.
    pub(crate) fn run(mut self) {
        while self.step() == Next::Again {}
        self.shared.stop();
        self.keeper.stop();
    }

    /// Waits for a batch and makes it durable.
    pub(crate) fn step(&mut self) -> Next {
        let (mut state, work) = self.shared.next_work();
        if let Work::Abandon = work {
            return Next::Stop;
        }
        state.swap_batch(&mut self.batch);
        let fits = self.log.fits(&self.batch);
        let head = (!fits).then(|| Head {
            snapshot: state.table.snapshot(),
            epochs: state.epochs,
            salt: recover::salt(),
        });
        drop(state);
        let written = match head {
            _ if self.batch.count == 0 => Ok(Next::Again),
            None => self.write(),
            Some(head) => self.roll(head),
        };
        match (written, work) {
            (Ok(Next::Stop), _) => Next::Stop,
            (Ok(Next::Again), Work::Write) => Next::Again,
            (Ok(Next::Again), Work::Finish | Work::Abandon) => self.seal(),
            (Err(error), _) => self.fail(&error),
        }
    }

    fn write(&mut self) -> io::Result<Next> {
        let start = Instant::now();
        self.log.write(&mut self.batch)?;
        self.flushed(start);
        Ok(Next::Again)
    }

    fn roll(&mut self, head: Head) -> io::Result<Next> {
        let len = Log::room_for(head.snapshot.len(), &self.batch);
        let Some(spare) = self.keeper.take_spare(len) else {
            return match self.shared.closing() {
                true => Err(io::Error::new(io::ErrorKind::StorageFull, "no room for a segment")),
                false => Ok(Next::Stop),
            };
        };
        let start = Instant::now();
        self.log.roll(spare, head, &mut self.batch)?;
        self.keeper.rolled(self.log.generation(), self.batch.first);
        self.flushed(start);
        Ok(Next::Again)
    }

    fn flushed(&mut self, start: Instant) {
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.figures.syncs.fetch_add(1, Ordering::Relaxed);
        self.figures.sync_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.figures.entries.fetch_add(u64::from(self.batch.count), Ordering::Relaxed);
        self.figures.bytes.fetch_add(self.batch.bytes.len() as u64, Ordering::Relaxed);
        let last = Lsn(self.batch.next().0 - 1);
        self.shared.publish_flushed(last);
        self.listener.flushed(last);
        self.keep_room();
        if self.batch.bytes.capacity() > BUFFER_KEPT_BYTES
            && self.batch.bytes.len() < BUFFER_KEPT_BYTES / 2
        {
            self.batch.bytes.shrink_to(BUFFER_KEPT_BYTES);
        }
    }

    /// Keeps the last quarter of a segment for open transactions: goes on in it only when it is
    /// known whether there will be a next one, so that new transactions are refused in time if not.
    fn keep_room(&self) {
        // Told only now: the projection takes what it is told of for durable.
        self.keeper.advanced(self.log.generation(), self.log.offset());
        if self.log.left() < self.log.len() / 4 {
            self.keeper.wait_verdict();
        }
    }

    /// Ends the log with an empty frame: after a close in good order, damage to the last entries is
    /// told from a torn end.
    fn seal(&mut self) -> Next {
        self.batch.restart(self.batch.next());
        if self.log.fits(&self.batch)
            && let Err(error) = self.log.write(&mut self.batch)
        {
            return self.fail(&error);
        }
        Next::Stop
    }

    fn fail(&mut self, error: &io::Error) -> Next {
        let text = format!("segment {}: {error}", self.log.generation());
        self.shared.fail(&text);
        self.listener.failed(Arc::new(JournalError::Failed(text)));
        Next::Stop
    }
}
