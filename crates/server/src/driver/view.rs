//! How a machine looks to those outside.

use unanimous_api::{
    Kind, LogEvent, OutcomeWord, ParticipantView, ReasonView, ResolutionView, ResolveOutcome,
    StatusWord, TransactionView, VoteWord,
};
use unanimous_core::commit::{CommitTxn, Durable, Ending, Phase, Record, Shape};
use unanimous_core::id::{BranchId, BranchName, Timestamp, TxnId};
use unanimous_core::txn;
use unanimous_core::{Decision, HeuristicKind, Opaque, Outcome, Vote};
use unanimous_journal::Stored;
use unanimous_participants::returned;

use crate::resources::Resources;

/// What a view needs besides the machine.
pub(crate) struct Frame<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) resources: &'a Resources,
    pub(crate) txn: TxnId,
    pub(crate) begun_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl Frame<'_> {
    /// Shows a machine that is driven here.
    pub(crate) fn live(&self, machine: &CommitTxn) -> TransactionView {
        self.show(machine.durable(), Some(machine))
    }

    /// Shows what the journal has.
    pub(crate) fn ended(&self, durable: &Durable) -> TransactionView {
        self.show(durable, None)
    }

    fn show(&self, durable: &Durable, machine: Option<&CommitTxn>) -> TransactionView {
        let begun = durable.begun();
        let participants = (0_u16..).zip(durable.branches());
        TransactionView {
            id: self.txn.to_string(),
            kind: kind(begun.shape),
            status: status(durable),
            outcome: durable.outcome().map(outcome_word),
            reason: durable.reason().map(|(branch, reason)| ReasonView {
                participant: branch
                    .and_then(|branch| durable.branch(branch))
                    .map(|branch| branch.name.to_string()),
                kind: reason.kind.to_string(),
                detail: reason.detail.to_string(),
            }),
            needs_attention: durable.phase() == Phase::Attention,
            participants: participants
                .map(|(index, _)| self.participant(durable, machine, BranchId(index)))
                .collect(),
            resolution: durable.resolution().map(|resolution| ResolutionView {
                outcome: match resolution.outcome {
                    Decision::Commit => ResolveOutcome::Commit,
                    Decision::Abort => ResolveOutcome::Rollback,
                },
                by: resolution.by.to_string(),
                reason: resolution.reason.to_string(),
            }),
            idempotency_key: begun.key.as_ref().map(|key| key.text.to_string()),
            timeout_ms: begun.timeout_ms,
            initiated_at_ms: self.begun_at.0,
            updated_at_ms: self.updated_at.0,
            coordinator: self.cluster.to_owned(),
        }
    }

    fn participant(
        &self,
        durable: &Durable,
        machine: Option<&CommitTxn>,
        id: BranchId,
    ) -> ParticipantView {
        let branch = durable.branch(id).expect("it is one of the branches");
        let progress = machine.and_then(|machine| machine.progress(id));
        let vote = durable.vote(id).or_else(|| progress.and_then(|it| it.vote()));
        let ending = durable.ending(id);
        let results = durable.result(id).map(Opaque::bytes).unwrap_or_default();
        ParticipantView {
            name: branch.name.to_string(),
            resource: branch.resource.to_string(),
            resource_type: self.resources.kind_of(&branch.resource).to_owned(),
            branch: branch_name(self.cluster, self.txn, id).to_string(),
            vote: vote.map(|vote| match vote {
                Vote::Yes => VoteWord::Yes,
                Vote::No => VoteWord::No,
                Vote::ReadOnly => VoteWord::ReadOnly,
            }),
            ack: ending.is_some(),
            heuristic: match ending {
                Some(Ending::Heuristic(kind)) => Some(heuristic_word(kind).to_owned()),
                Some(Ending::Done | Ending::Settled) | None => None,
            },
            attempts: progress.map_or(0, |progress| progress.attempts()),
            last_error: progress.and_then(|it| it.last_error()).map(str::to_owned),
            results: returned::results(results),
        }
    }
}

/// The word for a shape.
pub(crate) fn kind(shape: Shape) -> Kind {
    match shape {
        Shape::Atomic => Kind::Atomic,
        Shape::Tcc => Kind::Tcc,
    }
}

