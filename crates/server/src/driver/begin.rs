//! How transactions begin: what a caller in this process asks for, and what the driver does with it.

use std::sync::atomic::Ordering;

use unanimous_api::Wait;
use unanimous_core::Opaque;
use unanimous_core::commit::{self, Key, Shape};
use unanimous_core::id::{Timestamp, TxnId};
use unanimous_core::saga::{self, Plan};
use unanimous_core::txn::{Begun, Txn};
use unanimous_participants::Trace;

use super::coordinator::Shared;
use super::event::{AskError, CheckedKey, IfRunning, Order, Waiter, What};
use super::memo::Webhook;
use super::order::InOrder;
use super::run::{Driver, Live, trace};
use crate::limits::KEY_CHECK_MS_MAX;

/// The identity that a transaction is given before it begins, of a shard of this coordinator.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// The identity.
    pub txn: TxnId,
    /// Whether several requests may ask for it: one that comes when it has ended does not begin it
    /// once more.
    pub repeats: bool,
}

/// A transaction to begin.
pub struct BeginOrder {
    /// Its identity; a new one if there is none.
    pub txn: Option<Given>,
    /// What its two phases are to its participants.
    pub shape: Shape,
    /// Milliseconds within which it must be decided.
    pub timeout_ms: u64,
    /// Name, resource and work of each participant; none if the client enlists them later.
    pub branches: Vec<(String, String, Opaque)>,
    /// The client's own name for it.
    pub key: Option<Key>,
    /// What to do if that name is in use.
    pub running: IfRunning,
    /// When to answer.
    pub wait: Wait,
    /// The trace it is part of; one of its own if there is none.
    pub trace: Option<Trace>,
    /// Who is told of its end.
    pub webhook: Option<Webhook>,
}

/// A saga to begin.
pub struct SagaOrder {
    /// Its identity; a new one if there is none.
    pub txn: Option<Given>,
    /// Its steps; [`unanimous_core::saga::check`] has nothing against them.
    pub steps: Vec<Plan>,
    /// What they are given, as JSON.
    pub input: Opaque,
    /// Milliseconds within which it must come past its pivot or to its end.
    pub timeout_ms: Option<u64>,
    /// Milliseconds before it starts.
    pub delay_ms: Option<u64>,
    /// The client's own name for it.
    pub key: Option<Key>,
    /// What to do if that name is in use.
    pub running: IfRunning,
    /// When to answer.
    pub wait: Wait,
    /// The trace it is part of; one of its own if there is none.
    pub trace: Option<Trace>,
    /// Who is told of its end.
    pub webhook: Option<Webhook>,
    /// By which name it was begun, if it was.
    pub saga: Option<String>,
}

impl Driver {
    pub(super) fn begin(&mut self, order: Order) {
        let Order { txn, repeats, what, key, memo, waiter } = order;
        if !self.accepting {
            return waiter.want.refuse(AskError::ShuttingDown);
        }
        if self.live.contains_key(&txn) {
            // A node has sent it twice.
            return self.join(txn, waiter);
        }
        let now = self.now();
        if let Some(checked_at) = repeats {
            // It began and ended after the journal was asked about it.
            if self.names.contains(txn) {
                return waiter.want.refuse(AskError::KeyTaken(txn));
            }
            if now.since_ms(checked_at) > KEY_CHECK_MS_MAX {
                return waiter.want.refuse(AskError::Overloaded("the request waited too long"));
            }
        }
        let (key, waiter) = match key {
            None => (None, waiter),
            Some(checked) => match self.key_is_free(checked, waiter, now) {
                Some((key, waiter)) => (Some(key), waiter),
                None => return,
            },
        };
        let trace = trace(txn, &memo);
        let order = self.in_order(&what, now);
        let (machine, step) = Txn::begin(begun(what, key.clone(), memo, now), now);
        let repeats = repeats.is_some();
        let live = Live { waiters: vec![waiter], order, repeats, ..Live::new(machine, now, trace) };
        if let Some(key) = &key {
            self.keys.insert(key, txn);
        }
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        self.live.insert(txn, live);
        self.take(txn, now, step);
    }

