//! Steps on the network: each path answered from the store.
//!
//! 200 is done, 409 refused. A call that cannot be understood is 400, one that the store could not
//! carry out 500 or 503; the coordinator takes both as unknown and asks again.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tracing::Instrument;
use unanimous_api::header;
use unanimous_core::Answer;
use unanimous_core::id::{BranchName, Timestamp};

use super::{Half, Path, StepOrder, StepStore, Steps};
use crate::limits::{CALL_BYTES_MAX, PRUNE_EVERY_MS, PRUNE_MAX, STEP_RETENTION_MS};
use crate::participant::branch::json;
use crate::participant::http::{branch_of, malformed, not_carried_out, now, refusal, with};
use crate::task::AbortOnDrop;

struct Served<S: StepStore> {
    store: S,
    path: Path<S>,
    _pruning: Arc<AbortOnDrop>,
}

impl<S: StepStore> Steps<S> {
    /// The routes, for any method. What is kept of steps that ended
    /// [`crate::limits::STEP_RETENTION_MS`] ago is removed while the router or a clone of it lives.
    ///
    /// Whoever can call these can act and undo: serve them where only the coordinator can.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if two steps have the same path.
    pub fn router(self) -> Router {
        let pruning = tokio::spawn(prune(self.store.clone()));
        let pruning = Arc::new(AbortOnDrop(pruning.abort_handle()));
        let mut router = Router::new();
        for path in self.paths {
            let at = path.path.clone();
            let (store, _pruning) = (self.store.clone(), Arc::clone(&pruning));
            let served = Arc::new(Served { store, path, _pruning });
            router = router.route(&at, any(serve::<S>).with_state(served));
        }
        router.layer(DefaultBodyLimit::max(CALL_BYTES_MAX))
    }
}

async fn prune<S: StepStore>(store: S) {
    loop {
        let before = Timestamp(now().0.saturating_sub(STEP_RETENTION_MS));
        loop {
            match store.prune_steps(before, PRUNE_MAX).await {
                Ok(PRUNE_MAX..) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "old marks of steps cannot be removed");
                    break;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(PRUNE_EVERY_MS)).await;
    }
}

async fn serve<S: StepStore>(
    State(served): State<Arc<Served<S>>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let half = served.path.half;
    let branch = match branch_of(&headers) {
        Ok(branch) => branch,
        Err(why) => return malformed(&why),
    };
    let traceparent = headers.get(header::TRACEPARENT).and_then(|value| value.to_str().ok());
    let span = tracing::info_span!("call", %branch, ?half, traceparent);
    match meant(&branch, &headers) {
        Some(meant) if meant == half => {}
        // From its mark it would be answered that it is done, and nothing would be.
        Some(meant) => {
            let detail = format!("this path is for {half:?}, and the saga calls it for {meant:?}");
            return with(StatusCode::CONFLICT, &refusal("wrong_path", &detail));
        }
        None => return malformed(&format!("{}: not that of a step", header::IDEMPOTENCY_KEY)),
    }
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return rejection.into_response(),
    };
    let order = StepOrder::new(branch, half, (headers, body));
    let deed = Arc::clone(&served.path.deed);
    match served.store.step(order, deed).instrument(span).await {
        Ok(answer) => reply(&answer),
        Err(error) => not_carried_out(&error),
    }
}

/// What the saga means by the call, as its key has it.
fn meant(branch: &BranchName, headers: &HeaderMap) -> Option<Half> {
    let key = headers.get(header::IDEMPOTENCY_KEY)?.to_str().ok()?;
    match key.strip_prefix(&branch.to_string())? {
        ":act" => Some(Half::Act),
        ":compensate" => Some(Half::Compensate),
        _ => None,
    }
}

fn reply(answer: &Answer) -> Response {
    match answer {
        Answer::Done(result) => with(StatusCode::OK, &json(result)),
        Answer::No(reason) => with(StatusCode::CONFLICT, &refusal(&reason.kind, &reason.detail)),
        Answer::Yes(_)
        | Answer::ReadOnly(_)
        | Answer::Heuristic(_)
        | Answer::Working
        | Answer::Lost(_)
        | Answer::Silent(_) => unreachable!("{answer:?}: a step is done or refused"),
    }
}
