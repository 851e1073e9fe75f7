//! What all nodes have to be asked: branches in doubt, comparisons, events, what is half done.
//!
//! Whoever is asked by another node answers for itself alone.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use unanimous_api::{BranchInDoubt, CheckAnswer, Code, ResourceCheck, header as name};
use unanimous_core::id::Timestamp;

use super::limits::{ANSWER_WAIT, LOOK_AGAIN};
use super::node::Node;
use super::partition::Partition;
use super::relay;
use crate::Metrics;
use crate::driver::Census;
use crate::http::{Failure, all_events};
use crate::invariants::{Scope, Stir, stir};
use crate::resources::Resources;

/// The path of what a node knows of commits.
pub(super) const STIR: &str = "/v1/nodes/stir";

fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(name::FORWARDED_BY)
}

/// `GET /v1/resources/{name}/in-doubt`: what every node knows.
pub(super) async fn in_doubt(
    State(node): State<Arc<Node>>,
    Path(resource): Path<String>,
    request: Request,
) -> Response {
    let parts = match each(&node, &resource, request).await {
        Ok(parts) => parts,
        Err(answer) => return *answer,
    };
    let all: Vec<Vec<BranchInDoubt>> = parts;
    Json(all.concat()).into_response()
}

/// `GET /v1/resources/{name}/check`: every node compares what it drives.
pub(super) async fn check(
    State(node): State<Arc<Node>>,
    Path(resource): Path<String>,
    request: Request,
) -> Response {
    let parts: Vec<ResourceCheck> = match each(&node, &resource, request).await {
        Ok(parts) => parts,
        Err(answer) => return *answer,
    };
    let whole = parts.into_iter().reduce(|mut whole, part| {
        whole.held += part.held;
        whole.findings.extend(part.findings);
        // One that was not answered makes the whole unanswered.
        if part.answer == CheckAnswer::Unanswered {
            whole.answer = part.answer;
            whole.error = part.error;
        }
        whole
    });
    match whole {
        Some(whole) => Json(whole).into_response(),
        None => nobody("no node drives anything").into_response(),
    }
}

fn nobody(why: &str) -> Failure {
    Failure::new(Code::NoOwner, why)
}

/// What the coordinators of this node and all the others answer to a request. The error is the first
/// answer that is none.
async fn each<T: DeserializeOwned>(
    node: &Arc<Node>,
    resource: &str,
    request: Request,
) -> Result<Vec<T>, Box<Response>> {
    let known = node.resources.get(resource).is_some();
    let (parts, _) = request.into_parts();
    let ask = || {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = parts.uri.clone();
        *request.headers_mut() = parts.headers.clone();
        request
    };
    let held = node.held();
    let here = held.iter().filter(|held| !held.is_over());
    let answers = join_all(here.map(|held| held.answer(ask()))).await;
    let mut all = Vec::new();
    for answer in answers {
        if answer.status() != StatusCode::OK {
            return Err(Box::new(answer));
        }
        let body = answer.into_body().collect().await.map(|body| body.to_bytes());
        all.extend(body.ok().and_then(|body| serde_json::from_slice(&body).ok()));
    }
    if !is_forwarded(&parts.headers) && known {
        let path = parts.uri.path();
        for (name, body) in ask_others(node, path).await {
            let part = body.and_then(|body| serde_json::from_slice(&body).ok());
            let Some(part) = part else {
                let why = format!("node {name} does not answer, and drives some of it");
                return Err(Box::new(nobody(&why).into_response()));
            };
            all.push(part);
        }
    }
    Ok(all)
}

/// What each node that is heard and drives something answers.
async fn ask_others(node: &Arc<Node>, path: &str) -> Vec<(String, Option<Bytes>)> {
    let owners = node.peers.heard().into_iter().filter(|(_, beat)| !beat.owns.is_empty());
    let asked = owners.map(async |(address, beat)| {
        let request = Request::get(format!("{address}{path}"))
            .header(name::FORWARDED_BY, node.header())
            .body(Body::empty());
        let answer = match request {
            Ok(request) => timeout(ANSWER_WAIT, node.peers.ask(request)).await.ok().flatten(),
            Err(_) => None,
        };
        (beat.node, answer.filter(|(status, _)| *status == StatusCode::OK).map(|it| it.1))
    });
    join_all(asked).await
}

/// `GET /v1/events`: of one transaction from whoever drives it, or of all from everybody.
pub(super) async fn events(
    State(node): State<Arc<Node>>,
    Query(parameters): Query<BTreeMap<String, String>>,
    request: Request,
) -> Response {
    let txn = parameters.get("transaction").and_then(|text| text.parse().ok());
    if let Some(txn) = txn {
        return relay::relay(&node, relay::To::of(txn), request).await;
    }
    if !parameters.is_empty() {
        // Whoever is asked says what is wrong with it.
        return relay::relay(&node, relay::To::Any, request).await;
    }
    let here = all_events(node.events.subscribe(), node.quitting.subscribe());
    if is_forwarded(request.headers()) {
        return here;
    }
    let (parts, here) = here.into_parts();
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(pour(here, sender.clone()));
    tokio::spawn(listen_to_all(node, sender));
    let chunks = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let chunk: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(chunk), receiver))
    });
    Response::from_parts(parts, Body::from_stream(chunks))
}

