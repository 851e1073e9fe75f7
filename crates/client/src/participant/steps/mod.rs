//! Makes the steps of sagas durable at a service: each acts once, and is undone once.
//!
//! A service says what its paths do in its own database; that calls may be repeated, late or in the
//! wrong order is dealt with here. Each call is one local transaction that holds the work and the
//! mark of the step. A repeated call is answered with what was answered before, the action's result
//! included. A compensation for what never acted does nothing but bar the action behind it.

#[cfg(any(feature = "mysql_async", feature = "tokio-postgres"))]
mod clusters;
#[cfg(feature = "mysql_async")]
mod mysql;
#[cfg(feature = "tokio-postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "mysql_async", feature = "redis", feature = "tokio-postgres"))]
mod rows;
mod serve;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::Value;
use unanimous_core::id::BranchName;

#[cfg(feature = "mysql_async")]
pub use self::mysql::{MysqlDeed, MysqlSteps};
#[cfg(feature = "tokio-postgres")]
pub use self::postgres::{PostgresDeed, PostgresSteps};
#[cfg(feature = "redis")]
pub use self::redis::{RedisDeed, RedisSteps, RedisWork};
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteDeed;
#[cfg(feature = "testing")]
pub(crate) use self::store::Spoiled;
pub use self::store::{Half, StepOrder, StepStore};
use super::work::{BadBody, BoxError};

/// The steps that a service takes, by path: in SQLite as here, and in the same way in PostgreSQL
/// (`PostgresSteps`), in MariaDB or MySQL (`MysqlSteps`), in Redis (`RedisSteps`), and in any other
/// [`StepStore`].
///
/// ```no_run
/// use rusqlite::params;
/// use serde_json::json;
/// use unanimous_client::Worker;
/// use unanimous_client::participant::{No, SqliteStore, Steps};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let store = SqliteStore::of_steps("payment.db", |db| {
///     db.execute_batch("CREATE TABLE IF NOT EXISTS charge (id TEXT PRIMARY KEY, amount INT)")
/// })?;
/// let steps = Steps::new(store)
///     .act("/charge", |db, call| {
///         let amount: i64 = call.json()?;
///         if amount > 1_000 {
///             return Err(No::refused("no_funds", format!("{amount} is too much")));
///         }
///         let id = call.branch().to_string();
///         db.execute("INSERT INTO charge VALUES (?1, ?2)", params![id, amount])?;
///         Ok(json!({"id": id}))
///     })
///     .compensate("/refund", |db, call| {
///         db.execute("DELETE FROM charge WHERE id = ?1", [call.branch().to_string()])?;
///         Ok(())
///     });
/// let worker = Worker::new().steps(steps).bind("127.0.0.1:9000").await?;
/// worker.run_until(tokio::signal::ctrl_c()).await;
/// # Ok(())
/// # }
/// ```
#[must_use = "it does nothing until it is served"]
pub struct Steps<S: StepStore> {
    store: S,
    paths: Vec<Path<S>>,
}

struct Path<S: StepStore> {
    path: String,
    half: Half,
    deed: Arc<S::Deed>,
}

/// One call to a step: what it is asked to do, and what is known of it.
#[derive(Clone, Debug)]
pub struct StepCall {
    branch: BranchName,
    headers: HeaderMap,
    body: Bytes,
    acted: Value,
}

impl<S: StepStore> Steps<S> {
    /// Steps whose work and marks are in `store`.
    pub fn new(store: S) -> Self {
        Self { store, paths: Vec::new() }
    }

    /// The path `path` is for this half of a step, and does this. `act` and `compensate` of the stores
    /// that come with the SDK are easier to call.
    pub fn path(mut self, path: impl Into<String>, half: Half, deed: Arc<S::Deed>) -> Self {
        self.paths.push(Path { path: path.into(), half, deed });
        self
    }

    pub(crate) fn store(&self) -> &S {
        &self.store
    }
}

#[cfg(feature = "testing")]
impl<S: StepStore> Steps<S> {
    /// What a path does for this half, if it is for it.
    pub(crate) fn deed(&self, path: &str, half: Half) -> Option<Arc<S::Deed>> {
        let found = self.paths.iter().find(|it| it.path == path && it.half == half);
        found.map(|it| Arc::clone(&it.deed))
    }
}

impl StepCall {
    /// The step, unique for ever and the same in the action and what undoes it. Its text is a good
    /// primary key for what the step does.
    pub fn branch(&self) -> &BranchName {
        &self.branch
    }

    /// The headers that the call came with.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The body that the call came with.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The same, parsed. No body is read as JSON's `null`.
    ///
    /// # Errors
    ///
    /// [`BadBody`] if it does not fit; `?` makes that a refusal of kind `bad_body`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, BadBody> {
        let body = if self.body.is_empty() { b"null" } else { &*self.body };
        Ok(serde_json::from_slice(body)?)
    }

    /// To a compensation: what the action returned.
    ///
    /// # Errors
    ///
    /// If it is of another type; `?` makes that a failure, so that the call is made again.
    pub fn result<T: DeserializeOwned>(&self) -> Result<T, BoxError> {
        Ok(T::deserialize(&self.acted)?)
    }
}
