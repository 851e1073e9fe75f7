//! The journal in PostgreSQL, on a server that the test starts itself.

mod conformance;
mod cuts;
mod differential;
mod fencing;
mod history;
mod kills;
mod listener;
mod private;
mod speed;
mod standby;
mod tables;
