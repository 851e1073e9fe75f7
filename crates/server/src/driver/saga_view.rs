//! How a saga looks to those outside.

use std::collections::BTreeMap;

use serde_json::Value;
use unanimous_api::{AttentionView, ReasonView, StatusWord, StepView, StepWord, TransactionView};
use unanimous_core::Decision;
use unanimous_core::id::BranchId;
use unanimous_core::saga::{Action, Durable, Phase, Plan, Record, SagaTxn, Standing, Trouble};
use unanimous_participants::step;

use super::view::resolution_view;

/// Fills in what is told of sagas only.
pub(super) fn complete(
    view: TransactionView,
    saga: &SagaTxn,
    branch: impl Fn(BranchId) -> String,
) -> TransactionView {
    let durable = saga.durable();
    let name = |step: BranchId| durable.plan(step).map(|plan| plan.name.to_string());
    TransactionView {
        reason: durable.reason().map(|(step, reason)| ReasonView {
            participant: None,
            step: step.and_then(name),
            kind: reason.kind.to_string(),
            detail: reason.detail.to_string(),
        }),
        needs_attention: durable.needs_attention(),
        state: state(durable),
        steps: durable.steps().map(|step| shown(saga, step, branch(step))).collect(),
        attention: durable.steps().filter_map(|step| attention(durable, step)).collect(),
        resolution: durable.resolution().map(resolution_view),
        timeout_ms: timeout_ms(durable).unwrap_or_default(),
        ..view
    }
}

/// Milliseconds within which a saga must be past its pivot. That of a message is a local transaction.
pub(super) fn timeout_ms(saga: &Durable) -> Option<u64> {
    match saga.source().and_then(|source| saga.plan(source)).map(|plan| &plan.action) {
        Some(Action::Local(_, wait_ms)) => Some(*wait_ms),
        Some(Action::Call(_) | Action::Signal(_) | Action::Pause(_) | Action::Message(_))
        | None => saga.begun().timeout_ms,
    }
}

fn shown(saga: &SagaTxn, step: BranchId, branch: String) -> StepView {
    let durable = saga.durable();
    let plan = durable.plan(step).expect("it is one of the steps");
    let progress = saga.progress(step);
    let before = plan.after.iter().filter_map(|it| durable.plan(*it));
    let result = durable.result(step).filter(|result| !result.is_empty());
    let is_announced = durable.source() == Some(step) && durable.is_due(step);
    StepView {
        statement: is_announced.then(|| step::proof(&branch)),
        name: plan.name.to_string(),
        after: before.map(|plan| plan.name.to_string()).collect(),
        resource: plan.action.work().map(|work| work.resource.to_string()),
        branch,
        status: word(durable, step),
        state: plan.state.as_ref().map(|state| state.to_string()),
        attempts: progress.map_or(0, |progress| progress.attempts()),
        last_error: progress.and_then(|it| it.last_error()).map(str::to_owned),
        reason: durable.trouble(step).map(|reason| format!("{}: {}", reason.kind, reason.detail)),
        result: result.map(|it| serde_json::from_slice(it.bytes()).unwrap_or(Value::Null)),
        waits_until_ms: durable.until(step).filter(|_| durable.is_due(step)).map(|until| until.0),
    }
}

/// The word for where each step stands.
pub(super) fn words(saga: &SagaTxn) -> BTreeMap<String, StepWord> {
    let durable = saga.durable();
    let shown = |step| {
        let name = durable.plan(step).map_or("", |plan: &Plan| &*plan.name);
        (name.to_owned(), word(durable, step))
    };
    durable.steps().map(shown).collect()
}

fn word(saga: &Durable, step: BranchId) -> StepWord {
    match (saga.standing(step), saga.phase()) {
        (Standing::Waiting, Phase::Running) if saga.is_due(step) => StepWord::Acting,
        (Standing::Waiting, Phase::Running | Phase::Ended(_)) => StepWord::Waiting,
        (Standing::Waiting | Standing::Acted, Phase::Unwinding) => StepWord::Compensating,
        (Standing::Announced, _) if saga.is_sending(step) => StepWord::Acting,
        (Standing::Announced, _) => StepWord::Announced,
        (Standing::Acted, Phase::Running | Phase::Ended(_)) => StepWord::Acted,
        (Standing::Refused, _) => StepWord::Refused,
        (Standing::Unreached, _) => StepWord::Unreached,
        (Standing::Undone, _) => StepWord::Compensated,
        (Standing::Kept, _) => StepWord::Kept,
        (Standing::Stuck(_), _) => StepWord::Stuck,
        (Standing::Skipped, _) => StepWord::Skipped,
    }
}

