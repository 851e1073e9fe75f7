//! Every bound of the journal in PostgreSQL, with its reason.

use std::time::Duration;

/// Entries that may wait for the database before new transactions are refused: some seconds of
/// work.
pub(super) const WAITING_ENTRIES_MAX: usize = 65_536;

/// Bytes of records that may wait, for the same: what they take in memory is a few times as much.
pub(super) const WAITING_BYTES_MAX: usize = 64 << 20;

/// Entries in one statement. More gain nothing, and make those wait longer who wait.
pub(super) const BATCH_ENTRIES_MAX: usize = 2_048;

/// Bytes of records in one statement, unless a single entry has more. PostgreSQL takes a gigabyte.
pub(super) const BATCH_BYTES_MAX: usize = 8 << 20;

/// How often a journal with nothing to write looks whether its shards are still its own.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// First and longest pause before the database is tried again.
pub(super) const AGAIN: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// How long one attempt to connect may take.
pub(super) const CONNECT: Duration = Duration::from_secs(5);

/// How long the other side's machine may be silent until the connection is given up.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// How long a statement may be under way until nothing new is begun.
pub(super) const SLOW: Duration = Duration::from_secs(3);

/// How long a reader waits for the database, and for what was appended before to get there.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Connections for readers.
pub(super) const READERS: usize = 4;

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
