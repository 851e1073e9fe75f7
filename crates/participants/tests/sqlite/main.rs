//! SQLite as a participant, in files of the tests' own.

mod common;
mod conformance;
mod errors;
mod guards;
mod kills;
mod work;
