//! Puts a participant on the network: the callbacks of the contract, answered from a store.
//!
//! 200 is yes or done, 409 is no. A call that cannot be understood is 400, one that the store could
//! not carry out 500 or 503; the coordinator takes both as unknown and asks again.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use tracing::Instrument;
use unanimous_api::callback::{FinishReply, HeuristicWord, PrepareReply, Refusal, ReplyVote};
use unanimous_api::header;
use unanimous_core::barrier::Policy;
use unanimous_core::id::{BranchName, Timestamp};
use unanimous_core::{Answer, HeuristicKind, Verb};

use super::branch::json;
use super::doubt::{Patience, look_after};
use super::store::{Call, Order, Store, StoreError};
use crate::client::Client;
use crate::limits::{CALL_BYTES_MAX, INQUIRE_AFTER_MS, RETENTION_MS};
use crate::task::AbortOnDrop;

/// A participant, ready to be served.
#[derive(Debug)]
#[must_use = "it does nothing until it is served"]
pub struct Service<S> {
    store: Arc<S>,
    coordinator: Client,
    patience: Patience,
}

impl<S: Store> Service<S> {
    /// A participant that keeps its branches in `store` and, when in doubt, asks `coordinator`.
    pub fn new(store: S, coordinator: Client) -> Self {
        let patience = Patience {
            inquire_after_ms: INQUIRE_AFTER_MS,
            retention_ms: RETENTION_MS,
            policy: Policy::Ask,
        };
        Self { store: Arc::new(store), coordinator, patience }
    }

    /// Milliseconds after its yes at which a branch first asks for the outcome;
    /// [`INQUIRE_AFTER_MS`] by default.
    pub fn inquire_after_ms(mut self, inquire_after_ms: u64) -> Self {
        self.patience.inquire_after_ms = inquire_after_ms;
        self
    }

    /// Milliseconds for which branches that ended are remembered; [`RETENTION_MS`] by default. Must
    /// be longer than a coordinator remembers, or a very late call is taken for a new one.
    pub fn retention_ms(mut self, retention_ms: u64) -> Self {
        self.patience.retention_ms = retention_ms;
        self
    }

    /// What to do about a branch that is in doubt for very long. Anything but [`Policy::Ask`], the
    /// default, may break the transaction: the coordinator is told, and reports it as mixed.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.patience.policy = policy;
        self
    }

    pub(crate) fn store(&self) -> Arc<S> {
        Arc::clone(&self.store)
    }

    /// Starts to look after branches in doubt, and returns the routes `/prepare`, `/commit` and
    /// `/rollback`, which are `/try`, `/confirm` and `/cancel` to a transaction of kind `tcc`. What looks after them ends with the router and its clones.
    ///
    /// Whoever can call these can end branches: serve them where only the coordinator can.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn router(self) -> Router {
        let task = look_after(Arc::clone(&self.store), self.coordinator, self.patience);
        let task = AbortOnDrop(tokio::spawn(task).abort_handle());
        routes(Served { store: self.store, _task: Some(Arc::new(task)) })
    }
}

struct Served<S> {
    store: Arc<S>,
    _task: Option<Arc<AbortOnDrop>>,
}

impl<S> Clone for Served<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), _task: self._task.clone() }
    }
}

/// The callbacks alone: nobody looks after branches in doubt.
#[cfg(feature = "testing")]
pub(crate) fn callbacks<S: Store>(store: S) -> Router {
    routes(Served { store: Arc::new(store), _task: None })
}

fn routes<S: Store>(served: Served<S>) -> Router {
    Router::new()
        .route("/prepare", post(prepare::<S>))
        .route("/commit", post(commit::<S>))
        .route("/rollback", post(rollback::<S>))
        .route("/try", post(prepare::<S>))
        .route("/confirm", post(commit::<S>))
        .route("/cancel", post(rollback::<S>))
        .layer(DefaultBodyLimit::max(CALL_BYTES_MAX))
        .with_state(served)
}

type Body = Result<Bytes, BytesRejection>;

async fn prepare<S: Store>(served: State<Served<S>>, headers: HeaderMap, body: Body) -> Response {
    serve(&*served.store, Verb::Prepare, &headers, body).await
}

async fn commit<S: Store>(served: State<Served<S>>, headers: HeaderMap, body: Body) -> Response {
    let verb = match headers.get(header::PHASES).map(|value| value.as_bytes()) {
        None => Verb::Commit,
        Some(b"one") => Verb::CommitOnePhase,
        Some(_) => return malformed(&format!("{}: expected one, or nothing", header::PHASES)),
    };
    serve(&*served.store, verb, &headers, body).await
}

