//! What a step of a saga is written as, and what is wrong with it before it begins.
//!
//! A database runs the statements that a branch would. A service is sent any request:
//!
//! ```text
//! {"path":"/charge","method":"POST","headers":{"x-tenant":"7"},"body":{"amount":500},"status":"/charges?of=…"}
//! ```
//!
//! Only the path is required. The same is checked when a step is submitted, of a specimen, and when it
//! is sent, because values come in between: no value leads out of the resource's url.

use std::fmt::Display;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method};
use serde::Deserialize;
use serde_json::value::RawValue;
use unanimous_api::header;
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Opaque, Reason};

use crate::Takes;
use crate::kept;
use crate::limits::{STATEMENTS_MAX, STEP_HEADERS_MAX};
use crate::statement::{self, Statement};

/// A resource cannot be asked for this: nothing was sent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{pointer}: {why}")]
pub struct BadStep {
    /// Where in the work, as a JSON pointer.
    pub pointer: String,
    /// What is wrong there.
    pub why: String,
}

impl BadStep {
    fn at(pointer: impl Into<String>, why: impl Display) -> Self {
        Self { pointer: pointer.into(), why: why.to_string() }
    }
}

/// Work that is no step: the database says whether the local transaction with the branch's
/// [`proof`] has committed, and sees to it that it never will if it has not.
pub const SETTLE: &str = "\"settle\"";

/// What an application runs within its local transaction, so that whether it has committed can be
/// found out without it. PostgreSQL and MySQL both take it.
pub fn proof(branch: &str) -> String {
    format!(
        "INSERT INTO unanimous_barrier (branch, verb, result) VALUES ('{branch}', 'act', '{{}}')"
    )
}

/// Whether a resource that takes such work can be asked for this step.
///
/// # Errors
///
/// [`BadStep`], of the first thing that is wrong.
pub fn check(takes: Takes, work: &Opaque) -> Result<(), BadStep> {
    match takes {
        Takes::Body => Request::read(work).map(drop),
        Takes::Statements => statements(work).map(drop),
        Takes::Commands => Err(BadStep::at("", "a resource of this kind takes no steps")),
    }
}

/// The halves of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Half {
    Act,
    /// The first half was the application's: whether it was carried out is settled.
    Settle,
    Compensate,
}

impl Half {
    /// The first half, as its work has it.
    pub(crate) fn first(work: &Opaque) -> Self {
        match work.bytes() == SETTLE.as_bytes() {
            true => Self::Settle,
            false => Self::Act,
        }
    }

    /// As keys and rows spell it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Act | Self::Settle => "act",
            Self::Compensate => "compensate",
        }
    }

    /// The statements of a call in a database.
    pub(crate) fn statements(self, work: &Opaque) -> Result<Vec<Statement>, BadStep> {
        match self {
            Self::Settle => Ok(Vec::new()),
            Self::Act | Self::Compensate => statements(work),
        }
    }
}

/// What a step in a database runs.
fn statements(work: &Opaque) -> Result<Vec<Statement>, BadStep> {
    let statements = statement::read(work).map_err(|why| BadStep::at("", why))?;
    match statements.len() {
        1..=STATEMENTS_MAX => Ok(statements),
        0 => Err(BadStep::at("", "a step in a database has at least one statement")),
        more => Err(BadStep::at("", format!("{more} statements, at most {STATEMENTS_MAX}"))),
    }
}

/// Why a step that comes late is not done.
pub(crate) fn barred() -> Reason {
    Reason::new("barred", "it was compensated before it came")
}

/// Why nothing rests on a local transaction.
pub(crate) fn not_committed() -> Reason {
    Reason::new("not_committed", "the local transaction has not committed, and cannot any more")
}

/// What becomes of a local transaction whose row was not there and is now: it never commits.
pub(crate) fn settled(barred: Answer, name: &BranchName) -> Answer {
    match (&barred, kept::may_be_gone(name)) {
        (Answer::Done(_), true) => Answer::Silent(
            "the transaction is older than what the database remembers: look whether it has committed, \
             and resolve it by hand"
                .into(),
        ),
        (Answer::Done(_), false) => Answer::No(not_committed()),
        _ => barred,
    }
}

/// Why it is not known whether there is anything to undo.
pub(crate) fn forgotten() -> Reason {
    let detail = "the saga is older than what the database remembers of its steps: whether this one was \
                  done is not known; look, and undo it by hand if it was";
    Reason::new("forgotten", detail)
}

