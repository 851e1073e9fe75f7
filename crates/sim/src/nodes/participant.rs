//! The resources: services that keep marks and ask, and managers that only hold what is prepared.
//!
//! They follow the rules without mistake; what is tried out here is who tells them what.

use unanimous_core::barrier::{Doubt, Mark, Move, Policy, Reply as Stored, Ruling, rule};
use unanimous_core::commit::Phases;
use unanimous_core::id::Timestamp;
use unanimous_core::{HeuristicKind, Verb, Vote};

use super::event::{Event, Message, Party, What};
use super::world::World;
use crate::event::{Says, Slot};
use crate::participant::Kind;
use crate::world::START_MS;

/// A process that takes part in transactions.
pub(super) struct Resource {
    pub(super) kind: Kind,
    pub(super) phases: Phases,
    pub(super) up: bool,
    pub(super) life: u32,
}

const PATIENCE_MS: u64 = 300;

impl World {
    pub(super) fn call_arrives(
        &mut self,
        resource: u8,
        from: Party,
        (slot, branch, verb, call): (Slot, u8, Verb, u32),
    ) {
        self.check_order(slot, branch, verb);
        if self.strikes(self.faults.participant_crash) {
            return self.crash_resource(resource);
        }
        let before = self.standing(slot);
        let says = match self.strikes(self.faults.working) {
            true => Says::Working,
            false => match self.resources[usize::from(resource)].kind {
                Kind::Service => self.serve(slot, branch, verb),
                Kind::Manager => self.manage(slot, branch, verb),
            },
        };
        self.note(|| format!("r{resource}      {slot} b{branch} {verb:?}: {says:?}"));
        self.check_refinement(slot, before);
        if self.strikes(self.faults.participant_crash) {
            return self.crash_resource(resource);
        }
        if call != 0 {
            let what = What::Said { slot, branch, verb, call, says };
            self.send(Message { from: Party::Resource(resource), to: from, what });
        }
    }

    fn serve(&mut self, slot: Slot, branch: u8, verb: Verb) -> Says {
        let mark = self.cell(slot, branch).mark;
        let says = match (rule(mark, verb), verb, mark) {
            (Ruling::Perform, Verb::Prepare, _) => self.prepare(slot, branch),
            (Ruling::Perform, Verb::CommitOnePhase, Mark::Absent) => {
                let says = self.prepare(slot, branch);
                if says == Says::Yes { self.commit(slot, branch) } else { says }
            }
            (Ruling::Perform, Verb::Commit | Verb::CommitOnePhase, _) => self.commit(slot, branch),
            (Ruling::Perform, Verb::Rollback, _) => {
                self.cell_mut(slot, branch).mark = Mark::RolledBack;
                Says::Done
            }
            (Ruling::Perform, Verb::Act | Verb::Compensate, _) => {
                unreachable!("two phases have no steps")
            }
            (Ruling::Bar(mark), ..) => {
                self.cell_mut(slot, branch).mark = mark;
                match verb {
                    Verb::Commit => Says::Heuristic(HeuristicKind::Rollback),
                    Verb::Prepare
                    | Verb::CommitOnePhase
                    | Verb::Rollback
                    | Verb::Act
                    | Verb::Compensate => Says::Done,
                }
            }
            (Ruling::Repeat(reply), ..) => match reply {
                Stored::Yes => Says::Yes,
                Stored::ReadOnly => Says::ReadOnly,
                Stored::No => Says::No,
                Stored::Done => Says::Done,
                Stored::Heuristic(kind) => Says::Heuristic(kind),
            },
        };
        let cell = self.cell_mut(slot, branch);
        cell.barred |= verb == Verb::Rollback && says == Says::Done;
        says
    }

    fn manage(&mut self, slot: Slot, branch: u8, verb: Verb) -> Says {
        let cell = self.cell(slot, branch);
        match (verb, cell.mark) {
            // The same work changes nothing again.
            (Verb::Prepare, Mark::Absent) if cell.read_only => Says::ReadOnly,
            (Verb::Prepare, Mark::Absent) => self.prepare(slot, branch),
            (Verb::Prepare, Mark::Prepared) => match self.rng.chance(500) {
                true => Says::Yes,
                false => Says::Lost,
            },
            (Verb::Prepare, _) => Says::Lost,
            (Verb::Commit | Verb::CommitOnePhase, Mark::Prepared) => self.commit(slot, branch),
            (Verb::Commit | Verb::CommitOnePhase, Mark::Committed) => Says::Done,
            (Verb::Commit | Verb::CommitOnePhase, _) => Says::Heuristic(HeuristicKind::Rollback),
            (Verb::Rollback, Mark::Committed) => Says::Heuristic(HeuristicKind::Commit),
            (Verb::Rollback, _) => {
                let cell = self.cell_mut(slot, branch);
                cell.barred = true;
                cell.mark = Mark::Absent;
                Says::Done
            }
            (Verb::Act | Verb::Compensate, _) => unreachable!("two phases have no steps"),
        }
    }

