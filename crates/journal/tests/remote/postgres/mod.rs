//! The journal in PostgreSQL.

mod conformance;
mod cuts;
mod fencing;
mod kills;
pub(crate) mod private;
mod speed;
mod standby;
mod tables;
