//! Every bound and default of the SDK, with its reason.

use std::time::Duration;

/// Milliseconds that opening a connection may take.
pub const CONNECT_TIMEOUT_MS: u64 = 2_000;

/// Milliseconds to wait for one reply. Longer than a healthy coordinator holds a request back; a
/// request that is repeated after it carries the same key, so nothing is done twice.
pub const REPLY_TIMEOUT_MS: u64 = 15_000;

/// Milliseconds that a request may take in all, its repeats included.
pub const DEADLINE_MS: u64 = 60_000;

/// Addresses of coordinators that one client has to choose from. As many as may be down at a time, and one.
pub const SERVERS_MAX: usize = 16;

/// Longest deadline, in milliseconds: a year. The sum of it and now fits every clock.
pub const DEADLINE_MS_MAX: u64 = 366 * 86_400_000;

/// Milliseconds beyond a transaction's own timeout that its caller waits for the outcome: a
/// coordinator restarts and recovers well within this.
pub const GRACE_MS: u64 = 30_000;

/// First pause before a request is repeated, in milliseconds; it doubles each time.
pub const PAUSE_MS_MIN: u64 = 25;

/// Longest pause before a request is repeated, in milliseconds.
pub const PAUSE_MS_MAX: u64 = 2_000;

/// When a node dies, the calls that waited for it come to the next one over so long for each of them: a few
/// times what one costs a node.
pub const CALL_SPREAD: Duration = Duration::from_micros(300);

/// How long the last of them waits at most.
pub const CALLS_SPREAD_MAX: Duration = Duration::from_secs(1);

/// First pause before it is looked again how a transaction stands whose end is near, in milliseconds; it
/// doubles each time. About what a resource takes to commit.
pub const LOOK_MS_MIN: u64 = 2;

/// Milliseconds that have to be left of a deadline for one attempt more at what had no effect so far.
pub const LAST_ATTEMPT_MS: u64 = 100;

/// Milliseconds to wait for an abort that changes nothing: without it the coordinator aborts at the
/// transaction's timeout.
pub const ABORT_PATIENCE_MS: u64 = 2_000;

/// Attempts at a transaction that meets others. Where ten fail, one more is no cure.
pub const ATTEMPTS_MAX: u32 = 10;

/// Bytes of a reply. The largest is a page of a list.
pub const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of one server-sent event.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;

/// Connections kept open to a coordinator while they are idle.
pub const IDLE_CONNECTIONS_MAX: usize = 256;

/// Requests that may be under way at once on one connection of HTTP/2, if the coordinator takes as many;
/// more wait for a place.
pub const REQUESTS_AT_ONCE: u32 = 16_384;

/// Bytes of a reply on a connection of HTTP/2 that may come before they are read.
pub const UNREAD_BYTES_MAX: u32 = 64 * 1024;

/// How often a coordinator is asked whether it is still there, while requests wait on a connection of
/// HTTP/2.
pub const PING: Duration = Duration::from_secs(5);

/// How long it may take to say so. Then what waits there is asked again elsewhere.
pub const PING_WAIT: Duration = Duration::from_secs(10);

/// Bytes of the body of a call to a participant. Well above what a coordinator takes on unless it
/// is configured otherwise.
pub const CALL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Milliseconds after its yes at which a branch first asks the coordinator for the outcome. Late
/// enough that a healthy coordinator has long called.
pub const INQUIRE_AFTER_MS: u64 = 5_000;

/// Milliseconds for which a participant remembers a branch that has ended: eight days, one more
/// than a coordinator repeats itself.
pub const RETENTION_MS: u64 = 8 * 86_400_000;

/// Milliseconds for which a step is remembered after it acted or was undone: thirty days.
pub const STEP_RETENTION_MS: u64 = 30 * 86_400_000;

/// Age in milliseconds up to which a saga's step that is not remembered has certainly not acted: a day
/// less, for clocks that differ.
pub const STEP_AGE_MS_MAX: u64 = STEP_RETENTION_MS - 86_400_000;

/// Bytes of a step's result, as JSON. What coordinators take.
pub const RESULT_BYTES_MAX: usize = 64 * 1024;

