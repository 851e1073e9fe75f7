//! Sagas: steps that act one after the other, each for all to see, and are compensated if one fails.
//!
//! The steps form a directed graph without cycles; those that do not wait for each other act side by
//! side. A step that refuses, a client that cancels or a deadline that passes makes the saga unwind:
//! every step that has acted, or may have, is compensated, the last first. A step that may have been
//! called and has not answered is never guessed about: it is asked again, and if the saga unwinds it
//! is compensated, which at a participant with a barrier is harmless if it never acted.
//!
//! ```text
//!            all acted                              all undone
//! Running ──────────────► Ended(committed)   ┌───────────────────► Ended(aborted)
//!    └─── a refusal, client, deadline ───► Unwinding
//!         (not after the pivot)
//! ```
//!
//! From the moment the *pivot* may have been called, only it decides: its refusal unwinds the saga,
//! and after its success the saga can only go on. Only then a *message* is sent, which at its turn was
//! merely announced; without a pivot, when everything else is done. A step that goes neither on nor back is *stuck*
//! and waits for an operator, in either phase, while the others go on.
//!
//! The rules are in five files: `before` and `check` (which steps make a saga), `decide` (what an
//! input makes true), `durable` (what a record means) and `outstanding` (whom to call next).

mod before;
mod check;
mod decide;
mod durable;
mod outstanding;
mod record;
#[cfg(test)]
mod tests;

pub use before::Before;
pub use check::{Fault, check};
pub use durable::{Durable, Phase, Standing};
pub use record::{Action, Begun, Plan, Record, Retry, Role, Trouble, Work};

use std::sync::Arc;

use crate::commit::Misfit;
use crate::id::{BranchId, Timestamp};
use crate::retry::Call;
use crate::step::{Input, Stage, Step};

/// The coordinator of one saga.
#[derive(Clone, Debug)]
pub struct SagaTxn {
    durable: Durable,
    volatile: Volatile,
}

/// What a crash takes: calls under way and who was told what.
#[derive(Clone, Debug)]
struct Volatile {
    steps: Vec<Progress>,
    told: Option<Stage>,
    wake_at: Option<Timestamp>,
    deadline: Option<Timestamp>,
    calls_before: CallsBefore,
}

/// Whether calls may have been made that this machine does not know of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum CallsBefore {
    No,
    /// By a former life, and they may still be carried out.
    Maybe,
}

/// How the calls to one step went since the last restart.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    call: Call,
    calls: u32,
    attempts: u32,
    last_error: Option<Arc<str>>,
}

impl Progress {
    /// The call under way or planned.
    pub fn call(&self) -> Call {
        self.call
    }

    /// Calls in a row that brought no answer.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What the last call without an answer came back with.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    fn hurry(&mut self) {
        if let Call::RetryAt(_) = self.call {
            self.call = Call::Idle;
        }
    }

    /// Another verb is asked for from now on.
    fn turn(&mut self) {
        self.hurry();
        self.attempts = 0;
    }
}

impl SagaTxn {
    /// Begins a saga; its first steps act at once, unless its start is put off.
    ///
    /// # Panics
    ///
    /// With no steps, or more than [`crate::limits::BRANCHES_MAX`], or steps that [`check`] refuses.
    pub fn begin(begun: Begun, now: Timestamp) -> (Self, Step<Record>) {
        assert_eq!(check(&begun.steps), Ok(()), "the request was checked");
        let mut records = vec![Record::Begun(Arc::new(begun))];
        let mut saga = Self::replay(&records).expect("the request was checked");
        saga.volatile.calls_before = CallsBefore::No;
        saga.follow(now, &mut records);
        let effects = saga.outstanding(now, Changed::Yes);
        (saga, Step { records, effects, refused: None })
    }

    /// Rebuilds the machine from its records. Feed it [`Input::Resumed`] next.
    ///
    /// # Errors
    ///
    /// [`Misfit`] if no machine can have written these records in this order.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self, Misfit> {
        let durable = Durable::replay(records)?;
        let volatile = Volatile {
            steps: vec![Progress::default(); durable.steps().count()],
            told: None,
            wake_at: None,
            deadline: durable.begun().deadline,
            calls_before: CallsBefore::Maybe,
        };
        Ok(Self { durable, volatile })
    }

    /// Takes one input. Late, repeated and unexpected inputs are harmless.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Step<Record> {
        if input == Input::Woke {
            self.volatile.wake_at = None;
        }
        self.bound_deadline(now);
        let mut records = Vec::new();
        if let Input::Answered(..) = input {
            // What is overdue comes first: a step that becomes due only now was never called.
            self.follow(now, &mut records);
        }
        let refused = match self.decide(now, input) {
            Ok(decided) => {
                self.apply(&decided);
                records.extend(decided);
                None
            }
            // Who is refused changes nothing; what is overdue waits for the next input.
            Err(refusal) if records.is_empty() => {
                return Step { records, effects: Vec::new(), refused: Some(refusal) };
            }
            Err(refusal) => Some(refusal),
        };
        self.follow(now, &mut records);
        let changed = if records.is_empty() { Changed::No } else { Changed::Yes };
        Step { effects: self.outstanding(now, changed), records, refused }
    }

    /// The clock may have been set back since the deadline was computed.
    fn bound_deadline(&mut self, now: Timestamp) {
        let begun = self.durable.begun();
        if let (Some(deadline), Some(timeout_ms)) = (self.volatile.deadline, begun.timeout_ms) {
            let start = begun.start_at.map_or(now, |start_at| start_at.max(now));
            self.volatile.deadline = Some(deadline.min(start.after_ms(timeout_ms)));
        }
    }

    fn apply(&mut self, records: &[Record]) {
        let phase = self.durable.phase();
        for record in records {
            self.durable.apply(record).expect("only records that fit are decided");
        }
        if self.durable.phase() != phase {
            self.volatile.steps.iter_mut().for_each(Progress::turn);
        }
    }

    /// The part of the state that a crash cannot take.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// How the calls to one step went since the last restart; `None` if there is no such step.
    pub fn progress(&self, step: BranchId) -> Option<&Progress> {
        self.volatile.steps.get(step.index())
    }
}

/// Whether an input changed anything that somebody may watch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Changed {
    No,
    Yes,
}
