//! Calls that a service can tell from those of anybody else.
//!
//! As [Standard Webhooks](https://www.standardwebhooks.com) has it: `webhook-id` is the idempotency key,
//! `webhook-timestamp` the time of this attempt in seconds, and `webhook-signature` is `v1,` with the
//! HMAC-SHA256 of id, timestamp and body, each behind a dot, in base64. Their libraries verify it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use ring::hmac;

/// Shorter secrets can be guessed.
const BYTES_MIN: usize = 24;
/// What stands before a secret in base64.
const PREFIX: &str = "whsec_";

/// What calls are signed with, which is never shown.
#[derive(Clone, Eq, PartialEq)]
pub struct SigningSecret(Vec<u8>);

impl SigningSecret {
    /// Reads a secret: `whsec_` with base64 behind it, or any other text.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for the one who chose it.
    pub fn read(text: &str) -> Result<Self, String> {
        let bytes = match text.strip_prefix(PREFIX) {
            Some(base64) => STANDARD
                .decode(base64)
                .map_err(|error| format!("what follows {PREFIX} is no base64: {error}"))?,
            None => text.as_bytes().to_vec(),
        };
        match bytes.len() {
            BYTES_MIN.. => Ok(Self(bytes)),
            few => Err(format!("it has {few} bytes: use {BYTES_MIN} or more, made by chance")),
        }
    }

    /// Signs a call.
    pub(crate) fn sign(&self, headers: &mut HeaderMap, id: &str, body: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = now.as_secs().to_string();
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        let signature = format!("v1,{}", STANDARD.encode(mac.sign()));
        for (name, value) in [
            ("webhook-id", id),
            ("webhook-timestamp", &*timestamp),
            ("webhook-signature", &*signature),
        ] {
            let value = HeaderValue::try_from(value).expect("they are plain ascii");
            headers.insert(name, value);
        }
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_signed_as_the_standard_has_it() {
        let secret = SigningSecret::read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("good");
        let mut headers = HeaderMap::new();
        secret.sign(&mut headers, "msg_1", b"{}");
        let text = |name: &str| headers[name].to_str().expect("plain").to_owned();
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let signed = format!("msg_1.{}.{{}}", text("webhook-timestamp"));
        let signature = text("webhook-signature");
        let tag = STANDARD.decode(signature.strip_prefix("v1,").expect("its version"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        hmac::verify(&key, signed.as_bytes(), &tag.expect("base64")).expect("it fits");
        assert_eq!(text("webhook-id"), "msg_1");
    }

    #[test]
    fn a_secret_that_is_too_short_or_does_not_read_is_told_so_and_none_is_shown() {
        assert!(SigningSecret::read("hunter2").expect_err("short").contains("24"));
        assert!(SigningSecret::read("whsec_%%%").expect_err("no base64").contains("base64"));
        let secret = SigningSecret::read("0123456789012345678901234").expect("good");
        assert_eq!(format!("{secret:?}"), "(secret)");
    }
}
