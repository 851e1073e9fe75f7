//! Every bound the protocols have, with its reason.

/// Branches of one transaction. Each costs a call per phase and a line in every view; work that
/// spans more parties than this is a saga.
pub const BRANCHES_MAX: usize = 64;

/// Bytes of the name of a participant or a resource. Names go into metrics, log lines and branch
/// identifiers.
pub const NAME_LEN_MAX: usize = 48;

/// Bytes of a cluster's name, so that a branch identifier stays within the 64 bytes of an XA gtrid.
pub const CLUSTER_LEN_MAX: usize = 20;

/// Bytes of a reason or error text kept with a transaction. Longer texts are cut.
pub const TEXT_LEN_MAX: usize = 512;

/// First pause before a call without an answer is repeated, in milliseconds; it doubles each time.
pub const RETRY_MS_MIN: u64 = 50;

/// Longest pause between two calls of one branch, in milliseconds. A participant that comes back is
/// heard of within this time.
pub const RETRY_MS_MAX: u64 = 5_000;

/// Calls without an answer after which a compensation is stuck, unless its step says otherwise. With
/// the usual pauses that takes about a minute, longer than a service takes to restart.
pub const COMPENSATIONS_MAX: u32 = 16;

/// Pause between two calls to a step that is stuck because it does not answer, in milliseconds.
pub const STUCK_PAUSE_MS: u64 = 30_000;

/// Shards a coordinator's transactions are divided into. More than machines anybody will start, few
/// enough to be listed.
pub const SHARDS: u8 = 64;

const _: () = assert!(RETRY_MS_MIN <= RETRY_MS_MAX);
// "una:" + cluster + ":" + uuid
const _: () = assert!(4 + CLUSTER_LEN_MAX + 1 + 36 <= 64);
