//! The server as its clients see it: a coordinator in this process, services whose answers a test
//! sets, and the contract checked over real connections.

#[allow(dead_code, unused_imports, reason = "more modules are to come")]
mod common;

mod atomic;
mod bad_requests;
mod keys;
mod waits;
