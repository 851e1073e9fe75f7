//! Bounds of every journal on a server, with their reasons.

use std::time::Duration;

/// Entries that may wait for the server before new transactions are refused: some seconds of work.
pub(crate) const WAITING_ENTRIES_MAX: usize = 65_536;

/// Bytes of records that may wait, for the same: what they take in memory is a few times as much.
pub(crate) const WAITING_BYTES_MAX: usize = 64 << 20;

/// How often a journal with nothing to write looks whether its shards are still its own.
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// First and longest pause before the server is tried again.
pub(crate) const AGAIN: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// How long a batch may be under way until nothing new is begun.
pub(crate) const SLOW: Duration = Duration::from_secs(3);

/// How long a reader waits for the server, and for what was appended before to get there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
