//! What must hold in every history of sagas, one file for each rule of the fault catalogue.
//!
//! The oracles see the truth: what every service really did, what the journal would keep in a crash
//! right now, and everything that anybody was told.

mod answers;
mod effects;
mod ending;
mod records;

pub(super) use answers::Told;

use unanimous_core::id::BranchId;
use unanimous_core::saga::Record;

use super::world::World;
use crate::event::Slot;

/// What no crash can take from a saga any more.
#[derive(Clone, Copy, Default)]
struct Kept {
    /// Steps that have acted, as bits.
    acted: u8,
    /// Messages that have had their turn, as bits.
    announced: u8,
    started: bool,
    unwinds: bool,
    stuck: bool,
    resolved: bool,
}

impl World {
    fn kept(&self, slot: Slot) -> Kept {
        let mut kept = Kept::default();
        for record in self.journal.durable_records(slot) {
            match record {
                Record::Acted(BranchId(step), _) => kept.acted |= 1 << step,
                Record::Announced(BranchId(step)) => kept.announced |= 1 << step,
                Record::Unwinding { .. } => kept.unwinds = true,
                Record::Stuck(..) => kept.stuck = true,
                Record::Resolved(_) => kept.resolved = true,
                Record::Started => kept.started = true,
                Record::Begun(_)
                | Record::Timed(..)
                | Record::Refused(..)
                | Record::Undone(_)
                | Record::Kept(_)
                | Record::Unstuck(_) => {}
            }
        }
        kept
    }
}
