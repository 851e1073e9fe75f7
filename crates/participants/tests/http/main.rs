//! The HTTP adapter against a service of the tests' own.

mod branches;
mod service;
mod steps;
