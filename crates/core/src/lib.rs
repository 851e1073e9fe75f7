//! The protocols of the transaction manager, without any input or output.
//!
//! A machine is told what happened ([`Input`]) and answers with a [`Step`]: the facts to write to
//! the journal, and the effects to perform afterwards. It never sees a socket, a file, a clock or a
//! random number, so the simulator can replay any history from a seed.
//!
//! # Invariants
//!
//! 1. Durable state changes only in `Durable::apply`, and `apply` is given nothing but a record.
//! 2. Recovery is `replay` followed by the ordinary `handle(now, Input::Resumed)`.
//! 3. No effect is performed before the forced records of its step, and of all earlier steps of the
//!    same transaction, are durable; see [`gate::Gate`]. But a rollback that recovery would order too
//!    ([`Effect::Undo`]) waits only for earlier steps.
//!
//! # Where is what
//!
//! [`txn`] is what a driver holds. [`commit`] is two-phase commit, [`saga`] steps with
//! compensations, [`barrier`] its counterpart at a
//! participant, [`recovery`] decides about branches that a resource still holds after a crash.

pub mod barrier;
pub mod commit;
pub mod gate;
pub mod id;
pub mod limits;
pub mod recovery;
pub mod retry;
pub mod saga;
mod step;
pub mod txn;

pub use step::{
    Answer, Decision, Durability, Effect, Force, HeuristicKind, Input, Opaque, Outcome, Reason,
    Refusal, Resolution, Stage, Step, Verb, Vote,
};