/// The state of the first step that acts and has one; otherwise that of the last that has acted.
pub(super) fn state(saga: &Durable) -> Option<String> {
    let named = || saga.steps().filter_map(|step| Some((step, saga.plan(step)?.state.as_ref()?)));
    let acting = named().find(|&(step, _)| word(saga, step) == StepWord::Acting);
    let acted = || named().filter(|&(step, _)| saga.standing(step) == Standing::Acted).last();
    acting.or_else(acted).map(|(_, state)| state.to_string())
}

/// What an operator has to know of a step that is stuck.
fn attention(saga: &Durable, step: BranchId) -> Option<AttentionView> {
    let Standing::Stuck(_) = saga.standing(step) else { return None };
    let reason = saga.trouble(step)?;
    let resolve = match saga.phase() {
        Phase::Running => {
            ["resolve --outcome commit: it was done by hand", "resolve --outcome rollback: skip it"]
        }
        Phase::Unwinding | Phase::Ended(_) => [
            "resolve --outcome rollback: it was undone by hand",
            "resolve --outcome commit: skip it",
        ],
    };
    let actions = ["retry"].into_iter().chain(resolve);
    Some(AttentionView {
        step: saga.plan(step)?.name.to_string(),
        error: format!("{}: {}", reason.kind, reason.detail),
        actions: actions.map(str::to_owned).collect(),
    })
}

/// The word for where a saga stands.
pub(super) fn status(saga: &Durable) -> StatusWord {
    if saga.source().is_some() {
        return status_of_message(saga);
    }
    match saga.phase() {
        Phase::Ended(_) if saga.reason().is_some() => StatusWord::Compensated,
        Phase::Ended(_) => StatusWord::Completed,
        Phase::Running | Phase::Unwinding if saga.needs_attention() => StatusWord::NeedsAttention,
        Phase::Running => StatusWord::Running,
        Phase::Unwinding => StatusWord::Compensating,
    }
}

fn status_of_message(saga: &Durable) -> StatusWord {
    match saga.phase() {
        Phase::Ended(_) if saga.reason().is_some() => StatusWord::Aborted,
        Phase::Ended(_) => StatusWord::Committed,
        Phase::Running | Phase::Unwinding if saga.needs_attention() => StatusWord::NeedsAttention,
        Phase::Running if saga.is_published() => StatusWord::Committing,
        Phase::Running => StatusWord::Initiated,
        Phase::Unwinding => StatusWord::Aborting,
    }
}

/// The names of the steps that a record adds.
pub(super) fn named(record: &Record) -> Vec<String> {
    match record {
        Record::Begun(begun) => begun.steps.iter().map(|step| step.name.to_string()).collect(),
        Record::Started
        | Record::Timed(..)
        | Record::Acted(..)
        | Record::Announced(_)
        | Record::Refused(..)
        | Record::Unwinding { .. }
        | Record::Undone(_)
        | Record::Kept(_)
        | Record::Stuck(..)
        | Record::Unstuck(_)
        | Record::Resolved(_) => Vec::new(),
    }
}

/// One line of the log.
pub(super) fn line(record: &Record, names: &[String]) -> (&'static str, String, Option<BranchId>) {
    match record {
        Record::Begun(begun) => {
            let timeout = match begun.timeout_ms {
                Some(timeout_ms) => format!("timeout {timeout_ms} ms"),
                None => "no timeout".to_owned(),
            };
            ("begun", format!("steps: {}; {timeout}", names.join(", ")), None)
        }
        Record::Started => ("started", "its time has come".to_owned(), None),
        Record::Timed(step, until) => ("waiting", format!("until {} ms", until.0), Some(*step)),
        Record::Acted(step, _) => ("acted", String::new(), Some(*step)),
        Record::Announced(step) => {
            ("announced", "to be sent when the saga can only go on".to_owned(), Some(*step))
        }
        Record::Refused(step, reason) => {
            ("refused", format!("{}: {}", reason.kind, reason.detail), Some(*step))
        }
        Record::Unwinding { step, reason } => {
            ("compensating", format!("{}: {}", reason.kind, reason.detail), *step)
        }
        Record::Undone(step) => ("compensated", String::new(), Some(*step)),
        Record::Kept(step) => ("kept", "it has no compensation".to_owned(), Some(*step)),
        Record::Stuck(step, trouble, reason) => {
            let how = match trouble {
                Trouble::Silent => "still called now and then",
                Trouble::Refused => "not called any more",
            };
            ("stuck", format!("{}: {}; {how}", reason.kind, reason.detail), Some(*step))
        }
        Record::Unstuck(step) => ("retried", "an operator asked for it".to_owned(), Some(*step)),
        Record::Resolved(resolution) => {
            let outcome = match resolution.outcome {
                Decision::Commit => "commit",
                Decision::Abort => "rollback",
            };
            ("resolved", format!("{outcome} by {}: {}", resolution.by, resolution.reason), None)
        }
    }
}
