//! The other nodes: where they are, what each said last, and whether it is still heard.
//!
//! One task listens to each. A connection that breaks is made anew at once, and a node whose
//! connection cannot be made, or that says nothing for [`SILENCE`], is taken for gone. That may be
//! wrong: then it loses what it drove to somebody else, and nothing more.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use unanimous_api::{NodeView, NodeWord};
use unanimous_core::id::Epoch;
use unanimous_journal::NodeEntry;

use super::beat::Beat;
use super::limits::{
    BEAT_BYTES_MAX, CONNECT_WAIT, FIRST_BEAT_WAIT, PING, PING_WAIT, RECONNECT, SILENCE,
    STREAM_WINDOW,
};
use super::partition::Partition;
use crate::config::Secret;
use crate::limits::STREAMS_MAX;

type Answer = hyper::Response<Incoming>;
type Failed = hyper_util::client::legacy::Error;

/// The path of a node's beats.
pub(super) const BEATS: &str = "/v1/nodes/beats";

/// The other nodes.
pub(crate) struct Peers {
    /// One connection to each node, for everything that is asked and answered.
    shared: Client<HttpConnector, Body>,
    /// A connection for each request, for answers that go on for long.
    alone: Client<HttpConnector, Body>,
    /// The same, of its own, so that what it hears comes over connections of `pulse`.
    listener: Client<HttpConnector, Body>,
    pulse: Handle,
    authorization: Option<HeaderValue>,
    table: Mutex<BTreeMap<String, Peer>>,
    changed: watch::Sender<()>,
}

