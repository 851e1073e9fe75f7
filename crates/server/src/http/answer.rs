//! Waiting for the driver, and how what it says looks as a reply.
//!
//! A wait that runs out is answered with the state so far, never with an invented outcome.

use std::time::Duration;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;
use unanimous_api::{
    Code, Kind, OutcomeWord, Problem, StatusWord, StepWord, TransactionView, Wait,
};
use unanimous_core::id::TxnId;

use super::{App, Failure};
use crate::driver::AskError;
use crate::limits::{WAIT_MS_MAX, WAIT_SLACK_MS};

pub(super) type Answer = oneshot::Receiver<Result<TransactionView, AskError>>;

/// What came of waiting for the driver.
pub(super) enum Heard {
    /// The transaction, as far as was asked.
    View(Box<TransactionView>),
    /// What was asked for cannot be had.
    Refused(AskError),
    /// It takes longer than a request waits.
    NotYet,
}

/// Waits for the driver, not much longer than the transaction may take to be decided, and not
/// beyond the coordinator's end.
pub(super) async fn hear(app: &App, answer: Answer, timeout_ms: u64) -> Heard {
    let limit_ms = timeout_ms.saturating_add(WAIT_SLACK_MS).min(WAIT_MS_MAX);
    let mut quitting = app.quitting.clone();
    tokio::select! {
        biased;
        answer = answer => match answer {
            Ok(Ok(view)) => Heard::View(Box::new(view)),
            Ok(Err(error)) => Heard::Refused(error),
            // Its driver has stopped without a word: it may have come further than anybody was told.
            Err(_) => Heard::Refused(AskError::Lost),
        },
        () = tokio::time::sleep(Duration::from_millis(limit_ms)) => Heard::NotYet,
        _ = quitting.wait_for(|&quit| quit) => Heard::NotYet,
    }
}

/// The same, with the present state for a transaction that is not open, or takes longer.
pub(super) async fn hear_or_show(
    app: &App,
    txn: TxnId,
    answer: Answer,
    timeout_ms: u64,
) -> Result<TransactionView, Failure> {
    match hear(app, answer, timeout_ms).await {
        Heard::View(view) => Ok(*view),
        Heard::Refused(AskError::NotOpen) | Heard::NotYet => present(app, txn).await,
        Heard::Refused(error) => Err(Failure::of(error.problem(txn))),
    }
}

/// The transaction as it stands.
pub(super) async fn present(app: &App, txn: TxnId) -> Result<TransactionView, Failure> {
    let view = app.coordinator.show(txn, None).await?;
    view.ok_or_else(|| Failure::of(AskError::NotOpen.problem(txn)))
}

/// 201 for a transaction that takes participants, 202 for one that nobody waits for; otherwise as
/// [`outcome`].
pub(super) fn begun(view: TransactionView, wait: Wait) -> Response {
    match (view.status, wait) {
        (StatusWord::Initiated, _) => {
            let location = format!("/v1/transactions/{}", view.id);
            (StatusCode::CREATED, [(header::LOCATION, location)], Json(view)).into_response()
        }
        (_, Wait::None) if view.outcome.is_none() => accepted(view),
        _ => outcome(view, wait),
    }
}

/// 200 for a commit, 409 for an abort, 202 if it has not come as far as was asked.
pub(super) fn outcome(view: TransactionView, wait: Wait) -> Response {
    match (view.outcome, wait) {
        (None, _) => accepted(view),
        (Some(_), Wait::Finished) if !view.status.is_final() => accepted(view),
        (Some(OutcomeWord::Committed | OutcomeWord::Completed), _) => ok(view),
        (Some(OutcomeWord::Aborted | OutcomeWord::Compensated), _) => aborted(view).into_response(),
        (Some(OutcomeWord::Mixed), _) => mixed(view).into_response(),
        (Some(OutcomeWord::NeedsAttention), _) => accepted(view),
    }
}

/// The same for somebody who asked for abort: 200 for an abort, 409 for a commit.
pub(super) fn abort(view: TransactionView, wait: Wait) -> Response {
    match (view.outcome, wait) {
        (None, _) => accepted(view),
        (Some(OutcomeWord::Committed | OutcomeWord::Completed), _) => {
            let detail = format!("transaction {} is {}", view.id, view.status.as_str());
            Failure::of(Problem::new(Code::AlreadyCommitted, detail).about(view)).into_response()
        }
        (Some(_), Wait::Finished) if !view.status.is_final() => accepted(view),
        (Some(OutcomeWord::Aborted | OutcomeWord::Compensated), _) => ok(view),
        (Some(OutcomeWord::Mixed), _) => mixed(view).into_response(),
        (Some(OutcomeWord::NeedsAttention), _) => accepted(view),
    }
}

pub(super) fn ok(view: TransactionView) -> Response {
    Json(view).into_response()
}

fn accepted(view: TransactionView) -> Response {
    (StatusCode::ACCEPTED, Json(view)).into_response()
}

fn aborted(view: TransactionView) -> Failure {
    let detail = match &view.reason {
        Some(reason) => match reason.participant.as_ref().or(reason.step.as_ref()) {
            Some(name) => format!("{name}: {}", reason.detail),
            None => reason.detail.clone(),
        },
        None => format!("transaction {} was aborted", view.id),
    };
    let code = match view.kind {
        Kind::Saga => Code::Compensated,
        Kind::Atomic | Kind::Tcc | Kind::Message => Code::Aborted,
    };
    Failure::of(Problem::new(code, detail).about(view))
}

fn mixed(view: TransactionView) -> Failure {
    let own = view.participants.iter().filter(|participant| participant.heuristic.is_some());
    let skipped = view.steps.iter().filter(|step| step.status == StepWord::Skipped);
    let skipped = skipped.map(|step| &*step.name);
    let names: Vec<&str> = own.map(|it| &*it.name).chain(skipped).collect();
    let detail = format!("ended against the decision, or skipped: {}", names.join(", "));
    Failure::of(Problem::new(Code::Mixed, detail).about(view))
}
