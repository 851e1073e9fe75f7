//! Every bound of the journal in etcd, with its reason.

use std::time::Duration;

use crate::remote::state::BatchBounds;

/// What one request writes: a server takes 1.5 MiB, and what has ended is written once more whole.
pub(super) const BATCHES: BatchBounds = BatchBounds { entries_max: 1_024, bytes_max: 512 << 10 };

/// Bytes of values and idempotency keys in one request; the rest of the server's 1.5 MiB is for the
/// keys of a thousand transactions.
pub(super) const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Bytes of a value that is written apart, so that it takes no place from others.
pub(super) const INLINE_BYTES_MAX: usize = 64 << 10;

/// Operations and comparisons in a transaction within a transaction. The server's default bound is
/// 128 on the longest way down: these, and the outer one's comparisons of 64 shards and the head.
pub(super) const GROUP_OPS_MAX: usize = 60;

/// Operations that one transaction of ours takes at most: its records, what they replace, its key.
pub(super) const OPS_OF_ONE: usize = 3;

/// How long one attempt to connect may take.
pub(super) const CONNECT: Duration = Duration::from_secs(2);

/// How long one request may take. A member without a leader keeps silent for longer; another one
/// may have found the new leader by then.
pub(super) const CALL: Duration = Duration::from_secs(2);

/// Bytes of answers under way on one connection, and in one answer, before we have taken them.
pub(super) const WINDOWS: [u32; 2] = [8 << 20, 4 << 20];

/// Bytes of one answer that are read: a page of values, each as long as a request lets it be.
pub(super) const ANSWER_BYTES_MAX: usize = 512 << 20;

/// Keys in one answer of a scan: in the first, and at most.
pub(super) const PAGES: [u64; 2] = [256, 16_384];

/// Keys in the first answer of several scans together: what is open of a few thousand transactions in a
/// partition comes at once, and takes no more bytes than one answer may have.
pub(super) const FIRST_PAGES: u64 = 6_144;

/// Bytes of values in one answer of a scan, if they are as long as those before.
pub(super) const PAGE_BYTES: usize = 8 << 20;

/// What is read at once for all who ask the same. The server's default bound of a transaction is 128.
pub(super) const READS: usize = 120;

/// Of that, what is read for each transaction: while it is open, and when it has ended.
pub(super) const READS_OF_ONE: usize = 2;

/// Keys read for one part of a list. Beyond that the part is short, and the next one goes on.
pub(super) const SCAN_MAX: usize = 50_000;

/// How often ended transactions are looked for that may go.
pub(super) const PRUNE_PAUSE: Duration = Duration::from_secs(5);

/// Transactions that are removed in one request.
pub(super) const PRUNE: usize = 60;

/// Rest between two such requests while there is more, so that decisions pass.
pub(super) const PRUNE_REST: Duration = Duration::from_millis(10);

/// Ended transactions that are kept unless the URL says otherwise: about half a gigabyte, of the
/// two that a server takes by default.
pub(super) const ENDED_MAX: u64 = 500_000;

/// How often old revisions are given up, up to where the journal was this long ago.
pub(super) const COMPACT_PAUSE: Duration = Duration::from_secs(30);

const _: () =
    assert!(BATCHES.entries_max * OPS_OF_ONE <= GROUP_OPS_MAX * (GROUP_OPS_MAX - OPS_OF_ONE));
const _: () = assert!(1 + unanimous_core::limits::SHARDS as usize + GROUP_OPS_MAX <= 128);
const _: () = assert!(FIRST_PAGES as usize * INLINE_BYTES_MAX < ANSWER_BYTES_MAX);