    /// Does the work and promises to keep it.
    fn prepare(&mut self, slot: Slot, branch: u8) -> Says {
        let plan = self.cell(slot, branch).plan;
        let vote = match plan {
            Some(vote) => vote,
            None if self.rng.chance(self.faults.vote_no) => Vote::No,
            None if self.rng.chance(self.faults.vote_read_only) => Vote::ReadOnly,
            None => Vote::Yes,
        };
        let resource = self.cell(slot, branch).resource;
        let kind = self.resources[usize::from(resource)].kind;
        let (mark, says) = match (kind, vote) {
            (_, Vote::Yes) => (Mark::Prepared, Says::Yes),
            (Kind::Service, Vote::ReadOnly) => (Mark::ReadOnly, Says::ReadOnly),
            (Kind::Manager, Vote::ReadOnly) => (Mark::Absent, Says::ReadOnly),
            (Kind::Service, Vote::No) => (Mark::Refused, Says::No),
            (Kind::Manager, Vote::No) => (Mark::Absent, Says::No),
        };
        let cell = self.cell_mut(slot, branch);
        cell.mark = mark;
        cell.read_only = vote == Vote::ReadOnly;
        if mark == Mark::Prepared && kind == Kind::Service {
            self.begin_doubt(slot, branch);
        }
        says
    }

    fn commit(&mut self, slot: Slot, branch: u8) -> Says {
        let cell = self.cell_mut(slot, branch);
        cell.mark = Mark::Committed;
        cell.effects += 1;
        Says::Done
    }

    fn begin_doubt(&mut self, slot: Slot, branch: u8) {
        let resource = self.cell(slot, branch).resource;
        let life = self.resources[usize::from(resource)].life;
        let doubt = Doubt::new(self.true_time(), PATIENCE_MS, Policy::Ask);
        self.txns[slot.index()].doubts[usize::from(branch)] = Some(doubt);
        self.after(1, Event::Doubt { slot, branch, life });
    }

    /// A service looks after a branch that has not heard the decision.
    pub(super) fn doubt(&mut self, slot: Slot, branch: u8, life: u32) {
        let cell = self.cell(slot, branch);
        let (resource, mark) = (cell.resource, cell.mark);
        let known = &self.resources[usize::from(resource)];
        if mark != Mark::Prepared || !known.up || known.life != life {
            return;
        }
        let now = self.true_time();
        let Some(doubt) = &mut self.txns[slot.index()].doubts[usize::from(branch)] else { return };
        match doubt.next(now) {
            Move::EndAlone(_) => unreachable!("its policy is to ask"),
            Move::Ask => {
                let anybody = self.rng.below(self.nodes.len() as u64) as u8;
                // Somebody who asks for long enough comes upon the one that knows.
                let owner = self.true_owner(self.part_of(slot)).filter(|_| self.calm);
                let to = Party::Node(owner.unwrap_or(anybody));
                let what = What::Inquiry { slot, branch, hops: 0 };
                self.send(Message { from: Party::Resource(resource), to, what });
                self.after(1, Event::Doubt { slot, branch, life });
            }
            Move::WaitUntil(at) => {
                self.after(at.since_ms(now).max(1), Event::Doubt { slot, branch, life });
            }
        }
    }

    pub(super) fn crash_resource(&mut self, resource: u8) {
        self.note(|| format!("r{resource}      crashes"));
        let known = &mut self.resources[usize::from(resource)];
        known.up = false;
        known.life += 1;
        self.totals.crashes += 1;
        let down_ms = self.rng.range(1, self.faults.down_ms_max);
        self.after(down_ms, Event::ResourceUp { resource });
    }

    /// A service finds its promises again and asks about them.
    pub(super) fn resource_up(&mut self, resource: u8) {
        let known = &mut self.resources[usize::from(resource)];
        known.up = true;
        if known.kind == Kind::Manager {
            return;
        }
        for index in 0..self.txns.len() {
            for branch in 0..self.txns[index].cells.len() {
                let cell = &self.txns[index].cells[branch];
                if cell.resource == resource && cell.mark == Mark::Prepared {
                    self.begin_doubt(Slot(index as u8), branch as u8);
                }
            }
        }
    }

    fn true_time(&self) -> Timestamp {
        Timestamp(START_MS + self.now_ms)
    }
}
