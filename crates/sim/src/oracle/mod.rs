//! What must hold in every history, one file for each rule of the fault catalogue.
//!
//! The oracles see the truth: what every participant really did, what the journal would keep in a
//! crash right now, and everything that anybody was told. They judge at the moment something
//! happens, so a broken rule is reported where it breaks.

mod agreement;
mod answers;
mod durability;
mod effects;
mod fencing;
mod heuristics;
mod ownership;
mod refinement;
mod replay;
mod termination;
mod validity;

pub(crate) use agreement::recovery_aborts;
pub(crate) use answers::Told;
pub(crate) use refinement::manager_of;

use std::collections::BTreeMap;
use std::fmt;

use unanimous_core::id::{Epoch, Timestamp};

use crate::event::Slot;
use crate::world::World;

/// A rule that was broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The rule: an invariant such as `I1`, or `replay`.
    pub rule: &'static str,
    /// Milliseconds after the start.
    pub at_ms: u64,
    /// What was seen, with the transaction's number.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken at {} ms: {}", self.rule, self.at_ms, self.what)
    }
}

/// What the oracles remember of a history, beside what they keep with each transaction.
#[derive(Default)]
pub(crate) struct Oracle {
    epoch: Epoch,
    /// Times in a row that a coordinator has seen a branch in a listing, and when first.
    sightings: BTreeMap<(u8, u8, String), (u32, Timestamp, Timestamp)>,
    /// The transaction that each order is known to have made.
    made: [Option<Slot>; crate::world::ORDERS_MAX],
}

impl World {
    /// Notes that a rule was broken; the first one counts.
    pub(crate) fn violated(
        &mut self,
        rule: &'static str,
        slot: Slot,
        what: impl FnOnce() -> String,
    ) {
        if self.violation.is_none() {
            let what = format!("{slot}: {}", what());
            self.note(|| format!("VIOLATED  {rule} {what}"));
            self.violation = Some(Violation { rule, at_ms: self.now_ms, what });
        }
    }

    /// Looks at the whole history once it is over.
    pub(crate) fn check_end(&mut self) {
        for index in 0..self.txns.len() {
            let slot = Slot(index as u8);
            self.check_agreement(slot);
            self.check_heuristics(slot);
        }
        self.check_survivors();
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}
