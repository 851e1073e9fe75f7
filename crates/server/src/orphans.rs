//! Asks each resource what it holds prepared, and rolls back what nobody will ever finish.
//!
//! Which branch may be touched is decided in `core::recovery`; here its facts are gathered: two
//! complete listings a grace period apart, and after both of them what is known of each
//! transaction. An error anywhere starts over with two new listings.
//!
//! The first two of a coordinator are closer together. A transaction whose beginning its former owner had
//! not made durable when it died is one that nobody knows, and may hold the row that everybody wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use unanimous_api::{BranchInDoubt, StatusWord, TransactionView};
use unanimous_core::commit::Shape;
use unanimous_core::id::{BranchName, Timestamp, TxnId};
use unanimous_core::recovery::{Known, Listing, Pass, Verdict, Why};
use unanimous_core::{Answer, Opaque, Outcome, Verb};
use unanimous_journal::JournalError;
use unanimous_participants::{Call, Resource, Trace, Turn};

use crate::config::Config;
use crate::driver::Coordinator;
use crate::limits::{LIST_WAIT, ORPHAN_CALL, ORPHAN_GRACE_FIRST_MS};

/// How orphans are told from what only looks like them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hunt {
    /// Milliseconds that the two listings are apart.
    pub(crate) grace_ms: u64,
    /// Milliseconds after which the journal may have forgotten a transaction.
    pub(crate) retention_ms: u64,
}

impl Hunt {
    pub(crate) fn of(config: &Config) -> Self {
        Self { grace_ms: config.limits.orphan_grace_ms, retention_ms: config.retention_ms() }
    }

    /// Hunts in every resource that can be asked, until the set is dropped. One that does not answer
    /// delays no other.
    pub(crate) fn start(self, coordinator: &Coordinator) -> JoinSet<()> {
        let mut hunting = JoinSet::new();
        for (name, resource) in coordinator.resources().iter() {
            let beat = Beat {
                hunt: self,
                coordinator: coordinator.clone(),
                name: Arc::clone(name),
                resource: Arc::clone(resource),
            };
            hunting.spawn(beat.run());
        }
        hunting
    }
}

/// The hunt in one resource.
struct Beat {
    hunt: Hunt,
    coordinator: Coordinator,
    name: Arc<str>,
    resource: Arc<dyn Resource>,
}

