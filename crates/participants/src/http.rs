//! Service participants: one POST per call, and what each reply means. Steps of a saga are any request
//! (`step`).
//!
//! 200 is yes or done, 409 is no, 425 is still working. Everything else is [`Answer::Silent`],
//! including a 200 whose body contradicts the question, because a coordinator that guesses is wrong
//! sooner or later. Redirects are not followed. Texts name the path and what was seen, and never a
//! secret: a URL with credentials is refused from the start.

mod dial;
mod step;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use tokio::time::timeout;
use unanimous_api::callback::{FinishReply, HeuristicWord, PrepareReply, Refusal, ReplyVote};
use unanimous_api::header;
use unanimous_core::commit::{Phases, Shape};
use unanimous_core::limits::TEXT_LEN_MAX;
use unanimous_core::{Answer, HeuristicKind, Opaque, Reason, Verb};

use self::dial::Dialer;
use self::step::Step;
use crate::guard::{Adapter, Contact, Heard, Hearing};
use crate::limits::{IDLE_CONNECTION_KEPT, REASON_KIND_LEN_MAX, REPLY_BYTES_MAX};
use crate::open::Settings;
use crate::signing::SigningSecret;
use crate::step::Half;
use crate::tls::{self, Connector};
use crate::{Call, Examining, Finding};

const TRANSACTION: HeaderName = HeaderName::from_static(header::TRANSACTION);
const BRANCH: HeaderName = HeaderName::from_static(header::BRANCH);
const ATTEMPT: HeaderName = HeaderName::from_static(header::ATTEMPT);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static(header::IDEMPOTENCY_KEY);
const EXPIRES: HeaderName = HeaderName::from_static(header::EXPIRES);
const PHASES: HeaderName = HeaderName::from_static(header::PHASES);
const TRACEPARENT: HeaderName = HeaderName::from_static(header::TRACEPARENT);
/// What an examination looks at.
const CONNECTION: &str = "connection";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A service that takes part over HTTP.
pub struct HttpAdapter {
    location: String,
    phases: Phases,
    base: Uri,
    atomic: Endpoints,
    tcc: Endpoints,
    requests: Requests,
    signing: Option<SigningSecret>,
}

type Requests = Client<Dialer, Full<Bytes>>;

/// Where a service is called for each verb, and what it calls them.
struct Endpoints {
    prepare: Endpoint,
    commit: Endpoint,
    rollback: Endpoint,
}

struct Endpoint {
    word: &'static str,
    uri: Uri,
}

impl Endpoints {
    fn below(base: &str, [prepare, commit, rollback]: [&'static str; 3]) -> Result<Self, String> {
        let endpoint = |word| {
            let uri = format!("{base}/{word}").parse();
            let uri = uri.map_err(|error| format!("its url is wrong: {error}"))?;
            Ok::<_, String>(Endpoint { word, uri })
        };
        let (prepare, commit) = (endpoint(prepare)?, endpoint(commit)?);
        Ok(Self { prepare, commit, rollback: endpoint(rollback)? })
    }
}

impl HttpAdapter {
    /// The service whose endpoints are below `url`. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the configuration, for the one who wrote it.
    pub fn new(url: &str, settings: &Settings) -> Result<Self, String> {
        let (base, tls) = base_of(url, settings)?;
        let calls_max = settings.first_phase_calls_max + settings.second_phase_calls_max;
        Ok(Self {
            base: base.parse().map_err(|error| format!("its url is wrong: {error}"))?,
            atomic: Endpoints::below(&base, ["prepare", "commit", "rollback"])?,
            tcc: Endpoints::below(&base, ["try", "confirm", "cancel"])?,
            location: base,
            signing: settings.signing.clone(),
            phases: settings.phases,
            requests: client(calls_max, tls),
        })
    }

    fn step(&self, half: Half) -> Step {
        Step {
            requests: self.requests.clone(),
            base: self.location.clone(),
            signing: self.signing.clone(),
            half,
        }
    }

