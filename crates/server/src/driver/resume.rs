//! Takes over what a former life left open.
//!
//! The only recovery there is: replay, then the ordinary `handle(Resumed)`, once everything is there that
//! it may come across. Of thousands that were open one may hold a lock that everybody waits for, so those
//! come first that hold any: what is decided, and what is prepared somewhere.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;
use unanimous_core::Input;
use unanimous_core::id::{BranchName, Timestamp, TxnId};
use unanimous_core::txn::Txn;
use unanimous_journal::{JournalError, OpenTxn};

use super::release;
use super::run::{ById, Driver, Live, trace};
use crate::limits::{RESUMED_AFTER, RESUMED_EVERY, RESUMED_PER_ROUND, RESUMED_WITHIN};

/// What is open and has not been resumed: undecided, and without locks as far as is known. Nobody waits for
/// it but those who asked for it, and they are told when it has been.
#[derive(Default)]
pub(super) struct Later {
    txns: VecDeque<TxnId>,
    waiting: HashSet<TxnId, BuildHasherDefault<ById>>,
    /// When the next of them are resumed.
    at: Option<Instant>,
    every: Duration,
}

impl Later {
    fn wait(&mut self, txns: Vec<TxnId>) {
        let rounds = txns.len().div_ceil(RESUMED_PER_ROUND).max(1) as u32;
        self.every = RESUMED_EVERY.min(RESUMED_WITHIN / rounds);
        self.at = (!txns.is_empty()).then(|| Instant::now() + RESUMED_AFTER);
        self.waiting = txns.iter().copied().collect();
        self.txns = txns.into();
    }

    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Takes one out of those that wait, if it is among them.
    pub(super) fn take(&mut self, txn: TxnId) -> bool {
        self.at.is_some() && self.waiting.remove(&txn)
    }

    /// Those whose turn it is.
    fn next(&mut self) -> Vec<TxnId> {
        let mut next: Vec<TxnId> = Vec::with_capacity(RESUMED_PER_ROUND);
        while next.len() < RESUMED_PER_ROUND
            && let Some(txn) = self.txns.pop_front()
        {
            if self.waiting.remove(&txn) {
                next.push(txn);
            }
        }
        // Counted from when it was to be, so that no time is lost by what comes between.
        self.at = self.at.filter(|_| !self.txns.is_empty()).map(|at| at + self.every);
        next
    }
}

impl Driver {
    /// Rebuilds what a former life left open.
    pub(super) fn load(&mut self, open: OpenTxn) {
        self.look_at_the_clock();
        let records = open.records.and_then(|records| {
            let machine = Txn::replay(records.iter().map(|stored| &stored.record))
                .map_err(|misfit| misfit.to_string())?;
            Ok((records, machine))
        });
        let (records, machine) = match records {
            Ok(replayed) => replayed,
            Err(why) => {
                tracing::error!(txn = %open.txn, why, "transaction set aside: it cannot be read");
                self.shared.metrics.quarantined.inc();
                return;
            }
        };
        if let Some(key) = machine.key() {
            self.keys.insert(key, open.txn);
        }
        let begun_at = records.first().map_or(Timestamp(0), |stored| stored.at);
        let trace = trace(open.txn, machine.memo());
        let live = Live {
            calls_before: 1,
            records: u32::try_from(records.len()).expect("bounded by the branches"),
            updated_at: records.last().map_or(Timestamp(0), |stored| stored.at),
            ..Live::new(machine, begun_at, trace)
        };
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        self.live.insert(open.txn, live);
    }

    /// Finds out who was told what of all that is loaded.
    ///
    /// # Errors
    ///
    /// [`JournalError`] if the journal cannot be read.
    pub(super) fn remember_alerts(&mut self) -> Result<(), JournalError> {
        let open: Vec<TxnId> = self.live.keys().copied().collect();
        open.into_iter().try_for_each(|txn| self.remember_alert(txn))
    }

    /// Resumes all that is loaded that may hold locks. The others follow by and by, if they are many.
    pub(super) async fn resume(&mut self) {
        let open = self.live.iter().map(|(&txn, live)| (txn, live.can_be_undone()));
        let (undecided, decided): (Vec<_>, Vec<_>) = open.partition(|&(_, is_open)| is_open);
        let txns = |of: Vec<(TxnId, bool)>| of.into_iter().map(|(txn, _)| txn).collect::<Vec<_>>();
        let (undecided, decided) = (txns(undecided), txns(decided));
        self.resume_all(&decided).await;
        if undecided.len() <= RESUMED_PER_ROUND {
            return self.resume_all(&undecided).await;
        }
        self.held = self.find_held().await;
        let held: HashSet<TxnId> = self.held.iter().map(|name| name.txn).collect();
        let (first, last): (Vec<_>, Vec<_>) =
            undecided.into_iter().partition(|txn| held.contains(txn));
        self.resume_all(&first).await;
        self.later.wait(last);
    }

    /// Resumes some at a time: what they have to do goes out before there is more of it.
    async fn resume_all(&mut self, txns: &[TxnId]) {
        for txns in txns.chunks(RESUMED_PER_ROUND) {
            self.resume_some(txns.iter().copied());
            yield_now().await;
        }
    }

    /// Resumes those whose turn it is, of those that can wait.
    pub(super) fn resume_next(&mut self) {
        let txns = self.later.next();
        self.resume_some(txns.into_iter());
    }

    fn resume_some(&mut self, txns: impl Iterator<Item = TxnId>) {
        self.look_at_the_clock();
        for txn in txns {
            self.feed(txn, Input::Resumed);
            self.settle_answers();
        }
    }

    /// What is prepared at the resources of all that is loaded, as far as they say so soon.
    async fn find_held(&self) -> HashSet<BranchName> {
        let machines = self.live.values().filter_map(Live::commit);
        let used: BTreeSet<&Arc<str>> = machines
            .flat_map(|it| it.durable().branches())
            .map(|branch| &branch.resource)
            .collect();
        let used = used.into_iter().filter_map(|name| self.shared.resources.get(name));
        let mut held = release::list(used.map(|(_, resource)| resource)).await;
        held.retain(|name| self.live.contains_key(&name.txn));
        held
    }
}
