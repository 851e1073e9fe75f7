//! `Idempotency-Key` for an application's own services: a request that is repeated is carried out once.
//!
//! A tower layer in front of any handler. The first request with a key claims it, is carried out, and its
//! answer is kept; the same request again gets the same answer. It follows the IETF's draft
//! *The Idempotency-Key HTTP Header Field* and what the coordinator does itself:
//!
//! | a request | is answered |
//! |---|---|
//! | with a new key | by the handler |
//! | with a key that was answered | with that answer, and `idempotent-replayed: true` |
//! | while the first with its key is under way | 409 with `Retry-After` |
//! | with the key of another request | 422 |
//! | without a key, where one is required; with one that is none | 400 |
//! | larger than can be compared | 413 |
//! | while the store of keys is not available | 503 with `Retry-After`, and nothing is done |
//!
//! ```no_run
//! use axum::{Router, routing::post};
//! use unanimous_client::idempotency::{IdempotencyLayer, SqliteKeys};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = SqliteKeys::open("keys.db")?;
//! let once = IdempotencyLayer::new(keys)
//!     .required()
//!     .scoped_by(|head| match head.headers.get("authorization") {
//!         Some(caller) => String::from_utf8_lossy(caller.as_bytes()).into_owned(),
//!         None => String::new(),
//!     });
//! let app: Router = Router::new().route("/orders", post(async || "ordered")).layer(once);
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! 1. A handler runs for a key only while its claim is held, and no two claims of a key are held at the
//!    same time. A claim is held as long as its process lives and reaches the store; it expires
//!    [`crate::limits::KEY_LEASE_MS`] after that.
//! 2. An answer is read whole and kept before it is told, unless the store is away by then; and what is kept
//!    for a key never changes. Who has lost the claim cannot write over the answer of who took it.
//! 3. A request that was begun is carried out to its end, whether its caller still waits or not.
//! 4. A handler that panics, fails or answers with a status that is not kept leaves the key free.
//!
//! A process that dies between the work of a handler and the keeping of its answer leaves a claim that
//! expires, and a repeat is then carried out again: the store cannot know how far the handler came. Where
//! that must not be, the handler puts the [`Key`] from the request's extensions under a unique constraint
//! in the transaction that does the work, or is a step of a saga
//! ([`crate::participant::Steps`]), whose mark and work are one transaction.

mod answer;
#[cfg(feature = "tokio-postgres")]
mod postgres;
mod request;
mod service;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;

use std::fmt;
use std::sync::{Arc, OnceLock};

use http::request::Parts;
use http::{HeaderName, Method, StatusCode};
use tower::Layer;

#[cfg(feature = "tokio-postgres")]
pub use self::postgres::PostgresKeys;
pub use self::service::Idempotent;
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteKeys;
pub use self::store::{Claim, Claimed, Held, KeyStore, StoreUnavailable};
use crate::limits::{
    KEPT_ANSWER_BYTES_MAX, KEY_LEASE_MS, KEY_RETENTION_MS, KEYED_REQUEST_BYTES_MAX,
};
use crate::task::AbortOnDrop;

/// The key that a request came with, in its extensions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key(pub String);

/// Puts [`Idempotent`] in front of a service. Answers that are past their retention are removed while
/// it or one of its services lives, from the first request with a key on.
#[derive(Clone)]
pub struct IdempotencyLayer<S> {
    store: S,
    rules: Rules,
    pruning: Arc<OnceLock<AbortOnDrop>>,
}

#[derive(Clone)]
struct Rules {
    presence: Presence,
    methods: Vec<Method>,
    scope: Arc<dyn Fn(&Parts) -> String + Send + Sync>,
    is_kept: Arc<dyn Fn(StatusCode) -> bool + Send + Sync>,
    kept_headers: Vec<HeaderName>,
    request_bytes_max: usize,
    answer_bytes_max: usize,
    lease_ms: u64,
    retention_ms: u64,
}

/// Whether a request may come without a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Presence {
    Optional,
    Required,
}

