//! What of the SDK works in databases, against real ones: branches on connections of the application's
//! own, steps of sagas, workers that serve them, and idempotency keys.

mod again;
mod airline;
mod embedded;
mod keys;
mod mixed;
mod postgres;
mod scene;
mod sqlx;
mod steps;
mod worker;
