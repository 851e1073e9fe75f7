//! The coordinator as an application sees it: calls that are repeated until their result is known.
//!
//! Every `POST` carries an idempotency key, so repeating it is safe, wherever: a lost reply is asked
//! about again instead of being guessed, at another node if there is one. What is still not known at
//! the deadline is [`Error::Unknown`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};
use unanimous_api::{
    AbortRequest, BranchInDoubt, InvariantView, InvariantsView, Kind, LogView, NodesView,
    ResolveRequest, ResourceCheck, ResourcesView, StatusWord, TransactionList, TransactionView,
    Wait, header,
};

use crate::chance;
use crate::error::Error;
use crate::events::Events;
use crate::limits::{
    CONNECT_TIMEOUT_MS, DEADLINE_MS, DEADLINE_MS_MAX, LOOK_MS_MIN, PAUSE_MS_MAX, PAUSE_MS_MIN,
    REPLY_TIMEOUT_MS,
};
use crate::message::Message;
use crate::repeat::{Pauses, Repeat, Seen, spread};
use crate::saga::{BegunSaga, Saga};
use crate::transaction::Transaction;
use crate::transport::{Call, Heard, Meaning, Transport, Version, escape};

/// A coordinator of one or several nodes. Cheap to clone; clones share their connections, and which
/// node is asked.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Transport,
    settings: Settings,
    /// Calls that have not come to their end.
    under_way: AtomicUsize,
}

impl Inner {
    fn new(transport: Transport, settings: Settings) -> Self {
        Self { transport, settings, under_way: AtomicUsize::new(0) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    connect_timeout_ms: u64,
    reply_timeout_ms: u64,
    deadline_ms: u64,
    pause_ms_min: u64,
    pause_ms_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout_ms: CONNECT_TIMEOUT_MS,
            reply_timeout_ms: REPLY_TIMEOUT_MS,
            deadline_ms: DEADLINE_MS,
            pause_ms_min: PAUSE_MS_MIN,
            pause_ms_max: PAUSE_MS_MAX,
        }
    }
}

/// What can be set about a [`Client`].
#[derive(Clone)]
#[must_use]
pub struct ClientBuilder {
    servers: String,
    token: Option<String>,
    version: Version,
    settings: Settings,
}

/// Which transactions to list: those that match everything that is set.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of that kind.
    pub kind: Option<Kind>,
    /// Standing there.
    pub status: Option<StatusWord>,
    /// With a branch at that resource.
    pub resource: Option<String>,
    /// Begun at least so many milliseconds ago.
    pub older_than_ms: Option<u64>,
    /// At most so many, up to [`unanimous_api::PAGE_MAX`].
    pub limit: Option<usize>,
    /// Behind the page that came with this.
    pub cursor: Option<String>,
}

impl Client {
    /// A coordinator at an address such as `http://127.0.0.1:7070`. Connections are opened with the
    /// first call.
    ///
    /// The nodes of one coordinator are named together, `http://a:7070,http://b:7070`: the first is
    /// asked for everything, until it does not answer any more or shuts down; then the next is, at
    /// once unless hundreds of calls come with it, and so on. Up to [`crate::limits::SERVERS_MAX`] of them.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if one is no `http://` address. TLS is not supported.
    pub fn connect(servers: &str) -> Result<Self, Error> {
        Self::builder(servers).build()
    }

    /// The same, with settings.
    pub fn builder(servers: &str) -> ClientBuilder {
        ClientBuilder {
            servers: servers.to_owned(),
            token: None,
            version: Version::default(),
            settings: Settings::default(),
        }
    }

    /// A coordinator in this process: `answer` gets what would otherwise be sent.
    pub fn within<F>(answer: impl Fn(Request<Body>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let transport = Transport::within(Box::new(move |request| Box::pin(answer(request))));
        Self { inner: Arc::new(Inner::new(transport, Settings::default())) }
    }

    /// A new transaction, to be run by the coordinator or driven by the application.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.clone())
    }

    /// A new transaction of kind `tcc`: its participants try, and then all confirm or all cancel.
    /// What is tried may be seen by others, and holds no lock.
    pub fn tcc(&self) -> Transaction {
        Transaction::new(self.clone()).of_kind(Kind::Tcc)
    }

