//! The journal in etcd.

mod beside;
mod conformance;
mod cuts;
mod directory;
mod fencing;
mod kills;
pub(crate) mod private;
mod refusals;
mod room;
mod speed;
