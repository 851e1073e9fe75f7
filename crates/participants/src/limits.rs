//! Every bound of the participants' side, with its reason.

use std::time::Duration;

use unanimous_core::limits::{RETRY_MS_MAX, RETRY_MS_MIN};

/// Calls of the first phase that one resource gets at once. They carry the work, so more of them
/// only queue inside the resource, where nobody can take them back.
pub const FIRST_PHASE_CALLS_MAX: usize = 256;

/// Calls of the second phase that one resource gets at once. They have places of their own: they
/// set locks free, and must not wait behind calls that take locks.
pub const SECOND_PHASE_CALLS_MAX: usize = 256;

/// Calls of one phase that wait for a place at one resource. As many as a resource at the default
/// concurrency gets through in the default patience if each takes 100 ms.
pub const WAITING_MAX: usize = 10_000;

/// Calls in a row that must fail to make contact before a circuit opens. One broken connection takes
/// several calls with it, so the time below has to pass as well.
pub const FAILURES_TO_OPEN: u32 = 5;

/// How long calls must fail to make contact before a circuit opens. A service that is restarted at
/// once is back within this time, and no transaction is aborted for it.
pub const SILENCE_TO_OPEN: Duration = Duration::from_secs(1);

/// First pause before an open circuit is probed; it doubles each time. The same as for one branch,
/// so that a circuit adds nothing to the time until a resource that is back is heard of.
pub const PROBE_PAUSE_MIN: Duration = Duration::from_millis(RETRY_MS_MIN);

/// Longest pause between two probes.
pub const PROBE_PAUSE_MAX: Duration = Duration::from_millis(RETRY_MS_MAX);

/// A call that was given up sooner than this says nothing about its resource: the transaction was
/// in a hurry.
pub const TELLING_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a reply that are read. Results are for the client's eyes, not for bulk.
pub const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Statements of one branch. Each is a message to the database and a line in the results.
pub const STATEMENTS_MAX: usize = 64;

/// Values of one statement. PostgreSQL's protocol counts them in 16 bits; MySQL's does too.
pub const PARAMS_MAX: usize = 32_767;

/// Rows of one statement that are kept. Results are for the client's eyes, not for bulk.
pub const RESULT_ROWS_MAX: usize = 100;

/// Bytes of all results of one branch that are kept: they travel in the decision's record.
pub const RESULT_BYTES_MAX: usize = REPLY_BYTES_MAX;

/// Bytes of the word that says why a service refused. It becomes part of metrics.
pub const REASON_KIND_LEN_MAX: usize = 48;

/// How long a connection may take to be made. A host that drops packets would otherwise hold each
/// call for its whole patience.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an idle connection is kept. Shorter than the keep-alive times of common servers and
/// proxies, which close without a word.
pub const IDLE_CONNECTION_KEPT: Duration = Duration::from_secs(30);

/// Connections to a PostgreSQL server for the first phase, and half as many for the second. With
/// more than 8 to 16 a server gets less done.
pub const POSTGRES_CONNECTIONS: usize = 16;

/// Most connections that can be configured: a server's own limit is 100 unless it was raised.
pub const POSTGRES_CONNECTIONS_MAX: usize = 256;

/// Bytes of one message of a PostgreSQL server: a single row, mostly.
pub const POSTGRES_MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Statements whose placeholders' types are remembered. Programs have few that take lists.
pub const STATEMENT_TYPES_KEPT_MAX: usize = 1_000;

const _: () = assert!(FAILURES_TO_OPEN > 0);