    /// A new saga: steps that act one after the other or side by side, and are undone if one cannot.
    pub fn saga(&self) -> Saga {
        Saga::new(self.clone())
    }

    /// A new message: steps that act once the application's local transaction in the database of that
    /// resource has committed.
    pub fn message(&self, source: &str) -> Message {
        Message::new(self.clone(), source)
    }

    /// The saga of that identity, begun here or elsewhere.
    pub fn begun_saga(&self, id: &str) -> BegunSaga {
        BegunSaga::of(self.clone(), id)
    }

    /// The transaction as it stands.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the coordinator does not know it.
    pub async fn show(&self, id: &str) -> Result<TransactionView, Error> {
        self.get(format!("/v1/transactions/{}", escape(id))).await
    }

    /// What happened to the transaction, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the coordinator does not know it.
    pub async fn log(&self, id: &str) -> Result<LogView, Error> {
        self.get(format!("/v1/transactions/{}/log", escape(id))).await
    }

    /// One page of transactions, newest first.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the filter is out of bounds.
    pub async fn list(&self, filter: &Filter) -> Result<TransactionList, Error> {
        self.get(format!("/v1/transactions{}", filter.query())).await
    }

    /// Asks for an abort, and answers with the aborted transaction.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`unanimous_api::Code::AlreadyCommitted`] if commit came first.
    pub async fn abort(&self, id: &str, reason: &str) -> Result<TransactionView, Error> {
        let request = AbortRequest {
            reason: Some(reason.to_owned()),
            if_version: None,
            wait: Some(Wait::Decided),
        };
        self.post(format!("/v1/transactions/{}/abort", escape(id)), &request).await
    }

    /// Calls the participants that gave no answer again at once.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the coordinator does not know the transaction.
    pub async fn retry(&self, id: &str) -> Result<TransactionView, Error> {
        let nothing = serde_json::Map::new();
        self.post(format!("/v1/transactions/{}/retry", escape(id)), &nothing).await
    }

    /// Settles by hand what the protocol cannot.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it contradicts the journal.
    pub async fn resolve(
        &self,
        id: &str,
        request: &ResolveRequest,
    ) -> Result<TransactionView, Error> {
        self.post(format!("/v1/transactions/{}/resolve", escape(id)), request).await
    }

    /// The configured resources and how they do.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] and its like; there is nothing to refuse.
    pub async fn resources(&self) -> Result<ResourcesView, Error> {
        self.get("/v1/resources".to_owned()).await
    }

    /// The branches of one resource that have not heard their outcome.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if there is no such resource.
    pub async fn in_doubt(&self, resource: &str) -> Result<Vec<BranchInDoubt>, Error> {
        self.get(format!("/v1/resources/{}/in-doubt", escape(resource))).await
    }

    /// The journal and one resource, compared.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if there is no such resource.
    pub async fn check(&self, resource: &str) -> Result<ResourceCheck, Error> {
        self.get(format!("/v1/resources/{}/check", escape(resource))).await
    }

    /// The configured invariants with what was last found of each.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] and its like; there is nothing to refuse.
    pub async fn invariants(&self) -> Result<InvariantsView, Error> {
        self.get("/v1/invariants".to_owned()).await
    }

    /// Checks an invariant now. That may take half a minute where sums over large tables are asked for.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`unanimous_api::Code::UnknownInvariant`] if there is none of that name.
    pub async fn check_invariant(&self, name: &str) -> Result<InvariantView, Error> {
        let nothing = serde_json::Map::new();
        self.post(format!("/v1/invariants/{}/check", escape(name)), &nothing).await
    }

    /// The nodes that share a journal; none if the coordinator has its journal for itself.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] if the coordinator does not answer.
    pub async fn nodes(&self) -> Result<NodesView, Error> {
        self.get("/v1/nodes".to_owned()).await
    }

    /// Lets a node give away what it drives, and take nothing more until it is started again.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if there is no such node, or it does not answer.
    pub async fn drain(&self, node: &str) -> Result<NodesView, Error> {
        let nothing = serde_json::Map::new();
        self.post(format!("/v1/nodes/{}/drain", escape(node)), &nothing).await
    }

