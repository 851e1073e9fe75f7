//! Lets go of what a dead owner held prepared, before the rest of what it left open is read.
//!
//! Of thousands that it left one may hold the lock that everybody waits for. Once its epoch is raised
//! nobody else appends to it, so its own records say what recovery is about to do. What of that waits for no
//! new record is done at once, and all else is read after that: thousands of records would be in the way of
//! these few. Nothing rests on it: recovery does the same again, and hears the answers.
//!
//! # Invariant
//!
//! Nothing that another owner has begun after this claim is rolled back: that owner may be about to commit
//! it. Whoever was paused between his claim and his look finds that he is not the owner any more.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use unanimous_core::commit::CommitTxn;
use unanimous_core::id::{BranchId, BranchName, Epoch, Timestamp, TxnId};
use unanimous_core::txn::Txn;
use unanimous_core::{Effect, Input, Verb};
use unanimous_journal::{OnceFenced, Stored};
use unanimous_participants::{Call, Resource, Turn};

use super::coordinator::Shared;
use super::run::trace;
use crate::limits::{HELD_WAIT, RELEASE_WAIT};

/// What is to be done as soon as the shards are fenced. Returns when it is under way, or takes long.
pub(super) fn once_fenced(shared: &Arc<Shared>) -> OnceFenced {
    let (runtime, shared) = (Handle::current(), Arc::clone(shared));
    Box::new(move |claimed| {
        let (reading, read) = mpsc::channel();
        runtime.spawn(release(shared, claimed.to_vec(), reading));
        let _ = read.recv_timeout(RELEASE_WAIT); // Nothing is sent: the other end goes when it has read.
    })
}

/// What these resources hold prepared, as far as they say so soon.
pub(super) async fn list(
    resources: impl Iterator<Item = &Arc<dyn Resource>>,
) -> HashSet<BranchName> {
    let lists = resources.map(|resource| timeout(HELD_WAIT, resource.in_doubt(HELD_WAIT)));
    let lists = join_all(lists).await;
    let held = lists.into_iter().filter_map(|list| list.ok()?.ok()?).flatten();
    held.filter_map(|held| held.name.parse().ok()).collect()
}

async fn release(shared: Arc<Shared>, claimed: Vec<Epoch>, reading: mpsc::Sender<()>) {
    let mut held = list(shared.resources.iter().map(|(_, resource)| resource)).await;
    held.retain(|it| it.cluster == shared.cluster && shared.shards.contains(&it.txn.shard()));
    let txns: BTreeSet<TxnId> = held.iter().map(|it| it.txn).collect();
    let txns: Vec<TxnId> = txns.into_iter().collect();
    if txns.is_empty() {
        return;
    }
    let (of, asked) = (txns.clone(), Arc::clone(&shared));
    let look = move || {
        let read = asked.journal.read_all(&of);
        // Asked last: whoever has claimed since drives some of it, and may be about to commit it.
        let is_ours = asked.journal.epochs(&asked.shards).is_ok_and(|now| now == claimed);
        is_ours.then_some(read)
    };
    let Ok(Some(read)) = spawn_blocking(look).await else { return };
    drop(reading);
    let now = shared.clock.now();
    let mut calls = Vec::new();
    for (txn, stored) in txns.into_iter().zip(read) {
        // One that cannot be read, or is not known, is recovery's business alone.
        let Some(machine) = stored.ok().and_then(|stored| replay(&stored)) else { continue };
        for (branch, verb) in due(machine.clone(), now) {
            let name = BranchName { cluster: shared.cluster.clone(), txn, branch };
            if held.contains(&name)
                && let Some((resource, call)) = call(&shared, &machine, name, verb)
            {
                calls.push(resource.call(call));
            }
        }
    }
    drop(join_all(calls).await);
}

fn replay(stored: &[Stored]) -> Option<CommitTxn> {
    match Txn::replay(stored.iter().map(|stored| &stored.record)).ok()? {
        Txn::Commit(machine) => Some(machine),
        // What it holds is held by its steps, which are committed.
        Txn::Saga(_) => None,
    }
}

/// What recovery asks of branches without waiting for what it writes.
fn due(machine: CommitTxn, now: Timestamp) -> Vec<(BranchId, Verb)> {
    let step = Txn::Commit(machine).handle(now, Input::Resumed);
    let waits = !step.records.is_empty();
    let due = step.effects.into_iter().filter_map(|effect| match effect {
        Effect::Undo(branch) => Some((branch, Verb::Rollback)),
        Effect::Call(branch, verb @ (Verb::Commit | Verb::Rollback)) if !waits => {
            Some((branch, verb))
        }
        Effect::Call(..) | Effect::Tell(_) | Effect::WakeAt(_) => None,
    });
    due.collect()
}

fn call<'a>(
    shared: &'a Shared,
    machine: &CommitTxn,
    name: BranchName,
    verb: Verb,
) -> Option<(&'a Arc<dyn Resource>, Call)> {
    let durable = machine.durable();
    let about = durable.branch(name.branch)?;
    let (_, resource) = shared.resources.get(&about.resource)?;
    let begun = durable.begun();
    let call = Call {
        is_listed: true,
        verb,
        shape: begun.shape,
        work: about.work.clone(),
        returned: durable.result(name.branch).cloned().unwrap_or_default(),
        // Not the first: there was a life before this one.
        attempt: 2,
        trace: trace(name.txn, &begun.memo).child(name.branch),
        deadline: begun.deadline,
        patience: Duration::from_millis(shared.call_timeout_ms),
        turn: Turn::default(),
        name,
    };
    Some((resource, call))
}
