//! The problem document (RFC 9457): one clear error that says where and what to do.

use serde::{Deserialize, Serialize};

use crate::code::Code;
use crate::view::TransactionView;

/// Body of every reply that is not a success, `application/problem+json`.
///
/// If it is about a transaction, that transaction's fields stand beside these; `status` is then the
/// transaction's, while the HTTP status is in the status line only.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Problem {
    /// Where the code is explained, relative to the server.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The stable code, such as `UNA0104`.
    pub code: String,
    /// What happened, in a few words; the same for every occurrence.
    pub title: String,
    /// What happened here, with the names and numbers.
    pub detail: String,
    /// What to do.
    pub remedy: String,
    /// JSON pointer to the field at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// The transaction it is about.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<Box<TransactionView>>,
}

impl Problem {
    /// A problem with what happened here.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let info = code.info();
        Self {
            kind: format!("/errors/{}", info.code),
            code: info.code.to_owned(),
            title: info.title.to_owned(),
            detail: detail.into(),
            remedy: info.remedy.to_owned(),
            pointer: None,
            transaction: None,
        }
    }

    /// The same, pointing at a field of the body.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// The same, with the transaction it is about.
    #[must_use]
    pub fn about(mut self, transaction: TransactionView) -> Self {
        self.transaction = Some(Box::new(transaction));
        self
    }

    /// The HTTP status to send it with; 500 if the code is not one of ours.
    pub fn http(&self) -> u16 {
        Code::parse(&self.code).map_or(500, |code| code.info().http)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_back_with_and_without_a_transaction() {
        let plain = Problem::new(Code::UnknownResource, "no resource wallt").at("/branches/0");
        let text = serde_json::to_string(&plain).expect("json");
        assert!(text.contains(r#""code":"UNA0104""#), "{text}");
        assert_eq!(serde_json::from_str::<Problem>(&text).expect("reads back"), plain);
    }
}