    /// Every change of state from now on, or those of one transaction.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] at once if no node answers.
    pub async fn events(&self, transaction: Option<&str>) -> Result<Events, Error> {
        Events::open(self.clone(), transaction).await
    }

    /// Succeeds if the coordinator is alive.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while it shuts down.
    pub async fn health(&self) -> Result<(), Error> {
        let call = Call::get("/healthz".to_owned());
        self.ask(&call, Repeat::Reading, self.deadline()).await.map(|_| ())
    }

    pub(crate) fn deadline(&self) -> Instant {
        in_ms(self.deadline_ms())
    }

    /// Milliseconds that a call may take in all.
    pub(crate) fn deadline_ms(&self) -> u64 {
        self.inner.settings.deadline_ms
    }

    /// How long one reply is waited for.
    pub(crate) fn reply_timeout(&self) -> Duration {
        Duration::from_millis(self.inner.settings.reply_timeout_ms)
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    pub(crate) fn pauses(&self) -> Pauses {
        let Settings { pause_ms_min, pause_ms_max, .. } = self.inner.settings;
        Pauses::new(pause_ms_min, pause_ms_max)
    }

    /// Between looks at something that nothing is wrong with.
    pub(crate) fn looks(&self) -> Pauses {
        let Settings { pause_ms_min, pause_ms_max, .. } = self.inner.settings;
        Pauses::new(pause_ms_min.min(LOOK_MS_MIN), pause_ms_max)
    }

    async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, Error> {
        let body = self.ask(&Call::get(path), Repeat::Reading, self.deadline()).await?;
        serde_json::from_slice(&body).map_err(|error| self.foreign(&error))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: String,
        request: &impl serde::Serialize,
    ) -> Result<T, Error> {
        let key = chance::key();
        let call = Call::post(path, request).with(header::IDEMPOTENCY_KEY, &key)?;
        let body = self.ask(&call, Repeat::Keyed(&key), self.deadline()).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Unknown {
            key,
            id: None,
            cause: format!("the reply is not understood: {error}"),
        })
    }

    pub(crate) fn foreign(&self, cause: &dyn fmt::Display) -> Error {
        let transport = &self.inner.transport;
        let server = transport.name(transport.server()).to_owned();
        Error::NotACoordinator { server, cause: cause.to_string() }
    }

    /// A reply that is none of the contract, after what was seen before it.
    fn not_understood(&self, seen: Seen, repeat: Repeat<'_>, cause: String) -> Error {
        match seen {
            Seen::Maybe(_) => {
                Seen::Maybe(cause).into_error(repeat, &self.inner.transport.servers())
            }
            Seen::Nothing(_) | Seen::TurnedAway(_) => self.foreign(&cause),
        }
    }

    /// Sends a call once, without repeats.
    pub(crate) async fn once(&self, call: &Call, patience_ms: u64) -> Heard {
        self.inner.transport.send(call, Duration::from_millis(patience_ms)).await
    }

    /// Sends a call until it is carried out or refused, at the latest until `until`.
    pub(crate) async fn ask(
        &self,
        call: &Call,
        repeat: Repeat<'_>,
        until: Instant,
    ) -> Result<bytes::Bytes, Error> {
        let transport = &self.inner.transport;
        let _under_way = UnderWay::new(&self.inner.under_way);
        let mut pauses = self.pauses();
        let mut seen = Seen::Nothing(String::new());
        // Nodes that were not asked since the last pause, but for the one that is.
        let mut others = transport.count() - 1;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut leave_alone = Duration::ZERO;
            let heard = transport.send(call, self.reply_timeout().min(left)).await;
            let is_farewell = heard.is_farewell();
            let is_over = transport.is_within() && heard.is_shutting_down();
            let now_seen = match heard {
                Heard::NotSent(cause) => Seen::Nothing(cause),
                Heard::Lost(cause) => Seen::Maybe(cause),
                Heard::Reply(reply) => {
                    leave_alone = reply.retry_after();
                    match reply.meaning() {
                        Meaning::Done(body) => return Ok(body),
                        Meaning::Refused(problem) => return Err(Error::of_problem(problem)),
                        Meaning::Foreign(cause) => {
                            return Err(self.not_understood(seen, repeat, cause));
                        }
                        Meaning::TurnedAway(problem) => Seen::TurnedAway(problem),
                        Meaning::Unsettled(cause) => Seen::Maybe(cause),
                    }
                }
            };
            seen = seen.then(now_seen);
            let pause = if is_farewell && others > 0 {
                others -= 1;
                spread(self.inner.under_way.load(Ordering::Relaxed)).min(left / 8)
            } else {
                others = transport.count() - 1;
                pauses.next().max(leave_alone)
            };
            let left = until.saturating_duration_since(Instant::now());
            if is_over || left <= pause.saturating_add(seen.worth()) {
                return Err(seen.into_error(repeat, &transport.servers()));
            }
            sleep(pause).await;
        }
    }
}

