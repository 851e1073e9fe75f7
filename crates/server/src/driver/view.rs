//! How a machine looks to those outside.

use std::collections::BTreeMap;

use unanimous_api::{
    EventView, Kind, LogEvent, OutcomeWord, ParticipantView, ReasonView, ResolutionView,
    ResolveOutcome, StatusWord, TransactionView, VoteWord,
};
use unanimous_core::commit::{CommitTxn, Durable, Ending, Phase, Record};
use unanimous_core::id::{BranchId, BranchName, Timestamp, TxnId};
use unanimous_core::txn::{self, Txn};
use unanimous_core::{Decision, HeuristicKind, Opaque, Outcome, Resolution, Vote};
use unanimous_journal::Stored;
use unanimous_participants::returned;

use super::memo::{About, Memo, alert_of, notice_of};
use super::saga_view;
use crate::resources::Resources;

/// What a view needs besides the machine.
pub(crate) struct Frame<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) resources: &'a Resources,
    pub(crate) txn: TxnId,
    pub(crate) begun_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    /// Records that the journal has of it.
    pub(crate) version: u32,
}

impl Frame<'_> {
    /// Shows a machine that is driven here, or was rebuilt from the journal.
    pub(crate) fn show(&self, machine: &Txn) -> TransactionView {
        let memo = Memo::read(machine.memo());
        let told_by = |notice: TxnId| memo.webhook.as_ref().map(|_| notice.to_string());
        let view = TransactionView {
            id: self.txn.to_string(),
            kind: kind(machine.kind()),
            status: status(machine),
            outcome: outcome(machine),
            reason: None,
            needs_attention: false,
            version: self.version,
            state: None,
            participants: Vec::new(),
            steps: Vec::new(),
            attention: Vec::new(),
            resolution: None,
            webhook: told_by(notice_of(self.txn, About::End)),
            attention_webhook: alert_of(self.txn, machine.attentions()).and_then(told_by),
            saga: memo.saga,
            idempotency_key: machine.key().map(|key| key.text.to_string()),
            timeout_ms: 0,
            initiated_at_ms: self.begun_at.0,
            updated_at_ms: self.updated_at.0,
            coordinator: self.cluster.to_owned(),
        };
        match machine {
            Txn::Commit(machine) => self.two_phases(view, machine),
            Txn::Saga(saga) => saga_view::complete(view, saga, |step| {
                branch_name(self.cluster, self.txn, step).to_string()
            }),
        }
    }

    fn two_phases(&self, view: TransactionView, machine: &CommitTxn) -> TransactionView {
        let durable = machine.durable();
        let participants = (0_u16..).zip(durable.branches());
        TransactionView {
            reason: durable.reason().map(|(branch, reason)| ReasonView {
                participant: branch
                    .and_then(|branch| durable.branch(branch))
                    .map(|branch| branch.name.to_string()),
                step: None,
                kind: reason.kind.to_string(),
                detail: reason.detail.to_string(),
            }),
            needs_attention: durable.phase() == Phase::Attention,
            participants: participants
                .map(|(index, _)| self.participant(machine, BranchId(index)))
                .collect(),
            resolution: durable.resolution().map(resolution_view),
            timeout_ms: durable.begun().timeout_ms,
            ..view
        }
    }

    fn participant(&self, machine: &CommitTxn, id: BranchId) -> ParticipantView {
        let durable = machine.durable();
        let branch = durable.branch(id).expect("it is one of the branches");
        let progress = machine.progress(id);
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

/// What somebody who watches is told.
pub(super) fn event(txn: TxnId, machine: &Txn, version: u32, now: Timestamp) -> EventView {
    let event = EventView {
        id: txn.to_string(),
        kind: kind(machine.kind()),
        status: status(machine),
        outcome: outcome(machine),
        at_ms: now.0,
        version,
        state: None,
        steps: BTreeMap::new(),
    };
    match machine {
        Txn::Commit(_) => event,
        Txn::Saga(saga) => EventView {
            state: saga_view::state(saga.durable()),
            steps: saga_view::words(saga),
            ..event
        },
    }
}

/// The word for a shape.
pub(crate) fn kind(kind: txn::Kind) -> Kind {
    match kind {
        txn::Kind::Atomic => Kind::Atomic,
        txn::Kind::Tcc => Kind::Tcc,
        txn::Kind::Saga => Kind::Saga,
        txn::Kind::Message => Kind::Message,
    }
}

pub(super) fn resolution_view(resolution: &Resolution) -> ResolutionView {
    ResolutionView {
        outcome: match resolution.outcome {
            Decision::Commit => ResolveOutcome::Commit,
            Decision::Abort => ResolveOutcome::Rollback,
        },
        by: resolution.by.to_string(),
        reason: resolution.reason.to_string(),
    }
}

/// The name a resource knows a branch by.
pub(crate) fn branch_name(cluster: &str, txn: TxnId, branch: BranchId) -> BranchName {
    BranchName { cluster: cluster.to_owned(), txn, branch }
}

/// The word for where a transaction stands.
pub(crate) fn status(machine: &Txn) -> StatusWord {
    match machine {
        Txn::Commit(machine) => status_of_phases(machine.durable()),
        Txn::Saga(saga) => saga_view::status(saga.durable()),
    }
}

fn status_of_phases(durable: &Durable) -> StatusWord {
    match (durable.phase(), durable.decision()) {
        (Phase::Active, _) => StatusWord::Initiated,
        (Phase::Preparing | Phase::Delegated(_), _) => StatusWord::Preparing,
        (Phase::Committing, _) => StatusWord::Committing,
        (Phase::Aborting, _) => StatusWord::Aborting,
        (Phase::Attention | Phase::Ended(_), Some(Decision::Commit)) => StatusWord::Committed,
        (Phase::Attention | Phase::Ended(_), Some(Decision::Abort) | None) => StatusWord::Aborted,
    }
}

fn outcome(machine: &Txn) -> Option<OutcomeWord> {
    match machine {
        Txn::Commit(machine) => {
            let word = |outcome| outcome_word(machine.durable().begun().shape.into(), outcome);
            machine.durable().outcome().map(word)
        }
        Txn::Saga(saga) => match machine.ended() {
            Some(outcome) => Some(outcome_word(machine.kind(), outcome)),
            None if saga.durable().needs_attention() => Some(OutcomeWord::NeedsAttention),
            None => saga.durable().is_published().then_some(OutcomeWord::Committed),
        },
    }
}

/// The word for how a transaction ended.
pub(crate) fn outcome_word(kind: txn::Kind, outcome: Outcome) -> OutcomeWord {
    match (outcome, kind) {
        (Outcome::Committed, txn::Kind::Saga) => OutcomeWord::Completed,
        (Outcome::Aborted, txn::Kind::Saga) => OutcomeWord::Compensated,
        (Outcome::Committed, txn::Kind::Atomic | txn::Kind::Tcc | txn::Kind::Message) => {
            OutcomeWord::Committed
        }
        (Outcome::Aborted, txn::Kind::Atomic | txn::Kind::Tcc | txn::Kind::Message) => {
            OutcomeWord::Aborted
        }
        (Outcome::Mixed, _) => OutcomeWord::Mixed,
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
    for Stored { at, record, .. } in records {
        let (event, detail, branch) = match record {
            txn::Record::Commit(record) => {
                names.extend(named(record));
                line(record)
            }
            txn::Record::Saga(record) => {
                names.extend(saga_view::named(record));
                saga_view::line(record, &names)
            }
        };
        let participant = branch.and_then(|branch| names.get(branch.index()).cloned());
        events.push(LogEvent { at_ms: at.0, event: event.to_owned(), detail, participant });
    }
    events
}

/// The names of the participants that a record adds.
fn named(record: &Record) -> Vec<String> {
    match record {
        Record::Begun(begun) => begun.branches.iter().map(|it| it.name.to_string()).collect(),
        Record::Enlisted(branch) => vec![branch.name.to_string()],
        Record::Preparing
        | Record::Delegated(_)
        | Record::Decided { .. }
        | Record::Finished(..)
        | Record::Resolved(_) => Vec::new(),
    }
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
