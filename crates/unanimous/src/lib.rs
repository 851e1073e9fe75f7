//! A coordinator within a Rust process: the same as `unanimous serve`, without a process, a port or a
//! network between it and the program.
//!
//! ```
//! use std::sync::Arc;
//!
//! use serde_json::json;
//! use unanimous::resource::{Answer, Call, Local, Opaque, Reason, Verb};
//! use unanimous::{Config, Coordinator, Error};
//!
//! /// A participant in this process. What it promises has to survive the process, as anybody's has.
//! fn stock(call: &Call) -> Answer {
//!     match call.verb {
//!         Verb::Prepare if call.work.bytes() == b"0" => {
//!             Answer::No(Reason::new("sold_out", "nothing is left"))
//!         }
//!         Verb::Prepare => Answer::Yes(Opaque::default()),
//!         Verb::Commit | Verb::CommitOnePhase | Verb::Rollback | Verb::Act | Verb::Compensate => {
//!             Answer::Done(Opaque::default())
//!         }
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let data = folder.path().display();
//! let config = Config::new()
//!     .journal(format!("file:{data}"))
//!     .own_resource("stock", Arc::new(Local::new(stock)))
//!     .own_resource("audit", Arc::new(Local::new(unanimous::resource::agree)));
//! let coordinator = Coordinator::open(config).await?;
//!
//! let order = coordinator.transaction().key("order-42");
//! let committed = order.branch("stock", json!(3)).branch("audit", json!("order-42")).run().await?;
//! println!("{} is committed", committed.id);
//!
//! let order = coordinator.transaction().branch("stock", json!(0)).branch("audit", json!("none"));
//! match order.run().await {
//!     Err(Error::Aborted(view)) => println!("nothing happened: {:?}", view.reason),
//!     other => panic!("nothing is left to sell: {other:?}"),
//! }
//!
//! coordinator.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Coordinator`] can be asked whatever a [`Client`] can: transactions, sagas, messages, the log of
//! each, events, and what an operator does. The page `docs/embedding.md` says the rest: journals in
//! PostgreSQL and etcd, several processes, serving the HTTP interface, what it costs.
//!
//! # Invariants
//!
//! 1. There is no second coordinator in here: requests go through the handlers of the HTTP interface,
//!    and only what another node drives goes over a socket.
//! 2. A process that dies loses nothing that somebody was told: whoever opens the journal next goes on.
//!
//! # Features
//!
//! `cli` (default) is the binary: depend on this crate with `default-features = false`.

mod embedded;

/// The page's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/embedding.md")]
mod page {}

pub use embedded::{Config, Coordinator, OpenError, resource};
pub use unanimous_client::{self as client, Client, Error, api};
pub use unanimous_server::config::ConfigError;
pub use unanimous_server::{StartError, StopError};
