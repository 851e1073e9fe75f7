//! The clients: each has one order, sees it through, and repeats what was not answered.

use unanimous_core::commit::{Mode, Shape};
use unanimous_core::{Outcome, Stage, Verb, Vote};

use crate::coordinator::Wait;
use crate::event::{BRANCHES, Event, Message, Party, Reply, Request, Says, Slot, Votes, What};
use crate::world::World;

/// What one client wants, and how far it has come.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) shape: Shape,
    pub(crate) mode: Mode,
    pub(crate) keyed: bool,
    pub(crate) wait: Wait,
    pub(crate) timeout_ms: u64,
    pub(crate) shares: Vec<Share>,
    /// Branches that the first request names; the others are enlisted.
    pub(crate) at_begin: u8,
    pub(crate) wish: Wish,
    pub(crate) starts_ms: u64,
    /// When somebody else interferes, in milliseconds after the start.
    pub(crate) rival: Option<(u64, Rival)>,
    pub(crate) stage: Progress,
    pub(crate) slot: Option<Slot>,
    pub(crate) votes: Votes,
    pub(crate) attempt: u32,
}

/// One branch that a client wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) resource: u8,
    pub(crate) plan: Option<Vote>,
    /// The client works on its own connection and prepares the branch itself.
    pub(crate) by_client: bool,
}

/// How an interactive client ends its transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wish {
    Commit,
    Abort,
    /// It is never heard of again.
    Vanish,
}

/// What a second client, or the same one in another thread, does to an order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rival {
    Abort,
    Commit,
    Look,
}

/// Where a client stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Progress {
    Begin,
    Enlist(u8),
    Prepare(u8),
    End,
    /// The outcome is settled by others; it only wants to know.
    Watch,
    Done,
}

const RETRY_MS: u64 = 250;
const TRIES_MAX: u32 = 3;

impl Order {
    pub(crate) fn new(mode: Mode, shares: Vec<Share>) -> Self {
        let at_begin = shares.len() as u8;
        Self {
            shape: Shape::Atomic,
            mode,
            keyed: true,
            wait: Wait::Ended,
            timeout_ms: 2_000,
            shares,
            at_begin,
            wish: Wish::Commit,
            starts_ms: 0,
            rival: None,
            stage: Progress::Begin,
            slot: None,
            votes: [None; BRANCHES],
            attempt: 0,
        }
    }

    /// The next branch from `from` on that the client prepares itself.
    fn own_branch(&self, from: u8) -> Option<u8> {
        (from..self.shares.len() as u8).find(|&it| self.shares[usize::from(it)].by_client)
    }

    fn after_begin(&self) -> Progress {
        match self.mode {
            Mode::Run | Mode::RunLater => Progress::Watch,
            Mode::Interactive => self.after_enlist(self.at_begin),
        }
    }

    fn after_enlist(&self, next: u8) -> Progress {
        match usize::from(next) < self.shares.len() {
            true => Progress::Enlist(next),
            false => self.after_prepare(0),
        }
    }

    fn after_prepare(&self, next: u8) -> Progress {
        match (self.own_branch(next), self.wish) {
            (Some(branch), _) => Progress::Prepare(branch),
            (None, Wish::Vanish) => Progress::Done,
            (None, Wish::Commit | Wish::Abort) => Progress::End,
        }
    }
}

impl World {
    /// A client starts, or repeats what was not answered.
    pub(crate) fn client_acts(&mut self, order: u8, attempt: u32) {
        let known = &mut self.orders[usize::from(order)];
        if known.stage == Progress::Done || known.attempt != attempt {
            return;
        }
        if known.stage == Progress::Begin && !known.keyed && attempt > 0 {
            // Without a key nobody can tell a repetition from a second order.
            known.stage = Progress::Done;
            return;
        }
        known.attempt += 1;
        let next = known.attempt;
        self.after(RETRY_MS, Event::Client { order, attempt: next });
        let known = &self.orders[usize::from(order)];
        let slot = known.slot;
        let request = match (known.stage, slot) {
            (Progress::Done, _) => return,
            (Progress::Begin, _) | (_, None) => Request::Begin,
            (Progress::Enlist(branch), Some(slot)) => Request::Enlist(slot, branch),
            (Progress::Prepare(branch), Some(slot)) => {
                return self.prepare_own(order, slot, branch, next);
            }
            (Progress::End, Some(slot)) if known.wish == Wish::Commit => {
                Request::Commit(slot, known.votes)
            }
            (Progress::End, Some(slot)) => Request::Abort(slot),
            (Progress::Watch, Some(slot)) => Request::Status(slot),
        };
        self.request(order, request);
    }

