//! What a node serves: everything a coordinator does, wherever it is driven, and `/v1/nodes`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;
use unanimous_api::{Code, NodesView, header as name};

use super::limits::{ANSWER_WAIT, BEAT};
use super::node::Node;
use super::partition::Partition;
use super::peers::BEATS;
use super::{gather, list, relay};
use crate::http::{Failure, guard, healthz};

/// Everything that a node serves.
pub(super) fn router(node: &Arc<Node>, stopping: watch::Receiver<bool>) -> Router {
    let closed = Router::new()
        .route("/v1/transactions", post(relay::begin).get(list::list))
        .route("/v1/transactions/{id}", any(relay::transaction))
        .route("/v1/transactions/{id}/{*below}", any(relay::transaction))
        .route("/v1/resources/{name}/in-doubt", get(gather::in_doubt))
        .route("/v1/resources/{name}/check", get(gather::check))
        .route("/v1/events", get(gather::events))
        .route("/v1/nodes", get(nodes))
        .route(BEATS, get(beats))
        .route(gather::STIR, get(gather::own_stir))
        .route("/v1/nodes/{name}/drain", post(drain))
        .route("/metrics", get(gather::metrics))
        .fallback(relay::any)
        .layer(middleware::from_fn_with_state(node.config.token.clone(), guard));
    Router::new()
        .merge(closed.with_state(Arc::clone(node)))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz).with_state((Arc::clone(node), stopping)))
}

/// `GET /v1/nodes`
async fn nodes(State(node): State<Arc<Node>>) -> Json<NodesView> {
    Json(node.views())
}

/// `GET /v1/nodes/beats`: what this node says of itself, from now on.
async fn beats(State(node): State<Arc<Node>>) -> Response {
    // It may be one that is not known here yet.
    node.visited.notify_one();
    let (said, quitting) = (node.said.subscribe(), node.quitting.subscribe());
    let lines = stream::unfold((said, quitting, true), async |(mut said, quitting, is_first)| {
        if !is_first {
            // Nothing new is said again, so that it is heard.
            drop(timeout(BEAT, said.changed()).await);
        }
        // The process may go on without its node.
        if *quitting.borrow() {
            return None;
        }
        let line = said.borrow_and_update().line();
        Some((Ok::<_, Infallible>(line), (said, quitting, false)))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(lines)).into_response()
}

/// `POST /v1/nodes/{name}/drain`: the node gives away what it drives, and takes nothing more until it
/// is started again.
async fn drain(
    State(node): State<Arc<Node>>,
    Path(drained): Path<String>,
    request: Request,
) -> Response {
    if drained == node.name {
        node.draining.store(true, Ordering::Relaxed);
        node.changed.send_replace(());
        return (StatusCode::ACCEPTED, Json(node.views())).into_response();
    }
    let address = node.peers.address(&drained);
    let Some(address) = address.filter(|_| !request.headers().contains_key(name::FORWARDED_BY))
    else {
        let detail = format!("no node {drained:?} shares this journal");
        return Failure::new(Code::UnknownNode, detail).into_response();
    };
    let request = Request::post(format!("{address}/v1/nodes/{drained}/drain"))
        .header(name::FORWARDED_BY, node.header())
        .body(Body::empty());
    let answer = match request {
        Ok(request) => timeout(ANSWER_WAIT, node.peers.ask(request)).await.ok().flatten(),
        Err(_) => None,
    };
    match answer {
        Some((StatusCode::ACCEPTED, _)) => {
            (StatusCode::ACCEPTED, Json(node.views())).into_response()
        }
        Some(_) | None => {
            let detail = format!("node {drained:?} does not answer: what it drove is taken over");
            Failure::new(Code::NoOwner, detail).into_response()
        }
    }
}

/// New transactions are taken, here or by way of another node. What only a domain's own journal has to
/// do with is no reason to ask elsewhere: it is the same at every node.
async fn readyz(State((node, stopping)): State<(Arc<Node>, watch::Receiver<bool>)>) -> Response {
    let is_main = |partition| node.config.domains.journal_of(partition).is_none();
    let mut held = node.held().into_iter().filter(|held| is_main(held.partition));
    let full = held.any(|held| !held.coordinator.journal().has_room());
    let mut main = Partition::all().filter(|&partition| is_main(partition));
    let orphaned = main.any(|partition| node.owner(partition).is_none());
    let why_not = match (*stopping.borrow(), full || node.is_cut_off(), orphaned) {
        (true, _, _) => "the node is shutting down",
        (false, true, _) => "the journal takes no new transactions",
        (false, false, true) => "some transactions are driven by no node yet",
        (false, false, false) => return Json(json!({"ready": true})).into_response(),
    };
    let reply = json!({"ready": false, "reason": why_not});
    (StatusCode::SERVICE_UNAVAILABLE, Json(reply)).into_response()
}
