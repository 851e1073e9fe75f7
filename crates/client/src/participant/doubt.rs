//! Looks after branches that voted yes and hear nothing, and forgets those that ended long ago.
//!
//! A branch in doubt ends by what the coordinator answers, and by nothing else: a coordinator that
//! says nothing, something strange, or that it has not decided yet, is asked again. Only one that
//! says that it does not know the transaction has said *aborted* (presumed abort).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use unanimous_api::{Code, OutcomeWord, ResolveOutcome, StatusWord, TransactionView, header};
use unanimous_core::barrier::{Doubt, Move, Policy};
use unanimous_core::id::{BranchName, Timestamp};
use unanimous_core::{Decision, Verb};

use super::http::now as wall;
use super::store::{Call, InDoubt, Order, Store, StoreError};
use crate::client::Client;
use crate::limits::{DOUBTS_MAX, INQUIRIES_MAX, INQUIRY_TIMEOUT_MS, PRUNE_EVERY_MS, PRUNE_MAX};
use crate::transport::{self, Heard, Meaning, escape};

/// How long a participant waits for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) inquire_after_ms: u64,
    pub(super) retention_ms: u64,
    pub(super) policy: Policy,
}

/// Time that a change of the clock on the wall does not touch.
#[derive(Clone, Copy, Debug)]
struct Clock {
    started: Instant,
    started_at: Timestamp,
}