/// A request to a service, without what is ours in every request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// Where to ask how an earlier attempt went.
    pub(crate) status: Option<String>,
    pub(crate) headers: HeaderMap,
    /// As JSON; empty for none.
    pub(crate) body: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[serde(borrow)]
    path: &'a RawValue,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
}

impl Request {
    pub(crate) fn read(work: &Opaque) -> Result<Self, BadStep> {
        if work.bytes().first() != Some(&b'{') {
            return Err(BadStep::at("", "an object with a path is wanted"));
        }
        let written = serde_json::from_slice(work.bytes());
        let written: Written<'_> = written.map_err(|error| BadStep::at("", error))?;
        let request = Self {
            method: written.method.map_or(Ok(Method::POST), method)?,
            path: path("/path", written.path)?,
            status: written.status.map(|status| path("/status", status)).transpose()?,
            headers: written.headers.map_or(Ok(HeaderMap::new()), headers)?,
            body: written.body.map_or_else(String::new, |body| body.get().to_owned()),
        };
        if request.method == Method::GET && !request.body.is_empty() {
            return Err(BadStep::at("/body", "a GET has no body"));
        }
        Ok(request)
    }
}

fn text(pointer: &str, raw: &RawValue) -> Result<String, BadStep> {
    serde_json::from_str(raw.get()).map_err(|_| BadStep::at(pointer, "a text is wanted"))
}

fn method(raw: &RawValue) -> Result<Method, BadStep> {
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let word = text("/method", raw)?;
    known.into_iter().find(|it| it.as_str() == word).ok_or_else(|| {
        BadStep::at("/method", format!("{word:?} is none of GET, POST, PUT, PATCH and DELETE"))
    })
}

fn path(pointer: &str, raw: &RawValue) -> Result<String, BadStep> {
    let path = text(pointer, raw)?;
    let wrong = |why: &str| Err(BadStep::at(pointer, format!("{path:?} {why}")));
    if !path.starts_with('/') {
        return wrong("does not begin with /: it is appended to the resource's url");
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong("has blanks, control characters or others that have to be percent-encoded");
    }
    if path.contains('#') {
        return wrong("has a fragment, which is never sent");
    }
    let is_dots = |segment: &str| {
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        plain == "." || plain == ".."
    };
    let segments = path.split('?').next().unwrap_or_default();
    if segments.split(['/', '\\']).any(is_dots) {
        return wrong("has a segment . or .., which would lead out of the resource's url");
    }
    match PathAndQuery::try_from(&*path) {
        Ok(_) => Ok(path),
        Err(error) => wrong(&format!("is no path: {error}")),
    }
}

