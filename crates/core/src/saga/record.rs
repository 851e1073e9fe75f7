//! The facts about one saga, as the journal keeps them.
//!
//! Each kind says why it is forced or lazy. A change here is a change of the journal's format.

use std::sync::Arc;

use crate::commit::Key;
use crate::id::{BranchId, Timestamp};
use crate::retry::backoff_ms;
use crate::step::{Durability, Opaque, Reason, Resolution};

/// A fact about one saga.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// The saga exists.
    Begun(Arc<Begun>),
    /// The time has come for which its start was put off.
    Started,
    /// A step waits, at most until then.
    Timed(BranchId, Timestamp),
    /// A step is done, with this result.
    Acted(BranchId, Opaque),
    /// A message has its turn. It is sent when the saga can only go on.
    Announced(BranchId),
    /// A step has refused, and no call to it is left that could still be carried out.
    Refused(BranchId, Reason),
    /// No step acts any more, and those that may have acted are compensated.
    Unwinding {
        /// The step at fault, if there is one.
        step: Option<BranchId>,
        /// Why.
        reason: Reason,
    },
    /// A step is compensated.
    Undone(BranchId),
    /// A step may have acted and cannot be compensated: whatever it did stays.
    Kept(BranchId),
    /// A step goes neither on nor back by itself: an operator has to look.
    Stuck(BranchId, Trouble, Reason),
    /// An operator wants the step to be called once more.
    Unstuck(BranchId),
    /// An operator settled every step that was stuck.
    Resolved(Resolution),
}

/// How a step came to be stuck.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// It has not answered for long. It is still called, now and then.
    Silent,
    /// It refuses what has to be done. Nobody calls it until an operator asks for that.
    Refused,
}

impl Record {
    /// Whether effects must wait for this record.
    pub fn durability(&self) -> Durability {
        match self {
            // Whoever begins a saga may leave at once: it must not be forgotten.
            Self::Begun(_) => Durability::Forced,
            // Steps act after it. Were it lost, a saga that unwinds at once would take them for
            // never called.
            Self::Started => Durability::Forced,
            // What follows rests on the result, and a user may have been shown it. Losing it would
            // ask the step again, which may answer otherwise.
            Self::Acted(..) => Durability::Forced,
            // It may be the last thing before the saga can only go on. Were it lost, a saga whose
            // messages are out could still be undone. What gave it its turn is forced anyway, and in
            // the same entry.
            Self::Announced(_) => Durability::Forced,
            // A compensation followed by the action of a step that forgot of it would undo nothing.
            Self::Unwinding { .. } => Durability::Forced,
            // A step that is compensated is not compensated again after somebody was told.
            Self::Undone(_) => Durability::Forced,
            // Somebody was woken.
            Self::Stuck(..) => Durability::Forced,
            // An operator was told that it is settled.
            Self::Resolved(_) => Durability::Forced,
            // Losing it after the end was told would compensate a step that has nothing to undo, which
            // its resource may refuse. Before the unwinding it shares its sync.
            Self::Refused(..) => Durability::Forced,
            // Losing them starts a pause again, asks an operator once more or is made up for by the
            // restart.
            Self::Timed(..) | Self::Kept(_) | Self::Unstuck(_) => Durability::Lazy,
        }
    }
}

/// The first record of a saga.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Begun {
    /// Not before then; at once if there is none.
    pub start_at: Option<Timestamp>,
    /// Milliseconds from its start within which it must come past its pivot or to its end.
    pub timeout_ms: Option<u64>,
    /// When it unwinds otherwise.
    pub deadline: Option<Timestamp>,
    /// Its steps. Each names the steps that come before it, which may be anywhere in the list.
    pub steps: Vec<Plan>,
    /// What its steps are given; JSON that only the driver reads.
    pub input: Opaque,
    /// The client's own name for it.
    pub key: Option<Key>,
    /// What the driver wants back after a restart: the trace context.
    pub memo: Opaque,
}

/// One step of a saga, as it was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Unique within the saga.
    pub name: Arc<str>,
    /// The steps whose results it needs: it acts when they have.
    pub after: Vec<BranchId>,
    /// What it does.
    pub action: Action,
    /// How it is undone; `None` if whatever it does stays.
    pub compensation: Option<Work>,
    /// What its failure means to the saga.
    pub role: Role,
    /// What a user is shown while it acts, such as `PaymentPending`.
    pub state: Option<Arc<str>>,
}

/// What a step does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Calls a resource.
    Call(Work),
    /// Waits for somebody to say so, at most so many milliseconds.
    Signal(Option<u64>),
    /// Lets so many milliseconds pass.
    Pause(u64),
    /// Waits until the application says that its own local transaction has committed. Once it takes
    /// that back, or after so many milliseconds, the resource of the transaction is asked.
    Local(Work, u64),
    /// A message: calls nobody at its turn. It is sent, until that is done, when the saga can only go
    /// on, and dropped if that is undone.
    Message(Work),
}

impl Action {
    /// The call, if it is one.
    pub fn work(&self) -> Option<&Work> {
        match self {
            Self::Call(work) | Self::Local(work, _) | Self::Message(work) => Some(work),
            Self::Signal(_) | Self::Pause(_) => None,
        }
    }
}

/// A call to a resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Work {
    /// The configured resource.
    pub resource: Arc<str>,
    /// What it is asked to do; the driver fills in earlier results, and the resource's adapter reads
    /// it.
    pub work: Opaque,
    /// When to ask again, and when to give up.
    pub retry: Retry,
    /// Milliseconds that one call may take; the driver's own bound if there is none.
    pub timeout_ms: Option<u64>,
}

/// When a call without an answer is repeated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Retry {
    /// Calls without an answer after which the step has failed. For ever if there is no such number.
    pub attempts_max: Option<u32>,
    /// Milliseconds before the first repetition; doubled each time.
    pub backoff_ms: u64,
    /// The longest pause.
    pub backoff_max_ms: u64,
}

impl Retry {
    /// Milliseconds to wait after `attempts` calls in a row that brought no answer.
    pub fn pause_ms(&self, attempts: u32) -> u64 {
        backoff_ms(self.backoff_ms, self.backoff_max_ms, attempts)
    }
}

/// What the failure of a step means to its saga.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Role {
    /// The saga unwinds.
    #[default]
    Compensable,
    /// The point of no return: before it the saga can be undone, after it only completed. Its own
    /// refusal still undoes it.
    Pivot,
    /// It cannot fail for good, so it is asked until it is done.
    Retriable,
}
