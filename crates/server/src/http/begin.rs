//! `POST /v1/transactions`: begin, or begin and run to the end; once for each key.
//!
//! A key is looked up in the journal first, which knows every transaction ever begun under it, and
//! then by the driver, which knows those begun since the look-up. So a key begins one transaction,
//! whoever else brings it and whenever.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::value::RawValue;
use unanimous_api::{BeginRequest, Kind, StatusWord, TransactionView, Wait};
use unanimous_core::commit::{Key, Shape};
use unanimous_core::id::TxnId;

use super::answer::{self, Heard, hear, hear_or_show, present};
use super::{App, Failure, Reply, body, keys, validate};
use crate::driver::{AskError, BeginOrder, IfRunning};

/// What a repeat of a request has to know of it.
struct Asked {
    wait: Wait,
    running: IfRunning,
    timeout_ms: u64,
}

pub(super) async fn begin(State(app): State<App>, headers: HeaderMap, body: Body) -> Reply {
    let bytes = body::read(&app, body).await?;
    let request: BeginRequest<&RawValue> = body::parse(&bytes)?;
    let shape = match request.kind {
        Kind::Atomic => Shape::Atomic,
        Kind::Tcc => Shape::Tcc,
    };
    let key = body::key(&headers)?;
    let key = key.map(|text| Key { text: text.into(), fingerprint: keys::of_begin(&request) });
    let asked = Asked {
        wait: request.wait.unwrap_or_default(),
        running: match request.wait.is_none() && !request.branches.is_empty() {
            true => IfRunning::Refuse,
            false => IfRunning::Join,
        },
        timeout_ms: validate::timeout_ms(request.timeout_ms)?,
    };
    let branches = validate::branches(app.coordinator.resources(), shape, request.branches)?;
    if let Some(key) = &key
        && let Some(txn) = app.coordinator.find_key(&key.text).await?
    {
        return repeated(&app, txn, key, asked).await;
    }
    let (txn, answer) = app.coordinator.begin(BeginOrder {
        shape,
        timeout_ms: asked.timeout_ms,
        branches,
        key: key.clone(),
        running: asked.running,
        wait: asked.wait,
        trace: body::trace(&headers),
    });
    let view = match hear(&app, answer, asked.timeout_ms).await {
        Heard::View(view) => *view,
        Heard::Refused(AskError::KeyTaken(other)) => present(&app, other).await?,
        Heard::Refused(error) => return Err(Failure::of(error.problem(txn))),
        Heard::NotYet => begun_or_joined(&app, txn, key.as_ref()).await?,
    };
    Ok(answer::begun(view, asked.wait))
}

/// The transaction that this request began, or the one under its key that it waited along with.
async fn begun_or_joined(
    app: &App,
    txn: TxnId,
    key: Option<&Key>,
) -> Result<TransactionView, Failure> {
    let joined = match key {
        Some(key) => app.coordinator.find_key(&key.text).await?,
        None => None,
    };
    let txn = joined.unwrap_or(txn);
    // A driver takes its events in order: had it begun the transaction, it would show it now. It was
    // refused by a coordinator that is about to stop.
    let view = app.coordinator.show(txn, None).await?;
    view.ok_or_else(|| Failure::of(AskError::ShuttingDown.problem(txn)))
}

/// Answers a request whose key the journal knows.
async fn repeated(app: &App, txn: TxnId, key: &Key, asked: Asked) -> Result<Response, Failure> {
    if app.coordinator.fingerprint(txn).await? != Some(key.fingerprint) {
        return Err(Failure::of(AskError::KeyReused(txn).problem(txn)));
    }
    let view = present(app, txn).await?;
    let view = match (view.status, asked.running) {
        (StatusWord::Initiated | StatusWord::Committed | StatusWord::Aborted, _) => view,
        (
            StatusWord::Preparing
            | StatusWord::Prepared
            | StatusWord::Committing
            | StatusWord::Aborting,
            IfRunning::Refuse,
        ) => return Err(Failure::of(AskError::KeyInUse(txn).problem(txn))),
        (
            StatusWord::Preparing
            | StatusWord::Prepared
            | StatusWord::Committing
            | StatusWord::Aborting,
            IfRunning::Join,
        ) => {
            let answer = app.coordinator.join(txn, asked.wait);
            hear_or_show(app, txn, answer, asked.timeout_ms).await?
        }
    };
    Ok(answer::begun(view, asked.wait))
}
