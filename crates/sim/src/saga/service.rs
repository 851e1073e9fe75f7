//! The services: each keeps a mark of every step, in the same local transaction as its work.
//!
//! Some forget that they refused, because the mark was rolled back with the work. A call to such a
//! service that was thought lost may still be carried out after a later one was refused.

use unanimous_core::Verb;
use unanimous_core::barrier::{Mark, Reply as Stored, Ruling, rule};

use super::event::{Call, Event, Message, Party, Says, What};
use super::exhibit::SagaExhibit;
use super::world::World;
use crate::event::Slot;

/// A process that steps call.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) up: bool,
    pub(super) forgets_refusals: bool,
}

/// Where a step acts, and how it behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) service: u8,
    /// Actions refused, in permille.
    pub(super) refuses: u64,
    /// How many times its compensation is refused.
    pub(super) undo_refusals: u8,
}

/// The truth about one step, which nobody in the world sees but the oracles.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) service: u8,
    refuses: u64,
    undo_refusals: u8,
    pub(super) mark: Mark,
    /// Times its work took effect.
    pub(super) acted: u8,
    /// Times its work was undone.
    pub(super) undone: u8,
    /// An operator has settled it, one way or the other.
    pub(super) settled: bool,
    /// Somebody has sent the signal that it waits for.
    pub(super) signalled: bool,
}

impl Cell {
    pub(super) fn new(share: Share) -> Self {
        Self {
            service: share.service,
            refuses: share.refuses,
            undo_refusals: share.undo_refusals,
            mark: Mark::Absent,
            acted: 0,
            undone: 0,
            settled: false,
            signalled: false,
        }
    }

    /// Whether its work is in effect.
    pub(super) fn is_in_effect(&self) -> bool {
        self.acted > self.undone
    }
}

const OUTAGE_MS_MAX: u64 = 600;

impl World {
    pub(super) fn call_arrives(&mut self, service: u8, from: Party, call: Call) {
        if !self.services[usize::from(service)].up {
            return;
        }
        if self.strikes(self.faults.participant_crash) {
            return self.crash_service(service);
        }
        let says = match self.strikes(self.faults.working) {
            true => Says::Working,
            false => self.serve(call),
        };
        let Call { slot, step, verb, number } = call;
        self.note(|| format!("s{service}      {slot} {step} {verb:?}: {says:?}"));
        if self.strikes(self.faults.participant_crash) {
            return self.crash_service(service);
        }
        if number != 0 {
            self.send(Message {
                from: Party::Service(service),
                to: from,
                what: What::Said(call, says),
            });
        }
    }

    fn serve(&mut self, call: Call) -> Says {
        let Call { slot, step, verb, .. } = call;
        let cell = self.cell_mut(slot, step);
        let mark = cell.mark;
        let ruling = match (self.exhibit, verb, mark) {
            (Some(SagaExhibit::ActRepeats), Verb::Act, Mark::Committed)
            | (Some(SagaExhibit::CompensationRepeats), Verb::Compensate, Mark::RolledBack) => {
                Ruling::Perform
            }
            (Some(SagaExhibit::NoTombstone), Verb::Compensate, Mark::Absent) => {
                return Says::Done;
            }
            (Some(SagaExhibit::UndoneForgotten), Verb::Act, Mark::RolledBack) => Ruling::Perform,
            (Some(_) | None, _, _) => rule(mark, verb),
        };
        match (ruling, verb) {
            (Ruling::Perform, Verb::Act) => self.act(call),
            (Ruling::Perform, _) => self.compensate(call),
            (Ruling::Bar(mark), _) => {
                self.cell_mut(slot, step).mark = mark;
                self.check_compensation(slot, step);
                Says::Done
            }
            (Ruling::Repeat(Stored::Done), _) => Says::Done,
            (Ruling::Repeat(_), _) => Says::No,
        }
    }

    /// The application's local transaction commits, unless it is settled that it does not. Returns
    /// whether that is over.
    pub(super) fn commit_locally(&mut self, slot: Slot) -> bool {
        let cell = &mut self.txns[slot.index()].cells[0];
        if !self.services[usize::from(cell.service)].up {
            return false;
        }
        if cell.mark == Mark::Absent {
            cell.acted += 1;
            cell.mark = Mark::Committed;
        }
        let mark = cell.mark;
        self.note(|| format!("client    {slot} commits locally: {mark:?}"));
        true
    }

    fn act(&mut self, call: Call) -> Says {
        let Call { slot, step, .. } = call;
        if self.order_of(slot).is_local(usize::from(step)) {
            // It has not committed, and never will.
            if self.exhibit != Some(SagaExhibit::SettledWithoutMark) {
                self.cell_mut(slot, step).mark = Mark::Refused;
            }
            return Says::No;
        }
        let cell = self.cell_mut(slot, step);
        let (refuses, service) = (cell.refuses, cell.service);
        if self.rng.chance(refuses) {
            if !self.services[usize::from(service)].forgets_refusals {
                self.cell_mut(slot, step).mark = Mark::Refused;
            }
            return Says::No;
        }
        let cell = self.cell_mut(slot, step);
        let barred = cell.mark == Mark::RolledBack;
        cell.acted += 1;
        cell.mark = Mark::Committed;
        self.check_act(slot, step, barred);
        Says::Done
    }

    fn compensate(&mut self, call: Call) -> Says {
        let Call { slot, step, .. } = call;
        let cell = self.cell_mut(slot, step);
        if cell.undo_refusals > 0 {
            // More than anybody asks is for ever.
            cell.undo_refusals -= u8::from(cell.undo_refusals < u8::MAX);
            return Says::No;
        }
        cell.undone += 1;
        cell.mark = Mark::RolledBack;
        self.check_compensation(slot, step);
        Says::Done
    }

    pub(super) fn crash_service(&mut self, service: u8) {
        self.totals.crashes += 1;
        self.note(|| format!("s{service}      crashes"));
        self.services[usize::from(service)].up = false;
        let down_ms = self.rng.range(1, OUTAGE_MS_MAX);
        self.after(down_ms, Event::ServiceUp(service));
    }
}
