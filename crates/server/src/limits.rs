//! Every bound of the server that is not configurable, and the defaults of those that are.

use std::time::Duration;

/// Transactions that may be open at once. Each costs a few hundred bytes here and in every snapshot
/// of the journal.
pub const OPEN_MAX_DEFAULT: usize = 100_000;

/// The most transactions that may be allowed to be open at once.
pub const OPEN_MAX: usize = 10_000_000;

/// The most bytes that a request may be allowed to have: an entry of the journal has to hold them.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// The most calls that a resource may be allowed to get at once: each holds a connection.
pub const CALLS_MAX: u64 = 100_000;

/// Days that ended transactions are kept. Whoever asks later than this has other means.
pub const RETENTION_DAYS_DEFAULT: u64 = 7;

/// The most days that ended transactions may be kept.
pub const RETENTION_DAYS_MAX: u64 = 36_500;

/// Requests that may wait for the driver at once. More only wait longer.
pub const QUEUE_MAX_DEFAULT: usize = 50_000;

/// Events that a driver takes before it looks at its timers and at the journal again.
pub const EVENTS_PER_ROUND: usize = 256;

/// Transactions that are resumed before others get the thread.
pub const RESUMED_PER_ROUND: usize = 64;

/// Before the first of those that hold no lock: until then whoever holds one has the machine for itself, at
/// other nodes as well.
pub const RESUMED_AFTER: Duration = Duration::from_millis(300);

/// Pause between rounds of them. All are resumed within the second time; requests are answered meanwhile.
pub const RESUMED_EVERY: Duration = Duration::from_millis(20);

/// See [`RESUMED_EVERY`].
pub const RESUMED_WITHIN: Duration = Duration::from_secs(1);

/// How long a resource may take to list what it holds before transactions are resumed without knowing.
pub const HELD_WAIT: Duration = Duration::from_millis(100);

/// How long the rest of what a dead owner left open is not read, for the sake of what it held.
pub const RELEASE_WAIT: Duration = Duration::from_millis(150);

/// Transactions or keys that the journal is asked about at once.
pub const ASKED_AT_ONCE: usize = 256;

/// Milliseconds a call may take before it counts as unanswered.
pub const CALL_TIMEOUT_MS_DEFAULT: u64 = 5_000;

/// How long a first phase with statements may take before it is taken for one that waits for a lock.
pub const CONTENDED_AFTER: Duration = Duration::from_millis(100);

/// Transactions that may work at once in a resource where conflicts have been seen, and in others. Twice as
/// many as a database gets calls at once; three nodes fit into a hundred prepared transactions of its own.
pub const CONTENDED_AT_WORK_MAX: usize = 32;

/// Milliseconds for which a conflict counts as seen.
pub const CONTENDED_MS: u64 = 30_000;

/// Shortest time a call is given even if its transaction's deadline is nearer, in milliseconds.
pub const CALL_TIMEOUT_MS_MIN: u64 = 50;

/// Milliseconds that a wake-up may be late on purpose. Deadlines are, too, so it stays well below
/// [`WAIT_SLACK_MS`].
pub const JITTER_MS_MAX: u64 = 250;

/// Milliseconds by which a waiting request outlives its transaction's deadline: time enough for the
/// decision that the deadline brings to be made durable and told.
pub const WAIT_SLACK_MS: u64 = 1_000;

/// Longest time a request waits, in milliseconds. Whoever wants to wait longer asks again; proxies
/// give up sooner.
pub const WAIT_MS_MAX: u64 = 300_000;

/// Milliseconds that a transaction's key, or the identity that it was given, is remembered in memory
/// after its end. Longer than any request may be under way between its look into the journal and the
/// driver.
pub const KEY_MEMORY_MS: u64 = 60_000;

/// Milliseconds after which a look into the journal is too old to begin on.
pub const KEY_CHECK_MS_MAX: u64 = 30_000;

/// Milliseconds that a shutdown waits for open transactions.
pub const DRAIN_MS_DEFAULT: u64 = 10_000;

/// Parts of the time that a coordinator has to come to its end. After the first it is seen whether those who
/// wait in a line are of use to wait for.
pub const DRAIN_PARTS: u32 = 5;

/// Milliseconds between the two listings that have to hold a branch that nobody knows before it is rolled
/// back. No longer than it has to be: its locks hold others up. A call of a former life that is carried out
/// later still is found by later listings.
pub const ORPHAN_GRACE_MS_DEFAULT: u64 = 1_000;

/// The same between the first two listings of a coordinator. What it does not know then was begun by a former
/// owner, whose records are not taken any more.
pub const ORPHAN_GRACE_FIRST_MS: u64 = 200;

/// How long a resource may take to list what it holds, or to roll an orphan back.
pub const ORPHAN_CALL: Duration = Duration::from_secs(5);

/// How long a reader waits for a resource's own list of what is in doubt.
pub const LIST_WAIT: Duration = Duration::from_secs(2);

