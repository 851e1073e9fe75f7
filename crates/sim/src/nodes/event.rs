//! Everything that can happen among several coordinators, and what they say to each other.

use std::fmt;
use std::rc::Rc;

use unanimous_core::commit::Record;
use unanimous_core::id::Epoch;
use unanimous_core::{Decision, Stage, Verb};

use super::store::{Batch, Owner, Shard};
use crate::event::{Says, Slot, Travels};

/// One part of the transactions, with one owner at a time: a shard. Few of them are enough to show
/// what can go wrong among 64.
pub(super) type Part = u8;

/// Who sends and receives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Party {
    Node(u8),
    /// The journal that all coordinators share.
    Store,
    Resource(u8),
    Client,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "n{node}"),
            Self::Store => f.write_str("store"),
            Self::Resource(resource) => write!(f, "r{resource}"),
            Self::Client => f.write_str("clients"),
        }
    }
}

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) from: Party,
    pub(super) to: Party,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// To a resource. `call` is zero if nobody waits for the answer.
    Call {
        slot: Slot,
        branch: u8,
        verb: Verb,
        call: u32,
    },
    Said {
        slot: Slot,
        branch: u8,
        verb: Verb,
        call: u32,
        says: Says,
    },
    /// A branch in doubt asks for the outcome; coordinators pass it on so many times.
    Inquiry {
        slot: Slot,
        branch: u8,
        hops: u8,
    },
    /// What does the resource hold under our names?
    List(u32),
    Listed(u32, Rc<[String]>),
    Request {
        order: u8,
        request: Request,
        hops: u8,
    },
    Reply {
        order: u8,
        from: u8,
        reply: Reply,
    },
    /// To the store and back; the number tells which answer belongs to what.
    Ask(u32, Ask),
    Answer(u32, Answer),
}

/// What the store is asked.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Append(Rc<Batch>),
    /// Raise the epoch for this owner, if it is still this one.
    Claim(Part, Epoch, Owner),
    /// Nobody's from now on, if it is still this epoch.
    Release(Part, Epoch),
    /// What is there of these transactions?
    Look(Part, Rc<[Slot]>),
    /// What is open in this part, and which keys were used?
    Load(Part),
    /// Who owns what?
    Directory,
}

/// What the store answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Taken,
    /// Not appended: the epoch, or what a transaction holds, is another one.
    Refused,
    /// This epoch was won; `None` if another one has been claimed before.
    Claimed(Option<Epoch>),
    Released,
    Found(Epoch, Rc<[(Slot, Vec<Record>)]>),
    Loaded(Epoch, Rc<Loaded>),
    Directory(Rc<[Shard]>),
}

/// What the journal has of some transactions, and the epoch of their part.
pub(super) type Found<'a> = (Epoch, &'a [(Slot, Vec<Record>)]);

/// What a new owner starts from.
#[derive(Clone, Debug, Default)]
pub(super) struct Loaded {
    pub(super) open: Vec<(Slot, Vec<Record>)>,
    pub(super) keys: Vec<(u8, Slot)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    Begin,
    /// Begin under this identity and no epoch but this one, or say how it stands.
    BeginAs(Slot, Epoch),
    Commit(Slot),
    Abort(Slot),
    Status(Slot),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    Begun(Slot),
    Stage(Slot, Stage),
    Refused(Slot, Option<Decision>),
    Unknown(Slot),
    /// Nothing was begun under this identity, and never will be.
    NeverBegun(Slot),
}

/// Something that happens at a certain time.
#[derive(Clone, Debug)]
pub(super) enum Event {
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
    /// A node sends what it has gathered for the journal.
    Write {
        node: u8,
        part: Part,
        epoch: Epoch,
        token: u32,
    },
    /// A node has waited long enough for the store.
    Patience {
        node: u8,
        token: u32,
    },
    /// A node tells the others that it lives, and looks who else does.
    Beat {
        node: u8,
        life: u32,
    },
    /// A node asks who owns what.
    Survey {
        node: u8,
        life: u32,
    },
    Sweep {
        node: u8,
        life: u32,
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
    Cut(Party, Party),
    Heal(Party, Party),
    Strike(Strike),
    Calm,
    /// In the calm: is everything settled?
    Look,
}

impl Event {
    /// The node that a pause keeps from seeing the event.
    pub(super) fn node(&self) -> Option<u8> {
        match *self {
            Self::Arrive(Message { to: Party::Node(node), .. })
            | Self::Timeout { node, .. }
            | Self::Wake { node, .. }
            | Self::Write { node, .. }
            | Self::Patience { node, .. }
            | Self::Beat { node, .. }
            | Self::Survey { node, .. }
            | Self::Sweep { node, .. } => Some(node),
            Self::Arrive(_)
            | Self::Doubt { .. }
            | Self::Client { .. }
            | Self::Rival { .. }
            | Self::Start { .. }
            | Self::Unpause { .. }
            | Self::ResourceUp { .. }
            | Self::Cut(..)
            | Self::Heal(..)
            | Self::Strike(_)
            | Self::Calm
            | Self::Look => None,
        }
    }
}

impl Travels for Event {
    /// Coordinators never stop asking who owns what, and what is prepared: that changes nothing.
    fn travels(&self) -> bool {
        let Self::Arrive(message) = self else { return false };
        match &message.what {
            What::Call { .. }
            | What::Said { .. }
            | What::Inquiry { .. }
            | What::Request { .. }
            | What::Reply { .. } => true,
            What::Ask(_, ask) => match ask {
                Ask::Append(_) | Ask::Claim(..) | Ask::Release(..) => true,
                Ask::Look(..) | Ask::Load(_) | Ask::Directory => false,
            },
            What::List(_) | What::Listed(..) | What::Answer(..) => false,
        }
    }
}

/// A fault that comes again and again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Strike {
    Crash,
    Pause,
    Cut,
    Clock,
    Drain,
}

impl Strike {
    pub(super) const ALL: [Self; 5] =
        [Self::Crash, Self::Pause, Self::Cut, Self::Clock, Self::Drain];
}
