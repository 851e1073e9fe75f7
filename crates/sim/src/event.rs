//! Everything that can happen in a simulated world, and the order in which it does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use unanimous_core::id::{Epoch, Lsn, ShardId, TxnId};
use unanimous_core::{Decision, Force, HeuristicKind, Stage, Verb, Vote};

/// A transaction, by the order in which identities were minted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Slot(pub(crate) u8);

const MINTED_AT_MS: u64 = 1_700_000_000_000;

impl Slot {
    pub(crate) fn id(self) -> TxnId {
        TxnId::mint(MINTED_AT_MS, ShardId::of(0), u128::from(self.0))
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The transaction of an identity that [`Slot::id`] made; a planted one has a high number.
    pub(crate) fn of(id: TxnId) -> Self {
        Self(id.0 as u8)
    }
}

/// Who sends and receives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Party {
    Node(u8),
    Resource(u8),
    Client,
}

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) from: Party,
    pub(crate) to: Party,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// To a resource. `call` is zero if nobody waits for the answer.
    Call {
        slot: Slot,
        branch: u8,
        verb: Verb,
        call: u32,
    },
    /// The answer of a resource.
    Said {
        slot: Slot,
        branch: u8,
        verb: Verb,
        call: u32,
        says: Says,
    },
    /// A branch in doubt asks for the outcome.
    Ask {
        slot: Slot,
        branch: u8,
    },
    /// The sweeper rolls an orphan back.
    Orphan(Orphan),
    Request {
        order: u8,
        request: Request,
    },
    Reply {
        order: u8,
        reply: Reply,
    },
}

/// A held branch that nobody seems to own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Orphan {
    Branch(Slot, u8),
    Planted(u8),
}

/// An answer, small enough to travel in a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Says {
    Yes,
    ReadOnly,
    No,
    Lost,
    Done,
    Heuristic(HeuristicKind),
    Working,
}

/// The votes that a client brings, by branch.
pub(crate) type Votes = [Option<Vote>; BRANCHES];

/// Most branches of one transaction.
pub(crate) const BRANCHES: usize = 5;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    Begin,
    Enlist(Slot, u8),
    Commit(Slot, Votes),
    Abort(Slot),
    Status(Slot),
    Retry(Slot),
    Resolve(Slot, Decision, Force),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Begun(Slot),
    Enlisted(Slot, u8),
    /// How far the transaction has come.
    Stage(Slot, Stage),
    Refused(Slot, Option<Decision>),
    Unknown(Slot),
    Busy,
}

/// Something that happens at a certain time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Arrive(Message),
    /// A node has waited long enough for the answer to a call.
    Timeout {
        node: u8,
        slot: Slot,
        branch: u8,
        verb: Verb,
        call: u32,
    },
    Wake {
        node: u8,
        slot: Slot,
        token: u32,
    },
    Flush {
        token: u32,
    },
    /// A node that was paused hears how far the journal is.
    Flushed {
        node: u8,
        life: u32,
        lsn: Lsn,
    },
    Sweep {
        node: u8,
        epoch: Epoch,
    },
    Plan {
        node: u8,
        epoch: Epoch,
        resource: u8,
    },
    Doubt {
        slot: Slot,
        branch: u8,
        life: u32,
    },
    Client {
        order: u8,
        attempt: u32,
    },
    Rival {
        order: u8,
    },
    Start {
        node: u8,
    },
    Unpause {
        node: u8,
        life: u32,
    },
    ResourceUp {
        resource: u8,
    },
    Heal,
    Strike(Strike),
    Calm,
    Look,
}

impl Event {
    /// The node that a pause keeps from seeing the event.
    pub(crate) fn node(&self) -> Option<u8> {
        match *self {
            Self::Arrive(Message { to: Party::Node(node), .. })
            | Self::Timeout { node, .. }
            | Self::Wake { node, .. }
            | Self::Flushed { node, .. }
            | Self::Sweep { node, .. }
            | Self::Plan { node, .. } => Some(node),
            Self::Arrive(_)
            | Self::Flush { .. }
            | Self::Doubt { .. }
            | Self::Client { .. }
            | Self::Rival { .. }
            | Self::Start { .. }
            | Self::Unpause { .. }
            | Self::ResourceUp { .. }
            | Self::Heal
            | Self::Strike(_)
            | Self::Calm
            | Self::Look => None,
        }
    }
}

/// A fault that comes again and again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Strike {
    Crash,
    Takeover,
    Pause,
    Cut,
    Clock,
    Restore,
    Operate,
}

/// What a queue asks of an event.
pub(crate) trait Travels {
    /// Whether it is a message on its way.
    fn travels(&self) -> bool;
}

impl Travels for Event {
    fn travels(&self) -> bool {
        matches!(self, Self::Arrive(_))
    }
}

/// Events by time; those of the same millisecond in the order they were scheduled.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<Planned<E>>>,
    sequence: u64,
    messages: usize,
}

struct Planned<E>(u64, u64, E);

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0, messages: 0 }
    }
}

impl<E: Travels> Queue<E> {
    pub(crate) fn push(&mut self, at_ms: u64, event: E) {
        self.sequence += 1;
        self.messages += usize::from(event.travels());
        self.heap.push(Reverse(Planned(at_ms, self.sequence, event)));
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse(Planned(at_ms, _, event)) = self.heap.pop()?;
        self.messages -= usize::from(event.travels());
        Some((at_ms, event))
    }

    /// What comes next, and when.
    pub(crate) fn peek(&self) -> Option<(u64, &E)> {
        let Reverse(Planned(at_ms, _, event)) = self.heap.peek()?;
        Some((*at_ms, event))
    }

    /// Messages that have not arrived yet.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }
}