impl Clock {
    fn now(self) -> Timestamp {
        let elapsed = self.started.elapsed().as_millis();
        self.started_at.after_ms(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

/// Runs until it is dropped.
pub(super) async fn look_after<S: Store>(store: Arc<S>, coordinator: Client, patience: Patience) {
    let clock = Clock { started: Instant::now(), started_at: wall() };
    let tick = Duration::from_millis((patience.inquire_after_ms / 4).clamp(20, 1_000));
    let mut doubts = HashMap::new();
    let mut prune_at = clock.now();
    loop {
        if let Err(error) = round(&store, &coordinator, patience, clock, &mut doubts).await {
            tracing::warn!(%error, "branches in doubt cannot be looked after");
        }
        if clock.now() >= prune_at {
            prune_at = clock.now().after_ms(PRUNE_EVERY_MS);
            if let Err(error) = prune(&*store, patience.retention_ms).await {
                tracing::warn!(%error, "old marks cannot be removed");
            }
        }
        tokio::time::sleep(tick).await;
    }
}

/// Does once whatever is due for the branches in doubt.
async fn round<S: Store>(
    store: &Arc<S>,
    coordinator: &Client,
    patience: Patience,
    clock: Clock,
    doubts: &mut HashMap<BranchName, Doubt>,
) -> Result<(), StoreError> {
    let now = clock.now();
    let in_doubt = store.in_doubt(DOUBTS_MAX).await?;
    let mut known = std::mem::take(doubts);
    for InDoubt { branch, since } in &in_doubt {
        let doubt = known.remove(branch).unwrap_or_else(|| {
            // A clock that was set back must not put off the first question.
            Doubt::new((*since).min(now), patience.inquire_after_ms, patience.policy)
        });
        doubts.insert(branch.clone(), doubt);
    }
    let mut asking = JoinSet::new();
    for InDoubt { branch, .. } in in_doubt {
        let doubt = doubts.get_mut(&branch).expect("put there above");
        match doubt.next(now) {
            Move::WaitUntil(_) => {}
            Move::EndAlone(decision) => {
                let order = Order::Alone(decision);
                tracing::error!(%branch, ?decision, "in doubt for too long: the branch ends alone");
                end(&**store, branch, order).await?;
            }
            Move::Ask => {
                if asking.len() >= INQUIRIES_MAX {
                    asking.join_next().await;
                }
                asking.spawn(inquire(Arc::clone(store), coordinator.clone(), branch));
            }
        }
    }
    while asking.join_next().await.is_some() {}
    Ok(())
}

/// Asks for the outcome, and follows it.
async fn inquire<S: Store>(store: Arc<S>, coordinator: Client, branch: BranchName) {
    let order = match ask(&coordinator, &branch).await {
        Ok(Decision::Commit) => Order::Told(Verb::Commit),
        Ok(Decision::Abort) => Order::Told(Verb::Rollback),
        Err(why) => {
            tracing::debug!(%branch, why, "in doubt, and no outcome yet");
            return;
        }
    };
    match end(&*store, branch.clone(), order).await {
        Ok(()) => tracing::info!(%branch, ?order, "in doubt: asked, and followed the outcome"),
        Err(error) => tracing::warn!(%branch, %error, "the outcome is known, and not carried out"),
    }
}

async fn end<S: Store>(store: &S, branch: BranchName, order: Order) -> Result<(), StoreError> {
    let call = Call { branch, order, body: bytes::Bytes::new(), now: wall() };
    store.carry_out(call).await.map(|_| ())
}

/// The decision, or why it is not known.
async fn ask(coordinator: &Client, branch: &BranchName) -> Result<Decision, String> {
    let txn = branch.txn.to_string();
    let call = transport::Call::get(format!("/v1/transactions/{}", escape(&txn)))
        .with(header::BRANCH, &branch.to_string())
        .expect("the name of a branch fits a header");
    let reply = match coordinator.once(&call, INQUIRY_TIMEOUT_MS).await {
        Heard::Reply(reply) => reply,
        Heard::NotSent(cause) | Heard::Lost(cause) => return Err(cause),
    };
    match reply.meaning() {
        Meaning::Done(body) => match serde_json::from_slice::<TransactionView>(&body) {
            Ok(view) if view.id == txn => decision(&view).ok_or("it is not decided".to_owned()),
            Ok(view) => Err(format!("the answer is about transaction {}", view.id)),
            Err(error) => Err(format!("the answer is not understood: {error}")),
        },
        Meaning::Refused(problem)
            if Code::parse(&problem.code) == Some(Code::UnknownTransaction) =>
        {
            Ok(Decision::Abort)
        }
        Meaning::Refused(problem) | Meaning::TurnedAway(problem) => Err(problem.detail),
        Meaning::Unsettled(cause) | Meaning::Foreign(cause) => Err(cause),
    }
}

/// What the branch has to do, as far as that is settled.
fn decision(view: &TransactionView) -> Option<Decision> {
    // What an operator has settled counts for the branches that were left, ours among them.
    if let (Some(resolution), Some(_)) = (&view.resolution, view.outcome) {
        return Some(match resolution.outcome {
            ResolveOutcome::Commit => Decision::Commit,
            ResolveOutcome::Rollback => Decision::Abort,
        });
    }
    match (view.outcome?, view.status) {
        (OutcomeWord::Committed, _) => Some(Decision::Commit),
        (OutcomeWord::Aborted, _) => Some(Decision::Abort),
        // Another branch ended against the decision; this one still follows it.
        (OutcomeWord::Mixed, StatusWord::Committing | StatusWord::Committed) => {
            Some(Decision::Commit)
        }
        (OutcomeWord::Mixed, StatusWord::Aborting | StatusWord::Aborted) => Some(Decision::Abort),
        (
            OutcomeWord::Mixed,
            StatusWord::Initiated
            | StatusWord::Preparing
            | StatusWord::Prepared
            | StatusWord::Running
            | StatusWord::Compensating
            | StatusWord::Completed
            | StatusWord::Compensated
            | StatusWord::NeedsAttention,
        )
        // A saga: its steps never wait for an outcome.
        | (
            OutcomeWord::Completed | OutcomeWord::Compensated | OutcomeWord::NeedsAttention,
            _,
        ) => None,
    }
}

async fn prune<S: Store>(store: &S, retention_ms: u64) -> Result<(), StoreError> {
    let before = Timestamp(wall().0.saturating_sub(retention_ms));
    while store.prune(before, PRUNE_MAX).await? == PRUNE_MAX {
        tokio::task::yield_now().await;
    }
    Ok(())
}
