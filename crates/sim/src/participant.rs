//! The resources: services that keep marks and ask, and managers that only hold what is prepared.
//!
//! A service follows the rules of `core::barrier`. A manager stands for PostgreSQL or MariaDB behind
//! an adapter: it remembers a commit (the fence row written inside the branch), forgets a rollback,
//! and never asks. Work, mark and promise are written in one local transaction.

use unanimous_core::barrier::{Doubt, Mark, Move, Policy, Reply as Stored, Ruling, rule};
use unanimous_core::commit::Phases;
use unanimous_core::id::Timestamp;
use unanimous_core::{Decision, HeuristicKind, Verb, Vote};

use crate::event::{Event, Message, Party, Says, Slot, What};
use crate::exhibit::Exhibit;
use crate::world::{START_MS, World};

/// A process that takes part in transactions.
pub(crate) struct Resource {
    pub(crate) kind: Kind,
    pub(crate) phases: Phases,
    pub(crate) up: bool,
    pub(crate) life: u32,
    pub(crate) clock_ms: i64,
    pub(crate) policy: Policy,
    pub(crate) planted: Vec<Planted>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Service,
    Manager,
}

/// A prepared branch that no coordinator of the history made.
pub(crate) struct Planted {
    pub(crate) name: String,
    pub(crate) whose: Whose,
    pub(crate) held: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Whose {
    /// Of our cluster, from a transaction that the journal has never known.
    Ours,
    Foreign,
}

/// The truth about one branch, which nobody in the world sees but the oracles.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) resource: u8,
    /// How it votes; drawn at each execution if not set.
    pub(crate) plan: Option<Vote>,
    pub(crate) mark: Mark,
    /// Times its work took effect.
    pub(crate) effects: u8,
    /// Times its work was done.
    pub(crate) works: u8,
    /// A manager keeps no mark of having voted read-only.
    pub(crate) read_only: bool,
    /// A rollback was carried out.
    pub(crate) barred: bool,
    /// Ended by its policy or by an operator's hand.
    pub(crate) alone: bool,
    /// It was told to commit work that was not there.
    pub(crate) missed: bool,
    /// It said that it has committed, and had.
    pub(crate) committed: bool,
    /// Restored from a backup that knows less.
    pub(crate) lost: bool,
    /// An operator said that it had ended when it had not: the decision overtook the word.
    pub(crate) vouched: bool,
    backup: (Mark, u8),
    not_yet_durable: Option<Mark>,
    doubt: Option<Doubt>,
}

impl Cell {
    pub(crate) fn new(resource: u8, plan: Option<Vote>) -> Self {
        Self {
            resource,
            plan,
            mark: Mark::Absent,
            effects: 0,
            works: 0,
            read_only: false,
            barred: false,
            alone: false,
            missed: false,
            committed: false,
            lost: false,
            vouched: false,
            backup: (Mark::Absent, 0),
            not_yet_durable: None,
            doubt: None,
        }
    }

    /// Whether the protocol is not to blame for how the branch ended.
    pub(crate) fn is_excused(&self) -> bool {
        self.alone || self.lost || self.vouched
    }

    /// Ends the branch outside the protocol.
    pub(crate) fn end_alone(&mut self, kind: Kind, decision: Decision) {
        self.alone = true;
        self.effects += u8::from(decision == Decision::Commit);
        self.mark = match (kind, decision) {
            (Kind::Service, decision) => Mark::Heuristic(decision),
            (Kind::Manager, Decision::Commit) => Mark::Committed,
            (Kind::Manager, Decision::Abort) => Mark::Absent,
        };
    }
}

const PATIENCE_MS: u64 = 300;

impl World {
    pub(crate) fn call_arrives(&mut self, message: Message) {
        let (Party::Resource(resource), What::Call { slot, branch, verb, call }) =
            (message.to, message.what)
        else {
            return;
        };
        if !self.resources[usize::from(resource)].up || self.cell(slot, branch).is_none() {
            return;
        }
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
        let cell = self.cell_mut(slot, branch);
        cell.committed |= verb == Verb::Commit && says == Says::Done && cell.effects > 0;
        if says != Says::Working {
            self.look_for_lost_work(slot, branch, verb);
        }
        if self.strikes(self.faults.participant_crash) {
            return self.crash_resource(resource);
        }
        if call != 0 {
            let what = What::Said { slot, branch, verb, call, says };
            self.send(Message { from: message.to, to: message.from, what });
        }
    }

