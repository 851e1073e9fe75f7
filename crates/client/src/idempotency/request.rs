//! What a request is known by: its key, and the fingerprint that tells it from others.

use http::request::Parts;
use http::{HeaderMap, Method};
use sha2::{Digest, Sha256};
use unanimous_api::{KEY_LEN_MAX, header};

/// Why a key cannot be taken.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum BadKey {
    #[error("there is more than one")]
    Several,
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {KEY_LEN_MAX} bytes")]
    Long,
    #[error("it has other characters than the printable ones of ASCII")]
    Unprintable,
}

/// The key that a request came with, in quotes or without.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, BadKey> {
    let mut values = headers.get_all(header::IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BadKey::Several);
    }
    let text = value.to_str().map_err(|_| BadKey::Unprintable)?.trim();
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let key = quoted.unwrap_or(text);
    match key.len() {
        0 => Err(BadKey::Empty),
        1..=KEY_LEN_MAX if key.bytes().all(|byte| matches!(byte, b' '..=b'~')) => {
            Ok(Some(key.to_owned()))
        }
        1..=KEY_LEN_MAX => Err(BadKey::Unprintable),
        _ => Err(BadKey::Long),
    }
}

/// What a key is found by: nobody can read a scope from it that is a secret.
pub(super) fn id(scope: &str, key: &str) -> [u8; 32] {
    digest(&[scope.as_bytes(), key.as_bytes()])
}

/// Equal for requests that ask for the same: the method, the path, the query and the body, each as it
/// came. Headers do not count: they differ between attempts.
pub(super) fn fingerprint(head: &Parts, body: &[u8]) -> [u8; 32] {
    let query = head.uri.query().unwrap_or_default();
    let parts = [method(&head.method), head.uri.path().as_bytes(), query.as_bytes(), body];
    digest(&parts)
}

fn method(method: &Method) -> &[u8] {
    method.as_str().as_bytes()
}

/// Each part goes in behind its length, so that no two lists are the same bytes.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn of(values: &[&str]) -> Result<Option<String>, BadKey> {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            headers.append(header::IDEMPOTENCY_KEY, value);
        }
        key(&headers)
    }

    #[test]
    fn a_key_is_the_same_with_quotes_and_without() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["order-42"]), Ok(Some("order-42".to_owned())));
        assert_eq!(of(&["\"order-42\""]), Ok(Some("order-42".to_owned())));
    }

    #[test]
    fn what_is_no_key_is_told_from_none() {
        assert_eq!(of(&["a", "a"]), Err(BadKey::Several));
        assert_eq!(of(&[""]), Err(BadKey::Empty));
        assert_eq!(of(&["\"\""]), Err(BadKey::Empty));
        assert_eq!(of(&["ö"]), Err(BadKey::Unprintable));
        assert_eq!(of(&[&"x".repeat(KEY_LEN_MAX + 1)]), Err(BadKey::Long));
    }

    #[test]
    fn every_part_of_a_request_counts_and_nothing_moves_between_them() {
        let of = |method: &str, uri: &str, body: &str| {
            let request = Request::builder().method(method).uri(uri).body(()).expect("a request");
            fingerprint(&request.into_parts().0, body.as_bytes())
        };
        let first = of("POST", "/a?b=c", "d");
        assert_eq!(first, of("POST", "/a?b=c", "d"));
        let others = [
            ("PATCH", "/a?b=c", "d"),
            ("POST", "/b?b=c", "d"),
            ("POST", "/a?b=d", "d"),
            ("POST", "/a?b=c", "e"),
            ("POST", "/a", "b=cd"),
            ("POST", "/a?b=cd", ""),
        ];
        for (method, uri, body) in others {
            assert_ne!(first, of(method, uri, body), "{method} {uri} {body}");
        }
        assert_ne!(id("a", "bc"), id("ab", "c"));
    }
}
