//! What a list says of a transaction, from its records.

use unanimous_core::commit::{Durable, Phase, Record as Commit};
use unanimous_core::id::TxnId;
use unanimous_core::txn::Record;
use unanimous_core::{Decision, Outcome};

use crate::entry::Stored;
use crate::query::{Filter, Status, Summary};

/// Folds the records of one transaction; `None` if no machine can have written them.
pub(crate) fn summarize(txn: TxnId, stored: &[Stored]) -> Option<Summary> {
    let records = stored.iter().map(|stored| match &stored.record {
        Record::Commit(record) => record,
    });
    let durable = Durable::replay(records).ok()?;
    let mut resources: Vec<String> = Vec::new();
    for branch in durable.branches() {
        if !resources.iter().any(|name| **name == *branch.resource) {
            resources.push(branch.resource.to_string());
        }
    }
    Some(Summary {
        txn,
        shape: durable.begun().shape,
        status: status(&durable),
        outcome: durable.outcome(),
        begun_at: stored.first()?.at,
        updated_at: stored.last()?.at,
        resources,
        key: durable.begun().key.as_ref().map(|key| key.text.to_string()),
    })
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
            && self.shape.is_none_or(|shape| shape == row.shape)
            && self.resource.as_ref().is_none_or(|name| row.resources.contains(name))
            && self.begun_before.is_none_or(|before| row.begun_at < before)
            && self.after.is_none_or(|after| row.txn < after)
    }

    /// Whether ended transactions, open ones, or both can be shown.
    pub(crate) fn scope(&self) -> Scope {
        match self.status {
            None => Scope::All,
            Some(Status::Committed | Status::Aborted) => Scope::Ended,
            Some(Status::Initiated | Status::Preparing | Status::Committing | Status::Aborting) => {
                Scope::Open
            }
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

/// The idempotency key that a transaction with this first record was begun under.
pub(crate) fn key_of(record: &Record) -> Option<&std::sync::Arc<str>> {
    match record {
        Record::Commit(Commit::Begun(begun)) => begun.key.as_ref().map(|key| &key.text),
        Record::Commit(
            Commit::Enlisted(_)
            | Commit::Preparing
            | Commit::Delegated(_)
            | Commit::Decided { .. }
            | Commit::Finished(..)
            | Commit::Resolved(_),
        ) => None,
    }
}
