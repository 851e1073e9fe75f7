//! What journals on a server have in common: appending, one thread, and one owner that writes.
//!
//! A journal on a server adds a [`scribe::Scribe`], which makes batches durable, and readers.

pub(crate) mod engine;
pub(crate) mod gather;
pub(crate) mod limits;
pub(crate) mod questions;
pub(crate) mod scribe;
pub(crate) mod state;
pub(crate) mod tls;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use unanimous_core::id::Lsn;

use crate::Stats;

/// Positions of one opening: more than a process ever writes.
pub(crate) const POSITIONS_BITS: u32 = 40;

/// The last position before those of an opening, each of which has its own; `None` if there have been
/// more openings than there is room for in what databases count with: eight millions.
pub(crate) fn base(opening: u64) -> Option<Lsn> {
    let room = 1 << (i64::BITS - 1 - POSITIONS_BITS);
    (0..room).contains(&opening).then_some(Lsn(opening << POSITIONS_BITS))
}

/// Who writes, for people: machine and process.
pub(crate) fn this_process() -> String {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{machine}:{}", std::process::id())
}

/// Figures of a writer.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    commits: AtomicU64,
    nanos: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Figures {
    /// A batch is durable.
    pub(crate) fn note(&self, took: Duration, entries: usize, bytes: usize) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The same for metrics, with so many transactions open.
    pub(crate) fn stats(&self, open: usize) -> Stats {
        let figure = |it: &AtomicU64| it.load(Ordering::Relaxed);
        Stats {
            syncs: figure(&self.commits),
            sync_nanos: figure(&self.nanos),
            entries: figure(&self.entries),
            bytes: figure(&self.bytes),
            open: open as u64,
            projection_lag_bytes: 0,
        }
    }
}
