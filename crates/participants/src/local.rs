//! A resource inside the process: a closure answers at once. For benchmarks and tests.

use unanimous_core::commit::Phases;
use unanimous_core::{Answer, Opaque, Verb};

use crate::{Call, Calling, Resource};

/// A resource whose answers a closure gives.
#[derive(Debug)]
pub struct Local<F> {
    answer: F,
    phases: Phases,
}

impl<F: Fn(&Call) -> Answer + Send + Sync + 'static> Local<F> {
    /// Answers each call with what `answer` returns for it.
    pub fn new(answer: F) -> Self {
        Self { answer, phases: Phases::Two }
    }

    /// The same, able to commit in this many phases.
    #[must_use]
    pub fn in_phases(self, phases: Phases) -> Self {
        Self { phases, ..self }
    }
}

/// The answer of a participant that agrees to everything.
pub fn agree(call: &Call) -> Answer {
    match call.verb {
        Verb::Prepare => Answer::Yes(Opaque::default()),
        Verb::Commit | Verb::CommitOnePhase | Verb::Rollback | Verb::Act | Verb::Compensate => {
            Answer::Done(Opaque::default())
        }
    }
}

impl<F: Fn(&Call) -> Answer + Send + Sync + 'static> Resource for Local<F> {
    fn call(&self, call: Call) -> Calling {
        Box::pin(std::future::ready((self.answer)(&call)))
    }

    fn phases(&self) -> Phases {
        self.phases
    }

    fn steps(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        "local"
    }

    fn location(&self) -> &str {
        "in process"
    }
}