/// Attempts at a step of which the row was seen, and gone when it was looked at.
pub const STEP_ATTEMPTS_MAX: u32 = 4;

/// Attempts at a step in Redis while others change the keys that it reads: each time one of them has got on.
pub const STEP_CONFLICTS_MAX: u32 = 64;

/// Commands of one step in Redis: nobody else is served while they run.
pub const STEP_COMMANDS_MAX: usize = 256;

/// Words of one of them. Lua takes no more than eight thousand.
pub const STEP_WORDS_MAX: usize = 4_096;

/// Clusters of coordinators that call one service, and whose old marks it removes.
pub const CLUSTERS_MAX: usize = 64;

/// Milliseconds between two looks for marks that are past their retention.
pub const PRUNE_EVERY_MS: u64 = 60_000;

/// Marks removed at a time, so that calls never wait long behind it.
pub const PRUNE_MAX: usize = 500;

/// Branches in doubt looked after at a time. The rest follow as these end.
pub const DOUBTS_MAX: usize = 1_000;

/// Inquiries under way at a time, so that a coordinator that just came back is not buried.
pub const INQUIRIES_MAX: usize = 16;

/// Milliseconds to wait for the answer to one inquiry. The next one is as good.
pub const INQUIRY_TIMEOUT_MS: u64 = 2_000;

/// Calls that wait for a store. Behind these, callers wait at their connections.
pub const QUEUE_LEN_MAX: usize = 1_024;

/// Calls that share one sync of the disk. Bounds how long the first of them waits for the others.
pub const BATCH_LEN_MAX: usize = 128;

/// Milliseconds that a store waits for a lock that another process holds on its file.
pub const BUSY_MS_MAX: u64 = 5_000;

/// Bytes of the body of a request with an idempotency key. It is read whole before anything is done.
pub const KEYED_REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of the body of an answer that is kept for repeats.
pub const KEPT_ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Milliseconds after which a process that gives no sign of life loses the keys of what it was doing.
/// Long enough for a pause of a healthy one; whoever repeats a request of a dead one waits for as long.
pub const KEY_LEASE_MS: u64 = 30_000;

/// Milliseconds for which an answer is kept for repeats: seven days, as a coordinator does.
pub const KEY_RETENTION_MS: u64 = 7 * 86_400_000;

/// Attempts at the store of idempotency keys, a growing pause apart: enough for a connection that broke.
pub const KEY_ATTEMPTS_MAX: u32 = 4;

/// Connections of a pool, unless it is told otherwise.
pub const POOL_CONNECTIONS_MAX: usize = 16;

/// Milliseconds that a call waits for a connection of a pool, and for a statement of ours on it.
pub const POOL_PATIENCE_MS: u64 = 10_000;

/// Connections to a worker at once: several coordinators with all the calls that each has places for.
pub const WORKER_CONNECTIONS_MAX: usize = 1_024;

/// Milliseconds that a worker's callers may take to send the headers of their next call. Longer than
/// they usually keep idle connections (90 s), so that it is they who close them.
pub const WORKER_HEADER_WAIT_MS: u64 = 100_000;

/// Bytes of a call's line and headers. A coordinator's are far smaller; a proxy adds some.
pub const WORKER_HEADER_BYTES_MAX: usize = 32 * 1024;

/// Milliseconds that the body of a call may take to come. A coordinator has given up by then.
pub const WORKER_BODY_WAIT_MS: u64 = 30_000;

/// Milliseconds that a worker which stops gives to the calls under way: as long as whoever stops
/// services commonly waits before it kills them.
pub const WORKER_GRACE_MS: u64 = 25_000;

/// Milliseconds before connections are accepted again when the system refused one: that passes when
/// others end.
pub const ACCEPT_PAUSE_MS: u64 = 100;

const _: () = assert!(PAUSE_MS_MIN <= PAUSE_MS_MAX && LOOK_MS_MIN <= PAUSE_MS_MIN);
const _: () = assert!(REPLY_TIMEOUT_MS <= DEADLINE_MS);
const _: () = assert!(RETENTION_MS > 7 * 86_400_000);
const _: () = assert!(BATCH_LEN_MAX <= QUEUE_LEN_MAX);
