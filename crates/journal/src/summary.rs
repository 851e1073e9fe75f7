//! What a list says of a transaction, from its records.

use unanimous_core::commit::{Durable, Phase};
use unanimous_core::id::TxnId;
use unanimous_core::saga;
use unanimous_core::txn::Txn;
use unanimous_core::{Decision, Outcome};

use crate::entry::Stored;
use crate::query::{Filter, Status, Summary};

/// Folds the records of one transaction; `None` if no machine can have written them.
pub(crate) fn summarize(txn: TxnId, stored: &[Stored]) -> Option<Summary> {
    let machine = Txn::replay(stored.iter().map(|stored| &stored.record)).ok()?;
    let mut resources: Vec<String> = Vec::new();
    let mut takes_part = |resource: &str| {
        if !resources.iter().any(|name| name == resource) {
            resources.push(resource.to_owned());
        }
    };
    let (status, outcome) = match &machine {
        Txn::Commit(machine) => {
            let durable = machine.durable();
            durable.branches().iter().for_each(|branch| takes_part(&branch.resource));
            (status(durable), durable.outcome())
        }
        Txn::Saga(saga) => {
            let durable = saga.durable();
            for plan in &durable.begun().steps {
                let works = [plan.action.work(), plan.compensation.as_ref()];
                works.into_iter().flatten().for_each(|work| takes_part(&work.resource));
            }
            (status_of_saga(durable), machine.ended())
        }
    };
    Some(Summary {
        txn,
        kind: machine.kind(),
        status,
        outcome,
        begun_at: stored.first()?.at,
        updated_at: stored.last()?.at,
        resources,
        key: machine.key().map(|key| key.text.to_string()),
    })
}

fn status_of_saga(durable: &saga::Durable) -> Status {
    if durable.source().is_some() {
        return status_of_message(durable);
    }
    match durable.phase() {
        saga::Phase::Ended(_) if durable.reason().is_some() => Status::Compensated,
        saga::Phase::Ended(_) => Status::Completed,
        saga::Phase::Running | saga::Phase::Unwinding if durable.needs_attention() => {
            Status::NeedsAttention
        }
        saga::Phase::Running => Status::Running,
        saga::Phase::Unwinding => Status::Compensating,
    }
}

fn status_of_message(durable: &saga::Durable) -> Status {
    match durable.phase() {
        saga::Phase::Ended(_) if durable.reason().is_some() => Status::Aborted,
        saga::Phase::Ended(_) => Status::Committed,
        saga::Phase::Running | saga::Phase::Unwinding if durable.needs_attention() => {
            Status::NeedsAttention
        }
        saga::Phase::Running if durable.is_published() => Status::Committing,
        saga::Phase::Running => Status::Initiated,
        saga::Phase::Unwinding => Status::Aborting,
    }
}

fn status(durable: &Durable) -> Status {
    match (durable.phase(), durable.decision()) {
        (Phase::Active, _) => Status::Initiated,
        (Phase::Preparing | Phase::Delegated(_), _) => Status::Preparing,
        (Phase::Committing | Phase::Attention, Some(Decision::Commit)) => Status::Committing,
        (Phase::Committing | Phase::Aborting | Phase::Attention, _) => Status::Aborting,
        (Phase::Ended(Outcome::Committed), _) => Status::Committed,
        (Phase::Ended(Outcome::Aborted), _) => Status::Aborted,
        (Phase::Ended(Outcome::Mixed), Some(Decision::Commit)) => Status::Committed,
        (Phase::Ended(Outcome::Mixed), Some(Decision::Abort) | None) => Status::Aborted,
    }
}

impl Filter {
    /// Whether a list under this filter shows the transaction.
    pub(crate) fn shows(&self, row: &Summary) -> bool {
        self.status.is_none_or(|status| status == row.status)
            && self.kind.is_none_or(|kind| kind == row.kind)
            && self.resource.as_ref().is_none_or(|name| row.resources.contains(name))
            && self.begun_before.is_none_or(|before| row.begun_at < before)
            && self.after.is_none_or(|after| row.txn < after)
    }

    /// Whether ended transactions, open ones, or both can be shown.
    pub(crate) fn scope(&self) -> Scope {
        match self.status.map(Status::has_ended) {
            None => Scope::All,
            Some(true) => Scope::Ended,
            Some(false) => Scope::Open,
        }
    }
}

/// Which transactions a filter can let through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    All,
    Open,
    Ended,
}