struct Peer {
    entry: NodeEntry,
    /// What it said last.
    said: Option<Beat>,
    heard_at: Option<Instant>,
    standing: Standing,
    listening: AbortHandle,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// Nobody has tried to hear it yet.
    New,
    Heard,
    Silent,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Peers {
    /// Tells `changed` whenever one of them says something new, or falls silent.
    pub(super) fn new(
        token: Option<&Secret>,
        changed: watch::Sender<()>,
        pulse: Handle,
    ) -> Arc<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_WAIT));
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(TokioTimer::new());
        let authorization = token.map(Secret::bearer);
        Arc::new(Self {
            shared: shared(connector.clone()),
            alone: client.build(connector.clone()),
            listener: client.build(connector),
            pulse,
            authorization,
            table: Mutex::default(),
            changed,
        })
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Peer>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to these nodes from now on, and to no others.
    pub(super) fn follow(self: &Arc<Self>, entries: Vec<NodeEntry>) {
        let mut table = self.table();
        let before = table.len();
        table.retain(|_, peer| entries.iter().any(|it| is_same_place(it, &peer.entry)));
        let mut is_new = table.len() != before;
        for entry in entries {
            if let Some(peer) = table.get_mut(&entry.name) {
                peer.entry = entry;
                continue;
            }
            let listening = self.pulse.spawn(Arc::clone(self).listen(entry.clone()));
            let listening = listening.abort_handle();
            let name = entry.name.clone();
            let standing = Standing::New;
            table.insert(name, Peer { entry, said: None, heard_at: None, standing, listening });
            is_new = true;
        }
        drop(table);
        if is_new {
            self.changed.send_replace(());
        }
    }

    /// Whether each has been heard, or found silent.
    pub(super) fn are_known(&self) -> bool {
        self.table().values().all(|peer| peer.standing != Standing::New)
    }

    /// Those that are heard, with their addresses.
    pub(super) fn heard(&self) -> Vec<(String, Beat)> {
        let table = self.table();
        let heard = table.values().filter(|peer| peer.standing == Standing::Heard);
        heard.filter_map(|peer| Some((peer.entry.address.clone(), peer.said.clone()?))).collect()
    }

    /// Who of them says that it drives a partition, and where it is: of several, who claimed it last.
    pub(super) fn owner(&self, partition: Partition) -> Option<(Epoch, String)> {
        let table = self.table();
        let heard = table.values().filter(|peer| peer.standing == Standing::Heard);
        let claims =
            heard.filter_map(|peer| Some((peer.said.as_ref()?.epoch(partition)?, &peer.entry)));
        let last = claims.max_by(|(one, _), (other, _)| one.cmp(other));
        last.map(|(epoch, entry)| (epoch, entry.address.clone()))
    }

    /// Where a node is, whether it is heard or not.
    pub(super) fn address(&self, name: &str) -> Option<String> {
        self.table().get(name).map(|peer| peer.entry.address.clone())
    }

    /// Those that have been silent for so long that they may be forgotten.
    pub(super) fn silent_for(&self, time: Duration) -> Vec<NodeEntry> {
        let table = self.table();
        let silent = table.values().filter(|peer| {
            let heard = peer.heard_at.is_some_and(|at| at.elapsed() < time);
            peer.standing == Standing::Silent && !heard
        });
        silent.map(|peer| peer.entry.clone()).collect()
    }

    pub(super) fn views(&self) -> Vec<NodeView> {
        self.table().values().map(Peer::view).collect()
    }

    /// Listens to one node until the task is aborted.
    async fn listen(self: Arc<Self>, entry: NodeEntry) {
        let mut pause = RECONNECT.0;
        loop {
            match self.connect(&entry).await {
                Some(beats) => {
                    self.hear_out(&entry.name, beats).await;
                    pause = RECONNECT.0;
                }
                None => {
                    self.note(&entry.name, None);
                    pause = RECONNECT.1.min(pause * 2);
                }
            }
            sleep(pause).await;
        }
    }

    /// A node that does not answer soon is silent; one that is busy answers in the end.
    async fn connect(&self, entry: &NodeEntry) -> Option<Incoming> {
        let mut beats = pin!(self.beats(&entry.address));
        if let Ok(beats) = timeout(CONNECT_WAIT, &mut beats).await {
            return beats;
        }
        self.note(&entry.name, None);
        timeout(FIRST_BEAT_WAIT, beats).await.ok().flatten()
    }

    async fn beats(&self, address: &str) -> Option<Incoming> {
        let request = Request::get(format!("{address}{BEATS}")).body(Body::empty()).ok()?;
        let response = self.listener.request(self.authorized(request)).await.ok()?;
        (response.status() == StatusCode::OK).then(|| response.into_body())
    }

    /// Notes every line until the connection breaks, or nothing has come for so long that it may have been
    /// broken without a word.
    async fn hear_out(&self, name: &str, mut beats: Incoming) {
        let (mut line, mut heard_at) = (Vec::new(), Instant::now());
        while heard_at.elapsed() < FIRST_BEAT_WAIT {
            // What has come while this process did not run is heard before it counts as silence.
            let frame = tokio::select! {
                biased;
                frame = beats.frame() => frame,
                () = sleep(SILENCE) => {
                    self.note(name, None);
                    continue;
                }
            };
            heard_at = Instant::now();
            let Some(Ok(frame)) = frame else { return };
            let Ok(data) = frame.into_data() else { continue };
            line.extend_from_slice(&data);
            while let Some(end) = line.iter().position(|&byte| byte == b'\n') {
                let rest = line.split_off(end + 1);
                let said = std::mem::replace(&mut line, rest);
                let beat = std::str::from_utf8(&said).ok().and_then(Beat::read);
                // Whoever else answers at that address is not the node.
                match beat.filter(|beat| beat.node == name) {
                    Some(beat) => self.note(name, Some(beat)),
                    None => return,
                }
            }
            if line.len() > BEAT_BYTES_MAX {
                return;
            }
        }
    }

    /// What a node said, or that it says nothing.
    fn note(&self, name: &str, said: Option<Beat>) {
        let mut table = self.table();
        let Some(peer) = table.get_mut(name) else { return };
        let standing = if said.is_some() { Standing::Heard } else { Standing::Silent };
        let is_news = peer.standing != standing
            || said.as_ref().is_some_and(|it| peer.said.as_ref() != Some(it));
        if peer.standing != standing {
            match standing {
                Standing::Heard => tracing::info!(node = name, "a node is heard"),
                Standing::Silent | Standing::New => {
                    tracing::warn!(node = name, "a node is not heard any more");
                }
            }
        }
        peer.standing = standing;
        if said.is_some() {
            peer.said = said;
            peer.heard_at = Some(Instant::now());
        }
        drop(table);
        if is_news {
            self.changed.send_replace(());
        }
    }

    /// Sends a request to another node.
    ///
    /// # Errors
    ///
    /// Whatever cut the exchange off: the request may have been carried out.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Answer, Failed> {
        self.shared.request(self.authorized(request)).await
    }

    /// The same on a connection of its own, for an answer that goes on for long.
    pub(super) async fn send_alone(&self, request: Request<Body>) -> Result<Answer, Failed> {
        self.alone.request(self.authorized(request)).await
    }

    fn authorized(&self, mut request: Request<Body>) -> Request<Body> {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        request
    }

    /// Sends a request to another node; the whole answer.
    pub(super) async fn ask(&self, request: Request<Body>) -> Option<(StatusCode, Bytes)> {
        let response = self.send(request).await.ok()?;
        let status = response.status();
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    }
}

