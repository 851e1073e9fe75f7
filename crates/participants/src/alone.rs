//! Work that nobody coordinates: a database commits it at once, whatever becomes of the rest.
//!
//! For demonstrations of what a coordinator is for. What is not known here stays unknown for ever.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use unanimous_core::{Opaque, Reason};

/// What came of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Alone {
    /// It has committed.
    Done,
    /// It has not, and will not.
    Refused(Reason),
    /// There was no connection: nothing was sent.
    Unsent(String),
    /// The connection broke: it may have committed, or not.
    Unknown(String),
}

/// Work that is under way.
pub type Working = Pin<Box<dyn Future<Output = Alone> + Send>>;

/// A database that can be used without a coordinator.
pub trait CommitAlone: Send + Sync + 'static {
    /// Carries out the work of a branch, as a request has it, and commits.
    fn commit_alone(&self, work: Opaque) -> Working;
}

pub(crate) fn unsent(why: &impl fmt::Display) -> Alone {
    Alone::Unsent(why.to_string())
}
