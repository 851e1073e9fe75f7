//! Keeps one resource's trouble from becoming everybody's: bounded calls, and early refusals.
//!
//! Each phase has its own places, so that prepares, which take locks, never hold up commits, which
//! set them free. How many prepares go out at once is found out: as many as get most done. While the resource's [`circuit`](crate::circuit) is open, calls come back at once.
//!
//! A call that was not sent is reported as what it is: a first prepare was certainly never carried
//! out, so it is a no; of every other call an earlier attempt may have been, so it is silence.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use unanimous_core::commit::Phases;
use unanimous_core::{Answer, Opaque, Reason, Verb};

use crate::circuit::{Admission, Circuit, Contacted, Pass};
use crate::limits::{PATIENCE_MIN, TELLING_PATIENCE};
use crate::lists::Lists;
use crate::open::Settings;
use crate::places::{Full, Places, Waited};
use crate::{
    Call, Calling, CircuitState, Examining, Listing, Reading, Resource, State, Takes, statement,
};

/// Speaks the language of one kind of resource.
pub trait Adapter: Send + Sync + 'static {
    /// Makes one call, and ends within the call's patience.
    fn call(&self, call: Call) -> Hearing;

    /// As [`Resource::phases`].
    fn phases(&self) -> Phases;

    /// As [`Resource::kind`].
    fn kind(&self) -> &'static str;

    /// As [`Resource::location`].
    fn location(&self) -> &str;

    /// As [`Resource::takes`].
    fn takes(&self) -> Takes {
        Takes::Body
    }

    /// As [`Resource::steps`].
    fn steps(&self) -> bool {
        false
    }

    /// As [`Resource::signs`].
    fn signs(&self) -> bool {
        false
    }

    /// As [`Resource::in_doubt`], and ends within `patience`.
    fn in_doubt(&self, _patience: Duration) -> Listing {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Whether nothing is left of a branch to roll back if a list that is made after the call came does not
    /// have it.
    fn is_settled_by_list(&self, _call: &Call) -> bool {
        false
    }

    /// As [`Resource::examine`], and ends within `patience`.
    fn examine(&self, _patience: Duration) -> Examining {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// As [`Resource::read`], and ends within `patience`.
    fn read(&self, _queries: Vec<String>, _patience: Duration) -> Reading {
        Box::pin(std::future::ready(Err(statement::takes_none(self.kind()))))
    }
}

/// A call that is under way in an adapter.
pub type Hearing = Pin<Box<dyn Future<Output = Heard> + Send>>;

/// What came of a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heard {
    /// As the branch meant it.
    pub answer: Answer,
    /// What that says of the resource.
    pub contact: Contact,
}

/// Whether a resource was there at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Contact {
    /// It answered, whether or not that made sense.
    Made,
    /// It could not be connected to, or the connection broke.
    Broken,
    /// The patience ran out.
    TimedOut,
}

/// Hears of every call that was sent. Called on the path of the call: return at once.
pub trait Observer: Send + Sync + 'static {
    /// A call ended after `took`.
    fn called(&self, resource: &str, verb: Verb, took: Duration, answer: AnswerKind);
}

/// Nobody wants to hear of calls.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn called(&self, _: &str, _: Verb, _: Duration, _: AnswerKind) {}
}

/// An answer without what it carries.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum AnswerKind {
    /// Prepared.
    Yes,
    /// Changed nothing.
    ReadOnly,
    /// Refused.
    No,
    /// The vote cannot be had any more.
    Lost,
    /// Carried out.
    Done,
    /// Ended by itself.
    Heuristic,
    /// Still at it.
    Working,
    /// No answer.
    Silent,
}

impl AnswerKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Yes,
        Self::ReadOnly,
        Self::No,
        Self::Lost,
        Self::Done,
        Self::Heuristic,
        Self::Working,
        Self::Silent,
    ];

    /// The kind of an answer.
    pub fn of(answer: &Answer) -> Self {
        match answer {
            Answer::Yes(_) => Self::Yes,
            Answer::ReadOnly(_) => Self::ReadOnly,
            Answer::No(_) => Self::No,
            Answer::Lost(_) => Self::Lost,
            Answer::Done(_) => Self::Done,
            Answer::Heuristic(_) => Self::Heuristic,
            Answer::Working => Self::Working,
            Answer::Silent(_) => Self::Silent,
        }
    }

    /// As metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::ReadOnly => "read_only",
            Self::No => "no",
            Self::Lost => "lost",
            Self::Done => "done",
            Self::Heuristic => "heuristic",
            Self::Working => "working",
            Self::Silent => "silent",
        }
    }
}

