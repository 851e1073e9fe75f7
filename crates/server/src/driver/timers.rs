//! When to wake which transaction, without ever scanning them.

use std::collections::BTreeSet;

use unanimous_core::id::{Timestamp, TxnId};

/// Wake-up times, at most one for each transaction.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Timestamp, TxnId)>,
}

impl Timers {
    /// Moves the wake-up time of `txn`; `old` is the one set before.
    pub(super) fn set(&mut self, txn: TxnId, old: Option<Timestamp>, new: Option<Timestamp>) {
        if let Some(old) = old {
            self.due.remove(&(old, txn));
        }
        if let Some(new) = new {
            self.due.insert((new, txn));
        }
    }

    /// The earliest wake-up time.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|&(at, _)| at)
    }

    /// Takes out one transaction whose time has come.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<TxnId> {
        match self.due.first() {
            Some(&(at, _)) if at <= now => self.due.pop_first().map(|(_, txn)| txn),
            Some(_) | None => None,
        }
    }
}