    pub(crate) fn request(&mut self, order: u8, request: Request) {
        let node = match self.nodes[0].owner {
            true if !self.rng.chance(150) => 0,
            true | false => self.rng.below(2) as u8,
        };
        let what = What::Request { order, request };
        self.send(Message { from: Party::Client, to: Party::Node(node), what });
    }

    fn prepare_own(&mut self, order: u8, slot: Slot, branch: u8, attempt: u32) {
        if attempt > 4 * TRIES_MAX {
            // It cannot tell how the branch stands, so it gives up.
            self.orders[usize::from(order)].wish = Wish::Abort;
            return self.step_to(order, Progress::End);
        }
        let Some(cell) = self.cell(slot, branch) else { return };
        let to = Party::Resource(cell.resource);
        let what = What::Call { slot, branch, verb: Verb::Prepare, call: 1 };
        self.send(Message { from: Party::Client, to, what });
    }

    fn step_to(&mut self, order: u8, stage: Progress) {
        let known = &mut self.orders[usize::from(order)];
        known.stage = stage;
        known.attempt += 1;
        let attempt = known.attempt;
        if stage != Progress::Done {
            self.after(0, Event::Client { order, attempt });
        }
    }

    /// A resource answered the client that prepares a branch itself.
    pub(crate) fn client_heard(&mut self, slot: Slot, branch: u8, says: Says) {
        let Some(truth) = self.txns.get(slot.index()) else { return };
        let order = truth.order;
        let known = &mut self.orders[usize::from(order)];
        if known.slot != Some(slot) || known.stage != Progress::Prepare(branch) {
            return;
        }
        let vote = match says {
            Says::Yes => Vote::Yes,
            Says::ReadOnly => Vote::ReadOnly,
            Says::No | Says::Lost => Vote::No,
            Says::Done | Says::Heuristic(_) | Says::Working => return,
        };
        known.votes[usize::from(branch)] = (says != Says::Lost).then_some(vote);
        if says == Says::Lost {
            known.wish = Wish::Abort;
        }
        let next = known.after_prepare(branch + 1);
        self.step_to(order, next);
    }

    pub(crate) fn replied(&mut self, order: u8, reply: Reply) {
        let Some(known) = self.orders.get_mut(usize::from(order)) else { return };
        if known.stage == Progress::Done {
            return;
        }
        let (stage, wait) = (known.stage, known.wait);
        let next = match (stage, reply) {
            (Progress::Begin, Reply::Begun(slot)) => {
                known.slot = Some(slot);
                Some(known.after_begin())
            }
            (Progress::Begin, Reply::Stage(slot, _)) => {
                known.slot = Some(slot);
                Some(Progress::Done)
            }
            (Progress::Enlist(branch), Reply::Enlisted(_, enlisted)) if branch == enlisted => {
                Some(known.after_enlist(branch + 1))
            }
            (
                Progress::Enlist(_) | Progress::Prepare(_) | Progress::End | Progress::Watch,
                Reply::Stage(_, it),
            ) => match (wait.is_over(it), settled(it)) {
                (true, true) => Some(Progress::Done),
                (false, true) if stage != Progress::Watch => Some(Progress::Watch),
                (true | false, _) => None,
            },
            (Progress::Enlist(_) | Progress::Prepare(_), Reply::Refused(..)) => {
                Some(Progress::Watch)
            }
            (Progress::End, Reply::Refused(..)) => Some(Progress::Watch),
            (
                Progress::Begin
                | Progress::Enlist(_)
                | Progress::Prepare(_)
                | Progress::End
                | Progress::Watch
                | Progress::Done,
                Reply::Begun(_)
                | Reply::Enlisted(..)
                | Reply::Stage(..)
                | Reply::Refused(..)
                | Reply::Unknown(_)
                | Reply::Busy,
            ) => None,
        };
        if let Some(next) = next {
            self.step_to(order, next);
        }
    }

    /// Somebody else interferes with an order.
    pub(crate) fn rival_acts(&mut self, order: u8) {
        let known = &self.orders[usize::from(order)];
        let Some((_, rival)) = known.rival else { return };
        let Some(slot) = self.txns.iter().rposition(|it| it.order == order) else { return };
        let slot = Slot(slot as u8);
        let request = match rival {
            Rival::Abort => Request::Abort(slot),
            Rival::Commit => Request::Commit(slot, known.votes),
            Rival::Look => Request::Status(slot),
        };
        self.request(order, request);
        if rival == Rival::Look && !self.calm {
            let pause_ms = self.rng.range(1, 150);
            self.after(pause_ms, Event::Rival { order });
        }
    }
}

fn settled(stage: Stage) -> bool {
    match stage {
        Stage::Begun => false,
        Stage::Decided(Outcome::Committed | Outcome::Aborted | Outcome::Mixed)
        | Stage::NeedsAttention
        | Stage::Ended(_) => true,
    }
}
