//! The seam to the database that the work of steps and their marks are kept in.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde::Serialize;
use serde_json::Value;
use unanimous_core::id::{BranchName, Timestamp};
use unanimous_core::{Answer, Opaque, Reason, Verb};

use super::StepCall;
use crate::limits::{RESULT_BYTES_MAX, STEP_AGE_MS_MAX};
use crate::participant::store::StoreError;
use crate::participant::work::No;

/// A database that keeps the work of steps and their marks together. Cheap to clone.
///
/// A store that comes from elsewhere follows [`unanimous_core::barrier::rule`], and passes the suite in
/// the SDK's own tests: what a repeated, late or early call is answered with, and that it does nothing.
pub trait StepStore: Clone + Send + Sync + 'static {
    /// What a path does, as this database has it done.
    type Deed: ?Sized + Send + Sync + 'static;

    /// Carries out a call as one local transaction, or answers as before; done or refused, when that is
    /// durable. If the future is dropped the call may or may not be carried out.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the call may then be repeated.
    fn step(
        &self,
        order: StepOrder,
        deed: Arc<Self::Deed>,
    ) -> impl Future<Output = Result<Answer, StoreError>> + Send;

    /// Forgets up to `limit` steps that ended before `before`, and says how many.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn prune_steps(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Whether it takes no call any more until the process is restarted: [`StoreError::Stopped`].
    fn is_stopped(&self) -> bool {
        false
    }
}

/// The halves of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Half {
    /// It acts.
    Act,
    /// What it did is undone.
    Compensate,
}

impl Half {
    /// As keys and rows spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Act => "act",
            Self::Compensate => "compensate",
        }
    }

    /// The verb whose rules it follows.
    pub fn verb(self) -> Verb {
        match self {
            Self::Act => Verb::Act,
            Self::Compensate => Verb::Compensate,
        }
    }
}

/// One call to a step, for a store.
#[derive(Clone, Debug)]
pub struct StepOrder {
    /// The step.
    pub branch: BranchName,
    /// Which half of it.
    pub half: Half,
    /// The headers that the call came with.
    pub headers: HeaderMap,
    /// The body that it came with.
    pub body: Bytes,
    /// When it came.
    pub now: Timestamp,
    #[cfg(feature = "testing")]
    pub(crate) spoiled: Option<Spoiled>,
}

/// The database takes the work back, as if it had died before its commit.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Spoiled;

impl StepOrder {
    pub(crate) fn new(branch: BranchName, half: Half, (headers, body): (HeaderMap, Bytes)) -> Self {
        let now = crate::participant::http::now();
        Self {
            branch,
            half,
            headers,
            body,
            now,
            #[cfg(feature = "testing")]
            spoiled: None,
        }
    }

    /// What a deed is shown of it; `acted` is what the action returned, for what undoes it.
    pub fn call(&self, acted: Value) -> StepCall {
        let (branch, headers) = (self.branch.clone(), self.headers.clone());
        StepCall { branch, headers, body: self.body.clone(), acted }
    }

    /// Whether a step of this age that is not remembered may have acted all the same.
    pub fn may_be_forgotten(&self) -> bool {
        self.now.since_ms(self.branch.txn.minted_at()) > STEP_AGE_MS_MAX
    }

    /// What the deed came to. To be asked of every deed, before its work is committed: tests have it fail
    /// there.
    ///
    /// # Errors
    ///
    /// As the deed; and [`No::Failed`] in a test.
    pub fn came(&self, done: Result<Value, No>) -> Result<Value, No> {
        #[cfg(feature = "testing")]
        if self.spoiled.is_some() && done.is_ok() {
            return Err(No::Failed("the test takes it back".into()));
        }
        done
    }

    /// What a deed returned, as JSON.
    ///
    /// # Errors
    ///
    /// [`No::Failed`] if there is no JSON of it.
    pub fn value(result: impl Serialize) -> Result<Value, No> {
        serde_json::to_value(result).map_err(|error| No::Failed(error.into()))
    }

    /// What is kept of an action's result: nothing of `null`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Work`] if it is larger than [`RESULT_BYTES_MAX`].
    pub fn kept(result: &Value) -> Result<Opaque, StoreError> {
        if result.is_null() {
            return Ok(Opaque::default());
        }
        let text = result.to_string();
        match text.len() {
            0..=RESULT_BYTES_MAX => Ok(Opaque::new(text.as_bytes())),
            bytes => {
                let what =
                    format!("a result of {bytes} bytes; no more than {RESULT_BYTES_MAX} fit");
                Err(StoreError::Work(what.into()))
            }
        }
    }

    /// Why an action that comes after its compensation is not done.
    pub fn barred() -> Reason {
        Reason::new("barred", "the step was compensated before this call came")
    }

    /// Why it is not known whether there is anything to undo.
    pub fn forgotten() -> Reason {
        let days = STEP_AGE_MS_MAX / 86_400_000;
        let detail = format!("after {days} days it is not known any more whether it acted");
        Reason::new("forgotten", &detail)
    }
}
