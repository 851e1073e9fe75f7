//! The server as its clients see it: a coordinator in this process, services whose answers a test
//! sets, and the contract checked over real connections.

mod common;

mod atomic;
mod bad_requests;
mod connections;
mod contention;
mod events;
mod fuzz;
mod gate;
mod invariants;
mod isolation;
mod keys;
mod lists;
mod message;
mod metrics;
mod mixed;
mod named;
mod openapi;
mod operator;
mod overload;
mod postgres;
mod postgres_kills;
mod races;
mod saga;
mod saga_parts;
mod saga_races;
mod saga_refusals;
mod services;
mod shutdown;
mod sqlite;
mod tcc;
mod token;
mod waits;
mod webhook;