impl Beat {
    async fn run(self) {
        let mut earlier: Option<Listing> = None;
        let mut grace_ms = self.hunt.grace_ms.min(ORPHAN_GRACE_FIRST_MS);
        loop {
            let at = self.coordinator.clock().now();
            let later = match self.resource.in_doubt(ORPHAN_CALL).await {
                // It asks by itself.
                Ok(None) => return,
                Ok(Some(held)) => {
                    let held = held.into_iter().map(|held| held.name).collect();
                    let later = Listing { at, held };
                    match self.compare(earlier.as_ref(), &later, grace_ms).await {
                        Ok(()) => Some(later),
                        Err(error) => {
                            tracing::warn!(resource = %self.name, %error, "orphans not looked for");
                            None
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(resource = %self.name, error, "no list of what is prepared");
                    None
                }
            };
            if earlier.is_some() && later.is_some() {
                grace_ms = self.hunt.grace_ms;
            }
            earlier = later;
            tokio::time::sleep(Duration::from_millis(grace_ms)).await;
        }
    }

    async fn compare(
        &self,
        earlier: Option<&Listing>,
        later: &Listing,
        grace_ms: u64,
    ) -> Result<(), JournalError> {
        let Some(earlier) = earlier else { return Ok(()) };
        let now = self.coordinator.clock().now();
        let mut facts = BTreeMap::new();
        let ours: BTreeSet<TxnId> = later.held.iter().filter_map(|it| self.ours(it)).collect();
        for txn in ours {
            facts.insert(txn, self.known(txn, later.at, now).await?);
        }
        let plan = self.plan(earlier, later, grace_ms, &facts);
        let mut strays = 0;
        for (text, verdict) in plan {
            match verdict {
                Verdict::End(_) => self.roll_back(&text).await,
                Verdict::LeaveAlone(Why::Contradiction | Why::Forgotten) => {
                    strays += 1;
                    tracing::error!(
                        resource = %self.name, branch = text,
                        "a branch is prepared whose transaction has ended otherwise: compare, and \
                         end it by hand"
                    );
                }
                Verdict::LeaveAlone(
                    Why::Foreign | Why::NotOwned | Why::Live | Why::SeenOnce | Why::TooSoon,
                ) => {}
            }
        }
        self.coordinator.metrics().strays(&self.name, strays);
        Ok(())
    }

    fn plan(
        &self,
        earlier: &Listing,
        later: &Listing,
        grace_ms: u64,
        facts: &BTreeMap<TxnId, Known>,
    ) -> Vec<(String, Verdict)> {
        Pass {
            cluster: self.coordinator.cluster(),
            grace_ms,
            earlier,
            later,
            known: &|txn| facts.get(&txn).copied().unwrap_or(Known::Live),
            // Where another process has claimed the shard since, the journal does not say that it
            // knows nothing of a transaction, it fails.
            owned: &|shard| self.coordinator.owns(shard),
        }
        .plan()
    }

    fn ours(&self, text: &str) -> Option<TxnId> {
        ours(&self.coordinator, text).map(|name| name.txn)
    }

    async fn known(
        &self,
        txn: TxnId,
        listed_at: Timestamp,
        now: Timestamp,
    ) -> Result<Known, JournalError> {
        let view = self.coordinator.show(txn, None).await?;
        Ok(match view {
            Some(view) => known(&view, listed_at),
            None if now.since_ms(txn.minted_at()) >= self.hunt.retention_ms => Known::Forgotten,
            None => Known::Absent,
        })
    }

    async fn roll_back(&self, text: &str) {
        let Ok(name) = text.parse::<BranchName>() else { return };
        let answer = self.resource.call(Call {
            verb: Verb::Rollback,
            shape: Shape::Atomic,
            work: Opaque::default(),
            returned: Opaque::default(),
            attempt: 1,
            trace: Trace::of(name.txn),
            deadline: Timestamp(0),
            patience: ORPHAN_CALL,
            is_listed: true,
            turn: Turn::default(),
            name,
        });
        match answer.await {
            Answer::Done(_) => {
                self.coordinator.metrics().orphan(&self.name);
                tracing::warn!(resource = %self.name, branch = text, "orphan rolled back");
            }
            // The next listing shows whether it is still there.
            answer @ (Answer::Yes(_)
            | Answer::ReadOnly(_)
            | Answer::No(_)
            | Answer::Lost(_)
            | Answer::Heuristic(_)
            | Answer::Working
            | Answer::Silent(_)) => {
                tracing::warn!(
                    resource = %self.name, branch = text, ?answer, "orphan not rolled back yet"
                );
            }
        }
    }
}

/// A branch name of this cluster, in a shard of this coordinator.
pub(crate) fn ours(coordinator: &Coordinator, text: &str) -> Option<BranchName> {
    let name: BranchName = text.parse().ok()?;
    (name.cluster == coordinator.cluster() && coordinator.owns(name.txn.shard())).then_some(name)
}

/// What counts of a transaction for a listing: one that ended after it was live then, and has branches in it.
fn known(view: &TransactionView, listed_at: Timestamp) -> Known {
    match ended(view) {
        Some(outcome) if view.updated_at_ms < listed_at.0 => Known::Ended(outcome),
        Some(_) | None => Known::Live,
    }
}

/// How a transaction ended; `None` while somebody drives it.
pub(crate) fn ended(view: &TransactionView) -> Option<Outcome> {
    let acked = view.participants.iter().all(|it| it.ack) && !view.needs_attention;
    match view.status {
        StatusWord::Committed if acked => Some(Outcome::Committed),
        StatusWord::Aborted if acked => Some(Outcome::Aborted),
        StatusWord::Initiated
        | StatusWord::Preparing
        | StatusWord::Prepared
        | StatusWord::Committing
        | StatusWord::Committed
        | StatusWord::Aborting
        | StatusWord::Aborted
        | StatusWord::Running
        | StatusWord::Compensating
        | StatusWord::Completed
        | StatusWord::Compensated
        | StatusWord::NeedsAttention => None,
    }
}

/// Adds what the resource itself holds to what the coordinator knows to be in doubt there.
///
/// # Errors
///
/// [`JournalError::Failed`] if the journal cannot be read.
pub(crate) async fn add_held(
    coordinator: &Coordinator,
    name: &str,
    branches: &mut Vec<BranchInDoubt>,
) -> Result<(), JournalError> {
    let Some((_, resource)) = coordinator.resources().get(name) else { return Ok(()) };
    // What it does not tell, it does not add: the coordinator's own list stands.
    let Ok(Some(held)) = resource.in_doubt(LIST_WAIT).await else { return Ok(()) };
    let now = coordinator.clock().now();
    for held in held {
        let known = branches.iter().any(|branch| branch.branch == held.name);
        let Some(branch) = ours(coordinator, &held.name).filter(|_| !known) else { continue };
        let view = coordinator.show(branch.txn, None).await?;
        let remark = match &view {
            Some(view) if ended(view).is_some() => "its transaction has ended",
            Some(_) => "it is prepared; the coordinator has not heard of that yet",
            None => "nobody knows its transaction; it is rolled back after the grace time",
        };
        branches.push(BranchInDoubt {
            branch: held.name,
            transaction: branch.txn.to_string(),
            // What was never decided has aborted.
            status: view.map_or(StatusWord::Aborted, |view| view.status),
            attempts: 0,
            last_error: Some(remark.to_owned()),
            since_ms: held.since.unwrap_or(now).0,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_ended_after_it_was_listed_was_live_when_it_was() {
        let view = |status: &str| {
            let view = json!({
                "id": "x", "kind": "atomic", "status": status, "participants": [],
                "needs_attention": false, "timeout_ms": 1, "initiated_at_ms": 1,
                "updated_at_ms": 100, "coordinator": "c",
            });
            serde_json::from_value::<TransactionView>(view).expect("a view")
        };
        let committed = view("COMMITTED");
        assert_eq!(known(&committed, Timestamp(100)), Known::Live);
        assert_eq!(known(&committed, Timestamp(101)), Known::Ended(Outcome::Committed));
        assert_eq!(known(&view("COMMITTING"), Timestamp(101)), Known::Live);
    }
}
