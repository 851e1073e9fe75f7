//! The one line that is logged for each transaction, when it has ended.

use std::sync::Arc;

use unanimous_core::commit::Begun;
use unanimous_core::id::TxnId;
use unanimous_core::{Outcome, Reason};

/// What is to be said of a transaction that has ended.
pub(crate) struct Closing {
    pub(crate) txn: TxnId,
    pub(crate) outcome: Outcome,
    pub(crate) begun: Begun,
    pub(crate) reason: Option<(Option<Arc<str>>, Reason)>,
    pub(crate) took_ms: u64,
    pub(crate) calls: u32,
    pub(crate) traceparent: Option<Arc<str>>,
}

/// Aborts of these kinds are the business's own; all others say that something is wrong.
const ORDINARY: [&str; 3] = ["refused", "expectation", "client"];

impl Closing {
    /// Writes the line, at the level of its outcome: what nobody has to look at is `info`.
    pub(crate) fn write(&self, outcome: &'static str) {
        let trace = self.traceparent.as_deref().unwrap_or_default();
        let key = self.begun.key.as_ref().map_or("", |key| &*key.text);
        let participants = self.begun.branches.len();
        let (participant, cause, detail) = match &self.reason {
            Some((name, reason)) => {
                (name.as_deref().unwrap_or_default(), &*reason.kind, &*reason.detail)
            }
            None => ("", "", ""),
        };
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "unanimous::transaction",
                    txn = %self.txn,
                    outcome,
                    cause,
                    participant,
                    detail,
                    participants,
                    calls = self.calls,
                    took_ms = self.took_ms,
                    key,
                    trace,
                )
            };
        }
        let committed_or_refused = match self.outcome {
            Outcome::Committed => true,
            Outcome::Aborted => ORDINARY.contains(&cause),
            Outcome::Mixed => return line!(error),
        };
        match committed_or_refused {
            true => line!(info),
            false => line!(warn),
        }
    }
}