/// Time between two comparisons of the journal with a resource: no call that is answered takes longer.
pub const CHECK_PAUSE: Duration = Duration::from_millis(500);

/// Readings of one check of an invariant. More of them, [`CHECK_PAUSE`] apart, would seldom tell more.
pub const INVARIANT_READINGS_MAX: usize = 3;

/// How long the queries of an invariant may take at one resource: a sum over a large table takes seconds.
pub const INVARIANT_PATIENCE: Duration = Duration::from_secs(10);

/// Milliseconds between two checks of an invariant.
pub const INVARIANT_EVERY_MS_DEFAULT: u64 = 60_000;

/// The fewest milliseconds between two checks of an invariant: each may read whole tables.
pub const INVARIANT_EVERY_MS_MIN: u64 = 1_000;

/// Queries of one invariant: as many as a transaction has branches.
pub const INVARIANT_QUERIES_MAX: usize = 64;

/// How long a shutdown waits for requests to get their last answer, when all that was to be decided
/// is.
pub const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Events that a slow reader of the event stream may be behind.
pub const EVENTS_BEHIND_MAX: usize = 4_096;

/// Idempotency keys of requests other than begin that are remembered.
pub const REQUEST_KEYS_MAX: usize = 100_000;

/// How deep the work of a branch may be nested. Parsers elsewhere give up soon after.
pub const BODY_DEPTH_MAX: usize = 64;

/// Placeholders in what one step sends.
pub const TEMPLATE_PLACEHOLDERS_MAX: usize = 256;

/// Bytes of what one step sends when its placeholders are filled in. As much as a request may have
/// unless configured otherwise.
pub const TEMPLATE_BYTES_MAX: usize = 256 * 1024;

/// How long a body may take to come.
pub const BODY_WAIT: Duration = Duration::from_secs(30);

/// Bytes of the name an operator gives.
pub const OPERATOR_LEN_MAX: usize = 128;

/// Connections at once, if the process may have as many files. Each holds a file and a few kilobytes. Who
/// comes when all are taken waits in the system's queue, another node too: so there are more than any
/// crowd of callers should need.
pub const CONNECTIONS_MAX: usize = 32_768;

/// Connections that the system holds until they are taken, if it is set to hold as many.
pub const CONNECTIONS_QUEUED: u32 = 16_384;

/// Of the files that the process may have, how many are left for all else: a quarter.
pub const CONNECTIONS_OF_FILES: (u64, u64) = (3, 4);

/// Below which number of a file, and for how many of them, there is room for connections that are closed
/// first: the system's table of a process' files has 8 bytes for each number up to the highest.
pub const CLOSED_FIRST: (u64, u64) = (16_384, 256);

/// Requests at once on one connection of HTTP/2. Another node passes on what thousands of callers ask.
pub const STREAMS_MAX: u32 = 16_384;

/// Bytes that may be on their way on one connection of HTTP/2 before they are read: 4 kilobytes for each
/// of its requests. A crowd that sends more than that at once has its bodies cut into small frames, and
/// many of those are taken for an attack (`too_many_data_frames` of the h2 crate): the connection ends.
pub const UNREAD_BYTES_MAX: u32 = STREAMS_MAX * 4 * 1024;

/// Bytes of a request's line and headers. Ours are far smaller; a proxy adds some.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;

/// How long a peer may take to send the headers of its next request. Longer than clients usually
/// keep idle connections (90 s), so that it is they who close them.
pub const HEADER_WAIT: Duration = Duration::from_secs(100);

/// How often a peer that speaks HTTP/2 is asked whether it is still there.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How often an event stream without events shows that it is there. Proxies cut idle ones after 30 s
/// or more.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Pause after connections could not be accepted, which passes when others end.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(JITTER_MS_MAX * 2 <= WAIT_SLACK_MS);
const _: () = assert!(KEY_CHECK_MS_MAX < KEY_MEMORY_MS);
const _: () = assert!(CALL_TIMEOUT_MS_MIN < CALL_TIMEOUT_MS_DEFAULT);

/// Longest time that a saga, a pause or a wait of its may be given: one year.
pub const SAGA_MS_MAX: u64 = 366 * 24 * 3_600_000;

/// Longest time that one call of a step may take: an hour. Work that takes longer answers that it is
/// still working.
pub const STEP_CALL_MS_MAX: u64 = 3_600_000;

/// Most calls without an answer that a step may be given before it has failed.
pub const STEP_ATTEMPTS_MAX: u32 = 1_000_000;

/// Milliseconds within which a webhook has to be taken, after which nobody is told any more: 3 days.
pub const WEBHOOK_MS_MAX: u64 = 3 * 24 * 3_600_000;

/// Milliseconds before a webhook is repeated for the first time, and the longest such pause.
pub const WEBHOOK_PAUSE_MS: [u64; 2] = [1_000, 600_000];

/// Milliseconds until it is tried again to tell that a transaction needs attention, for which the
/// journal had no room: room is made by people, and that takes longer.
pub const ALERT_PAUSE_MS: u64 = 10_000;
