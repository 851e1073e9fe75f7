//! I11: one transaction never has two outcomes, one key never two transactions, and what a
//! coordinator shows of a transaction only moves forward.

use unanimous_core::commit::CommitTxn;
use unanimous_core::{Decision, Outcome, Stage};

use crate::event::{Reply, Slot};
use crate::world::World;

/// What anybody was told of a transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) decision: Option<Decision>,
    /// Somebody was given its identity.
    pub(crate) given: bool,
    /// How far each coordinator showed it to be, in which of its lives.
    shown: [(u32, u8); 2],
}

impl World {
    /// A stage is shown: in a reply, an event, or the answer to a status query.
    pub(crate) fn check_told(&mut self, node: u8, slot: Slot, stage: Stage) {
        let (rank, outcome) = match stage {
            Stage::Begun => (0, None),
            Stage::Decided(outcome) => (1, Some(outcome)),
            Stage::NeedsAttention => (2, Some(Outcome::Mixed)),
            Stage::Ended(outcome) => (3, Some(outcome)),
        };
        let life = self.nodes[usize::from(node)].life;
        let shown = &mut self.txns[slot.index()].told.shown[usize::from(node)];
        let before = *shown;
        *shown = (life, rank);
        if before.0 == life && before.1 > rank && self.nodes[usize::from(node)].owner {
            self.violated("I11", slot, || format!("{stage:?} was shown after a later stage"));
        }
        match outcome {
            Some(Outcome::Committed) => self.check_outcome(slot, Decision::Commit),
            Some(Outcome::Aborted) => self.check_outcome(slot, Decision::Abort),
            Some(Outcome::Mixed) => self.check_contradicted(slot),
            None => {}
        }
        if let Stage::Ended(outcome) = stage {
            self.check_ended(slot, outcome);
        }
    }

    fn check_outcome(&mut self, slot: Slot, decision: Decision) {
        self.check_durable(slot, decision);
        let told = &mut self.txns[slot.index()].told.decision;
        let before = *told.get_or_insert(decision);
        if before != decision {
            self.violated("I11", slot, || format!("{before:?} was told, and now {decision:?}"));
        }
    }

    /// "Mixed" is told only of what no crash can make look whole again.
    fn check_contradicted(&mut self, slot: Slot) {
        let records = self.journal.durable_records(slot);
        let known = match CommitTxn::replay(records) {
            Ok(machine) => machine.durable().contradicted(),
            Err(_) => false,
        };
        if !known {
            self.violated("I3", slot, || "a contradiction is told that is not durable".into());
        }
    }

    /// "Ended" means that every branch has.
    fn check_ended(&mut self, slot: Slot, outcome: Outcome) {
        let cells = &self.txns[slot.index()].cells;
        let left = cells.iter().position(|cell| {
            let ended = match outcome {
                Outcome::Committed => cell.effects > 0 || cell.read_only,
                Outcome::Aborted => cell.effects == 0,
                Outcome::Mixed => true,
            };
            !ended && !cell.is_excused()
        });
        if let Some(branch) = left {
            let mark = cells[branch].mark;
            self.violated("I11", slot, || format!("ended is told, but b{branch} is {mark:?}"));
        }
    }

    /// A reply leaves a coordinator.
    pub(crate) fn check_reply(&mut self, node: u8, order: u8, reply: Reply) {
        match reply {
            Reply::Begun(slot) => {
                let count = usize::from(self.orders[usize::from(order)].at_begin);
                self.check_given(slot, count);
                self.check_made(order, slot);
            }
            Reply::Enlisted(slot, branch) => self.check_given(slot, usize::from(branch) + 1),
            Reply::Stage(slot, stage) => {
                self.check_told(node, slot, stage);
                if stage != Stage::Begun {
                    self.check_made(order, slot);
                }
            }
            Reply::Refused(slot, Some(decision)) => self.check_outcome(slot, decision),
            Reply::Unknown(slot) => {
                let told = &self.txns[slot.index()].told;
                if told.given || told.decision.is_some() {
                    self.violated("I3", slot, || "what was told is unknown now".into());
                }
            }
            Reply::Refused(_, None) | Reply::Busy => {}
        }
    }

    fn check_made(&mut self, order: u8, slot: Slot) {
        let Some(made) = self.oracle.made.get_mut(usize::from(order)) else { return };
        let made = *made.get_or_insert(slot);
        if made != slot {
            self.violated("I11", slot, || format!("order {order} was known to be {made}"));
        }
    }
}
