//! Every bound of the journal in PostgreSQL, with its reason.

use std::time::Duration;

use crate::remote::state::BatchBounds;

/// What one statement writes. PostgreSQL takes a gigabyte.
pub(super) const BATCHES: BatchBounds = BatchBounds { entries_max: 2_048, bytes_max: 8 << 20 };

/// How long one attempt to connect may take.
pub(super) const CONNECT: Duration = Duration::from_secs(5);

/// How long opening may take: several addresses, and tables that others are making.
pub(super) const OPENING: Duration = Duration::from_secs(30);

/// How long the other side's machine may be silent until the connection is given up, on both sides.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// How often it is asked meanwhile.
pub(super) const PROBES: u32 = 3;

/// How often the server looks while a statement waits whether we are still there.
pub(super) const SERVER_LOOKS_EVERY: Duration = Duration::from_secs(1);

/// Connections for readers.
pub(super) const READERS: usize = 4;

/// Idempotency keys that are looked for in one question.
pub(super) const KEYS: usize = 1_024;

/// Transactions whose records are read in one question. Some have megabytes.
pub(super) const LOGS: usize = 64;

/// How often ended transactions are looked for that may go.
pub(super) const PRUNE_PAUSE: Duration = Duration::from_secs(5);

/// Transactions that are removed in one statement.
pub(super) const PRUNE: i64 = 500;

/// Rest between two such statements while there is more, so that decisions pass.
pub(super) const PRUNE_REST: Duration = Duration::from_millis(50);

/// Latest time that a column shows, in milliseconds since 1970: the end of the year 9999. Records
/// hold what is later.
pub(super) const TIME_MAX_MS: u64 = 253_402_300_799_999;

/// Bytes of a name or a detail in a column. Records hold them whole.
pub(super) const TEXT_LEN_MAX: usize = 1_024;
