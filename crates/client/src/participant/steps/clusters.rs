//! Whose rows are in the table: those of the coordinators that have called, and of nobody else.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use unanimous_core::id::{BranchName, ShardId, Timestamp, TxnId};

use crate::limits::CLUSTERS_MAX;

/// The clusters that have called, whose rows are to be removed some day; nobody else's are.
#[derive(Debug, Default)]
pub(super) struct Clusters(Mutex<BTreeSet<String>>);

/// Names from the first on, and before the second.
pub(super) type Range = (String, String);

impl Clusters {
    pub(super) fn saw(&self, branch: &BranchName) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < CLUSTERS_MAX && !seen.contains(&branch.cluster) {
            seen.insert(branch.cluster.clone());
        }
    }

    /// The names of steps that began before. They begin with the time of their saga, so that they are
    /// found without an index of their own.
    pub(super) fn old(&self, before: Timestamp) -> Vec<Range> {
        let first_kept = TxnId::mint(before.0, ShardId::of(0), 0);
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let range = |name: &String| (format!("una:{name}:"), format!("una:{name}:{first_kept}"));
        seen.iter().map(range).collect()
    }
}
