//! Makes `prepare`, `commit` and `rollback` of any service durable.
//!
//! A service writes what its three verbs do in its own database; everything else is here. Each call
//! is one local transaction that holds the work *and* a mark of how far the branch has come
//! ([`unanimous_core::barrier`]), so that repeats, late calls and calls in the wrong order are
//! harmless, and a crash at any moment leaves either both or neither. A branch that has voted yes
//! and hears nothing asks the coordinator; it never aborts alone.
//!
//! [`Service`] makes callbacks of a [`Store`], and a [`crate::Worker`] puts them on the network.
//! [`SqliteStore`] is the store for work in SQLite; what the work is, a [`SqliteParticipant`] says.
//! Whatever that logs through `tracing` is within a span that names the branch, the verb and the trace.
//!
//! # Invariants
//!
//! 1. No answer is given before the mark that it follows from is durable.
//! 2. The work of a verb is done at most once for each branch.
//! 3. After a yes, only the coordinator's decision ends a branch, unless its owner has set another
//!    [`Policy`]; then that is remembered and reported.

mod branch;
mod doubt;
mod http;
#[cfg(feature = "sqlite")]
mod sqlite;
mod steps;
mod store;
mod work;

pub use branch::{Entry, Plan};
pub use http::Service;
#[cfg(feature = "testing")]
pub(crate) use http::callbacks;
#[cfg(any(feature = "testing", all(feature = "idempotency", feature = "sqlite")))]
pub(crate) use http::now;
pub(crate) use http::{refusal, with};
#[cfg(feature = "testing")]
pub(crate) use sqlite::Point;
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteParticipant, SqliteStore};
#[cfg(feature = "testing")]
pub(crate) use steps::Spoiled;
#[cfg(feature = "sqlite")]
pub use steps::SqliteDeed;
pub use steps::{Half, StepCall, StepOrder, StepStore, Steps};
#[cfg(feature = "mysql_async")]
pub use steps::{MysqlDeed, MysqlSteps};
#[cfg(feature = "tokio-postgres")]
pub use steps::{PostgresDeed, PostgresSteps};
#[cfg(feature = "redis")]
pub use steps::{RedisDeed, RedisSteps, RedisWork};
pub use store::{Call, InDoubt, Order, Store, StoreError};
pub use unanimous_core::barrier::Policy;
pub use unanimous_core::id::BranchName;
pub use unanimous_core::{Answer, Decision};
pub use work::{BadBody, BoxError, No, Vote, Work};