    fn request(&self, call: &Call, Endpoint { word, uri }: &Endpoint) -> Request<Full<Bytes>> {
        let carries_work = match call.verb {
            Verb::Prepare | Verb::CommitOnePhase => !call.work.is_empty(),
            Verb::Commit | Verb::Rollback | Verb::Act | Verb::Compensate => false,
        };
        let work = if carries_work { call.work.bytes() } else { &[] };
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(work)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        headers.reserve(9);
        let key = format!("{}:{word}", call.name);
        if let Some(secret) = &self.signing {
            secret.sign(headers, &key, work);
        }
        headers.insert(IDEMPOTENCY_KEY, ours(key));
        contract(headers, call);
        if call.verb == Verb::CommitOnePhase {
            headers.insert(PHASES, HeaderValue::from_static("one"));
        }
        if call.shape == Shape::Tcc && call.verb == Verb::Prepare && call.deadline.0 > 0 {
            headers.insert(EXPIRES, HeaderValue::from(call.deadline.0));
        }
        if carries_work {
            headers.insert(CONTENT_TYPE, JSON);
        }
        request
    }
}

/// Says for which branch of which transaction a request is.
fn contract(headers: &mut HeaderMap, call: &Call) {
    headers.insert(TRANSACTION, ours(call.name.txn.to_string()));
    headers.insert(BRANCH, ours(call.name.to_string()));
    headers.insert(ATTEMPT, HeaderValue::from(call.attempt));
    headers.insert(TRACEPARENT, ours(call.trace.to_string()));
}

impl Adapter for HttpAdapter {
    fn call(&self, call: Call) -> Hearing {
        let endpoints = match call.shape {
            Shape::Atomic => &self.atomic,
            Shape::Tcc => &self.tcc,
        };
        let endpoint = match call.verb {
            Verb::Prepare => &endpoints.prepare,
            Verb::Commit | Verb::CommitOnePhase => &endpoints.commit,
            Verb::Rollback => &endpoints.rollback,
            Verb::Act => return Box::pin(self.step(Half::Act).perform(call)),
            Verb::Compensate => return Box::pin(self.step(Half::Compensate).perform(call)),
        };
        let path = endpoint.uri.path().to_owned();
        // The client starts nothing before it is polled.
        let exchange = self.requests.request(self.request(&call, endpoint));
        Box::pin(async move {
            let unheard = match timeout(call.patience, exchange_in_full(exchange)).await {
                Ok(Ok((status, body))) => {
                    let answer = answer_of(call.verb, status, &body)
                        .unwrap_or_else(|seen| silent(&Method::POST, &path, &seen));
                    return Heard { answer, contact: Contact::Made };
                }
                Ok(Err(unheard)) => unheard,
                Err(_) => Unheard {
                    contact: Contact::TimedOut,
                    seen: format!("no answer within {} ms", call.patience.as_millis()),
                },
            };
            let answer = silent(&Method::POST, &path, &unheard.seen);
            Heard { answer, contact: unheard.contact }
        })
    }

    fn phases(&self) -> Phases {
        self.phases
    }

    fn kind(&self) -> &'static str {
        "http"
    }

    fn location(&self) -> &str {
        &self.location
    }

    fn steps(&self) -> bool {
        true
    }

    fn signs(&self) -> bool {
        self.signing.is_some()
    }

    fn examine(&self, patience: Duration) -> Examining {
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::HEAD;
        *request.uri_mut() = self.base.clone();
        let exchange = self.requests.request(request);
        Box::pin(async move {
            let finding = match timeout(patience, exchange).await {
                Ok(Ok(reply)) => answered(reply.status()),
                Ok(Err(error)) => Finding::unfit(
                    CONNECTION,
                    format!("{}; start the service, or correct its url", root_of(&error)),
                ),
                Err(_) => Finding::unfit(
                    CONNECTION,
                    format!("no answer within {} ms; see the service's log", patience.as_millis()),
                ),
            };
            vec![finding]
        })
    }
}