    fn in_order(&self, what: &What, now: Timestamp) -> Option<InOrder> {
        let Shared { resources, contention, branch_order, .. } = &*self.shared;
        match what {
            What::Branches { branches, .. } => {
                InOrder::of(branches, resources, contention, *branch_order, now)
            }
            What::Steps { .. } => None,
        }
    }

    /// Hands key and waiter back if nobody has begun under the key; answers the waiter otherwise.
    fn key_is_free(
        &mut self,
        checked: CheckedKey,
        waiter: Waiter,
        now: Timestamp,
    ) -> Option<(Key, Waiter)> {
        let CheckedKey { key, checked_at, running } = checked;
        let Some(&(txn, fingerprint)) = self.keys.by_text.get(&key.text) else {
            if now.since_ms(checked_at) > KEY_CHECK_MS_MAX {
                waiter.want.refuse(AskError::Overloaded("the request waited too long"));
                return None;
            }
            return Some((key, waiter));
        };
        let live = self.live.contains_key(&txn);
        if fingerprint != key.fingerprint {
            waiter.want.refuse(AskError::KeyReused(txn));
        } else if live && running == IfRunning::Join {
            self.join(txn, waiter);
        } else if live {
            waiter.want.refuse(AskError::KeyInUse(txn));
        } else {
            waiter.want.refuse(AskError::KeyTaken(txn));
        }
        None
    }
}

fn begun(what: What, key: Option<Key>, memo: Opaque, now: Timestamp) -> Begun {
    match what {
        What::Branches { shape, mode, timeout_ms, branches } => Begun::Commit(commit::Begun {
            shape,
            mode,
            timeout_ms,
            deadline: now.after_ms(timeout_ms),
            branches,
            key,
            memo,
        }),
        What::Steps { steps, input, timeout_ms, delay_ms } => {
            let start_at = delay_ms.map(|delay_ms| now.after_ms(delay_ms));
            let start = start_at.unwrap_or(now);
            let deadline = timeout_ms.map(|timeout_ms| start.after_ms(timeout_ms));
            Begun::Saga(saga::Begun { start_at, timeout_ms, deadline, steps, input, key, memo })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use unanimous_core::Outcome;
    use unanimous_core::id::ShardId;
    use unanimous_journal::{FileJournal, Journal, Options};
    use unanimous_participants::local::{Local, agree};

    use super::super::{BranchOrder, Coordinator, CoordinatorOptions, Ears, events};
    use super::*;
    use crate::{Metrics, Resources};

    fn order(txn: TxnId) -> BeginOrder {
        BeginOrder {
            txn: Some(Given { txn, repeats: true }),
            shape: Shape::Atomic,
            timeout_ms: 10_000,
            branches: vec![("wallet".into(), "wallet".into(), Opaque::default())],
            key: None,
            running: IfRunning::Join,
            wait: Wait::Finished,
            trace: None,
            webhook: None,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_has_ended_under_a_given_identity_does_not_begin_once_more() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ears = Ears::new();
        let journal = FileJournal::open(folder.path(), Options::default(), Arc::clone(&ears) as _);
        let journal = Arc::new(journal.expect("a new folder"));
        let options = CoordinatorOptions {
            shards: ShardId::all().collect(),
            cluster: journal.instance().to_owned(),
            drivers: 1,
            call_timeout_ms: 1_000,
            branch_order: BranchOrder::default(),
            contention: Arc::default(),
            open_max: 10,
            queue_max: 10,
            metrics: Arc::new(Metrics::new()),
            events: events(),
        };
        let resources = Resources::default().with("wallet", Arc::new(Local::new(agree)));
        let coordinator = Coordinator::start(options, journal, ears, resources);
        let coordinator = coordinator.expect("a new journal");

        let txn = TxnId::mint(1_763_700_000_000, ShardId::of(3), 1);
        let first = coordinator.run(order(txn)).await.expect("it is there");
        assert!(matches!(first, Ok(Outcome::Committed)), "{first:?}");
        // As by a request that had asked the journal before the first one came.
        let late = coordinator.run(order(txn)).await.expect("it is there");
        assert!(matches!(late, Err(AskError::KeyTaken(other)) if other == txn), "{late:?}");
        coordinator.close().await.expect("nothing is lost to another coordinator");
    }
}
