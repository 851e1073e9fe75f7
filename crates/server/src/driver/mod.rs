//! Drives transactions: the only place where protocol meets the outside world.
//!
//! A [`Coordinator`] is the handle that requests go through. Behind it a few drivers each own some
//! shards and run their machines one event at a time; see `run`. What to record and whom to call is
//! decided in `core`; when an effect may go out is decided by its `Gate`.

mod begun;
mod clock;
mod closing;
mod coordinator;
mod ears;
mod event;
mod ids;
mod keys;
mod order;
mod run;
mod saga_view;
mod take;
mod timers;
pub(crate) mod view;

pub use begun::{BeginOrder, SagaOrder};
pub use clock::Clock;
pub(crate) use closing::Closing;
pub use coordinator::{Coordinator, CoordinatorOptions};
pub use ears::Ears;
pub(crate) use event::not_for_tcc;
pub use event::{AskError, Enlisted, IfRunning};
pub use order::BranchOrder;

/// What is open in one driver.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Transactions that have not ended, by where they stand.
    pub by_status: std::collections::BTreeMap<&'static str, u64>,
    /// When the oldest that is not decided began.
    pub oldest_undecided: Option<unanimous_core::id::Timestamp>,
    /// When the oldest that is decided and not ended began.
    pub oldest_in_doubt: Option<unanimous_core::id::Timestamp>,
    /// Transactions older than twice their timeout.
    pub overdue: u64,
    /// Transactions that wait for an operator.
    pub needs_attention: u64,
}

impl Census {
    /// Adds what another driver counted.
    pub fn add(&mut self, other: Self) {
        for (status, count) in other.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        let earlier = |a: Option<_>, b: Option<_>| a.into_iter().chain(b).min();
        self.oldest_undecided = earlier(self.oldest_undecided, other.oldest_undecided);
        self.oldest_in_doubt = earlier(self.oldest_in_doubt, other.oldest_in_doubt);
        self.overdue += other.overdue;
        self.needs_attention += other.needs_attention;
    }
}