/// That a service answers is all that can be seen without a transaction; to a question like this it
/// may answer what it likes.
fn answered(status: StatusCode) -> Finding {
    match status.as_u16() {
        502..=504 => Finding::doubtful(
            CONNECTION,
            format!("it answers {status}, as a proxy does for a service that is down: start it"),
        ),
        _ => Finding::fit(CONNECTION, "it answers"),
    }
}

fn base_of(url: &str, settings: &Settings) -> Result<(String, Option<Connector>), String> {
    let uri: Uri = url.parse().map_err(|error| format!("its url is wrong: {error}"))?;
    let authority = uri.authority().ok_or("its url names no host")?;
    if authority.as_str().contains('@') {
        return Err("its url must not carry a user name or password".to_owned());
    }
    if uri.query().is_some() {
        return Err("its url must not carry a query: /prepare is appended to it".to_owned());
    }
    let (scheme, tls) = match uri.scheme_str() {
        Some("https") => ("https", Some(Connector::new(&settings.tls)?)),
        Some(_) | None => {
            settings.tls.refuse_unused("write https://")?;
            ("http", None)
        }
    };
    Ok((format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/')), tls))
}

fn client(calls_max: usize, tls: Option<Connector>) -> Requests {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_CONNECTION_KEPT)
        .pool_max_idle_per_host(calls_max)
        .build(Dialer::new(tls))
}

fn ours(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("cluster names and identities are plain ascii")
}

/// No reply that could be read to its end.
struct Unheard {
    contact: Contact,
    seen: String,
}

async fn exchange_in_full(
    exchange: impl Future<Output = Result<http::Response<Incoming>, hyper_util::client::legacy::Error>>,
) -> Result<(StatusCode, Bytes), Unheard> {
    let broken = |seen| Unheard { contact: Contact::Broken, seen };
    let reply = exchange.await.map_err(|error| broken(root_of(&error)))?;
    let status = reply.status();
    let body = Limited::new(reply.into_body(), REPLY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => Unheard {
            contact: Contact::Made,
            seen: format!("status {status} with more than {REPLY_BYTES_MAX} bytes"),
        },
        false => broken(format!("status {status}, then {}", root_of(&*error))),
    })?;
    Ok((status, body.to_bytes()))
}

/// The innermost cause, which is the one that says something, such as "connection refused".
fn root_of(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.downcast_ref::<io::Error>().map_or_else(|| root.to_string(), tls::seen)
}

fn silent(method: &Method, path: &str, seen: &str) -> Answer {
    let mut text = format!("{method} {path}: {seen}");
    text.truncate(text.floor_char_boundary(TEXT_LEN_MAX));
    Answer::Silent(Arc::from(text))
}

/// What a reply means, or what was seen if it means nothing.
fn answer_of(verb: Verb, status: StatusCode, body: &[u8]) -> Result<Answer, String> {
    match (status.as_u16(), verb) {
        (200, Verb::Prepare) => voted(body),
        (200, Verb::Commit | Verb::Rollback) => finished(body),
        (200, Verb::Act | Verb::Compensate) => step::done(body),
        (200, Verb::CommitOnePhase) => decided(body),
        (409, Verb::Prepare | Verb::CommitOnePhase | Verb::Act | Verb::Compensate) => {
            Ok(Answer::No(refused(body)))
        }
        (409, Verb::Commit | Verb::Rollback) => {
            Err("status 409, but nothing can be refused after the decision".to_owned())
        }
        (425, _) => Ok(Answer::Working),
        (
            _,
            Verb::Prepare
            | Verb::Commit
            | Verb::CommitOnePhase
            | Verb::Rollback
            | Verb::Act
            | Verb::Compensate,
        ) => Err(format!("status {status}")),
    }
}

