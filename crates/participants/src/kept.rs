//! Rows that adapters keep in databases to know later what was done there: for how long, and whose.
//!
//! Names of branches begin with the time of their transaction, so a table of them grows at one end, and
//! old rows are found at the other without a second index.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use unanimous_core::id::{BranchName, ShardId, Timestamp, TxnId};

use crate::limits::{FENCE_KEPT, FENCE_MARGIN, FENCE_SWEEP};

/// Whether rows of branches as old as this one may have been removed.
pub(crate) fn may_be_gone(name: &BranchName) -> bool {
    let age_ms = now().since_ms(name.txn.minted_at());
    u128::from(age_ms) >= (FENCE_KEPT - FENCE_MARGIN).as_millis()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(since.as_millis() as u64)
}

/// Remembers whose rows are to be removed, and when that was done last.
#[derive(Default)]
pub(crate) struct Sweeper(Mutex<Option<(String, Option<Instant>)>>);

/// Names from the first on, and before the second.
pub(crate) type Range = (String, String);

impl Sweeper {
    /// A branch of this cluster was begun here.
    pub(crate) fn saw(&self, name: &BranchName) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_none() {
            *state = Some((name.cluster.clone(), None));
        }
    }

    /// The names of branches that are too old to be asked for, if it is time to remove their rows.
    pub(crate) fn due(&self) -> Option<Range> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (cluster, swept_at) = state.as_mut()?;
        let is_due = swept_at.is_none_or(|at| at.elapsed() >= FENCE_SWEEP.0);
        is_due.then(|| {
            *swept_at = Some(Instant::now());
            old(cluster, now().0.saturating_sub(FENCE_KEPT.as_millis() as u64))
        })
    }
}

fn old(cluster: &str, before_ms: u64) -> Range {
    // The least name that this time can have: its shard and chance are all zero.
    let first_kept = TxnId::mint(before_ms, ShardId::of(0), 0);
    (format!("una:{cluster}:"), format!("una:{cluster}:{first_kept}"))
}

#[cfg(test)]
mod tests {
    use unanimous_core::id::BranchId;

    use super::*;

    fn name(minted_ms: u64) -> BranchName {
        let txn = TxnId::mint(minted_ms, ShardId::of(63), u128::MAX);
        BranchName { cluster: "main".to_owned(), txn, branch: BranchId(0) }
    }

    #[test]
    fn rows_are_removed_by_the_time_in_their_names() {
        let (from, first_kept) = old("main", 1_763_700_000_000);
        assert!(name(1_763_699_999_999).to_string() < first_kept);
        assert!(name(1_763_700_000_000).to_string() > first_kept);
        assert!(*"una:main-1:x" < *from, "another cluster's are out of the range");
    }

    #[test]
    fn a_missing_row_says_nothing_once_rows_of_its_age_may_be_gone() {
        let kept_ms = (FENCE_KEPT - FENCE_MARGIN).as_millis() as u64;
        assert!(!may_be_gone(&name(now().0)));
        assert!(!may_be_gone(&name(now().0 - kept_ms + 60_000)));
        assert!(may_be_gone(&name(now().0 - kept_ms)));
    }
}
