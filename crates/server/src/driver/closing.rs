//! The one line that is logged for each transaction, when it has ended.

use unanimous_core::id::{Timestamp, TxnId};
use unanimous_core::txn::Txn;
use unanimous_core::{Outcome, Reason};

use super::run::Live;

/// A transaction that has ended and is only waiting to be counted and logged.
pub(crate) struct Closing {
    txn: TxnId,
    outcome: Outcome,
    ended_at: Timestamp,
    live: Live,
}

/// Aborts of these kinds say that something is wrong. All others are the business's own: clients and
/// participants have words of their own for them.
const TROUBLE: [&str; 6] =
    ["timeout", "restart", "operator", "unreachable", "overloaded", "contradiction"];

impl Closing {
    pub(super) fn new(txn: TxnId, outcome: Outcome, ended_at: Timestamp, live: Live) -> Self {
        Self { txn, outcome, ended_at, live }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The stable word for why it was aborted; empty if it was not.
    pub(crate) fn cause(&self) -> &str {
        self.reason().map_or("", |(_, reason)| &*reason.kind)
    }

    /// Why it was aborted, with the name of the branch or step at fault.
    fn reason(&self) -> Option<(&str, &Reason)> {
        let (name, reason) = match &self.live.machine {
            Txn::Commit(machine) => {
                let durable = machine.durable();
                let (branch, reason) = durable.reason()?;
                (branch.and_then(|it| durable.branch(it)).map(|it| &it.name), reason)
            }
            Txn::Saga(saga) => {
                let durable = saga.durable();
                let (step, reason) = durable.reason()?;
                (step.and_then(|it| durable.plan(it)).map(|it| &it.name), reason)
            }
        };
        Some((name.map_or("", |name| &**name), reason))
    }

    pub(crate) fn kind(&self) -> unanimous_core::txn::Kind {
        self.live.machine.kind()
    }

    pub(crate) fn took_ms(&self) -> u64 {
        self.ended_at.since_ms(self.live.begun_at)
    }

    /// Writes the line, at the level of its outcome: what nobody has to look at is `info`.
    pub(crate) fn write(&self, outcome: &'static str) {
        let key = self.live.machine.key().map_or("", |key| &*key.text);
        let (participant, detail) =
            self.reason().map_or(("", ""), |(name, reason)| (name, &*reason.detail));
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "unanimous::transaction",
                    txn = %self.txn,
                    outcome,
                    cause = self.cause(),
                    participant,
                    detail,
                    participants = self.live.machine.branches(),
                    calls = self.live.calls.iter().sum::<u32>(),
                    took_ms = self.took_ms(),
                    key,
                    trace = %self.live.trace,
                )
            };
        }
        match self.outcome {
            Outcome::Committed => line!(info),
            Outcome::Aborted if TROUBLE.contains(&self.cause()) => line!(warn),
            Outcome::Aborted => line!(info),
            Outcome::Mixed => line!(error),
        }
    }
}