/// Thousands of requests wait for their answers on one connection to each node. None of them is in the
/// way of another: all of it may hold as much unread as its streams.
fn shared(connector: HttpConnector) -> Client<HttpConnector, Body> {
    let mut client = Client::builder(TokioExecutor::new());
    client
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_only(true)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(STREAM_WINDOW * STREAMS_MAX)
        .http2_max_concurrent_reset_streams(STREAMS_MAX as usize)
        .http2_max_local_error_reset_streams(None)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING_WAIT)
        .http2_keep_alive_while_idle(true);
    client.build(connector)
}

impl Peer {
    fn view(&self) -> NodeView {
        let said = self.said.as_ref();
        let state = match (self.standing, said) {
            (Standing::New | Standing::Silent, _) | (_, None) => NodeWord::Silent,
            (Standing::Heard, Some(said)) if said.cut_off => NodeWord::CutOff,
            (Standing::Heard, Some(said)) if said.draining => NodeWord::Draining,
            (Standing::Heard, Some(_)) => NodeWord::Active,
        };
        let owned = said.filter(|_| self.standing == Standing::Heard);
        NodeView {
            name: self.entry.name.clone(),
            address: self.entry.address.clone(),
            state,
            partitions: owned
                .map_or_else(Vec::new, |it| it.owns.keys().map(|it| it.number()).collect()),
            heard_ms_ago: self.heard_at.map(|at| at.elapsed().as_millis() as u64),
        }
    }
}

/// Whether whoever listens to one listens to the other.
fn is_same_place(one: &NodeEntry, other: &NodeEntry) -> bool {
    one.name == other.name && one.address == other.address
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use unanimous_journal::NodeState;

    use super::*;

    const NAME: &str = "b";

    /// One beat, and nothing after it. Nobody is told that there is nothing more.
    async fn beat_once(listener: &TcpListener) -> TcpStream {
        let (mut connection, _) = listener.accept().await.expect("somebody listens");
        let beat = Beat { node: NAME.to_owned(), ..Beat::default() }.line();
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = format!("{head}{:x}\r\n{beat}\r\n", beat.len());
        connection.write_all(answer.as_bytes()).await.expect("it is read");
        connection
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_comes_any_more_is_made_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let changed = watch::Sender::new(());
        let mut news = changed.subscribe();
        let peers = Peers::new(None, changed, Handle::current());
        let (name, state) = (NAME.to_owned(), NodeState::Active);
        peers.follow(vec![NodeEntry { name, address, incarnation: 1, state }]);
        let mut connections = Vec::new();
        for is_heard in [true, false, true] {
            if is_heard {
                let connection = timeout(FIRST_BEAT_WAIT * 2, beat_once(&listener)).await;
                connections.push(connection.expect("it listens again"));
            }
            let seen = news.wait_for(|()| peers.heard().is_empty() != is_heard);
            timeout(SILENCE * 4, seen).await.expect("it is noticed").expect("it is there");
        }
    }
}
