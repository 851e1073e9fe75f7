//! Steps whose work is in SQLite.

use std::sync::Arc;

use rusqlite::Connection;
use serde::Serialize;
use serde_json::Value;
use unanimous_core::Answer;
use unanimous_core::id::Timestamp;

use super::{Half, StepCall, StepOrder, StepStore, Steps};
use crate::participant::sqlite::SqliteStore;
use crate::participant::store::StoreError;
use crate::participant::work::No;

/// What a path does in SQLite.
pub type SqliteDeed = dyn Fn(&Connection, &StepCall) -> Result<Value, No> + Send + Sync;

impl Steps<SqliteStore> {
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
        let deed =
            move |db: &Connection, call: &StepCall| deed(db, call).and_then(StepOrder::value);
        self.path(path, Half::Act, Arc::new(deed))
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
        let deed =
            move |db: &Connection, call: &StepCall| deed(db, call).and_then(StepOrder::value);
        self.path(path, Half::Compensate, Arc::new(deed))
    }
}

impl StepStore for SqliteStore {
    type Deed = SqliteDeed;

    async fn step(&self, order: StepOrder, deed: Arc<SqliteDeed>) -> Result<Answer, StoreError> {
        self.carry_out_step(order, deed).await
    }

    async fn prune_steps(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.prune_steps_before(before, limit).await
    }

    fn is_stopped(&self) -> bool {
        self.has_stopped()
    }
}
