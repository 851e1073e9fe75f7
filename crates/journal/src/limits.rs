//! Every bound of the journals, with its reason.

/// Bytes that may wait for the disk before new transactions are refused: about a hundred thousand
/// decisions, more than clients that wait. Below a power of two, because buffers double.
pub(crate) const WAITING_BYTES_MAX: usize = 15 << 20;

/// Bytes of an entry that begins a transaction. Requests are far smaller; this only keeps a
/// mistake elsewhere from filling a segment.
pub(crate) const BEGIN_BYTES_MAX: usize = 4 << 20;

/// Milliseconds that records nobody waits for may stay in memory before they are flushed alone.
pub(crate) const LINGER_MS: u64 = 25;

/// Milliseconds after which the keeper of segments looks again whether there is something to do, or
/// room on a full disk, if nobody calls it.
pub(crate) const KEEPER_PAUSE_MS: u64 = 500;

/// Bytes of ended transactions that are kept in memory until the history has them. Enough for those
/// that clients ask about right after the end.
pub(crate) const RECENT_BYTES_MAX: usize = 8 << 20;

/// Bytes that a transaction in memory takes beside its records, about.
pub(crate) const TXN_BYTES: usize = 400;

/// Smallest segment, in bytes: what is made when a journal must open and no segment is prepared.
pub(crate) const FIRST_SEGMENT_BYTES: u64 = 4 << 20;

/// Old segments kept for use again, so that a busy journal seldom has to write zeros.
pub(crate) const RETIRED_MAX: usize = 4;

/// Buffers larger than this are given back when a burst is over.
pub(crate) const BUFFER_KEPT_BYTES: usize = 4 << 20;

/// Ended transactions let go of in one hold of the lock that appending needs: some microseconds.
pub(crate) const EVICTED_AT_ONCE: usize = 128;

/// Buffers of ended transactions kept for new ones.
pub(crate) const POOL_MAX: usize = 1_024;

/// Ended transactions that enter the history in one SQLite transaction. Larger ones gain little and
/// make those wait longer who wait.
pub(crate) const HISTORY_BATCH_TXNS: usize = 4_096;

/// Bytes of the log that are read for one such batch.
pub(crate) const HISTORY_BATCH_BYTES: u64 = 4 << 20;

/// Bytes of the log not in the history at which it stops being gentle. After a restart, whoever asks
/// for an ended transaction may have to wait until it has taken in as much: a second or two, after a
/// burst of a hundred thousand transactions. What clients send over HTTP never lags so far.
pub(crate) const HISTORY_HURRY_BYTES: u64 = 32 << 20;

/// Pages of SQLite's own log at which it is carried over. Opening the history after a crash reads
/// that log.
pub(crate) const HISTORY_WAL_PAGES: i64 = 4_096;

/// Milliseconds between looks for something new to take into the history.
pub(crate) const HISTORY_IDLE_MS: u64 = 100;

/// How many times as long as it worked the history's thread rests while there is more to do: a
/// tenth of one core is enough for what clients send over HTTP.
pub(crate) const HISTORY_REST: u32 = 9;

/// How far the history's thread steps back for the threads that decide: it takes what they leave.
/// Whoever waits for it on a busy machine waits a little longer.
pub(crate) const HISTORY_NICENESS: i32 = 10;

/// Milliseconds between attempts to write a history that cannot be written.
pub(crate) const HISTORY_RETRY_MS: u64 = 500;

/// Transactions that are removed from the history in one SQLite transaction.
pub(crate) const HISTORY_PRUNE: usize = 500;

const _: () = assert!(BEGIN_BYTES_MAX < WAITING_BYTES_MAX);
const _: () = assert!(WAITING_BYTES_MAX < u32::MAX as usize / 2);
