//! Takes over what a former life left open.
//!
//! The only recovery there is: replay, then the ordinary `handle(Resumed)`, once everything is there that
//! it may come across. Of thousands that were open one may hold a lock that everybody waits for, so those
//! come first that hold any: what is decided, and what is prepared somewhere.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use unanimous_core::Input;
use unanimous_core::id::{BranchName, Timestamp, TxnId};
use unanimous_core::txn::Txn;
use unanimous_journal::{JournalError, OpenTxn};

use super::run::{Driver, Live, trace};
use crate::limits::{
    HELD_WAIT, RESUMED_EVERY, RESUMED_EVERY_MIN, RESUMED_PER_ROUND, RESUMED_WITHIN,
};

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

    /// Resumes all that is loaded, what holds locks first.
    pub(super) async fn resume(&mut self) {
        let open = self.live.iter().map(|(&txn, live)| (txn, live.can_be_undone()));
        let (undecided, decided): (Vec<_>, Vec<_>) = open.partition(|&(_, is_open)| is_open);
        let txns = |of: Vec<(TxnId, bool)>| of.into_iter().map(|(txn, _)| txn).collect::<Vec<_>>();
        let (undecided, decided) = (txns(undecided), txns(decided));
        self.resume_all(&decided, Duration::ZERO).await;
        if undecided.len() <= RESUMED_PER_ROUND {
            return self.resume_all(&undecided, Duration::ZERO).await;
        }
        self.held = self.find_held().await;
        let held: HashSet<TxnId> = self.held.iter().map(|name| name.txn).collect();
        let (first, last): (Vec<_>, Vec<_>) =
            undecided.into_iter().partition(|txn| held.contains(txn));
        self.resume_all(&first, Duration::ZERO).await;
        // Nobody waits for these: whoever holds locks, here or at another node, has the machine first.
        let rounds = last.len().div_ceil(RESUMED_PER_ROUND).max(1) as u32;
        let pause = RESUMED_EVERY.min(RESUMED_WITHIN / rounds);
        // Of so many that there is hardly time between them no round waits: sleep is never as short.
        let pause = if pause < RESUMED_EVERY_MIN { Duration::ZERO } else { pause };
        self.resume_all(&last, pause).await;
    }

    /// Resumes some at a time: what they have to do goes out before there is more of it.
    async fn resume_all(&mut self, txns: &[TxnId], pause: Duration) {
        for txns in txns.chunks(RESUMED_PER_ROUND) {
            self.look_at_the_clock();
            for &txn in txns {
                self.feed(txn, Input::Resumed);
                self.settle_answers();
            }
            match pause {
                Duration::ZERO => yield_now().await,
                pause => sleep(pause).await,
            }
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
        let lists = used.map(|(_, resource)| timeout(HELD_WAIT, resource.in_doubt(HELD_WAIT)));
        let lists = join_all(lists).await;
        let held = lists.into_iter().filter_map(|list| list.ok()?.ok()?).flatten();
        let names = held.filter_map(|held| held.name.parse().ok());
        names.filter(|name: &BranchName| self.live.contains_key(&name.txn)).collect()
    }
}
