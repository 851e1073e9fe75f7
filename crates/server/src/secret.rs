//! What clients have to show, and what nobody is shown.

use std::fmt;

use axum::http::HeaderValue;

/// A text that is never shown.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// As the header that shows it.
    pub(crate) fn bearer(&self) -> HeaderValue {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0));
        value.iter_mut().for_each(|value| value.set_sensitive(true));
        value.expect("a token is printable")
    }

    /// Whether `offered` is the secret. Takes as long whether it differs early or late.
    pub fn is(&self, offered: &str) -> bool {
        let differences = self.0.bytes().zip(offered.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
        self.0.len() == offered.len() && differences == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
