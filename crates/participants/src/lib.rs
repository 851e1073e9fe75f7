//! Resource managers and services as branches of a transaction.
//!
//! An adapter carries out one call at a time per branch and says what came of it, in the words of
//! [`Answer`]. It never decides anything, and it never turns an unknown result into a known one: a
//! reply that did not come is [`Answer::Silent`].
//!
//! [`open`] makes the resource that a configured URL names: the adapter of its scheme ([`http`],
//! [`postgres`], [`mysql`], [`redis`], [`sqlite`])
//! behind a guard ([`guard`]) that bounds its calls and gives up early on what does not answer.
//! [`local`] answers inside the process, for benchmarks and tests. With the feature `servers` there are
//! private servers, too, and work that nobody coordinates, for demonstrations.
//!
//! A service is sent the JSON that the request had for it; a database runs [`statement`]s. Both carry
//! out the [`step`]s of sagas, too. What an adapter wants to know again when the branch is finished, it returns with its vote ([`returned`]).

mod acknowledged;
#[cfg(feature = "servers")]
pub mod alone;
pub mod circuit;
mod climb;
mod cycle;
mod finding;
pub mod guard;
pub mod http;
mod kept;
pub mod limits;
mod lists;
pub mod local;
mod lookout;
pub mod mysql;
mod open;
mod places;
mod pool;
pub mod postgres;
pub mod redis;
pub mod returned;
mod signing;
pub mod sqlite;
pub mod statement;
pub mod step;
#[cfg(feature = "servers")]
pub mod testing;
pub mod tls;
mod trace;
mod turn;
mod url;

pub use finding::{Examining, Finding, Fitness};
pub use guard::{AnswerKind, Observer, Unobserved};
pub use open::{OpenError, Password, Settings, open};
pub use signing::SigningSecret;
pub use tls::TlsFiles;
pub use trace::{NotATrace, Trace};
pub use turn::{Closed, Line, Turn};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use unanimous_core::commit::{Phases, Shape};
use unanimous_core::id::{BranchName, Timestamp};
use unanimous_core::{Answer, Opaque, Verb};

/// A call that is under way.
pub type Calling = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A question about what is in doubt, under way.
pub type Listing = Pin<Box<dyn Future<Output = Result<Option<Vec<Held>>, String>> + Send>>;

/// Queries under way: a value for each, `None` for NULL.
pub type Reading = Pin<Box<dyn Future<Output = Result<Vec<Option<String>>, String>> + Send>>;

/// A configured database, broker or service.
pub trait Resource: Send + Sync + 'static {
    /// Makes one call. Dropping the future gives the call up, which may have been carried out.
    fn call(&self, call: Call) -> Calling;

    /// How few phases it can commit in.
    fn phases(&self) -> Phases;

    /// The kind of resource, such as `http` or `postgres`: `resource_type` in views.
    fn kind(&self) -> &'static str;

    /// Where it is, without any secret.
    fn location(&self) -> &str;

    /// What the work of its branches is written as.
    fn takes(&self) -> Takes {
        Takes::Body
    }

    /// Whether it carries out steps of sagas: [`Verb::Act`] and [`Verb::Compensate`]. What they are
    /// written as is checked by [`step::check`].
    fn steps(&self) -> bool {
        false
    }

    /// Whether calls to it are signed.
    fn signs(&self) -> bool {
        false
    }

    /// Asks what it holds prepared under identifiers that start with `una:`, of whichever cluster.
    /// `None` from a resource that cannot be asked, because it asks for the outcome by itself.
    ///
    /// # Errors
    ///
    /// What was seen if no complete list came within `patience`: nothing may be concluded.
    fn in_doubt(&self, _patience: Duration) -> Listing {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Looks whether it can take part: that it answers, and has what two-phase commit needs. Nothing
    /// is changed in it. A resource of which nothing is known but its answers has no findings.
    fn examine(&self, _patience: Duration) -> Examining {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// Runs queries of one row with one value each, outside of any branch. All of them see the same
    /// state of the resource, and none changes it. They wait for no call, and no call waits for them.
    ///
    /// # Errors
    ///
    /// What was seen if one of them did not answer with one value within `patience`, or that the
    /// resource takes no statements.
    fn read(&self, _queries: Vec<String>, _patience: Duration) -> Reading {
        Box::pin(std::future::ready(Err(statement::takes_none(self.kind()))))
    }

    /// A number that is raised each time it answers again after calls had stopped going out. None
    /// from a resource that nobody guards.
    fn returns(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// How it has been answering. A resource that nobody guards is always well.
    fn state(&self) -> State {
        State::default()
    }
}

/// What the work of a branch is written as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Takes {
    /// Any JSON; only the service knows its meaning.
    Body,
    /// Statements, or nothing if the application prepares the branch itself. A vote of yes for such a
    /// branch is confirmed: a first phase without work looks whether it is prepared.
    Statements,
    /// A body with commands that the coordinator has carried out, whose keys are locked until the
    /// branch has ended.
    Commands,
}

impl Takes {
    /// Whether a first phase takes locks that other transactions wait for.
    pub fn locks(self) -> bool {
        match self {
            Self::Body => false,
            Self::Statements | Self::Commands => true,
        }
    }
}

/// A branch that a resource holds prepared.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Held {
    /// The identifier as the resource spells it.
    pub name: String,
    /// Since when, by the resource's own clock, if it knows.
    pub since: Option<Timestamp>,
}

/// Everything an adapter needs to know of one call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The branch, under the name the resource knows it by.
    pub name: BranchName,
    /// What to do.
    pub verb: Verb,
    /// What the verbs are called, for a resource that is told their names.
    pub shape: Shape,
    /// What the branch is asked to do, as the request had it.
    pub work: Opaque,
    /// What it returned with its vote, in the second phase; empty if that is not known.
    pub returned: Opaque,
    /// Which attempt this is, counted from one since the coordinator's start.
    pub attempt: u32,
    /// The trace it is part of.
    pub trace: Trace,
    /// When the transaction aborts if it is not decided.
    pub deadline: Timestamp,
    /// When to give up waiting.
    pub patience: Duration,
    /// Whether the resource has said lately that it holds the branch: then it is not asked for that again.
    pub is_listed: bool,
    /// For a first phase: the turn, which has come. An adapter that can tell passes it on when the work is
    /// done and before the branch is prepared; otherwise that is done with the answer.
    pub turn: Turn,
}

/// How a resource has been answering.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// Whether calls go out.
    pub circuit: CircuitState,
    /// Calls under way.
    pub calls: usize,
    /// Calls waiting for one of those to end.
    pub waiting: usize,
    /// Calls of the first phase that go out at once; zero if nobody limits them.
    pub places: usize,
    /// What the last call that brought no answer came back with, unless one was answered since.
    pub last_error: Option<Arc<str>>,
}

/// Whether calls to a resource go out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CircuitState {
    /// They do.
    #[default]
    Closed,
    /// It does not answer; calls wait for the next probe.
    Open,
    /// One call is out to see whether it answers again.
    Probing,
}

impl CircuitState {
    /// As views and metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Probing => "probing",
        }
    }
}
