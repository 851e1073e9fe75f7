//! One request, one reply: connections to the coordinators, and what came back over them. A coordinator
//! in this process is asked without a connection.
//!
//! Nothing is repeated here. What happened is told apart by what it means for the caller: a request
//! that certainly was not sent is [`Heard::NotSent`]; one whose reply did not come is
//! [`Heard::Lost`] and may have been carried out.
//!
//! Of several coordinators one is asked for as long as it answers. When it does not, or says that it
//! shuts down, the next request goes to the next.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use unanimous_api::{Code, Problem};

use crate::error::{Error, chain};
use crate::limits::{
    IDLE_CONNECTIONS_MAX, PING, PING_WAIT, REPLY_BYTES_MAX, REQUESTS_AT_ONCE, SERVERS_MAX,
    UNREAD_BYTES_MAX,
};

/// Answers requests in this process.
pub(crate) type Within =
    dyn Fn(Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync;

/// What a coordinator in this process is called in errors.
const THIS_PROCESS: &str = "this process";

/// Connections to coordinators that are all as good.
#[derive(Debug)]
pub(crate) struct Transport {
    way: Way,
    /// Without a slash at the end; at least one.
    servers: Vec<String>,
    /// The one that is asked.
    asked: AtomicUsize,
    authorization: Option<HeaderValue>,
}

/// How a request gets there.
enum Way {
    Network(Box<Pool<HttpConnector, Full<Bytes>>>),
    Within(Box<Within>),
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network(_) => "Network",
            Self::Within(_) => "Within",
        })
    }
}

/// One of the coordinators.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Server(usize);

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Version {
    /// A connection for each request under way.
    #[default]
    Http1,
    /// One connection to each coordinator.
    Http2,
}

/// A request that can be sent more than once.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// What came of sending a call.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A whole reply.
    Reply(Reply),
    /// It certainly was not sent.
    NotSent(String),
    /// It may have been carried out.
    Lost(String),
}

/// A whole reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    retry_after: Option<Duration>,
}

/// What a reply means for whoever wants the call carried out.
#[derive(Debug)]
pub(crate) enum Meaning {
    /// A success.
    Done(Bytes),
    /// The call will not be carried out, or was and came to nothing.
    Refused(Problem),
    /// The call was not taken on, and may be later.
    TurnedAway(Problem),
    /// It may have been carried out, or still be: an earlier call with its key is under way, the
    /// coordinator failed, or something between failed.
    Unsettled(String),
    /// Not in the language of the contract.
    Foreign(String),
}

