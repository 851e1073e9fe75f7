//! Everything that can happen in a world of sagas.

use unanimous_core::id::Lsn;
use unanimous_core::{Decision, Stage, Verb};

use crate::event::{Slot, Strike, Travels};

/// Most steps of one saga.
pub(super) const STEPS: usize = 6;

/// Who sends and receives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Party {
    Node(u8),
    Service(u8),
    Client,
}

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) from: Party,
    pub(super) to: Party,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// To a service. `call` is zero if nobody waits for the answer.
    Call(Call),
    /// The answer of a service.
    Said(Call, Says),
    Request(u8, Request),
    Reply(u8, Reply),
}

/// One call of one step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Call {
    pub(super) slot: Slot,
    pub(super) step: u8,
    pub(super) verb: Verb,
    pub(super) number: u32,
}

/// An answer, small enough to travel in a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Says {
    Done,
    No,
    Working,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    Begin,
    Status(Slot),
    Wish(Slot, Wished),
    /// Of an operator.
    Retry(Slot),
    /// Of an operator, who sees to it that it is true.
    Resolve(Slot, Decision),
}

/// What a client asks of a saga that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wished {
    /// Which of the wishes of its order.
    pub(super) wish: u8,
    /// Each request has a number of its own.
    pub(super) number: u16,
    pub(super) what: Want,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Want {
    Cancel,
    /// Only if nothing has changed since this version was seen.
    CancelIf(u8),
    Signal(u8),
    /// The local transaction has committed.
    Commit,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    Begun(Slot),
    /// How far the saga has come, and its version.
    Stage(Slot, Stage, u8),
    Granted(Slot, Wished, Verdict),
    Unknown(Slot),
    Busy,
}

/// What became of a wish.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// The saga is being undone, or has been.
    Cancelled,
    /// It cannot be undone any more, or was over.
    TooLate,
    /// Something had changed.
    Changed,
    /// The signal was taken, or was not the first.
    Signalled,
    /// What follows the local transaction is done, or will be.
    Published,
    /// Nothing to say beside the stage.
    Other,
}

/// Something that happens at a certain time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Arrive(Message),
    /// A node has waited long enough for the answer to a call.
    Timeout(u8, Call),
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
    Client {
        order: u8,
        attempt: u32,
    },
    Wish {
        order: u8,
        wish: u8,
    },
    Start(u8),
    Unpause {
        node: u8,
        life: u32,
    },
    ServiceUp(u8),
    Heal,
    Strike(Strike),
    Calm,
    Look,
}

impl Event {
    /// The node that a pause keeps from seeing the event.
    pub(super) fn node(&self) -> Option<u8> {
        match *self {
            Self::Arrive(Message { to: Party::Node(node), .. })
            | Self::Timeout(node, _)
            | Self::Wake { node, .. }
            | Self::Flushed { node, .. } => Some(node),
            Self::Arrive(_)
            | Self::Flush { .. }
            | Self::Client { .. }
            | Self::Wish { .. }
            | Self::Start(_)
            | Self::Unpause { .. }
            | Self::ServiceUp(_)
            | Self::Heal
            | Self::Strike(_)
            | Self::Calm
            | Self::Look => None,
        }
    }
}

impl Travels for Event {
    fn travels(&self) -> bool {
        matches!(self, Self::Arrive(_))
    }
}