/// Follows the others until nobody listens any more.
async fn listen_to_all(node: Arc<Node>, sender: mpsc::Sender<Bytes>) {
    let mut followed: BTreeMap<String, tokio::task::JoinHandle<()>> = BTreeMap::new();
    while !sender.is_closed() {
        followed.retain(|_, pouring| !pouring.is_finished());
        for (address, _) in node.peers.heard() {
            followed.entry(address.clone()).or_insert_with(|| {
                tokio::spawn(follow(Arc::clone(&node), address, sender.clone()))
            });
        }
        tokio::select! {
            () = sleep(LOOK_AGAIN * 4) => {}
            () = sender.closed() => {}
        }
    }
    followed.into_values().for_each(|task| task.abort());
}

async fn follow(node: Arc<Node>, address: String, sender: mpsc::Sender<Bytes>) {
    let request = Request::get(format!("{address}/v1/events"))
        .header(name::FORWARDED_BY, node.header())
        .body(Body::empty());
    let Ok(request) = request else { return };
    if let Ok(answer) = node.peers.send_alone(request).await
        && answer.status() == StatusCode::OK
    {
        pour(Body::new(answer.into_body()), sender).await;
    }
}

/// Passes whole events on.
async fn pour(mut body: Body, sender: mpsc::Sender<Bytes>) {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        text.extend_from_slice(&data);
        while let Some(end) = text.windows(2).position(|it| it == b"\n\n") {
            let rest = text.split_off(end + 2);
            let event = std::mem::replace(&mut text, rest);
            if sender.send(Bytes::from(event)).await.is_err() {
                return;
            }
        }
    }
}

/// `GET /metrics`: of this node.
pub(super) async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut census = Census::default();
    for held in node.held() {
        census.add(held.coordinator.census().await);
    }
    let text = node.metrics.scrape(&census, node.stats(), node.clock.now());
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// `GET /v1/nodes/stir`: what this node knows of commits, for one that checks invariants.
pub(super) async fn own_stir(
    State(node): State<Arc<Node>>,
    Query(resources): Query<Vec<(String, String)>>,
) -> Result<Json<Stir>, Failure> {
    let resources: BTreeSet<&str> = resources.iter().map(|(_, name)| &**name).collect();
    Ok(Json(node.stir_here(&resources).await.map_err(|why| nobody(&why))?))
}

impl Node {
    async fn stir_here(&self, resources: &BTreeSet<&str>) -> Result<Stir, String> {
        let mut whole: Option<Stir> = None;
        for held in self.held() {
            // All count commits at one place, so the first that looked and the last frame the rest.
            let part = stir(&held.coordinator, resources).await;
            let part = part.map_err(|error| error.to_string())?;
            whole = Some(match whole {
                None => part,
                Some(before) => Stir {
                    commits: (before.commits.0, part.commits.1),
                    half_done: before.half_done.or(part.half_done),
                },
            });
        }
        Ok(whole.unwrap_or_else(|| {
            let counts: Vec<u64> = resources.iter().map(|it| self.metrics.commits(it)).collect();
            Stir { commits: (counts.clone(), counts), half_done: None }
        }))
    }

    async fn stir_everywhere(self: &Arc<Self>, resources: &BTreeSet<&str>) -> Result<Stir, String> {
        if Partition::all().any(|partition| self.owner(partition).is_none()) {
            return Err("some transactions are being taken over by another node".to_owned());
        }
        let query: Vec<String> = resources.iter().map(|name| format!("resource={name}")).collect();
        let path = format!("{STIR}?{}", query.join("&"));
        let mut whole = self.stir_here(resources).await?;
        for (name, body) in ask_others(self, &path).await {
            let part: Option<Stir> = body.and_then(|body| serde_json::from_slice(&body).ok());
            let part = part.ok_or_else(|| format!("node {name} does not answer"))?;
            add(&mut whole.commits.0, &part.commits.0);
            add(&mut whole.commits.1, &part.commits.1);
            whole.half_done = whole.half_done.or(part.half_done);
        }
        Ok(whole)
    }
}

fn add(counts: &mut [u64], more: &[u64]) {
    counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
}

/// What the invariants of a node are read through.
pub(super) struct Everywhere(pub(super) Arc<Node>);

impl Scope for Everywhere {
    fn resources(&self) -> &Resources {
        &self.0.resources
    }

    fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn stir<'a>(
        &'a self,
        resources: &'a BTreeSet<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Result<Stir, String>> + Send + 'a>> {
        Box::pin(self.0.stir_everywhere(resources))
    }
}