impl Call {
    pub(crate) fn get(path: String) -> Self {
        Self { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(crate) fn post(path: String, body: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("the contract's types have string keys only");
        let mut call = Self { method: Method::POST, body: body.into(), ..Self::get(path) };
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        call
    }

    /// The same, with a header.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if a header cannot hold `value`.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Result<Self, Error> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Error::Usage(format!("{value:?} cannot be sent as {name}")))?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }
}

impl Transport {
    /// # Errors
    ///
    /// [`Error::Usage`] if `servers` are not `http://` addresses with commas between them, or `token`
    /// cannot be sent.
    pub(crate) fn new(
        servers: &str,
        token: Option<&str>,
        connect_timeout: Duration,
        version: Version,
    ) -> Result<Self, Error> {
        let authorization = token.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                Error::Usage("the token has characters that no header takes".into())
            })?;
            value.set_sensitive(true);
            Ok(value)
        });
        let (servers, asked) = (addresses(servers)?, AtomicUsize::new(0));
        Ok(Self {
            way: Way::Network(Box::new(pool(connect_timeout, version))),
            servers,
            asked,
            authorization: authorization.transpose()?,
        })
    }

    /// To a coordinator in this process.
    pub(crate) fn within(answer: Box<Within>) -> Self {
        Self {
            way: Way::Within(answer),
            servers: vec![THIS_PROCESS.to_owned()],
            asked: AtomicUsize::new(0),
            authorization: None,
        }
    }

    /// Whether there is no network in between. A coordinator of this process that has shut down is gone
    /// for good: one that may be started after it is another.
    pub(crate) fn is_within(&self) -> bool {
        matches!(self.way, Way::Within(_))
    }

    /// How many coordinators there are.
    pub(crate) fn count(&self) -> usize {
        self.servers.len()
    }

    /// All of them, as they were named.
    pub(crate) fn servers(&self) -> String {
        self.servers.join(",")
    }

    /// The one that is asked next.
    pub(crate) fn server(&self) -> Server {
        Server(self.asked.load(Ordering::Relaxed))
    }

    pub(crate) fn name(&self, server: Server) -> &str {
        &self.servers[server.0]
    }

    /// Asks the next one from now on, unless somebody has seen to that already.
    pub(crate) fn leave(&self, server: Server) {
        let next = (server.0 + 1) % self.servers.len();
        // Another request may have left it before, and be well where it is now.
        let _ = self.asked.compare_exchange(server.0, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Sends a call and takes the whole reply, waiting at most `patience`. A coordinator that is gone is
    /// not asked again before the others.
    pub(crate) async fn send(&self, call: &Call, patience: Duration) -> Heard {
        let server = self.server();
        let heard = self.send_to(server, call, patience).await;
        if heard.is_farewell() {
            self.leave(server);
        }
        match (heard, self.count()) {
            (Heard::NotSent(cause), 2..) => Heard::NotSent(self.said_of(server, &cause)),
            (Heard::Lost(cause), 2..) => Heard::Lost(self.said_of(server, &cause)),
            (heard, _) => heard,
        }
    }

    fn said_of(&self, server: Server, cause: &str) -> String {
        format!("{}: {cause}", self.name(server))
    }

    async fn send_to(&self, server: Server, call: &Call, patience: Duration) -> Heard {
        let reply = async {
            let response = self.open(server, call).await?;
            let (head, body) = response.into_parts();
            let body = match Limited::new(body, REPLY_BYTES_MAX).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => return Err(Heard::Lost(chain(&*error))),
            };
            let retry_after = head
                .headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok().map(Duration::from_secs));
            Ok(Reply { status: head.status, body, retry_after })
        };
        match tokio::time::timeout(patience, reply).await {
            Ok(Ok(reply)) => Heard::Reply(reply),
            Ok(Err(heard)) => heard,
            Err(_) => Heard::Lost(format!("no reply within {} ms", patience.as_millis())),
        }
    }

    /// Sends a call and takes the head of the reply.
    pub(crate) async fn open(&self, server: Server, call: &Call) -> Result<Response<Body>, Heard> {
        let address = match self.way {
            Way::Network(_) => self.name(server),
            Way::Within(_) => "",
        };
        let uri: Uri = format!("{address}{}", call.path)
            .parse()
            .map_err(|_| Heard::NotSent(format!("not a path: {}", call.path)))?;
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = call.headers.clone();
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("*/*"));
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        let pool = match &self.way {
            Way::Network(pool) => pool,
            Way::Within(answer) => return Ok(answer(request.map(Body::new)).await),
        };
        let answer = pool.request(request).await.map_err(|error| match error.is_connect() {
            true => Heard::NotSent(chain(&error)),
            false => Heard::Lost(chain(&error)),
        });
        Ok(answer?.map(Body::new))
    }
}

fn pool(connect_timeout: Duration, version: Version) -> Pool<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(connect_timeout));
    let mut pool = Pool::builder(TokioExecutor::new());
    pool.pool_timer(TokioTimer::new()).pool_max_idle_per_host(IDLE_CONNECTIONS_MAX);
    if version == Version::Http2 {
        // No reply that nobody reads is in the way of another, and thousands may be given up at once.
        pool.http2_only(true)
            .timer(TokioTimer::new())
            .http2_initial_stream_window_size(UNREAD_BYTES_MAX)
            .http2_initial_connection_window_size(UNREAD_BYTES_MAX * REQUESTS_AT_ONCE)
            .http2_max_concurrent_reset_streams(REQUESTS_AT_ONCE as usize)
            .http2_max_local_error_reset_streams(None)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING_WAIT);
    }
    pool.build(connector)
}

impl Heard {
    /// Whether who was asked is gone, or about to go: another can be asked at once.
    pub(crate) fn is_farewell(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Lost(_) => true,
            Self::Reply(_) => self.is_shutting_down(),
        }
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Lost(_) => false,
            Self::Reply(reply) => {
                reply.status == StatusCode::SERVICE_UNAVAILABLE
                    && serde_json::from_slice::<Problem>(&reply.body)
                        .is_ok_and(|it| Code::parse(&it.code) == Some(Code::ShuttingDown))
            }
        }
    }
}

impl Reply {
    pub(crate) fn new(status: StatusCode, body: Bytes) -> Self {
        Self { status, body, retry_after: None }
    }

    /// How long the coordinator wants to be left alone.
    pub(crate) fn retry_after(&self) -> Duration {
        self.retry_after.unwrap_or_default()
    }

