//! Steps of a saga at a service: the request that a step describes, under the headers of the contract.
//!
//! 200 is done, and its body the result; 409 is a refusal, of which nothing may be left; 425 is still
//! working. Everything else says nothing, and the step is sent again under the same key. A step with
//! a status path is asked about there first, and sent again only if nothing is known of it: 404.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;
use serde_json::value::RawValue;
use tokio::time::timeout;
use unanimous_core::{Answer, Opaque, Reason};

use super::{
    CONTENT_TYPE, IDEMPOTENCY_KEY, JSON, Requests, Unheard, answer_of, contract, exchange_in_full,
    ours, silent,
};
use crate::Call;
use crate::guard::{Contact, Heard};
use crate::limits::{REPLY_BYTES_MAX, RESULT_DEPTH_MAX};
use crate::signing::SigningSecret;
use crate::step::{Half, Request};

/// Where half of a step goes.
pub(super) struct Step {
    pub(super) requests: Requests,
    pub(super) base: String,
    pub(super) signing: Option<SigningSecret>,
    pub(super) half: Half,
}

impl Step {
    pub(super) async fn perform(self, call: Call) -> Heard {
        let request = match Request::read(&call.work) {
            Ok(request) => request,
            Err(bad) => {
                let answer = Answer::No(Reason::new("request", &bad.to_string()));
                return Heard { answer, contact: Contact::Made };
            }
        };
        let asking = Asking { step: &self, call: &call, request: &request };
        match timeout(call.patience, asking.ask()).await {
            Ok(heard) => heard,
            Err(_) => {
                let seen = format!("no answer within {} ms", call.patience.as_millis());
                let answer = silent(&request.method, without_query(&request.path), &seen);
                Heard { answer, contact: Contact::TimedOut }
            }
        }
    }
}

struct Asking<'a> {
    step: &'a Step,
    call: &'a Call,
    request: &'a Request,
}

impl Asking<'_> {
    async fn ask(&self) -> Heard {
        let Request { method, path, status, .. } = self.request;
        if self.call.attempt > 1
            && let Some(status) = status
        {
            let (code, heard) = self.exchange(self.outgoing(Method::GET, status), status).await;
            if code != Some(StatusCode::NOT_FOUND) {
                return heard;
            }
        }
        let mut outgoing = self.outgoing(method.clone(), path);
        let key = format!("{}:{}", self.call.name, self.step.half.word());
        if let Some(secret) = &self.step.signing {
            secret.sign(outgoing.headers_mut(), &key, self.request.body.as_bytes());
        }
        outgoing.headers_mut().insert(IDEMPOTENCY_KEY, ours(key));
        if !self.request.body.is_empty() {
            outgoing.headers_mut().entry(CONTENT_TYPE).or_insert(JSON);
            *outgoing.body_mut() = Full::new(Bytes::from(self.request.body.clone()));
        }
        self.exchange(outgoing, path).await.1
    }

    fn outgoing(&self, method: Method, path: &str) -> http::Request<Full<Bytes>> {
        let mut outgoing = http::Request::new(Full::default());
        *outgoing.method_mut() = method;
        let uri = format!("{}{path}", self.step.base).parse();
        *outgoing.uri_mut() = uri.expect("the url was parsed, and the path has been read");
        *outgoing.headers_mut() = self.request.headers.clone();
        contract(outgoing.headers_mut(), self.call);
        outgoing
    }

    async fn exchange(
        &self,
        outgoing: http::Request<Full<Bytes>>,
        path: &str,
    ) -> (Option<StatusCode>, Heard) {
        let (method, path) = (outgoing.method().clone(), without_query(path));
        match exchange_in_full(self.step.requests.request(outgoing)).await {
            Ok((code, body)) => {
                let answer = answer_of(self.call.verb, code, &body);
                let answer = answer.unwrap_or_else(|seen| silent(&method, path, &seen));
                (Some(code), Heard { answer, contact: Contact::Made })
            }
            Err(Unheard { contact, seen }) => {
                (None, Heard { answer: silent(&method, path, &seen), contact })
            }
        }
    }
}

/// A query has values in it that are nobody else's business.
fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or(path)
}

/// The result as it came, or as a JSON string if it is no JSON.
pub(super) fn done(body: &[u8]) -> Result<Answer, String> {
    let json = serde_json::from_slice::<&RawValue>(body).map(RawValue::get);
    let result = match json {
        Ok(json) if depth(json) <= RESULT_DEPTH_MAX => Opaque::new(json.as_bytes()),
        Ok(_) => return Err(format!("status 200 with JSON deeper than {RESULT_DEPTH_MAX} levels")),
        Err(_) if body.is_empty() => Opaque::default(),
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            Opaque::new(&serde_json::to_vec(&text).expect("a text is always JSON"))
        }
    };
    match result.bytes().len() {
        0..=REPLY_BYTES_MAX => Ok(Answer::Done(result)),
        more => Err(format!("status 200 with a text that is {more} bytes as JSON")),
    }
}

fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            b'"' if !is_escaped => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
        is_escaped = byte == b'\\' && !is_escaped;
        deepest = deepest.max(depth);
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_kept_as_it_came_and_a_text_becomes_json() {
        let result = |body: &[u8]| match done(body) {
            Ok(Answer::Done(result)) => String::from_utf8(result.bytes().to_vec()).expect("text"),
            other => panic!("{other:?}"),
        };
        assert_eq!(result(b" {\"id\": 1.50} \n"), r#"{"id": 1.50}"#);
        assert_eq!(result(b""), "");
        assert_eq!(result(b"OK \"1\""), r#""OK \"1\"""#);
        assert_eq!(result(b"\xFF"), "\"\u{FFFD}\"");
        assert_eq!(result(br#"["[[\"[["]"#), r#"["[[\"[["]"#);
    }

    #[test]
    fn a_result_that_nobody_could_read_on_is_no_answer() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(done(deep(RESULT_DEPTH_MAX).as_bytes()).is_ok());
        assert!(done(deep(RESULT_DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(done(&[1; REPLY_BYTES_MAX]).is_err(), "control characters grow as JSON");
    }
}