/// The name a resource knows a branch by.
pub(crate) fn branch_name(cluster: &str, txn: TxnId, branch: BranchId) -> BranchName {
    BranchName { cluster: cluster.to_owned(), txn, branch }
}

/// The word for where a transaction stands.
pub(crate) fn status(durable: &Durable) -> StatusWord {
    match (durable.phase(), durable.decision()) {
        (Phase::Active, _) => StatusWord::Initiated,
        (Phase::Preparing | Phase::Delegated(_), _) => StatusWord::Preparing,
        (Phase::Committing, _) => StatusWord::Committing,
        (Phase::Aborting, _) => StatusWord::Aborting,
        (Phase::Attention | Phase::Ended(_), Some(Decision::Commit)) => StatusWord::Committed,
        (Phase::Attention | Phase::Ended(_), Some(Decision::Abort) | None) => StatusWord::Aborted,
    }
}

pub(crate) fn outcome_word(outcome: Outcome) -> OutcomeWord {
    match outcome {
        Outcome::Committed => OutcomeWord::Committed,
        Outcome::Aborted => OutcomeWord::Aborted,
        Outcome::Mixed => OutcomeWord::Mixed,
    }
}

fn heuristic_word(kind: HeuristicKind) -> &'static str {
    match kind {
        HeuristicKind::Commit => "commit",
        HeuristicKind::Rollback => "rollback",
        HeuristicKind::Mixed => "mixed",
        HeuristicKind::Hazard => "hazard",
    }
}

/// One line of the log for each record.
pub(crate) fn log(records: &[Stored]) -> Vec<LogEvent> {
    let mut names: Vec<String> = Vec::new();
    let mut events = Vec::with_capacity(records.len());
    for Stored { at, record: txn::Record::Commit(record), .. } in records {
        let (event, detail, branch) = line(record);
        match record {
            Record::Begun(begun) => {
                names.extend(begun.branches.iter().map(|branch| branch.name.to_string()));
            }
            Record::Enlisted(branch) => names.push(branch.name.to_string()),
            Record::Preparing
            | Record::Delegated(_)
            | Record::Decided { .. }
            | Record::Finished(..)
            | Record::Resolved(_) => {}
        }
        let participant = branch.and_then(|branch| names.get(branch.index()).cloned());
        events.push(LogEvent { at_ms: at.0, event: event.to_owned(), detail, participant });
    }
    events
}

fn line(record: &Record) -> (&'static str, String, Option<BranchId>) {
    match record {
        Record::Begun(begun) => {
            let names: Vec<&str> = begun.branches.iter().map(|branch| &*branch.name).collect();
            let with = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
            let detail = format!("participants: {with}; timeout {} ms", begun.timeout_ms);
            ("begun", detail, None)
        }
        Record::Enlisted(branch) => {
            ("enlisted", format!("{} on resource {}", branch.name, branch.resource), None)
        }
        Record::Preparing => ("preparing", "commit was asked for".to_owned(), None),
        Record::Delegated(branch) => {
            ("delegated", "the only branch decides, in one phase".to_owned(), Some(*branch))
        }
        Record::Decided { decision: Decision::Commit, .. } => {
            ("decided", "commit".to_owned(), None)
        }
        Record::Decided { decision: Decision::Abort, reason: Some((branch, reason)), .. } => {
            ("decided", format!("abort: {}: {}", reason.kind, reason.detail), *branch)
        }
        Record::Decided { decision: Decision::Abort, reason: None, .. } => {
            ("decided", "abort".to_owned(), None)
        }
        Record::Finished(branch, Ending::Done) => {
            ("finished", "as decided".to_owned(), Some(*branch))
        }
        Record::Finished(branch, Ending::Settled) => {
            ("finished", "an operator vouches for it".to_owned(), Some(*branch))
        }
        Record::Finished(branch, Ending::Heuristic(kind)) => {
            ("finished", format!("by itself: heuristic {}", heuristic_word(*kind)), Some(*branch))
        }
        Record::Resolved(resolution) => {
            let outcome = match resolution.outcome {
                Decision::Commit => "commit",
                Decision::Abort => "rollback",
            };
            ("resolved", format!("{outcome} by {}: {}", resolution.by, resolution.reason), None)
        }
    }
}
