//! From bytes to wire types, with errors that point at the field.

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use unanimous_api::{Code, KEY_LEN_MAX, Problem, header};
use unanimous_core::id::TxnId;

use super::{App, Failure};

/// Reads a body, as far as it is allowed to go.
pub(super) async fn read(app: &App, body: Body) -> Result<Bytes, Failure> {
    axum::body::to_bytes(body, app.body_bytes_max).await.map_err(|error| {
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(inner) = source {
            if inner.is::<http_body_util::LengthLimitError>() {
                let detail = format!("the body has more than {} bytes", app.body_bytes_max);
                return Failure::new(Code::BodyTooLarge, detail);
            }
            source = inner.source();
        }
        Failure::new(Code::MalformedJson, format!("the body could not be read: {error}"))
    })
}

/// Parses a body of JSON.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let pointer = pointer(error.path());
        let inner = error.into_inner();
        match inner.classify() {
            Category::Data => {
                Failure::of(Problem::new(Code::BadField, inner.to_string()).at(pointer))
            }
            Category::Syntax | Category::Eof | Category::Io => {
                Failure::new(Code::MalformedJson, inner.to_string())
            }
        }
    })?;
    match json.end() {
        Ok(()) => Ok(parsed),
        Err(error) => Err(Failure::new(Code::MalformedJson, error.to_string())),
    }
}

/// Parses a body that may be left out.
pub(super) fn parse_or_default<T: DeserializeOwned + Default>(bytes: &[u8]) -> Result<T, Failure> {
    match bytes.trim_ascii().is_empty() {
        true => Ok(T::default()),
        false => parse(bytes),
    }
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
                pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// The transaction that a path names.
pub(super) fn txn_id(text: &str) -> Result<TxnId, Failure> {
    text.parse().map_err(|error: unanimous_core::id::NotAnId| {
        Failure::new(Code::NotATransactionId, error.to_string())
    })
}

/// The idempotency key of a request.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let Some(value) = headers.get(header::IDEMPOTENCY_KEY) else { return Ok(None) };
    let usable = |key: &&str| {
        (1..=KEY_LEN_MAX).contains(&key.len())
            && key.bytes().all(|byte| (0x20..0x7F).contains(&byte))
    };
    match value.to_str().ok().filter(usable) {
        Some(key) => Ok(Some(key)),
        None => Err(Failure::new(
            Code::BadIdempotencyKey,
            format!("Idempotency-Key has to be 1 to {KEY_LEN_MAX} printable ASCII characters"),
        )),
    }
}

/// The W3C trace context of a request; one that is not valid is passed over, as the standard asks.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::TRACEPARENT)?.to_str().ok()?;
    let fields: Vec<&str> = text.split('-').collect();
    let hex = |field: &str, len: usize| {
        field.len() == len && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let [version, trace, span, flags, ..] = fields[..] else { return None };
    let valid = hex(version, 2)
        && version != "ff"
        && (version != "00" || fields.len() == 4)
        && hex(trace, 32)
        && trace.bytes().any(|byte| byte != b'0')
        && hex(span, 16)
        && span.bytes().any(|byte| byte != b'0')
        && hex(flags, 2);
    valid.then(|| format!("00-{trace}-{span}-{flags}"))
}