/// A call, for as long as it is under way.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn new(all: &'a AtomicUsize) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(all)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The instant that is so many milliseconds away, or a year if that is less.
pub(crate) fn in_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms.min(DEADLINE_MS_MAX))
}

impl ClientBuilder {
    /// The token that the coordinator is configured with.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Speaks HTTP/2 without asking first: all requests to a coordinator share one connection. For
    /// applications of which hundreds of requests wait at once; a connection for each of them costs both
    /// sides memory and files, and thousands of new ones when a node dies. A proxy in between has to
    /// speak HTTP/2 without TLS too, or pass connections on as they are.
    pub fn http2_prior_knowledge(mut self) -> Self {
        self.version = Version::Http2;
        self
    }

    /// Milliseconds that opening a connection may take; [`CONNECT_TIMEOUT_MS`] by default.
    pub fn connect_timeout_ms(mut self, connect_timeout_ms: u64) -> Self {
        self.settings.connect_timeout_ms = connect_timeout_ms;
        self
    }

    /// Milliseconds to wait for one reply before asking again; [`REPLY_TIMEOUT_MS`] by default.
    pub fn reply_timeout_ms(mut self, reply_timeout_ms: u64) -> Self {
        self.settings.reply_timeout_ms = reply_timeout_ms;
        self
    }

    /// Milliseconds that a call may take in all, its repeats included; [`DEADLINE_MS`] by default.
    /// A transaction may set its own.
    pub fn deadline_ms(mut self, deadline_ms: u64) -> Self {
        self.settings.deadline_ms = deadline_ms;
        self
    }

    /// Milliseconds between repeats: the first pause, and the longest that doubling leads to. Each
    /// is shortened by up to half, by chance.
    pub fn pauses_ms(mut self, pause_ms_min: u64, pause_ms_max: u64) -> Self {
        self.settings.pause_ms_min = pause_ms_min.min(pause_ms_max);
        self.settings.pause_ms_max = pause_ms_max;
        self
    }

    /// The client.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if the address or the token cannot be used.
    pub fn build(self) -> Result<Client, Error> {
        let connect_timeout = Duration::from_millis(self.settings.connect_timeout_ms);
        let Self { servers, token, version, settings } = self;
        let transport = Transport::new(&servers, token.as_deref(), connect_timeout, version)?;
        Ok(Client { inner: Arc::new(Inner::new(transport, settings)) })
    }
}

impl Filter {
    fn query(&self) -> String {
        let pairs = [
            ("kind", self.kind.map(|kind| kind.as_str().to_owned())),
            ("status", self.status.map(|status| status.as_str().to_owned())),
            ("resource", self.resource.clone()),
            ("older_than_ms", self.older_than_ms.map(|age| age.to_string())),
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("cursor", self.cursor.clone()),
        ];
        let set = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        set.enumerate()
            .map(|(index, (name, value))| {
                format!("{}{name}={}", if index == 0 { '?' } else { '&' }, escape(&value))
            })
            .collect()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("servers", &self.inner.transport.servers()).finish()
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_asks_for_what_is_set_only() {
        assert_eq!(Filter::default().query(), "");
        let filter = Filter {
            kind: Some(Kind::Tcc),
            status: Some(StatusWord::Aborted),
            resource: Some("a b".into()),
            limit: Some(7),
            ..Filter::default()
        };
        assert_eq!(filter.query(), "?kind=tcc&status=ABORTED&resource=a%20b&limit=7");
    }
}