fn voted(body: &[u8]) -> Result<Answer, String> {
    let (vote, finish) = parsed(body)?;
    let result = result_of(vote.result)?;
    match (vote.vote, finish.heuristic) {
        (_, Some(_)) => Err(contradiction("a heuristic to a prepare")),
        (Some(ReplyVote::ReadOnly), None) => Ok(Answer::ReadOnly(result)),
        (Some(ReplyVote::Yes) | None, None) => Ok(Answer::Yes(result)),
    }
}

fn finished(body: &[u8]) -> Result<Answer, String> {
    let (vote, finish) = parsed(body)?;
    match (vote.vote, finish.heuristic) {
        (Some(_), _) => Err(contradiction("a vote after the decision")),
        (None, Some(word)) => Ok(Answer::Heuristic(kind_of(word))),
        (None, None) => Ok(Answer::Done(Opaque::default())),
    }
}

/// In one phase the branch decides for everybody, so whatever it did by itself is the outcome.
fn decided(body: &[u8]) -> Result<Answer, String> {
    let (vote, finish) = parsed(body)?;
    let result = result_of(finish.result)?;
    match (vote.vote, finish.heuristic) {
        (None, None | Some(HeuristicWord::Commit)) => Ok(Answer::Done(result)),
        (None, Some(HeuristicWord::Rollback)) => {
            Ok(Answer::No(Reason::new("heuristic", "the participant had rolled back by itself")))
        }
        (None, Some(HeuristicWord::Mixed | HeuristicWord::Hazard)) => {
            Err(contradiction("neither done nor refused"))
        }
        (Some(ReplyVote::ReadOnly), None) => Ok(Answer::ReadOnly(result)),
        (Some(ReplyVote::ReadOnly), Some(_)) => Err(contradiction("read-only, yet ended")),
        (Some(ReplyVote::Yes), _) => Err(contradiction("a vote to a commit in one phase")),
    }
}

fn parsed(body: &[u8]) -> Result<(PrepareReply, FinishReply), String> {
    if body.is_empty() {
        return Ok(Default::default());
    }
    let not_ours = |error| format!("status 200 with a body that is not of the contract: {error}");
    let vote = serde_json::from_slice(body).map_err(not_ours)?;
    let finish = serde_json::from_slice(body).map_err(not_ours)?;
    Ok((vote, finish))
}

fn contradiction(what: &str) -> String {
    format!("status 200 with a body that contradicts the question: {what}")
}

/// Kept as a list, because a branch of several statements has several results.
fn result_of(result: Option<Value>) -> Result<Opaque, String> {
    let Some(result) = result else { return Ok(Opaque::default()) };
    let list = serde_json::to_vec(&[result]).map_err(|error| format!("its result: {error}"))?;
    Ok(Opaque::new(&list))
}

fn kind_of(word: HeuristicWord) -> HeuristicKind {
    match word {
        HeuristicWord::Commit => HeuristicKind::Commit,
        HeuristicWord::Rollback => HeuristicKind::Rollback,
        HeuristicWord::Mixed => HeuristicKind::Mixed,
        HeuristicWord::Hazard => HeuristicKind::Hazard,
    }
}

fn refused(body: &[u8]) -> Reason {
    let Ok(refusal) = serde_json::from_slice::<Refusal>(body) else {
        let text = String::from_utf8_lossy(body);
        let detail = if text.is_empty() { "status 409 without a reason" } else { text.trim() };
        return Reason::new("refused", detail);
    };
    let kind = refusal.kind.filter(|kind| is_word(kind));
    let detail = refusal.detail.as_deref().unwrap_or("status 409 without a reason");
    Reason::new(kind.as_deref().unwrap_or("refused"), detail)
}

fn is_word(kind: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=REASON_KIND_LEN_MAX).contains(&kind.len()) && kind.bytes().all(allowed)
}