/// A resource whose calls are bounded and given up early while it does not answer.
pub struct Guarded {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    adapter: Arc<dyn Adapter>,
    lists: Lists,
    observer: Arc<dyn Observer>,
    first_phase: Places,
    second_phase: Places,
    health: Mutex<Health>,
    /// Raised each time that it answers again.
    returns: watch::Sender<u64>,
    made: Instant,
}

#[derive(Default)]
struct Health {
    circuit: Circuit,
    last_error: Option<Arc<str>>,
}

impl Guarded {
    /// Guards the resource called `name`, and tells `observer` of each call that is sent.
    pub fn new(
        name: &str,
        adapter: impl Adapter,
        settings: &Settings,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let shared = Shared {
            name: Arc::from(name),
            adapter: Arc::new(adapter),
            lists: Lists::default(),
            observer,
            first_phase: Places::climbing(settings.first_phase_calls_max, settings.waiting_max),
            second_phase: Places::fixed(settings.second_phase_calls_max, settings.waiting_max),
            health: Mutex::default(),
            returns: watch::Sender::default(),
            made: Instant::now(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Resource for Guarded {
    fn call(&self, call: Call) -> Calling {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.call(call).await })
    }

    fn phases(&self) -> Phases {
        self.shared.adapter.phases()
    }

    fn kind(&self) -> &'static str {
        self.shared.adapter.kind()
    }

    fn location(&self) -> &str {
        self.shared.adapter.location()
    }

    fn takes(&self) -> Takes {
        self.shared.adapter.takes()
    }

    fn steps(&self) -> bool {
        self.shared.adapter.steps()
    }

    fn signs(&self) -> bool {
        self.shared.adapter.signs()
    }

    fn in_doubt(&self, patience: Duration) -> Listing {
        self.shared.adapter.in_doubt(patience)
    }

    fn examine(&self, patience: Duration) -> Examining {
        self.shared.adapter.examine(patience)
    }

    fn read(&self, queries: Vec<String>, patience: Duration) -> Reading {
        self.shared.adapter.read(queries, patience)
    }

    fn returns(&self) -> Option<watch::Receiver<u64>> {
        Some(self.shared.returns.subscribe())
    }

    fn state(&self) -> State {
        let (first, second) = (&self.shared.first_phase, &self.shared.second_phase);
        let health = self.shared.health();
        State {
            circuit: health.circuit.state(),
            calls: first.taken() + second.taken(),
            waiting: first.waiting() + second.waiting(),
            places: first.count(),
            last_error: health.last_error.clone(),
        }
    }
}

impl Shared {
    async fn call(&self, mut call: Call) -> Answer {
        let came = Instant::now();
        if !call.is_listed && self.is_settled_by_list(&call).await {
            return Answer::Done(Opaque::default());
        }
        // Asked before a place is waited for, because the places of a resource that does not answer
        // are all taken; and again after, because much may have happened since.
        let mut pass = match self.admit(&call) {
            Ok(pass) => pass,
            Err(answer) => return answer,
        };
        // There is one probe at a time: it needs no place.
        let _place = match pass.kind {
            Pass::Probe => None,
            Pass::Ordinary => match self.places(call.verb).take(call.patience).await {
                Ok((place, Waited::No)) => Some(place),
                Ok((place, Waited::Yes)) => {
                    pass = match self.admit(&call) {
                        Ok(pass) => pass,
                        Err(answer) => return answer,
                    };
                    call.patience = left(&call, came.elapsed());
                    Some(place)
                }
                Err(full) => return not_sent(&call, "overloaded", &self.crowded(&full)),
            },
        };
        let (verb, patience) = (call.verb, call.patience);
        let sent = Instant::now();
        let heard = self.adapter.call(call).await;
        self.observer.called(&self.name, verb, sent.elapsed(), AnswerKind::of(&heard.answer));
        pass.settle(&heard, patience);
        if heard.contact == Contact::Made {
            self.places(verb).answered(self.now());
        }
        heard.answer
    }

