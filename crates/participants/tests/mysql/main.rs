//! MariaDB as a participant, against real servers of the tests' own.

mod common;
mod conformance;
mod ends;
mod errors;
