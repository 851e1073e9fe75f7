//! The words in which a service says what its verbs do.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;
use unanimous_core::id::BranchName;

/// Something failed that may not fail the next time. The call is taken back and asked again.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One branch's share of a transaction.
#[derive(Clone, Debug)]
pub struct Work {
    branch: BranchName,
    body: Box<[u8]>,
}

/// The body of `prepare` is not what the service expects.
#[derive(Debug, thiserror::Error)]
#[error("the body does not fit: {0}")]
pub struct BadBody(#[from] serde_json::Error);

/// A yes, and what the client is told with the outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Vote {
    pub(crate) promise: Promise,
    pub(crate) result: Value,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Promise {
    Yes,
    ReadOnly,
}

/// Why there is no yes.
#[derive(Debug)]
pub enum No {
    /// The branch votes no: the whole transaction aborts. Nothing of the work is kept.
    Refused {
        /// A stable word, such as `insufficient_funds`.
        kind: String,
        /// One sentence with the names and numbers.
        detail: String,
    },
    /// The work failed and may not fail the next time: taken back, no vote, asked again.
    Failed(BoxError),
}

impl Work {
    /// The share of `branch`, with the body that its `prepare` came with.
    pub fn new(branch: BranchName, body: &[u8]) -> Self {
        Self { branch, body: body.into() }
    }

    /// The branch, unique for ever. Its text is a good primary key for what is staged.
    pub fn branch(&self) -> &BranchName {
        &self.branch
    }

    /// The body that `prepare` came with; the same in every verb. Empty if there was none.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The same, parsed. No body is read as JSON's `null`.
    ///
    /// # Errors
    ///
    /// [`BadBody`] if it does not fit. In `prepare`, `?` makes that a no of kind `bad_body`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, BadBody> {
        let body = if self.body.is_empty() { b"null" } else { &*self.body };
        Ok(serde_json::from_slice(body)?)
    }
}

impl Vote {
    /// Can commit, whatever happens.
    pub fn yes() -> Self {
        Self { promise: Promise::Yes, result: Value::Null }
    }

    /// Changed nothing and needs no second phase. What was written nevertheless is taken back.
    pub fn read_only() -> Self {
        Self { promise: Promise::ReadOnly, result: Value::Null }
    }

    /// Whether whatever was written is to be taken back.
    pub fn is_read_only(&self) -> bool {
        self.promise == Promise::ReadOnly
    }

    /// The same, with something to tell the client.
    #[must_use]
    pub fn with_result(mut self, result: Value) -> Self {
        self.result = result;
        self
    }
}

impl No {
    /// A vote of no: a stable word such as `insufficient_funds`, and one sentence with the names
    /// and numbers.
    pub fn refused(kind: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Refused { kind: kind.into(), detail: detail.into() }
    }
}

impl From<BadBody> for No {
    fn from(error: BadBody) -> Self {
        Self::refused("bad_body", error.to_string())
    }
}

impl From<BoxError> for No {
    fn from(error: BoxError) -> Self {
        Self::Failed(error)
    }
}

#[cfg(feature = "sqlite")]
impl From<rusqlite::Error> for No {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(Box::new(error))
    }
}

#[cfg(feature = "tokio-postgres")]
impl From<tokio_postgres::Error> for No {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(Box::new(error))
    }
}

#[cfg(feature = "mysql_async")]
impl From<mysql_async::Error> for No {
    fn from(error: mysql_async::Error) -> Self {
        Self::Failed(Box::new(error))
    }
}

#[cfg(feature = "redis")]
impl From<redis::RedisError> for No {
    fn from(error: redis::RedisError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { kind, detail } => write!(f, "{kind}: {detail}"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}
