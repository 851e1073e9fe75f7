//! The journal in PostgreSQL.

mod beside;
mod conformance;
mod cuts;
mod directory;
mod fencing;
mod kills;
pub(crate) mod private;
mod speed;
mod standby;
mod tables;
