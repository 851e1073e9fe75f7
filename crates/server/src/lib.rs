//! The coordinator: drives the machines of `core` with real clocks, disks and sockets.
//!
//! [`driver`] is the only place where protocol meets the outside world, and holds no rule of its
//! own. [`http`] turns requests into events of the driver and its replies into the contract of
//! `unanimous-api`; programs in the same process use the same, by way of a [`Door`]. [`config`] says what
//! can be set.
//!
//! # Invariants
//!
//! 1. Whatever shows a transaction to anybody goes through the gate, or is read from records that
//!    are durable.
//! 2. Nothing is decided here: a driver that is wrong can be late, but not contradict the journal.
//! 3. Every queue has a bound, and a full one refuses new transactions before it slows old ones.

pub mod config;
pub mod definitions;
mod door;
pub mod driver;
pub mod http;
pub mod invariants;
pub mod journal;
pub mod limits;
mod metrics;
mod nodes;
mod orphans;
mod reconcile;
mod resources;
pub mod saga;
mod secret;
mod serve;

pub use door::Door;
pub use invariants::Invariants;
pub use metrics::Metrics;
pub use nodes::{Domains, NodeConfig, Nodes};
pub use resources::Resources;
pub use serve::{Brought, Server, StartError, StopError};
