//! The SDK's branches on connections of the application's own, against real databases.

mod again;
mod mixed;
mod postgres;
mod scene;
