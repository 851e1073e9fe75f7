//! I3 and I11: what anybody was told survives every crash and is never contradicted; whoever was
//! told that a cancel came too late is not undone by it.

use unanimous_core::saga::{Phase, Record, SagaTxn};
use unanimous_core::{Input, Outcome, Stage};

use crate::event::Slot;
use crate::saga::event::{Reply, Verdict, Want};
use crate::saga::world::World;

/// What anybody was told of a saga.
#[derive(Clone, Debug, Default)]
pub(in crate::saga) struct Told {
    pub(super) outcome: Option<Outcome>,
    /// Somebody was given its identity.
    pub(super) given: bool,
    pub(super) cancelled: bool,
    /// Cancels that were told to have come too late.
    pub(super) lost: Vec<u16>,
    pub(super) too_late: bool,
    /// The life in which each coordinator showed its end.
    ended: [u32; 2],
}

impl World {
    /// A stage is shown: in a reply, an event, or the answer to a status query.
    pub(in crate::saga) fn check_told(&mut self, node: u8, slot: Slot, stage: Stage) {
        let life = self.nodes[usize::from(node)].life;
        let ended = &mut self.txns[slot.index()].told.ended[usize::from(node)];
        match stage {
            Stage::Ended(outcome) => {
                *ended = life;
                self.check_outcome(slot, outcome);
            }
            Stage::Begun | Stage::Decided(_) | Stage::NeedsAttention if *ended == life => {
                self.violated("I11", slot, || format!("{stage:?} was shown after the end"));
            }
            Stage::NeedsAttention if !self.kept(slot).stuck => {
                self.violated("I3", slot, || "trouble is told that a crash could forget".into());
            }
            Stage::Begun | Stage::Decided(_) | Stage::NeedsAttention => {}
        }
        self.check_given(slot);
    }

    fn check_given(&mut self, slot: Slot) {
        self.txns[slot.index()].told.given = true;
        if self.journal.durable_records(slot).is_empty() {
            self.violated("I3", slot, || "a saga is shown that a crash could forget".into());
        }
    }

    fn check_outcome(&mut self, slot: Slot, outcome: Outcome) {
        let told = &mut self.txns[slot.index()].told.outcome;
        let before = *told.get_or_insert(outcome);
        if before != outcome {
            self.violated("I11", slot, || format!("{before:?} was told, and now {outcome:?}"));
        }
        if !self.survives(self.journal.durable_records(slot), outcome) {
            self.violated("I3", slot, || format!("{outcome:?} is told, and not durable"));
        }
        self.check_effects(slot, outcome);
    }

    /// Whether a restart with these records comes to this outcome without asking anybody.
    fn survives(&self, records: &[Record], outcome: Outcome) -> bool {
        let Ok(mut machine) = SagaTxn::replay(records) else { return false };
        if machine.durable().phase() != Phase::Ended(outcome) {
            let _ = machine.handle(self.time_of(0), Input::Resumed);
        }
        machine.durable().phase() == Phase::Ended(outcome)
    }

    /// After a crash, and at the end.
    pub(in crate::saga) fn check_survivors(&mut self) {
        for index in 0..self.txns.len() {
            let slot = Slot(index as u8);
            let told = &self.txns[index].told;
            let (given, outcome) = (told.given, told.outcome);
            if given && self.journal.read(slot).is_empty() {
                self.violated("I3", slot, || "a crash took a saga that was shown".into());
            }
            if let Some(outcome) = outcome
                && !self.survives(self.journal.read(slot), outcome)
            {
                self.violated("I3", slot, || format!("a crash took the told {outcome:?}"));
            }
        }
    }

    /// A reply leaves a coordinator.
    pub(in crate::saga) fn check_reply(&mut self, node: u8, order: u8, reply: Reply) {
        match reply {
            Reply::Begun(slot) => {
                self.check_given(slot);
                self.check_made(order, slot);
            }
            Reply::Stage(slot, stage, _) => self.check_told(node, slot, stage),
            Reply::Granted(slot, wished, verdict) => {
                let kept = self.kept(slot);
                let told = &mut self.txns[slot.index()].told;
                match verdict {
                    Verdict::Cancelled => {
                        told.cancelled = true;
                        if !kept.unwinds {
                            self.violated("I3", slot, || {
                                "a cancel is told, and not durable".into()
                            });
                        }
                    }
                    Verdict::Published => {
                        if kept.acted & 1 == 0 && !kept.resolved {
                            self.violated("I3", slot, || {
                                "it is told published, and a crash could forget why".into()
                            });
                        }
                    }
                    Verdict::TooLate if wished.what == Want::Commit => {
                        self.violated("I1", slot, || {
                            "the local transaction has committed, and was told too late".into()
                        });
                    }
                    Verdict::TooLate => {
                        told.lost.push(wished.number);
                        told.too_late = true;
                    }
                    Verdict::Changed => told.lost.push(wished.number),
                    Verdict::Signalled | Verdict::Other => {}
                }
            }
            Reply::Unknown(slot) => {
                if self.txns[slot.index()].told.given {
                    self.violated("I3", slot, || "what was shown is unknown now".into());
                }
            }
            Reply::Busy => {}
        }
    }

    fn check_made(&mut self, order: u8, slot: Slot) {
        let other = (0..self.txns.len()).find(|&index| {
            let truth = &self.txns[index];
            truth.order == order && truth.told.given && index != slot.index()
        });
        if let Some(other) = other {
            self.violated("I11", slot, || format!("order {order} was known to be t{other}"));
        }
    }
}
