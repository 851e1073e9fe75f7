//! What is open, counted, and which branches of a resource are in doubt.

use std::collections::BTreeMap;

use unanimous_api::BranchInDoubt;
use unanimous_core::Vote;
use unanimous_core::commit::{Ending, Phase};
use unanimous_core::id::{BranchId, Timestamp};
use unanimous_core::saga;
use unanimous_core::txn::Txn;

use super::run::Driver;
use super::{saga_view, view};

/// What is open in one driver.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Transactions that have not ended, by where they stand.
    pub by_status: BTreeMap<&'static str, u64>,
    /// When the oldest that is not decided began.
    pub oldest_undecided: Option<Timestamp>,
    /// When the oldest that is decided and not ended began.
    pub oldest_in_doubt: Option<Timestamp>,
    /// Transactions older than twice their timeout.
    pub overdue: u64,
    /// Transactions that wait for an operator.
    pub needs_attention: u64,
}

impl Census {
    /// Adds what another driver counted.
    pub fn add(&mut self, other: Self) {
        for (status, count) in other.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        let earlier = |a: Option<_>, b: Option<_>| a.into_iter().chain(b).min();
        self.oldest_undecided = earlier(self.oldest_undecided, other.oldest_undecided);
        self.oldest_in_doubt = earlier(self.oldest_in_doubt, other.oldest_in_doubt);
        self.overdue += other.overdue;
        self.needs_attention += other.needs_attention;
    }
}

impl Driver {
    pub(super) fn census(&self) -> Census {
        let now = self.now();
        let mut by_status = BTreeMap::new();
        let mut census = Census::default();
        for live in self.live.values() {
            *by_status.entry(view::status(&live.machine).as_str()).or_default() += 1;
            let (decided, timeout_ms, attention) = match &live.machine {
                Txn::Commit(machine) => {
                    let durable = machine.durable();
                    let attention = durable.phase() == Phase::Attention;
                    (durable.decision().is_some(), Some(durable.begun().timeout_ms), attention)
                }
                Txn::Saga(saga) => {
                    let durable = saga.durable();
                    let decided = durable.phase() != saga::Phase::Running || durable.is_published();
                    (decided, saga_view::timeout_ms(durable), durable.needs_attention())
                }
            };
            let oldest = match decided {
                false => &mut census.oldest_undecided,
                true => &mut census.oldest_in_doubt,
            };
            *oldest = oldest.iter().copied().chain([live.begun_at]).min();
            let age_ms = now.since_ms(live.begun_at);
            census.overdue += u64::from(timeout_ms.is_some_and(|it| age_ms > 2 * it));
            census.needs_attention += u64::from(attention);
        }
        census.by_status = by_status;
        census
    }

    pub(super) fn in_doubt(&self, resource: &str) -> Vec<BranchInDoubt> {
        let mut found = Vec::new();
        for (&txn, live) in &self.live {
            // A step holds nothing in doubt: what it did is done.
            let Some(machine) = live.commit() else { continue };
            let durable = machine.durable();
            for (index, branch) in (0_u16..).zip(durable.branches()) {
                let id = BranchId(index);
                let prepared = durable.decision().is_some()
                    || machine.progress(id).is_some_and(|it| it.vote() == Some(Vote::Yes));
                let ended = matches!(
                    durable.ending(id),
                    Some(Ending::Done | Ending::Settled | Ending::Heuristic(_))
                );
                if *branch.resource != *resource || !prepared || ended {
                    continue;
                }
                let progress = machine.progress(id);
                found.push(BranchInDoubt {
                    branch: view::branch_name(&self.shared.cluster, txn, id).to_string(),
                    transaction: txn.to_string(),
                    status: view::status(&live.machine),
                    attempts: progress.map_or(0, |progress| progress.attempts()),
                    last_error: progress.and_then(|it| it.last_error()).map(str::to_owned),
                    since_ms: live.updated_at.0,
                });
            }
        }
        found
    }
}
