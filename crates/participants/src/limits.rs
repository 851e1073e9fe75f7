//! Every bound of the participants' side, with its reason.

use std::time::Duration;

use unanimous_core::limits::RETRY_MS_MIN;

/// Calls of the first phase that one resource gets at once. They carry the work, so more of them
/// only queue inside the resource, where nobody can take them back.
pub const FIRST_PHASE_CALLS_MAX: usize = 256;

/// Calls of the second phase that one resource gets at once. They have places of their own: they
/// set locks free, and must not wait behind calls that take locks.
pub const SECOND_PHASE_CALLS_MAX: usize = 256;

/// Calls of one phase that wait for a place at one resource. As many as a resource at the default
/// concurrency gets through in the default patience if each takes 100 ms.
pub const WAITING_MAX: usize = 10_000;

/// Calls of the first phase after which their number at once is reconsidered. With fewer, chance decides.
pub(crate) const WINDOW_CALLS: u32 = 400;

/// Shortest time for the same. One checkpoint of a database must not look like a trend.
pub(crate) const WINDOW_MIN: Duration = Duration::from_millis(250);

/// Longest time for the same.
pub(crate) const WINDOW_MAX: Duration = Duration::from_secs(2);

/// Calls in a row that must fail to make contact before a circuit opens. One broken connection takes
/// several calls with it, so the time below has to pass as well.
pub const FAILURES_TO_OPEN: u32 = 5;

/// How long calls must fail to make contact before a circuit opens. A service that is restarted at
/// once is back within this time, and no transaction is aborted for it.
pub const SILENCE_TO_OPEN: Duration = Duration::from_secs(1);

/// First pause before an open circuit is probed; it doubles each time. The same as for one branch,
/// so that a circuit adds nothing to the time until a resource that is back is heard of.
pub const PROBE_PAUSE_MIN: Duration = Duration::from_millis(RETRY_MS_MIN);

/// Longest pause between two probes. One call to a resource costs little, and what other resources
/// hold locks for waits until it is heard of again.
pub const PROBE_PAUSE_MAX: Duration = Duration::from_millis(500);

/// A call that was given up sooner than this says nothing about its resource: the transaction was
/// in a hurry.
pub const TELLING_PATIENCE: Duration = Duration::from_secs(1);

/// What a first phase that has waited for its place is given at least, as one whose transaction is almost out of
/// time is given by the coordinator.
pub const PATIENCE_MIN: Duration = Duration::from_millis(50);

/// Bytes of a reply that are read. Results are for the client's eyes, not for bulk.
pub const REPLY_BYTES_MAX: usize = 64 * 1024;

/// How deep a result may be nested. Parsers of those it is sent on to give up soon after.
pub const RESULT_DEPTH_MAX: usize = 64;

/// Headers that a step of a saga may set.
pub const STEP_HEADERS_MAX: usize = 32;

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

/// Branches of the second phase that go over a connection at once, if so many wait for one.
pub const POSTGRES_BATCH: usize = 16;

/// How often a PostgreSQL server looks whether we are still there while it carries out a statement, or
/// waits for a lock: a coordinator that was killed is out of the line well before somebody has taken over.
pub const POSTGRES_LOOKS_EVERY: Duration = Duration::from_millis(100);

/// Most connections that can be configured: a server's own limit is 100 unless it was raised.
pub const POSTGRES_CONNECTIONS_MAX: usize = 256;

/// Bytes of one message of a PostgreSQL server: a single row, mostly.
pub const POSTGRES_MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A prepared transaction may be so old before an examination names it. Ours end within their
/// transaction's time, which is 30 s unless it was asked for more.
pub const PREPARED_YOUNG: Duration = Duration::from_secs(60);

/// Old prepared transactions that an examination names: enough to see whose they are.
pub const PREPARED_SHOWN_MAX: usize = 3;

/// How far a resource's clock may be from ours. Nothing is decided by it, but a second is what people
/// who compare logs can bear.
pub const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(1);

/// Timeouts of a PostgreSQL server that are shorter cut calls that would have come out: a commit may
/// have to wait for a busy disk or for a standby.
pub const POSTGRES_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Statements whose placeholders' types are remembered. Programs have few that take lists.
pub const STATEMENT_TYPES_KEPT_MAX: usize = 1_000;

/// Connections to a MariaDB or MySQL server for the first phase, as many again for branches that
/// wait for their decision, and half as many for the second phase.
pub const MYSQL_CONNECTIONS: usize = 16;

/// Most connections that can be configured: a server's own limit is 151 unless it was raised.
pub const MYSQL_CONNECTIONS_MAX: usize = 256;

/// How old a connection to a MariaDB or MySQL server may be to be used without asking first whether
/// it is still there. Work that is sent into a broken one costs its transaction.
pub const MYSQL_FRESH: Duration = Duration::from_secs(1);

/// Connections to a database for queries outside of branches. Few at a time: a sum over a large table
/// keeps a processor of the server busy.
pub const READING_CONNECTIONS: usize = 2;