async fn rollback<S: Store>(served: State<Served<S>>, headers: HeaderMap, body: Body) -> Response {
    serve(&*served.store, Verb::Rollback, &headers, body).await
}

async fn serve<S: Store>(store: &S, verb: Verb, headers: &HeaderMap, body: Body) -> Response {
    let branch = match branch_of(headers) {
        Ok(branch) => branch,
        Err(why) => return malformed(&why),
    };
    let traceparent = headers.get(header::TRACEPARENT).and_then(|value| value.to_str().ok());
    let span = tracing::info_span!("call", %branch, ?verb, traceparent);
    carry_out(store, verb, branch, body).instrument(span).await
}

async fn carry_out<S: Store>(store: &S, verb: Verb, branch: BranchName, body: Body) -> Response {
    let body = match (body, verb) {
        (Ok(body), Verb::Prepare | Verb::CommitOnePhase) => body,
        // Steps have paths of their own, and are not served here.
        (Ok(_), Verb::Commit | Verb::Rollback | Verb::Act | Verb::Compensate) => Bytes::new(),
        (Err(rejection), _) => return rejection.into_response(),
    };
    let call = Call { branch, order: Order::Told(verb), body, now: now() };
    match store.carry_out(call).await {
        Ok(answer) => reply(verb, &answer),
        Err(error) => not_carried_out(&error),
    }
}

pub(super) fn not_carried_out(error: &StoreError) -> Response {
    tracing::warn!(%error, "a call was not carried out");
    let status = match error {
        StoreError::Work(_) => StatusCode::INTERNAL_SERVER_ERROR,
        StoreError::Unavailable(_) | StoreError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
    };
    with(status, &refusal("failed", &error.to_string()))
}

/// The branch that a call is for, if its headers agree.
pub(super) fn branch_of(headers: &HeaderMap) -> Result<BranchName, String> {
    let text = |name| match headers.get(name).map(|value| value.to_str()) {
        Some(Ok(text)) => Ok(text),
        Some(Err(_)) => Err(format!("{name}: not readable")),
        None => Err(format!("{name}: missing")),
    };
    let branch: BranchName = text(header::BRANCH)?
        .parse()
        .map_err(|_| format!("{}: not a branch of a transaction", header::BRANCH))?;
    match text(header::TRANSACTION)?.parse() == Ok(branch.txn) {
        true => Ok(branch),
        false => Err(format!("{}: not that of the branch", header::TRANSACTION)),
    }
}

fn reply(verb: Verb, answer: &Answer) -> Response {
    let finished = |heuristic, result| with(StatusCode::OK, &FinishReply { heuristic, result });
    match answer {
        Answer::Yes(result) => {
            with(StatusCode::OK, &PrepareReply { vote: None, result: json(result) })
        }
        Answer::ReadOnly(result) => {
            let vote = Some(ReplyVote::ReadOnly);
            with(StatusCode::OK, &PrepareReply { vote, result: json(result) })
        }
        Answer::Done(result) => finished(None, json(result)),
        Answer::Heuristic(kind) => finished(Some(word(*kind)), None),
        Answer::No(reason) => with(StatusCode::CONFLICT, &refusal(&reason.kind, &reason.detail)),
        Answer::Working => StatusCode::TOO_EARLY.into_response(),
        Answer::Lost(_) | Answer::Silent(_) => {
            unreachable!("{answer:?} to {verb:?}: only a coordinator hears that")
        }
    }
}

fn word(kind: HeuristicKind) -> HeuristicWord {
    match kind {
        HeuristicKind::Commit => HeuristicWord::Commit,
        HeuristicKind::Rollback => HeuristicWord::Rollback,
        HeuristicKind::Mixed => HeuristicWord::Mixed,
        HeuristicKind::Hazard => HeuristicWord::Hazard,
    }
}

pub(super) fn malformed(why: &str) -> Response {
    with(StatusCode::BAD_REQUEST, &refusal("malformed", why))
}

pub(crate) fn refusal(kind: &str, detail: &str) -> Refusal {
    Refusal { kind: Some(kind.to_owned()), detail: Some(detail.to_owned()) }
}

pub(crate) fn with(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("the contract's types have string keys only");
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

/// What the clock on the wall says.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
