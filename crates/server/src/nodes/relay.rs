//! Brings each request to the node that drives what it is about, whoever was asked.
//!
//! A request that its node could not answer, because it died or gave the partition away, is sent
//! again to whoever owns it then. A begin that was sent before says under which name, and waits along
//! with what it has begun, if it has. A request is passed on once: whoever gets it from another node
//! answers, or says that it is not the owner.
//!
//! # Invariant
//!
//! An identity begins under one epoch only. The beginning is not forced, so that a former owner may
//! have called branches of a transaction that the journal does not know; such a branch asks, and is
//! told by the next owner that it is aborted. That owner begins the same work under another identity.

use std::cmp::Ordering;
use std::sync::{Arc, atomic};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use unanimous_api::{Code, header as name};
use unanimous_core::id::{Epoch, ShardId, TxnId};

use super::domains::Domains;
use super::former;
use super::held::Held;
use super::limits::{LOOK_AGAIN, OWNER_LOOK, OWNER_WAIT, TURN, TURN_MAX};
use super::name::Name;
use super::node::{Node, Owner};
use super::partition::Partition;
use crate::http::{Assigned, Attempt, Failure, NeverBegun, read_body, request_key};

/// A request that may be sent more than once.
#[derive(Clone)]
pub(super) struct Ask {
    method: Method,
    uri: Uri,
    pub(super) headers: HeaderMap,
    body: Bytes,
    /// Another node has passed it on.
    pub(super) is_forwarded: bool,
}

/// Which nodes can answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum To {
    /// The owner of a partition.
    Owner(Partition),
    /// Any that drives something.
    Any,
}

/// Of one hop, and not of the request.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::HOST,
    header::UPGRADE,
    header::TE,
    header::ORIGIN,
];

/// `POST /v1/transactions`
pub(super) async fn begin(State(node): State<Arc<Node>>, request: Request) -> Response {
    let ask = match Ask::read(&node, request).await {
        Ok(ask) => ask,
        Err(failure) => return failure.into_response(),
    };
    let key = match request_key(&ask.headers) {
        Ok(key) => key.map(str::to_owned),
        Err(failure) => return failure.into_response(),
    };
    // Whoever is asked says what is wrong with a domain that is none.
    let domains = &node.config.domains;
    let domain = ask.domain(domains);
    let shard = key.as_ref().and_then(|key| domains.shard_of_key(domain.as_deref(), key));
    let partition = match (shard, ask.name()) {
        (Some(shard), _) => Partition::of(shard),
        (None, Some(name)) => Partition::of(name.txn.shard()),
        (None, None) => node.some_of(&domains.partitions(domain.as_deref()).unwrap_or_default()),
    };
    send(&node, To::Owner(partition), ask, Some(Begin { shard })).await
}

/// `/v1/transactions/{id}` and what is below.
pub(super) async fn transaction(
    State(node): State<Arc<Node>>,
    Path(segments): Path<Vec<String>>,
    request: Request,
) -> Response {
    let txn = segments.first().and_then(|text| text.parse::<TxnId>().ok());
    // Whoever is asked says what is wrong with a name that is none.
    let to = txn.map_or(To::Any, To::of);
    let ask = match Ask::read(&node, request).await {
        Ok(ask) => ask,
        Err(failure) => return failure.into_response(),
    };
    if ask.is_of_before() {
        return former::look(&node, &ask).await;
    }
    let is_apart = to.partition().is_some_and(|it| node.config.domains.journal_of(it).is_some());
    let looks = is_apart && ask.method == Method::GET && !ask.is_forwarded;
    let history = looks.then(|| ask.clone());
    let answer = send(&node, to, ask, None).await;
    match history {
        Some(history) if answer.status() == StatusCode::NOT_FOUND => {
            let before = former::look(&node, &history).await;
            if before.status() == StatusCode::NOT_FOUND { answer } else { before }
        }
        Some(_) | None => answer,
    }
}

/// Whatever is the same everywhere.
pub(super) async fn any(State(node): State<Arc<Node>>, request: Request) -> Response {
    relay(&node, To::Any, request).await
}

pub(super) async fn relay(node: &Arc<Node>, to: To, request: Request) -> Response {
    match Ask::read(node, request).await {
        Ok(ask) => send(node, to, ask, None).await,
        Err(failure) => failure.into_response(),
    }
}

/// What has to be known of a begin.
struct Begin {
    /// Where its key is looked for, if it has one.
    shard: Option<ShardId>,
}

impl Ask {
    async fn read(node: &Node, request: Request) -> Result<Self, Failure> {
        let (Parts { method, uri, headers, .. }, body) = request.into_parts();
        let body = read_body(body, node.config.limits.body_bytes_max).await?;
        let is_forwarded = headers.contains_key(name::FORWARDED_BY);
        Ok(Self { method, uri, headers, body, is_forwarded })
    }