    /// What the reply means.
    pub(crate) fn meaning(self) -> Meaning {
        if self.status.is_success() {
            return Meaning::Done(self.body);
        }
        let seen = || {
            let text = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]).into_owned();
            format!("HTTP {}: {text}", self.status.as_u16())
        };
        let again = self.status.is_server_error() || self.status == StatusCode::TOO_MANY_REQUESTS;
        let problem = match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => problem,
            Err(_) if again => return Meaning::Unsettled(seen()),
            Err(_) => return Meaning::Foreign(seen()),
        };
        // A newer coordinator may have codes that are not known here.
        let Some(code) = Code::parse(&problem.code) else {
            return match again {
                true => Meaning::Unsettled(seen()),
                false => Meaning::Refused(problem),
            };
        };
        if matches!(code, Code::Overloaded | Code::JournalFull | Code::ShuttingDown) {
            return Meaning::TurnedAway(problem);
        }
        match matches!(code, Code::KeyInUse | Code::NoOwner) || again {
            true => Meaning::Unsettled(problem.detail),
            false => Meaning::Refused(problem),
        }
    }
}

/// The addresses in a list, each once.
fn addresses(servers: &str) -> Result<Vec<String>, Error> {
    let mut addresses = Vec::new();
    for server in servers.split(',') {
        let address = address(server.trim())?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    match addresses.len() {
        0..=SERVERS_MAX => Ok(addresses),
        more => {
            Err(Error::Usage(format!("{more} addresses of coordinators; up to {SERVERS_MAX} work")))
        }
    }
}

/// Checks the address of a coordinator, and takes the slash off its end.
fn address(server: &str) -> Result<String, Error> {
    if server.contains('@') {
        return Err(Error::Usage("expected an address without user and password".into()));
    }
    let wrong =
        |why: &str| Error::Usage(format!("{server:?} is not the address of a coordinator: {why}"));
    let uri: Uri =
        server.parse().map_err(|_| wrong("expected one such as http://127.0.0.1:7070"))?;
    match uri.scheme_str() {
        Some("http") if uri.query().is_none() => {}
        Some("http") => return Err(wrong("expected no query")),
        Some("https") => return Err(wrong("TLS is not supported, expected http://")),
        Some(_) | None => return Err(wrong("expected one such as http://127.0.0.1:7070")),
    }
    Ok(server.trim_end_matches('/').to_owned())
}

/// `text` as one segment of a path, or one value of a query.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_addresses_without_secrets_are_taken() {
        assert_eq!(address("http://127.0.0.1:7070/").expect("fine"), "http://127.0.0.1:7070");
        for wrong in ["", "127.0.0.1:7070", "https://a:1", "ftp://a", "http://u:p@a", "http://a/?b"]
        {
            let error = address(wrong).expect_err(wrong).to_string();
            assert!(!error.contains("u:p"), "{error}");
        }
        let tls = address("https://bank.example").expect_err("no TLS").to_string();
        assert!(tls.contains("TLS is not supported"), "{tls}");
    }

    #[test]
    fn a_list_of_addresses_has_each_once_and_one_that_is_wrong_is_named() {
        let list = addresses("http://a:1, http://b:1/,http://a:1").expect("fine");
        assert_eq!(list, ["http://a:1", "http://b:1"]);
        for wrong in ["http://a:1,", "http://a:1,b:2"] {
            let error = addresses(wrong).expect_err(wrong).to_string();
            let last = wrong.rsplit(',').next().expect("there is one");
            assert!(error.contains(&format!("{last:?}")), "{error}");
        }
        let many: Vec<_> = (0..=SERVERS_MAX).map(|port| format!("http://a:{port}")).collect();
        assert!(addresses(&many.join(",")).is_err());
    }

    #[test]
    fn who_was_left_by_somebody_else_is_not_left_twice() {
        let wait = Duration::from_secs(1);
        let transport = Transport::new("http://a:1,http://b:1", None, wait, Version::Http1);
        let transport = transport.expect("fine");
        let (first, name) = (transport.server(), |it| transport.name(it).to_owned());
        transport.leave(first);
        transport.leave(first);
        assert_eq!(name(transport.server()), "http://b:1");
        transport.leave(transport.server());
        assert_eq!(name(transport.server()), "http://a:1");
    }

    #[test]
    fn what_could_end_a_segment_is_escaped() {
        assert_eq!(escape("a-b_1"), "a-b_1");
        assert_eq!(escape("../x?y=ü"), "%2E%2E%2Fx%3Fy%3D%C3%BC");
    }
}
