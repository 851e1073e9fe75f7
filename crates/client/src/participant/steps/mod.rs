//! Makes the steps of sagas durable at a service: each acts once, and is undone once.
//!
//! A service says what its paths do in its own database; that calls may be repeated, late or in the
//! wrong order is dealt with here. Each call is one local transaction that holds the work and the
//! mark of the step. A repeated call is answered with what was answered before, the action's result
//! included. A compensation for what never acted does nothing but bar the action behind it.

mod serve;

use bytes::Bytes;
use http::HeaderMap;
use rusqlite::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use unanimous_core::Verb;
use unanimous_core::id::BranchName;

use super::sqlite::{Deed, SqliteStore};
use super::work::{BadBody, BoxError, No};

/// The steps that a service takes, by path.
///
/// ```no_run
/// use rusqlite::params;
/// use serde_json::json;
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
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:9000").await?;
/// axum::serve(listener, steps.router()).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "it does nothing until its router is served"]
pub struct Steps {
    store: SqliteStore,
    paths: Vec<Path>,
}

struct Path {
    path: String,
    verb: Verb,
    deed: Box<Deed>,
}

/// One call to a step: what it is asked to do, and what is known of it.
#[derive(Clone, Debug)]
pub struct StepCall {
    branch: BranchName,
    headers: HeaderMap,
    body: Bytes,
    acted: Value,
}

impl Steps {
    /// Steps whose work and marks are in `store`.
    pub fn new(store: SqliteStore) -> Self {
        Self { store, paths: Vec::new() }
    }

    /// What an action does: within a transaction that belongs to the store, at most once for each
    /// step. Its result goes to the saga, and is kept for repeated calls: at most
    /// [`crate::limits::RESULT_BYTES_MAX`] bytes of JSON.
    ///
    /// [`No::Refused`] is final: nothing of the work is left, and whoever asks again is told the same.
    /// After [`No::Failed`] nothing is left either, and the call is made again; so a step that is
    /// retriable should fail where another would refuse.
    pub fn act<R: Serialize>(
        self,
        path: impl Into<String>,
        deed: impl Fn(&Connection, &StepCall) -> Result<R, No> + Send + Sync + 'static,
    ) -> Self {
        self.with(path.into(), Verb::Act, move |db, call| {
            let result = deed(db, call)?;
            serde_json::to_value(result).map_err(|error| No::Failed(error.into()))
        })
    }

    /// What undoes an action: called at most once with success for each step, and only if it has acted.
    /// [`StepCall::result`] has what the action returned.
    ///
    /// [`No::Refused`] stops the saga until an operator has it asked again; nothing of the work is left.
    pub fn compensate(
        self,
        path: impl Into<String>,
        deed: impl Fn(&Connection, &StepCall) -> Result<(), No> + Send + Sync + 'static,
    ) -> Self {
        self.with(path.into(), Verb::Compensate, move |db, call| {
            deed(db, call).map(|()| Value::Null)
        })
    }

    fn with(
        mut self,
        path: String,
        verb: Verb,
        deed: impl Fn(&Connection, &StepCall) -> Result<Value, No> + Send + Sync + 'static,
    ) -> Self {
        self.paths.push(Path { path, verb, deed: Box::new(deed) });
        self
    }
}

impl StepCall {
    pub(super) fn new(branch: BranchName, headers: HeaderMap, body: Bytes, acted: Value) -> Self {
        Self { branch, headers, body, acted }
    }

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
