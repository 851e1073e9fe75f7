//! MariaDB as a participant, against real servers of the tests' own.

mod common;
mod conformance;
mod cuts;
mod ends;
mod errors;
mod kills;
mod locks;
mod read;
mod steps;
mod tls;
