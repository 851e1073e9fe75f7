//! PostgreSQL as a participant, against real servers of the tests' own.

mod batch;
mod common;
mod conformance;
mod cuts;
mod errors;
mod examine;
mod locks;
mod read;
mod steps;