    /// Whether a list shows that there is nothing to roll back. Where there is none, it is asked for alone.
    async fn is_settled_by_list(&self, call: &Call) -> bool {
        let is_well = self.health().circuit.state() == CircuitState::Closed;
        if !is_well || !self.adapter.is_settled_by_list(call) {
            return false;
        }
        let (adapter, patience) = (Arc::clone(&self.adapter), call.patience);
        let listed = self.lists.next(move || adapter.in_doubt(patience)).await;
        listed.is_some_and(|held| !held.contains(&call.name.to_string()))
    }

    fn admit(&self, call: &Call) -> Result<Admitted<'_>, Answer> {
        let mut health = self.health();
        match health.circuit.admit(self.now()) {
            Admission::Pass(kind) => Ok(Admitted { shared: self, kind, settled: Settled::No }),
            Admission::Refused(silent_for) => {
                let detail = format!(
                    "resource {} has not answered for {} s; last error: {}",
                    self.name,
                    silent_for.as_secs(),
                    health.last_error.as_deref().unwrap_or("none"),
                );
                Err(not_sent(call, "unreachable", &detail))
            }
        }
    }

    fn places(&self, verb: Verb) -> &Places {
        match verb {
            Verb::Prepare | Verb::CommitOnePhase | Verb::Act => &self.first_phase,
            Verb::Commit | Verb::Rollback | Verb::Compensate => &self.second_phase,
        }
    }

    fn crowded(&self, full: &Full) -> String {
        let name = &self.name;
        match full {
            Full::Queue(max) => format!("resource {name} has {max} calls waiting already"),
            Full::Waited(patience) => {
                format!("resource {name} had no place for a call in {} ms", patience.as_millis())
            }
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().expect("nothing panics while it is held")
    }

    fn now(&self) -> Duration {
        self.made.elapsed()
    }
}

/// What a call that has waited for its place may still take. A first phase ends with its transaction's time;
/// every other call is made until it is answered, and needs its whole time for that.
fn left(call: &Call, waited: Duration) -> Duration {
    match call.verb {
        Verb::Prepare => call.patience.saturating_sub(waited).max(PATIENCE_MIN),
        Verb::Commit | Verb::CommitOnePhase | Verb::Rollback | Verb::Act | Verb::Compensate => {
            call.patience
        }
    }
}

fn not_sent(call: &Call, kind: &str, detail: &str) -> Answer {
    match call.verb == Verb::Prepare && call.attempt == 1 {
        true => Answer::No(Reason::new(kind, detail)),
        false => Answer::Silent(Arc::from(detail)),
    }
}

/// A call that the circuit let out. Dropped before it is settled, it was given up.
struct Admitted<'a> {
    shared: &'a Shared,
    kind: Pass,
    settled: Settled,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Settled {
    No,
    Yes,
}

impl Admitted<'_> {
    fn settle(mut self, heard: &Heard, patience: Duration) {
        self.settled = Settled::Yes;
        let now = self.shared.now();
        let mut health = self.shared.health();
        health.last_error = match &heard.answer {
            Answer::Silent(error) => Some(Arc::clone(error)),
            Answer::Yes(_)
            | Answer::ReadOnly(_)
            | Answer::No(_)
            | Answer::Lost(_)
            | Answer::Done(_)
            | Answer::Heuristic(_)
            | Answer::Working => None,
        };
        match heard.contact {
            Contact::Made => match health.circuit.contact() {
                Contacted::AsBefore => {}
                Contacted::Again => self.shared.returns.send_modify(|count| *count += 1),
            },
            Contact::TimedOut if patience < TELLING_PATIENCE => {
                health.circuit.given_up(now, self.kind);
            }
            Contact::Broken | Contact::TimedOut => health.circuit.silence(now, self.kind),
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.settled == Settled::No {
            self.shared.health().circuit.given_up(self.shared.now(), self.kind);
        }
    }
}
