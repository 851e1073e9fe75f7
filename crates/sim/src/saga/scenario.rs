//! Small scripted sagas in which nothing is left to chance: the canonical ways forward and back.

use std::sync::Arc;

use unanimous_core::Opaque;
use unanimous_core::id::BranchId;
use unanimous_core::saga::{Action, Plan, Retry, Role, Work};

use super::client::{Order, Wish, WishKind};
use super::draw::before;
use super::service::{Service, Share};
use super::world::Setting;
use crate::rng::Rng;
use crate::swarm::Faults;

/// A scripted saga and its name.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    steps: &'static [Step],
    wish: Option<(u64, WishKind)>,
    timeout_ms: Option<u64>,
    start_in_ms: Option<u64>,
    /// The second service is not there for a while.
    down: bool,
}

/// Services of every scenario. The second forgets what it refused.
pub(crate) const SERVICES: u8 = 2;

/// The steps before it, and what it is.
type Step = (&'static [u16], Is);

#[derive(Clone, Copy, Eq, PartialEq)]
enum Is {
    Plain,
    /// Of the service that forgets.
    Elsewhere,
    /// Refuses every time.
    Refusing,
    /// Refuses to be undone.
    Stubborn,
    /// Has no compensation.
    Staying,
    Pivot,
    RefusingPivot,
    Retriable,
    RefusingRetriable,
    Signal,
    Pause,
    /// A local transaction.
    Local,
    /// Sent when the saga can only go on.
    Message,
}

const PLAIN: Scenario = Scenario {
    name: "steps in a row",
    steps: &[(&[], Is::Plain), (&[0], Is::Elsewhere), (&[1], Is::Plain)],
    wish: None,
    timeout_ms: None,
    start_in_ms: None,
    down: false,
};

pub(crate) const SCENARIOS: [Scenario; 17] = [
    PLAIN,
    Scenario {
        name: "steps side by side, a pivot and a retriable one",
        steps: &[
            (&[], Is::Plain),
            (&[], Is::Elsewhere),
            (&[0, 1], Is::Pivot),
            (&[2], Is::Retriable),
        ],
        ..PLAIN
    },
    Scenario {
        name: "the last step refuses",
        steps: &[
            (&[], Is::Plain),
            (&[0], Is::Staying),
            (&[1], Is::Elsewhere),
            (&[2], Is::Refusing),
        ],
        ..PLAIN
    },
    Scenario {
        name: "one of two steps side by side refuses",
        steps: &[(&[], Is::Plain), (&[0], Is::Elsewhere), (&[0], Is::Refusing)],
        ..PLAIN
    },
    Scenario {
        name: "the pivot refuses beside a step that does",
        steps: &[(&[], Is::Plain), (&[0], Is::RefusingPivot), (&[0], Is::RefusingRetriable)],
        ..PLAIN
    },
    Scenario {
        name: "a step refuses after the pivot",
        steps: &[(&[], Is::Pivot), (&[0], Is::RefusingRetriable), (&[1], Is::Retriable)],
        ..PLAIN
    },
    Scenario { name: "a service is down until a step is given up", down: true, ..PLAIN },
    Scenario { name: "a saga is cancelled", wish: Some((8, WishKind::Cancel)), ..PLAIN },
    Scenario {
        name: "a cancel meets the pivot",
        steps: &[(&[], Is::Plain), (&[0], Is::Pivot)],
        wish: Some((4, WishKind::Cancel)),
        ..PLAIN
    },
    Scenario {
        name: "a deadline meets the pivot",
        steps: &[(&[], Is::Plain), (&[0], Is::Pivot)],
        timeout_ms: Some(4),
        ..PLAIN
    },
    Scenario {
        name: "a compensation is refused",
        steps: &[(&[], Is::Plain), (&[0], Is::Stubborn), (&[1], Is::Refusing)],
        ..PLAIN
    },
    Scenario {
        name: "a late start, a signal and a pause",
        steps: &[(&[], Is::Plain), (&[0], Is::Signal), (&[1], Is::Pause), (&[2], Is::Plain)],
        wish: Some((30, WishKind::Signal(1))),
        start_in_ms: Some(20),
        timeout_ms: Some(200),
        ..PLAIN
    },
    Scenario {
        name: "a message is sent after the pivot",
        steps: &[(&[], Is::Plain), (&[0], Is::Message), (&[1], Is::Pivot)],
        wish: Some((4, WishKind::Cancel)),
        ..PLAIN
    },
    Scenario {
        name: "a deadline meets the message at the end",
        steps: &[(&[], Is::Plain), (&[0], Is::Message)],
        timeout_ms: Some(4),
        ..PLAIN
    },
    Scenario {
        name: "a message is dropped",
        steps: &[(&[], Is::Message), (&[0], Is::Plain), (&[1], Is::Refusing)],
        ..PLAIN
    },
    Scenario {
        name: "a message whose application dies after its commit",
        steps: &[(&[], Is::Local), (&[0], Is::Retriable), (&[0], Is::Retriable)],
        wish: Some((30, WishKind::CommitLocally)),
        ..PLAIN
    },
    Scenario {
        name: "a message whose local transaction never commits",
        steps: &[(&[], Is::Local), (&[0], Is::Retriable)],
        ..PLAIN
    },
];

impl Scenario {
    pub(super) fn setting(&self) -> Setting {
        let service =
            |index: u8| Service { up: index == 0 || !self.down, forgets_refusals: index == 1 };
        let text: Arc<str> = Arc::from("a step");
        let steps: Vec<_> = self.steps.iter().map(|step| plan(step, &text)).collect();
        let wish = |(after_ms, kind)| Wish { after_ms, kind, answered: false };
        let order = Order {
            before: before(&steps),
            steps,
            shares: self.steps.iter().map(|&(_, is)| share(is)).collect(),
            timeout_ms: self.timeout_ms,
            start_in_ms: self.start_in_ms,
            starts_ms: 0,
            wishes: self.wish.map(wish).into_iter().collect(),
            slot: None,
            done: false,
            attempt: 0,
            version: 0,
        };
        let faults = Faults { down_ms_max: 20, ..Faults::none() };
        Setting {
            rng: Rng::from_seed(1),
            faults,
            exhibit: None,
            services: (0..SERVICES).map(service).collect(),
            orders: vec![order],
        }
    }
}

fn plan(&(after, is): &Step, text: &Arc<str>) -> Plan {
    let retry = Retry { attempts_max: Some(2), backoff_ms: 10, backoff_max_ms: 50 };
    let work =
        Work { resource: Arc::clone(text), work: Opaque::default(), retry, timeout_ms: None };
    let stays = matches!(
        is,
        Is::Staying
            | Is::Pivot
            | Is::RefusingPivot
            | Is::Signal
            | Is::Pause
            | Is::Local
            | Is::Message
    );
    Plan {
        name: Arc::clone(text),
        after: after.iter().map(|&it| BranchId(it)).collect(),
        compensation: (!stays).then(|| work.clone()),
        action: match is {
            Is::Signal => Action::Signal(Some(100)),
            Is::Pause => Action::Pause(10),
            Is::Local => Action::Local(work, 50),
            Is::Message => Action::Message(work),
            Is::Plain
            | Is::Elsewhere
            | Is::Refusing
            | Is::Stubborn
            | Is::Staying
            | Is::Pivot
            | Is::RefusingPivot
            | Is::Retriable
            | Is::RefusingRetriable => Action::Call(work),
        },
        role: match is {
            Is::Pivot | Is::RefusingPivot | Is::Local => Role::Pivot,
            Is::Retriable | Is::RefusingRetriable | Is::Message => Role::Retriable,
            Is::Plain
            | Is::Elsewhere
            | Is::Refusing
            | Is::Stubborn
            | Is::Staying
            | Is::Signal
            | Is::Pause => Role::Compensable,
        },
        state: None,
    }
}

fn share(is: Is) -> Share {
    let refuses = matches!(is, Is::Refusing | Is::RefusingPivot | Is::RefusingRetriable);
    let forgets = matches!(is, Is::Elsewhere | Is::RefusingRetriable);
    Share {
        service: u8::from(forgets),
        refuses: if refuses { 1_000 } else { 0 },
        undo_refusals: if is == Is::Stubborn { u8::MAX } else { 0 },
    }
}
