//! From bytes and headers to wire types, with errors that point at the field.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use http_body_util::LengthLimitError;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::error::Category;
use serde_json::value::RawValue;
use unanimous_api::{Code, KEY_LEN_MAX, Object, Problem, header};
use unanimous_participants::Trace;

use super::{App, Failure};
use crate::limits::BODY_WAIT;

/// Reads a body, as far and as long as it is allowed to go.
pub(super) async fn read(app: &App, body: Body) -> Result<Bytes, Failure> {
    within_bounds(body, app.body_bytes_max).await
}

/// Reads a body of so many bytes at the most.
pub(crate) async fn within_bounds(body: Body, bytes_max: usize) -> Result<Bytes, Failure> {
    within(body, bytes_max, BODY_WAIT).await
}

async fn within(body: Body, bytes_max: usize, wait: Duration) -> Result<Bytes, Failure> {
    let Ok(read) = tokio::time::timeout(wait, axum::body::to_bytes(body, bytes_max)).await else {
        let detail = format!("the body did not end within {} ms", wait.as_millis());
        return Err(Failure::new(Code::SlowBody, detail));
    };
    read.map_err(|error| {
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(inner) = source {
            if inner.is::<LengthLimitError>() {
                let detail = format!("the body has more than {bytes_max} bytes");
                return Failure::new(Code::BodyTooLarge, detail);
            }
            source = inner.source();
        }
        Failure::new(Code::MalformedJson, format!("the body could not be read: {error}"))
    })
}

/// Parses a body of JSON, which has to be an object.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Failure> {
    // Where it is wrong is found out only if it is wrong: keeping track costs more than parsing.
    match serde_json::from_slice(bytes) {
        Ok(Object(parsed)) => Ok(parsed),
        Err(error) => Err(whats_wrong::<Object<T>>(bytes, &error)),
    }
}

/// The body of a request that needs none.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Parses a body that may be left out.
pub(super) fn parse_or_default<'a, T>(bytes: &'a [u8]) -> Result<T, Failure>
where
    T: Deserialize<'a> + Default,
{
    match bytes.trim_ascii().is_empty() {
        true => Ok(T::default()),
        false => parse(bytes),
    }
}

/// A body of any JSON; `None` if there is none.
pub(super) fn any(bytes: &[u8]) -> Result<Option<&RawValue>, Failure> {
    match bytes.trim_ascii().is_empty() {
        true => Ok(None),
        false => serde_json::from_slice(bytes)
            .map(Some)
            .map_err(|error| Failure::new(Code::MalformedJson, error.to_string())),
    }
}

fn whats_wrong<'a, T: Deserialize<'a>>(bytes: &'a [u8], error: &serde_json::Error) -> Failure {
    if let Err(error) = std::str::from_utf8(bytes) {
        return Failure::new(Code::MalformedJson, format!("the body is not UTF-8: {error}"));
    }
    // Where a word of ours is expected, anything else is a mistake of syntax to the parser.
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(bytes) {
        return Failure::new(Code::MalformedJson, error.to_string());
    }
    let detail = match error.classify() {
        Category::Data => error.to_string(),
        Category::Syntax | Category::Eof | Category::Io => {
            format!("wrong type at line {} column {}", error.line(), error.column())
        }
    };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut place = match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Ok(_) => String::new(),
        Err(error) => pointer(error.path()),
    };
    // For a member that is missing or repeated the parser blames its parent.
    let named = detail.strip_prefix("missing field `");
    let named = named.or_else(|| detail.strip_prefix("duplicate field `"));
    if let Some((name, _)) = named.and_then(|named| named.split_once('`')) {
        place = format!("{place}/{name}");
    }
    Failure::of(Problem::new(Code::BadField, detail).at(place))
}

/// A JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push('/');
                pointer.push_str(&escaped(key));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// A name as a segment of a JSON pointer.
pub(super) fn escaped(name: &str) -> String {
    let mut name = name.replace('~', "~0").replace('/', "~1");
    name.truncate(name.floor_char_boundary(KEY_LEN_MAX));
    name
}

/// The idempotency key of a request.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut values = headers.get_all(header::IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let usable = |key: &&str| {
        (1..=KEY_LEN_MAX).contains(&key.len())
            && key.bytes().all(|byte| (0x20..0x7F).contains(&byte))
    };
    match (value.to_str().ok().filter(usable), values.next()) {
        (Some(key), None) => Ok(Some(key)),
        (Some(_), Some(_)) => {
            Err(Failure::new(Code::BadIdempotencyKey, "the request has two idempotency keys"))
        }
        (None, _) => Err(Failure::new(
            Code::BadIdempotencyKey,
            format!("Idempotency-Key has to be 1 to {KEY_LEN_MAX} printable ASCII characters"),
        )),
    }
}

/// The trace of a request; one that is not valid is passed over, as the standard asks.
pub(super) fn trace(headers: &HeaderMap) -> Option<Trace> {
    headers.get(header::TRACEPARENT)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_does_not_end_is_given_up() {
        let body =
            Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let failure = within(body, 10, Duration::from_millis(20)).await.expect_err("no end");
        assert_eq!(failure.code(), Code::SlowBody);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_no_body() {
        let broken = [Ok(Bytes::from("{}")), Err(std::io::Error::other("reset"))];
        let body = Body::from_stream(futures_util::stream::iter(broken));
        let failure = within(body, 10, Duration::from_secs(5)).await.expect_err("broken");
        assert_eq!(failure.code(), Code::MalformedJson);
    }
}
