//! Answers: what of them is kept for repeats, and what is said instead of one.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION,
    CONTENT_TYPE, ETAG, EXPIRES, LAST_MODIFIED, LINK, LOCATION, RETRY_AFTER, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::participant::BoxError;

/// Says that an answer is that to an earlier request.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Headers that belong to what was answered. Others belong to one exchange, or to one caller.
pub(super) const KEPT_HEADERS: [HeaderName; 13] = [
    CACHE_CONTROL,
    CONTENT_DISPOSITION,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LOCATION,
    CONTENT_TYPE,
    ETAG,
    EXPIRES,
    LAST_MODIFIED,
    LINK,
    LOCATION,
    RETRY_AFTER,
    VARY,
];

/// What stands before the body of an answer that is kept, in JSON on one line.
#[derive(Serialize, Deserialize)]
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
    body: Kept,
}

/// Whether the body is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kept {
    Whole,
    /// It was too large.
    Not,
}

/// The answer as it is kept. Headers of which the value is no text are left out.
pub(super) fn written(
    status: StatusCode,
    headers: &HeaderMap,
    names: &[HeaderName],
    (kept, body): (Kept, &[u8]),
) -> Bytes {
    let texts = headers.iter().filter(|(name, _)| names.contains(name));
    let texts = texts.filter_map(|(name, value)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    });
    let head = Head { status: status.as_u16(), headers: texts.collect(), body: kept };
    let mut bytes = serde_json::to_vec(&head).expect("a head is texts and numbers");
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    Bytes::from(bytes)
}

/// The answer to a repeat. `None` if the bytes were not [`written`] here.
pub(super) fn replayed(bytes: &Bytes) -> Option<Response> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let head: Head = serde_json::from_slice(&bytes[..end]).ok()?;
    let status = StatusCode::from_u16(head.status).ok()?;
    let mut response = match head.body {
        Kept::Whole => Response::new(Body::from(bytes.slice(end + 1..))),
        Kept::Not => {
            let detail = format!(
                "the request was carried out and answered with {status}; the answer itself was too \
                 large to be kept"
            );
            let response = problem(StatusCode::CONFLICT, "answer_not_kept", &detail);
            return Some(marked(response));
        }
    };
    *response.status_mut() = status;
    for (name, value) in head.headers {
        let (name, value) = (name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?);
        response.headers_mut().append(name, value);
    }
    Some(marked(response))
}

fn marked(mut response: Response) -> Response {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// A problem document, as RFC 9457 has it.
pub(super) fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "code": code,
        "detail": detail,
    });
    let kind = HeaderValue::from_static("application/problem+json");
    (status, [(CONTENT_TYPE, kind)], body.to_string()).into_response()
}

/// The same, to be asked again in a second.
pub(super) fn later(status: StatusCode, code: &str, detail: &str) -> Response {
    let mut response = problem(status, code, detail);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// How a body was read.
pub(super) enum Read {
    Whole(Bytes),
    /// It goes on behind what was read.
    TooLarge(Longer),
}

/// Reads up to `bytes_max` bytes of a body.
pub(super) async fn read<B>(body: B, bytes_max: usize) -> Result<Read, BoxError>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut rest = Body::new(body);
    let mut bytes = Vec::new();
    while let Some(frame) = rest.frame().await {
        // Trailers are not kept: nobody can be told of them a second time.
        let Ok(data) = frame?.into_data() else { continue };
        bytes.extend_from_slice(&data);
        if bytes.len() > bytes_max {
            return Ok(Read::TooLarge(Longer { first: Some(Bytes::from(bytes)), rest }));
        }
    }
    Ok(Read::Whole(Bytes::from(bytes)))
}

/// A body of which the beginning was read already.
pub(super) struct Longer {
    first: Option<Bytes>,
    rest: Body,
}

impl HttpBody for Longer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_told_again_with_the_headers_that_belong_to_it() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert("set-cookie", HeaderValue::from_static("session=1"));
        let whole = (Kept::Whole, &b"a\nb"[..]);
        let bytes = written(StatusCode::CREATED, &headers, &KEPT_HEADERS, whole);
        let response = replayed(&bytes).expect("readable");
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain");
        assert_eq!(response.headers()[REPLAYED], "true");
        assert!(!response.headers().contains_key("set-cookie"));
        assert!(replayed(&Bytes::from_static(b"{}")).is_none());
        assert!(replayed(&Bytes::new()).is_none());
    }
}
