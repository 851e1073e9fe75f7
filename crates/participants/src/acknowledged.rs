//! Branches whose end a resource has acknowledged, and of which it may forget what it keeps to answer
//! repeated questions.
//!
//! A resource that lives beside the data of others should not keep a row of ours for each transaction
//! for weeks. So a while after an acknowledgement was heard, its branch is forgotten there.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use unanimous_core::id::BranchName;

use crate::limits::{ACKNOWLEDGED_KEPT, ACKNOWLEDGED_MAX, FORGOTTEN_AT_ONCE_MAX};

/// Oldest first.
#[derive(Default)]
pub(crate) struct Acknowledged(Mutex<VecDeque<(Instant, String)>>);

impl Acknowledged {
    pub(crate) fn heard(&self, name: &BranchName) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < ACKNOWLEDGED_MAX {
            all.push_back((Instant::now(), name.to_string()));
        }
    }

    /// Some whose acknowledgement the journal has had for long; none if there are no more.
    pub(crate) fn ripe(&self, now: Instant) -> Option<Vec<String>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ripe = |since: Instant| now.duration_since(since) >= ACKNOWLEDGED_KEPT;
        let ripe = all.iter().take_while(|(since, _)| is_ripe(*since));
        let count = ripe.count().min(FORGOTTEN_AT_ONCE_MAX);
        (count > 0).then(|| all.drain(..count).map(|(_, name)| name).collect())
    }
}

#[cfg(test)]
mod tests {
    use unanimous_core::id::{BranchId, ShardId, TxnId};

    use super::*;

    #[test]
    fn a_branch_is_forgotten_a_while_after_it_was_acknowledged_and_once() {
        let txn = TxnId::mint(1_763_700_000_123, ShardId::of(1), 7);
        let name = BranchName { cluster: "main".to_owned(), txn, branch: BranchId(0) };
        let acknowledged = Acknowledged::default();
        acknowledged.heard(&name);
        let now = Instant::now();
        assert_eq!(acknowledged.ripe(now), None);
        let later = now + ACKNOWLEDGED_KEPT;
        assert_eq!(acknowledged.ripe(later), Some(vec![name.to_string()]));
        assert_eq!(acknowledged.ripe(later), None);
    }
}