    fn serve(&mut self, slot: Slot, branch: u8, verb: Verb) -> Says {
        let mark = self.cell_mut(slot, branch).mark;
        if let Some(says) = self.misbehave(slot, branch, verb, mark) {
            return says;
        }
        let says = match (rule(mark, verb), verb, mark) {
            (Ruling::Perform, Verb::Prepare, _) => self.prepare(slot, branch),
            (Ruling::Perform, Verb::CommitOnePhase, Mark::Absent) => {
                let says = self.prepare(slot, branch);
                if says == Says::Yes { self.commit(slot, branch) } else { says }
            }
            (Ruling::Perform, Verb::Commit | Verb::CommitOnePhase, _) => self.commit(slot, branch),
            (Ruling::Perform, Verb::Act | Verb::Compensate, _) => {
                unreachable!("two phases have no steps")
            }
            (Ruling::Perform, Verb::Rollback, _) => self.roll_back(slot, branch, Mark::RolledBack),
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

    /// The exhibits in which a service breaks the rules of the barrier.
    fn misbehave(&mut self, slot: Slot, branch: u8, verb: Verb, mark: Mark) -> Option<Says> {
        match (self.exhibit?, verb, mark) {
            (Exhibit::NoTombstone, Verb::Rollback, Mark::Absent) => {
                self.cell_mut(slot, branch).barred = true;
                Some(Says::Done)
            }
            (Exhibit::RefusalForgotten, _, Mark::Refused) => {
                self.cell_mut(slot, branch).mark = Mark::Absent;
                None
            }
            (Exhibit::LostWorkAcknowledged, Verb::Commit, Mark::Absent) => Some(Says::Done),
            (Exhibit::PrepareRepeats, Verb::Prepare, Mark::Prepared) => {
                Some(self.prepare(slot, branch))
            }
            (Exhibit::CommitRepeats, Verb::Commit, Mark::Committed) => {
                Some(self.commit(slot, branch))
            }
            _ => None,
        }
    }

    fn manage(&mut self, slot: Slot, branch: u8, verb: Verb) -> Says {
        let mark = self.cell_mut(slot, branch).mark;
        match (verb, mark) {
            // The same work changes nothing again.
            (Verb::Prepare, Mark::Absent) if self.cell_mut(slot, branch).read_only => {
                Says::ReadOnly
            }
            (Verb::Prepare, Mark::Absent) => self.prepare(slot, branch),
            (Verb::Prepare, Mark::Prepared) => match self.rng.chance(500) {
                true => Says::Yes,
                false => Says::Lost,
            },
            (Verb::Prepare, _) => Says::Lost,
            (Verb::Commit | Verb::CommitOnePhase, Mark::Prepared) => self.commit(slot, branch),
            (Verb::Commit | Verb::CommitOnePhase, Mark::Committed) => Says::Done,
            (Verb::Commit | Verb::CommitOnePhase, _) => Says::Heuristic(HeuristicKind::Rollback),
            (Verb::Act | Verb::Compensate, _) => unreachable!("two phases have no steps"),
            (Verb::Rollback, Mark::Committed) => Says::Heuristic(HeuristicKind::Commit),
            (Verb::Rollback, _) => {
                self.cell_mut(slot, branch).barred = true;
                self.roll_back(slot, branch, Mark::Absent)
            }
        }
    }

    /// Does the work and promises to keep it.
    fn prepare(&mut self, slot: Slot, branch: u8) -> Says {
        let plan = self.cell_mut(slot, branch).plan;
        let vote = match plan {
            Some(vote) => vote,
            None if self.rng.chance(self.faults.vote_no) => Vote::No,
            None if self.rng.chance(self.faults.vote_read_only) => Vote::ReadOnly,
            None => Vote::Yes,
        };
        let kind = self.kind_of(slot, branch);
        let hazy = self.exhibit == Some(Exhibit::VoteNotDurable);
        let cell = self.cell_mut(slot, branch);
        cell.not_yet_durable = hazy.then_some(cell.mark);
        let (mark, says) = match (kind, vote) {
            (_, Vote::Yes) => (Mark::Prepared, Says::Yes),
            (Kind::Service, Vote::ReadOnly) => (Mark::ReadOnly, Says::ReadOnly),
            (Kind::Manager, Vote::ReadOnly) => (Mark::Absent, Says::ReadOnly),
            (Kind::Service, Vote::No) => (Mark::Refused, Says::No),
            (Kind::Manager, Vote::No) => (Mark::Absent, Says::No),
        };
        cell.mark = mark;
        cell.read_only = vote == Vote::ReadOnly;
        cell.works += u8::from(vote == Vote::Yes);
        self.check_work(slot, branch);
        if mark == Mark::Prepared && kind == Kind::Service {
            self.begin_doubt(slot, branch);
        }
        says
    }

    fn commit(&mut self, slot: Slot, branch: u8) -> Says {
        let cell = self.cell_mut(slot, branch);
        cell.mark = Mark::Committed;
        cell.effects += 1;
        self.check_effect(slot, branch);
        Says::Done
    }

    fn roll_back(&mut self, slot: Slot, branch: u8, mark: Mark) -> Says {
        self.cell_mut(slot, branch).mark = mark;
        Says::Done
    }

    fn begin_doubt(&mut self, slot: Slot, branch: u8) {
        let resource = self.cell_mut(slot, branch).resource;
        let now = self.time_at(resource);
        let Resource { policy, life, .. } = self.resources[usize::from(resource)];
        self.cell_mut(slot, branch).doubt = Some(Doubt::new(now, PATIENCE_MS, policy));
        self.after(1, Event::Doubt { slot, branch, life });
    }

    /// A service looks after a branch that has not heard the decision.
    pub(crate) fn doubt(&mut self, slot: Slot, branch: u8, life: u32) {
        let Some(cell) = self.cell(slot, branch) else { return };
        let resource = cell.resource;
        let known = &self.resources[usize::from(resource)];
        if cell.mark != Mark::Prepared || !known.up || known.life != life {
            return;
        }
        let now = self.time_at(resource);
        let Some(doubt) = &mut self.cell_mut(slot, branch).doubt else { return };
        match doubt.next(now) {
            Move::EndAlone(decision) => {
                self.note(|| format!("r{resource}      {slot} b{branch} ends alone: {decision:?}"));
                self.cell_mut(slot, branch).end_alone(Kind::Service, decision);
            }
            Move::Ask if self.exhibit == Some(Exhibit::AbortsAlone) => {
                self.roll_back(slot, branch, Mark::RolledBack);
            }
            Move::Ask => {
                // Somebody who asks for long enough comes upon the one that knows.
                let knows = self.nodes[0].owner && self.nodes[0].epoch == self.journal.epoch();
                let to = Party::Node(match self.calm {
                    true => u8::from(!knows),
                    false => self.rng.below(2) as u8,
                });
                let what = What::Ask { slot, branch };
                self.send(Message { from: Party::Resource(resource), to, what });
                self.after(1, Event::Doubt { slot, branch, life });
            }
            Move::WaitUntil(at) => {
                self.after(at.since_ms(now).max(1), Event::Doubt { slot, branch, life });
            }
        }
    }

    pub(crate) fn crash_resource(&mut self, resource: u8) {
        self.note(|| format!("r{resource}      crashes"));
        let known = &mut self.resources[usize::from(resource)];
        known.up = false;
        known.life += 1;
        self.totals.crashes += 1;
        for truth in &mut self.txns {
            for cell in truth.cells.iter_mut().filter(|cell| cell.resource == resource) {
                if let Some(before) = cell.not_yet_durable.take() {
                    cell.mark = before;
                }
            }
        }
        let down_ms = self.rng.range(1, self.faults.down_ms_max);
        self.after(down_ms, Event::ResourceUp { resource });
    }

    /// A service finds its promises again and asks about them.
    pub(crate) fn resource_up(&mut self, resource: u8) {
        self.resources[usize::from(resource)].up = true;
        if self.resources[usize::from(resource)].kind == Kind::Manager {
            return;
        }
        for index in 0..self.txns.len() {
            let slot = Slot(index as u8);
            for branch in 0..self.txns[index].cells.len() {
                let cell = &self.txns[index].cells[branch];
                if cell.resource == resource && cell.mark == Mark::Prepared {
                    self.begin_doubt(slot, branch as u8);
                }
            }
        }
    }

    /// Takes a backup of a resource, or loses its disk and restores the last one.
    pub(crate) fn back_up_or_restore(&mut self) {
        let resource = self.rng.below(self.resources.len() as u64) as u8;
        let restores = self.rng.chance(500);
        for truth in &mut self.txns {
            for cell in truth.cells.iter_mut().filter(|cell| cell.resource == resource) {
                if !restores {
                    cell.backup = (cell.mark, cell.effects);
                } else if cell.backup != (cell.mark, cell.effects) {
                    (cell.mark, cell.effects) = cell.backup;
                    cell.lost = true;
                }
            }
        }
        if restores {
            self.note(|| format!("r{resource}      loses its disk and restores a backup"));
            self.crash_resource(resource);
        }
    }

    /// What a resource's own clock shows.
    fn time_at(&self, resource: u8) -> Timestamp {
        let clock_ms = self.resources[usize::from(resource)].clock_ms;
        Timestamp((START_MS + self.now_ms).saturating_add_signed(clock_ms))
    }

    fn kind_of(&self, slot: Slot, branch: u8) -> Kind {
        let cell = self.cell(slot, branch).expect("a call found it");
        self.resources[usize::from(cell.resource)].kind
    }
}