/// Connections to a database for looking who holds a lock. A look takes some milliseconds, so that one serves
/// every branch that waits.
pub const LOOKING_CONNECTIONS: usize = 1;

/// How long a look at who holds a lock may take, with the wait for its connection. A server that needs longer
/// has other troubles, and the branch itself will not wait for much longer.
pub const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// Sessions in front of a branch that are looked at. In a longer queue the first of them are enough.
pub const HOLDERS_SEEN_MAX: usize = 32;

/// Holders of a lock that are named: more do not fit into one sentence.
pub const HOLDERS_NAMED_MAX: usize = 3;

/// How long it is believed which tables of a server cannot be rolled back. The list costs the server
/// some milliseconds for each thousand tables.
pub const MYSQL_TABLES_KEPT: Duration = Duration::from_secs(60);

/// How long the proof that a branch has committed, or a step of a saga was done, is kept in its database.
/// Far longer than anybody waits for an answer.
pub const FENCE_KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Subtracted from [`FENCE_KEPT`] before a missing proof counts: clocks differ.
pub const FENCE_MARGIN: Duration = Duration::from_secs(24 * 3_600);

/// How often old proofs are removed, and how many at most.
pub const FENCE_SWEEP: (Duration, usize) = (Duration::from_secs(60), 2_000);

/// How long after the end of its connection a prepared branch is left alone: MariaDB is still letting
/// go of it (see `mysql::tie`), which takes microseconds unless the machine is busy.
pub const LET_GO: Duration = Duration::from_millis(100);

/// How long one call waits for a branch that is still tied to a connection that is going away.
pub const UNTIE_WAIT: Duration = Duration::from_millis(500);

/// Seconds that a connection must have been idle for, before it is ended because it keeps a branch
/// from being finished.
pub const UNTIE_IDLE_S: u64 = 5;

/// Connections to a Redis server for the first phase, and half as many for the second. Redis works on
/// one command at a time; a few connections are enough for one sync to serve many commands.
pub const REDIS_CONNECTIONS: usize = 16;

/// Most connections that can be configured: a server's own limit is 10,000, for everybody.
pub const REDIS_CONNECTIONS_MAX: usize = 256;

/// Bytes of a hash tag. It is part of every key of ours.
pub const REDIS_TAG_LEN_MAX: usize = 100;

/// Bytes of one reply of a Redis server: the list of what is prepared is the longest.
pub const REDIS_REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Lists within lists in a reply of a Redis server. The functions reply with one.
pub const REDIS_REPLY_DEPTH_MAX: usize = 8;

/// Words of one Redis command, the command itself included. Lua passes on at most 8,000 at once.
pub const REDIS_WORDS_MAX: usize = 1_000;

/// First pause before a key that is locked is asked for again; it doubles each time. A transaction
/// that is not waiting for anything holds its locks for about as long.
pub const REDIS_LOCK_PAUSE_MIN: Duration = Duration::from_millis(1);

/// Longest pause before a key that is locked is asked for again.
pub const REDIS_LOCK_PAUSE_MAX: Duration = Duration::from_millis(32);

/// How long after the end of a branch was acknowledged its resource is told to forget it. The journal has
/// had the acknowledgement for long by then, so nobody will ask again.
pub const ACKNOWLEDGED_KEPT: Duration = Duration::from_secs(60);

/// Acknowledged ends that wait to be forgotten. Those beyond it stay until they are too old.
pub const ACKNOWLEDGED_MAX: usize = 1_000_000;

/// Ends that a resource is told to forget in one call, for which everybody else has to wait.
pub const FORGOTTEN_AT_ONCE_MAX: usize = 500;

/// Questions to a SQLite file that are answered in one of its transactions: one sync serves them all.
pub const SQLITE_BATCH_MAX: usize = 64;

/// How long a SQLite file is waited for that another program writes to. Everybody else waits meanwhile.
pub const SQLITE_BUSY_WAIT: Duration = Duration::from_millis(250);

/// How long the lock of a SQLite file is waited for: somebody may just be letting go of it.
pub const SQLITE_OWNER_WAIT: Duration = Duration::from_secs(1);

/// Pause before a held row, or a busy file, is asked for again if nobody has said that it is free.
pub const SQLITE_HELD_PAUSE: Duration = Duration::from_millis(50);

/// Instructions of SQLite between two looks at the clock: some tens of microseconds.
pub const SQLITE_OPS_BETWEEN_LOOKS: i32 = 10_000;

/// Rows that one branch changes in a SQLite file. Each is kept twice until the branch has ended.
pub const SQLITE_ROWS_MAX: usize = 10_000;

/// Bytes of what one branch changes in a SQLite file, as it is kept until the branch has ended.
pub const SQLITE_CHANGES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Columns of a primary key in a SQLite file.
pub const SQLITE_KEY_COLUMNS_MAX: usize = 8;

const _: () = assert!(FAILURES_TO_OPEN > 0);
const _: () = assert!(FENCE_MARGIN.as_secs() < FENCE_KEPT.as_secs());
