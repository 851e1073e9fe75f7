//! A coordinator that a program has within: what it is opened with, its life, and resources of the
//! program's own.

mod config;
mod coordinator;
pub mod resource;

pub use config::Config;
pub use coordinator::{Coordinator, OpenError};