impl<S: KeyStore> IdempotencyLayer<S> {
    /// For `POST` and `PATCH`, with keys in `store`.
    pub fn new(store: S) -> Self {
        let rules = Rules {
            presence: Presence::Optional,
            methods: vec![Method::POST, Method::PATCH],
            scope: Arc::new(|_| String::new()),
            is_kept: Arc::new(says_what_came_of_it),
            kept_headers: answer::KEPT_HEADERS.to_vec(),
            request_bytes_max: KEYED_REQUEST_BYTES_MAX,
            answer_bytes_max: KEPT_ANSWER_BYTES_MAX,
            lease_ms: KEY_LEASE_MS,
            retention_ms: KEY_RETENTION_MS,
        };
        Self { store, rules, pruning: Arc::default() }
    }

    /// Refuses requests without a key. Otherwise they are carried out as if this were not here.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.rules.presence = Presence::Required;
        self
    }

    /// Other methods than `POST` and `PATCH`. Requests with any other are passed on as they are.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.rules.methods = methods.into_iter().collect();
        self
    }

    /// Whose key it is: the same key in two scopes is two keys. One scope for all, unless set; then a key
    /// that is used on two paths is that of another request. Usually the caller, so that none can
    /// meet another's keys. It is kept as a digest only.
    #[must_use]
    pub fn scoped_by(mut self, scope: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        self.rules.scope = Arc::new(scope);
        self
    }

    /// The statuses that are kept. All others free the key: after them a repeat is carried out again.
    /// Unless set, all but 408, 425, 429 and the 5xx.
    #[must_use]
    pub fn keeping(mut self, is_kept: impl Fn(StatusCode) -> bool + Send + Sync + 'static) -> Self {
        self.rules.is_kept = Arc::new(is_kept);
        self
    }

    /// More headers of an answer to keep with it. `content-*`, `location`, `link`, `etag` and those about
    /// caching are kept anyway. Leave out what belongs to one caller, such as `set-cookie`, or to one
    /// moment.
    #[must_use]
    pub fn keeping_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.rules.kept_headers.extend(names);
        self
    }

    /// Bytes of the body of a request with a key; [`KEYED_REQUEST_BYTES_MAX`] unless set.
    #[must_use]
    pub fn request_bytes_max(mut self, request_bytes_max: usize) -> Self {
        self.rules.request_bytes_max = request_bytes_max;
        self
    }

    /// Bytes of the body of an answer that is kept; [`KEPT_ANSWER_BYTES_MAX`] unless set. A longer one is
    /// passed on, and a repeat is told with 409 that the request was carried out, and with which status.
    #[must_use]
    pub fn answer_bytes_max(mut self, answer_bytes_max: usize) -> Self {
        self.rules.answer_bytes_max = answer_bytes_max;
        self
    }

    /// Milliseconds after which the key of a process that died is free; [`KEY_LEASE_MS`] unless set. A
    /// process that lives renews its claims three times in that time, however long its handlers take.
    #[must_use]
    pub fn lease_ms(mut self, lease_ms: u64) -> Self {
        self.rules.lease_ms = lease_ms;
        self
    }

    /// Milliseconds for which answers are kept; [`KEY_RETENTION_MS`] unless set.
    #[must_use]
    pub fn retention_ms(mut self, retention_ms: u64) -> Self {
        self.rules.retention_ms = retention_ms;
        self
    }
}

impl<S: Clone, I> Layer<I> for IdempotencyLayer<S> {
    type Service = Idempotent<I, S>;

    fn layer(&self, inner: I) -> Self::Service {
        Idempotent::new(inner, self.clone())
    }
}

impl<S> fmt::Debug for IdempotencyLayer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer").finish_non_exhaustive()
    }
}

/// Statuses that say of a request what will be so of its repeats, too.
fn says_what_came_of_it(status: StatusCode) -> bool {
    let may_pass =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    !status.is_server_error() && !may_pass.contains(&status)
}