fn headers(raw: &RawValue) -> Result<HeaderMap, BadStep> {
    let written: serde_json::Map<String, serde_json::Value> = serde_json::from_str(raw.get())
        .map_err(|_| BadStep::at("/headers", "an object of texts is wanted"))?;
    if written.len() > STEP_HEADERS_MAX {
        let why = format!("{} headers, at most {STEP_HEADERS_MAX}", written.len());
        return Err(BadStep::at("/headers", why));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &written {
        let pointer = || format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
        let wrong = |why: &str| BadStep::at(pointer(), why);
        let name: HeaderName = name.parse().map_err(|_| wrong("it is no name of a header"))?;
        if let Some(why) = reserved(&name) {
            return Err(wrong(why));
        }
        let text = value.as_str().ok_or_else(|| wrong("a text is wanted"))?;
        let value = HeaderValue::try_from(text);
        let value = value.map_err(|_| wrong("its value has control characters"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Why a step cannot set this header.
fn reserved(name: &HeaderName) -> Option<&'static str> {
    let hop_by_hop = [CONNECTION, EXPECT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    let word = name.as_str();
    let ours = word.starts_with("unanimous-")
        || matches!(word, "webhook-id" | "webhook-timestamp" | "webhook-signature")
        || matches!(word, header::IDEMPOTENCY_KEY | header::TRACEPARENT | "tracestate");
    if ours {
        Some("it is always the coordinator's: a service recognises repeats by it")
    } else if hop_by_hop.contains(name) || word == "keep-alive" || word.starts_with("proxy-") {
        Some("it belongs to one connection, which steps share")
    } else if name == HOST || name == CONTENT_LENGTH {
        Some("it follows from the request itself")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Request, BadStep> {
        Request::read(&Opaque::new(json.as_bytes()))
    }

    #[test]
    fn a_path_is_enough_and_the_rest_is_taken_as_written() {
        let least = read(r#"{"path":"/charge"}"#).expect("good");
        assert_eq!((least.method, &*least.body), (Method::POST, ""));
        let most = r#"{"path":"/seats/B2%2F31?a=b&c=%20","method":"PUT","headers":{"X-Tenant":"é 7",
            "content-type":"application/x+json"},"body":{"n":1.50},"status":"/status?x=.."}"#;
        let most = read(most).expect("good");
        assert_eq!((most.method, &*most.body), (Method::PUT, r#"{"n":1.50}"#));
        assert_eq!((&*most.path, most.headers.len()), ("/seats/B2%2F31?a=b&c=%20", 2));
        assert!(most.status.is_some());
        assert_eq!(read(r#"{"path":"/x","body":null}"#).expect("good").body, "");
    }

    #[test]
    fn what_cannot_be_sent_is_named_with_its_place() {
        for (json, pointer, why) in [
            ("{}", "", "missing field `path`"),
            ("[]", "", "an object"),
            ("", "", "an object"),
            (r#"{"path":"/a""#, "", "EOF"),
            (r#"{"path":"/a","url":"http://b"}"#, "", "unknown field `url`"),
            (r#"{"path":7}"#, "/path", "a text is wanted"),
            (r#"{"path":""}"#, "/path", "does not begin with /"),
            (r#"{"path":"http://elsewhere/"}"#, "/path", "does not begin with /"),
            (r#"{"path":"/a b"}"#, "/path", "percent-encoded"),
            (r#"{"path":"/a\r\nX: y"}"#, "/path", "percent-encoded"),
            (r#"{"path":"/é"}"#, "/path", "percent-encoded"),
            (r#"{"path":"/a#b"}"#, "/path", "fragment"),
            (r#"{"path":"/a/../b"}"#, "/path", "lead out"),
            (r#"{"path":"/a/%2E."}"#, "/path", "lead out"),
            (r#"{"path":"/a\\..\\b"}"#, "/path", "lead out"),
            (r#"{"path":"/a","status":"b"}"#, "/status", "does not begin with /"),
            (r#"{"path":"/a","method":"get"}"#, "/method", "none of GET"),
            (r#"{"path":"/a","method":"CONNECT"}"#, "/method", "none of GET"),
            (r#"{"path":"/a","method":"GET","body":1}"#, "/body", "no body"),
            (r#"{"path":"/a","headers":[]}"#, "/headers", "an object"),
            (r#"{"path":"/a","headers":{"a b":"x"}}"#, "/headers/a b", "no name"),
            (r#"{"path":"/a","headers":{"a/b":"x"}}"#, "/headers/a~1b", "no name"),
            (r#"{"path":"/a","headers":{"a":1}}"#, "/headers/a", "a text is wanted"),
            (r#"{"path":"/a","headers":{"a":"x\ny"}}"#, "/headers/a", "control characters"),
            (r#"{"path":"/a","headers":{"Idempotency-Key":"x"}}"#, "", "always the coordinator's"),
            (r#"{"path":"/a","headers":{"Unanimous-Any":"x"}}"#, "", "always the coordinator's"),
            (r#"{"path":"/a","headers":{"Proxy-Authorization":"x"}}"#, "", "one connection"),
            (r#"{"path":"/a","headers":{"Upgrade":"x"}}"#, "", "one connection"),
            (r#"{"path":"/a","headers":{"host":"x"}}"#, "/headers/host", "follows"),
        ] {
            let bad = read(json).expect_err(json);
            assert!(bad.pointer.starts_with(pointer) && bad.why.contains(why), "{json}: {bad:?}");
        }
    }

    #[test]
    fn a_resource_is_asked_only_for_what_it_takes() {
        let check = |takes, json: &str| check(takes, &Opaque::new(json.as_bytes()));
        assert_eq!(check(Takes::Body, r#"{"path":"/a"}"#), Ok(()));
        assert_eq!(check(Takes::Statements, r#"[{"sql":"SELECT 1"}]"#), Ok(()));
        assert!(check(Takes::Statements, "[]").is_err());
        assert!(check(Takes::Statements, r#"{"path":"/a"}"#).is_err());
        assert!(check(Takes::Commands, "{}").is_err());
        let many = format!("[{}]", [r#"{"sql":"SELECT 1"}"#; STATEMENTS_MAX + 1].join(","));
        assert!(check(Takes::Statements, &many).is_err());
    }
}
