//! One rule of sagas for each test.
#![expect(unused_must_use, reason = "what led to the state under test is not looked at")]

mod forward;
mod message;
mod operator;
mod source;
mod time;
mod unwind;
mod wait;

use std::sync::Arc;

use super::*;
use crate::limits::{COMPENSATIONS_MAX, STUCK_PAUSE_MS};
use crate::step::{
    Answer, Decision, Durability, Effect, Force, Opaque, Outcome, Reason, Refusal, Resolution, Verb,
};

const S0: BranchId = BranchId(0);
const S1: BranchId = BranchId(1);
const S2: BranchId = BranchId(2);
const S3: BranchId = BranchId(3);
const T0: Timestamp = Timestamp(1_000_000);
const BACKOFF_MS: u64 = 100;
const BACKOFF_MAX_MS: u64 = 5_000;

fn work(attempts_max: Option<u32>) -> Work {
    Work {
        resource: Arc::from("seats"),
        work: Opaque::default(),
        retry: Retry { attempts_max, backoff_ms: BACKOFF_MS, backoff_max_ms: BACKOFF_MAX_MS },
        timeout_ms: None,
    }
}

/// A step that calls and can be undone.
fn step(after: &[BranchId]) -> Plan {
    Plan {
        name: Arc::from("step"),
        after: after.to_vec(),
        action: Action::Call(work(Some(3))),
        compensation: Some(work(Some(2))),
        role: Role::Compensable,
        state: None,
    }
}

/// Whatever it did stays.
fn kept(plan: Plan) -> Plan {
    Plan { compensation: None, ..plan }
}

fn pivot(after: &[BranchId]) -> Plan {
    Plan { role: Role::Pivot, ..kept(step(after)) }
}

fn retriable(after: &[BranchId]) -> Plan {
    Plan { role: Role::Retriable, ..step(after) }
}

fn signal(after: &[BranchId], wait_ms: Option<u64>) -> Plan {
    Plan { action: Action::Signal(wait_ms), ..kept(step(after)) }
}

fn pause(after: &[BranchId], wait_ms: u64) -> Plan {
    Plan { action: Action::Pause(wait_ms), ..kept(step(after)) }
}

fn message(after: &[BranchId]) -> Plan {
    Plan { action: Action::Message(work(None)), role: Role::Retriable, ..kept(step(after)) }
}

fn begun(steps: Vec<Plan>) -> Begun {
    Begun {
        start_at: None,
        timeout_ms: None,
        deadline: None,
        steps,
        input: Opaque::default(),
        key: None,
        memo: Opaque::default(),
    }
}

/// One that has to be done `timeout_ms` after [`T0`].
fn hurried(steps: Vec<Plan>, timeout_ms: u64) -> Begun {
    let deadline = Some(T0.after_ms(timeout_ms));
    Begun { timeout_ms: Some(timeout_ms), deadline, ..begun(steps) }
}

/// A saga with its journal. After every input the journal is replayed and compared.
struct Run {
    saga: SagaTxn,
    journal: Vec<Record>,
    now: Timestamp,
}

impl Run {
    fn begin(begun: Begun) -> (Self, Step<Record>) {
        let (saga, step) = SagaTxn::begin(begun, T0);
        let run = Self { saga, journal: step.records.clone(), now: T0 };
        run.check();
        (run, step)
    }

    fn of(steps: Vec<Plan>) -> Self {
        Self::begin(begun(steps)).0
    }

    fn feed(&mut self, input: Input) -> Step<Record> {
        let step = self.saga.handle(self.now, input);
        self.journal.extend_from_slice(&step.records);
        self.check();
        step
    }

    fn check(&self) {
        let replayed = SagaTxn::replay(&self.journal).expect("the machine wrote it");
        assert_eq!(replayed.durable(), self.saga.durable());
    }

    fn answer(&mut self, step: BranchId, verb: Verb, answer: Answer) -> Step<Record> {
        self.feed(Input::Answered(step, verb, answer))
    }

    fn acts(&mut self, step: BranchId) -> Step<Record> {
        self.answer(step, Verb::Act, done())
    }

    fn refuses(&mut self, step: BranchId) -> Step<Record> {
        self.answer(step, Verb::Act, no())
    }

    fn undoes(&mut self, step: BranchId) -> Step<Record> {
        self.answer(step, Verb::Compensate, done())
    }

    fn cancel(&mut self) -> Step<Record> {
        self.feed(Input::AbortAsked(Reason::new("client", "changed its mind")))
    }

    fn signal(&mut self, step: BranchId, payload: &[u8]) -> Step<Record> {
        self.feed(Input::Signalled(step, Opaque::new(payload)))
    }

    fn resolve(&mut self, outcome: Decision) -> Step<Record> {
        let (by, reason) = (Arc::from("ops"), Arc::from("looked"));
        self.feed(Input::ResolveAsked(Resolution { outcome, force: Force::No, by, reason }))
    }

    /// Time passes, and the machine is woken.
    fn wake_after(&mut self, ms: u64) -> Step<Record> {
        self.now = self.now.after_ms(ms);
        self.feed(Input::Woke)
    }

    /// All that is not durable is gone, and so are lazy records that nothing forced.
    fn crash(&mut self) -> Step<Record> {
        let is_forced = |it: &Record| it.durability() == Durability::Forced;
        let durable = self.journal.iter().rposition(is_forced).map_or(0, |last| last + 1);
        self.journal.truncate(durable);
        self.saga = SagaTxn::replay(&self.journal).expect("the machine wrote it");
        self.feed(Input::Resumed)
    }

    fn phase(&self) -> Phase {
        self.saga.durable().phase()
    }

    fn standing(&self, step: BranchId) -> Standing {
        self.saga.durable().standing(step)
    }
}

fn done() -> Answer {
    Answer::Done(Opaque::default())
}

fn no() -> Answer {
    Answer::No(Reason::new("refused", "sold out"))
}

fn silent() -> Answer {
    Answer::Silent(Arc::from("timed out"))
}

fn calls(step: &Step<Record>) -> Vec<(BranchId, Verb)> {
    let call = |effect: &Effect| match effect {
        Effect::Call(step, verb) => Some((*step, *verb)),
        Effect::Undo(_) => unreachable!("of no saga"),
        Effect::Tell(_) | Effect::WakeAt(_) => None,
    };
    step.effects.iter().filter_map(call).collect()
}

fn told(step: &Step<Record>) -> Option<Stage> {
    step.effects.iter().find_map(|effect| match effect {
        Effect::Tell(stage) => Some(*stage),
        Effect::Call(..) | Effect::Undo(_) | Effect::WakeAt(_) => None,
    })
}

fn wakes(step: &Step<Record>) -> Option<Timestamp> {
    step.effects.iter().find_map(|effect| match effect {
        Effect::WakeAt(at) => Some(*at),
        Effect::Call(..) | Effect::Undo(_) | Effect::Tell(_) => None,
    })
}