    /// The domain that a begin is of, if that is one of these.
    fn domain(&self, domains: &Domains) -> Option<String> {
        #[derive(Deserialize)]
        struct Said {
            domain: Option<String>,
        }
        if domains.is_empty() {
            return None;
        }
        let said: Said = serde_json::from_slice(&self.body).ok()?;
        said.domain.filter(|name| domains.names().any(|known| known == name))
    }

    /// The name under which another node asks for this, perhaps again.
    fn name(&self) -> Option<Name> {
        let text = self.headers.get(name::BEGIN_AS).filter(|_| self.is_forwarded)?;
        text.to_str().ok()?.parse().ok()
    }

    /// The request, for a coordinator of this process.
    pub(super) fn here(&self, assigned: Option<Assigned>) -> Request {
        let mut request = Request::new(Body::from(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(assigned) = assigned {
            request.extensions_mut().insert(assigned);
        }
        request
    }

    /// The request, for another node.
    pub(super) fn there(
        &self,
        node: &Node,
        address: &str,
        begin_as: Option<Name>,
    ) -> Option<Request> {
        let path = self.uri.path_and_query().map_or("/", |it| it.as_str());
        let mut request = Request::new(Body::from(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = format!("{address}{path}").parse().ok()?;
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
        headers.insert(name::FORWARDED_BY, node.header());
        if let Some(name) = begin_as {
            let value = HeaderValue::try_from(name.to_string()).expect("a name is printable");
            headers.insert(name::BEGIN_AS, value);
        }
        Some(request)
    }
}

/// Sends a request to whoever can answer it, until somebody has.
async fn send(node: &Arc<Node>, to: To, ask: Ask, begin: Option<Begin>) -> Response {
    let mut moved = node.owners.follow(to.some_partition());
    let mut give_up = Instant::now() + OWNER_WAIT;
    let mut again = LOOK_AGAIN;
    let mut name = ask.name();
    loop {
        moved.mark_unchanged();
        let started = Instant::now();
        let (epoch, answer) = match owner(node, to) {
            Some(Owner::Here(held)) => {
                (held.epoch(), here(node, &held, &ask, begin.as_ref(), &mut name).await)
            }
            Some(Owner::There { address, epoch }) if !ask.is_forwarded => {
                let at = At { address: &address, epoch };
                (epoch, there(node, to, at, &ask, begin.as_ref(), &mut name).await)
            }
            Some(Owner::There { .. }) | None => (Epoch::default(), None),
        };
        let pause = match answer {
            Some(answer) if is_never_begun(&answer) && !ask.is_forwarded => {
                // Under another name it may begin: at once, if that was of a former owner.
                let is_of_before = name.is_some_and(|name| name.epoch < epoch);
                name = None;
                if is_of_before { Duration::ZERO } else { LOOK_AGAIN }
            }
            Some(answer) => return answer,
            None if epoch == Epoch::default() => OWNER_LOOK,
            None => {
                let pause = again;
                again = OWNER_LOOK.min(again * 2);
                pause
            }
        };
        if ask.is_forwarded {
            // Nobody answers while it is given away: whoever heard so at once would ask again at once.
            if to.partition().is_some_and(|it| node.is_leaving(it)) {
                drop(timeout(OWNER_LOOK, moved.changed()).await);
            }
            break;
        }
        // Somebody has worked on it, and not only kept it waiting.
        if started.elapsed() > OWNER_LOOK * 2 {
            give_up = Instant::now() + OWNER_WAIT;
        }
        if Instant::now() > give_up {
            return nobody().into_response();
        }
        let waiting = Waiting::join(node);
        tokio::select! {
            _ = moved.changed() => sleep(waiting.turn()).await,
            () = sleep(pause) => {}
        }
    }
    let mut answer = nobody().into_response();
    answer.headers_mut().insert(name::MOVED, HeaderValue::from_static("true"));
    answer
}

/// A request that waits for another owner.
struct Waiting<'a>(&'a Node);

impl<'a> Waiting<'a> {
    fn join(node: &'a Node) -> Self {
        node.waiting.fetch_add(1, atomic::Ordering::Relaxed);
        Self(node)
    }

    /// When it comes, by chance: thousands do not come at once to somebody who has just taken over.
    fn turn(&self) -> Duration {
        let all = u32::try_from(self.0.waiting.load(atomic::Ordering::Relaxed)).unwrap_or(u32::MAX);
        let longest = TURN.saturating_mul(all).min(TURN_MAX).as_micros() as u64;
        Duration::from_micros((self.0.ids.next() as u64).checked_rem(longest).unwrap_or(0))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, atomic::Ordering::Relaxed);
    }
}

/// What the coordinator of a partition answers that is driven here; `None` if it is not any more.
async fn here(
    node: &Node,
    held: &Held,
    ask: &Ask,
    begin: Option<&Begin>,
    name: &mut Option<Name>,
) -> Option<Response> {
    let assigned = match begin {
        None => None,
        Some(begin) => Some(match *name {
            None => {
                let txn = begin.mint(node, held.partition);
                *name = Some(Name { txn, epoch: held.epoch() });
                Assigned { txn, attempt: Attempt::First }
            }
            Some(Name { txn, epoch }) => Assigned {
                txn,
                attempt: match epoch.cmp(&held.epoch()) {
                    Ordering::Less => Attempt::Late,
                    Ordering::Equal => Attempt::Again,
                    // Somebody has claimed the partition since, and this node does not know yet.
                    Ordering::Greater => return None,
                },
            },
        }),
    };
    let mut answer = held.answer(ask.here(assigned)).await;
    if answer.extensions().get::<NeverBegun>().is_some() {
        answer.headers_mut().insert(name::NEVER_BEGUN, HeaderValue::from_static("true"));
        return Some(answer);
    }
    let is_lost = answer.status().is_server_error() && held.is_over();
    (!is_lost && answer.extensions().get() != Some(&Code::NoOwner)).then_some(answer)
}

/// Another node that drives what is asked about.
#[derive(Clone, Copy)]
struct At<'a> {
    address: &'a str,
    epoch: Epoch,
}

/// What another node answers; `None` if it has not, or does not own what it was asked about.
async fn there(
    node: &Arc<Node>,
    to: To,
    at: At<'_>,
    ask: &Ask,
    begin: Option<&Begin>,
    name: &mut Option<Name>,
) -> Option<Response> {
    let new = begin
        .zip(to.partition())
        .filter(|_| name.is_none())
        .map(|(begin, partition)| Name { txn: begin.mint(node, partition), epoch: at.epoch });
    // A begin with a key is found by its key, if it was not sent before.
    let keyed = begin.is_some_and(|begin| begin.shard.is_some());
    let said = name.or(new.filter(|_| !keyed));
    *name = name.or(new);
    let request = ask.there(node, at.address, said)?;
    exchange(node, to, at.address, request).await
}

fn is_never_begun(answer: &Response) -> bool {
    answer.headers().contains_key(name::NEVER_BEGUN)
}

pub(super) fn nobody() -> Failure {
    Failure::new(Code::NoOwner, "no node that is alive drives that part of the transactions")
}

fn owner(node: &Node, to: To) -> Option<Owner> {
    match to {
        To::Owner(partition) => node.owner(partition),
        To::Any => {
            let here = node.held().into_iter().find(|held| !held.is_over());
            here.map(Owner::Here).or_else(|| Partition::all().find_map(|it| node.owner(it)))
        }
    }
}

/// Sends a request to another node, as long as nobody else owns what it is about.
pub(super) async fn exchange(
    node: &Arc<Node>,
    to: To,
    address: &str,
    request: Request,
) -> Option<Response> {
    let answer = tokio::select! {
        answer = node.peers.send(request) => answer.ok()?,
        () = taken_over(node, to, address) => return None,
    };
    if answer.headers().contains_key(name::MOVED) {
        return None;
    }
    let (mut parts, body) = answer.into_parts();
    HOP_BY_HOP.iter().for_each(|name| drop(parts.headers.remove(name)));
    let kind = parts.headers.get(header::CONTENT_TYPE);
    let is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let body = match is_stream {
        true => Body::new(body),
        // An answer that is cut off in the middle is none.
        false => Body::from(body.collect().await.ok()?.to_bytes()),
    };
    Some(Response::from_parts(parts, body))
}

/// Returns when somebody else owns what was asked about. A node that is paused never answers.
async fn taken_over(node: &Node, to: To, address: &str) {
    let mut moved = node.owners.follow(to.some_partition());
    loop {
        match owner(node, to) {
            Some(Owner::Here(_)) => return,
            Some(Owner::There { address: other, .. }) if other != *address => return,
            Some(Owner::There { .. }) | None => {}
        }
        if moved.changed().await.is_err() {
            return;
        }
    }
}

impl Begin {
    fn mint(&self, node: &Node, partition: Partition) -> TxnId {
        node.mint(self.shard.unwrap_or_else(|| node.some_shard(partition)))
    }
}

impl To {
    /// Whoever drives a transaction.
    pub(super) fn of(txn: TxnId) -> Self {
        Self::Owner(Partition::of(txn.shard()))
    }

    /// One whose owner can answer.
    fn some_partition(self) -> Partition {
        self.partition().or_else(|| Partition::all().next()).expect("there is more than none")
    }

    fn partition(self) -> Option<Partition> {
        match self {
            Self::Owner(partition) => Some(partition),
            Self::Any => None,
        }
    }
}
