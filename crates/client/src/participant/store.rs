//! The seam to the database that a service's work and marks are kept in.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use unanimous_core::id::{BranchName, Timestamp};
use unanimous_core::{Answer, Decision, Verb};

/// One local database that holds the work and the marks.
///
/// An implementation carries out a call as *one* local transaction: it reads the branch's
/// [`super::Entry`] so that no other call of the branch can change it meanwhile, follows
/// [`super::Entry::plan`], and writes work and entry together.
pub trait Store: Send + Sync + 'static {
    /// Carries out one call, and answers when its effects are durable. If the future is dropped
    /// the call may or may not be carried out.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the call may then be repeated.
    fn carry_out(&self, call: Call) -> impl Future<Output = Result<Answer, StoreError>> + Send;

    /// Branches that voted yes and have not ended, oldest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn in_doubt(
        &self,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<InDoubt>, StoreError>> + Send;

    /// Forgets up to `limit` branches that ended before `before`, and says how many. Branches that
    /// ended by themselves are never forgotten.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn prune(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Whether it takes no call any more until the process is restarted: [`StoreError::Stopped`].
    fn is_stopped(&self) -> bool {
        false
    }
}

/// One call to a branch.
#[derive(Clone, Debug)]
pub struct Call {
    /// The branch.
    pub branch: BranchName,
    /// What to do.
    pub order: Order,
    /// For `prepare`, and `commit` in one phase: the work. Empty otherwise.
    pub body: Bytes,
    /// When it came.
    pub now: Timestamp,
}

/// What a branch is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// As the coordinator says.
    Told(Verb),
    /// As its owner's policy says, after too long in doubt.
    Alone(Decision),
}

/// A branch that has voted yes and has not heard the outcome.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InDoubt {
    /// The branch.
    pub branch: BranchName,
    /// When it voted.
    pub since: Timestamp,
}

/// Why a store did not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The service's own work failed and was taken back: look at the service, and ask again.
    #[error("the work failed: {0}")]
    Work(Arc<str>),
    /// The database did not take it this time: ask again.
    #[error("the store is not available: {0}")]
    Unavailable(Arc<str>),
    /// The store has stopped, and whether its last writes are on disk is not known: restart the
    /// service.
    #[error("the store has stopped: its disk refused a write")]
    Stopped,
}
