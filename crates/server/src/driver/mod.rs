//! Drives transactions: the only place where protocol meets the outside world.
//!
//! A [`Coordinator`] is the handle that requests go through. Behind it a few drivers each own some
//! shards and run their machines one event at a time; see `run`. What to record and whom to call is
//! decided in `core`; when an effect may go out is decided by its `Gate`.

mod begin;
mod census;
mod clock;
mod closing;
mod coordinator;
mod desk;
mod drain;
mod ears;
mod event;
mod ids;
mod keys;
mod lookup;
mod memo;
mod notice;
mod order;
mod release;
mod resume;
mod run;
mod saga_view;
mod take;
mod timers;
pub(crate) mod view;

pub use begin::{BeginOrder, Given, SagaOrder};
pub use census::Census;
pub use clock::Clock;
pub(crate) use closing::Closing;
pub use coordinator::{Coordinator, CoordinatorOptions, events};
pub use ears::Ears;
pub(crate) use event::not_for_tcc;
pub use event::{AskError, Enlisted, IfRunning};
pub(crate) use ids::{Ids, hash_of_key};
pub use memo::Webhook;
pub use order::{BranchOrder, Contention};
