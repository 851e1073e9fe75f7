//! Small scripted histories in which nothing is left to chance: the canonical ways of a transaction.

use unanimous_core::barrier::Policy;
use unanimous_core::commit::{Mode, Phases};
use unanimous_core::{Decision, Vote};

use crate::client::{Order, Rival, Share, Wish};
use crate::participant::{Kind, Resource};
use crate::rng::Rng;
use crate::swarm::Faults;
use crate::world::Setting;

/// A scripted history and its name.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    script: fn() -> (Vec<Resource>, Vec<Order>),
    faults: fn(&mut Faults),
}

impl Scenario {
    pub(crate) fn setting(&self) -> Setting {
        let (resources, orders) = (self.script)();
        let mut faults = Faults { down_ms_max: 20, ..Faults::none() };
        (self.faults)(&mut faults);
        Setting { rng: Rng::from_seed(1), faults, exhibit: None, resources, orders }
    }
}

pub(crate) const SCENARIOS: [Scenario; 16] = [
    quiet("two services commit", || both(services(2), order(&[YES, YES]))),
    quiet("a service and a manager commit", || both(mixed(), order(&[YES, YES]))),
    quiet("two managers commit", || both(managers(2), order(&[YES, YES]))),
    quiet("one of three refuses", || both(services(3), order(&[YES, NO, YES]))),
    quiet("a manager refuses", || both(mixed(), order(&[YES, NO]))),
    quiet("one writes and one reads", || both(mixed(), order(&[READ, YES]))),
    quiet("all only read", || both(services(2), order(&[READ, READ]))),
    quiet("one phase", || both(deciders(), order(&[YES]))),
    quiet("one phase, refused", || both(deciders(), order(&[NO]))),
    quiet("a participant is down past the deadline", || both(down(), order(&[YES, YES]))),
    quiet("the client aborts while it commits", || both(services(2), rivalled(Rival::Abort))),
    quiet("two threads commit at once", || both(mixed(), rivalled(Rival::Commit))),
    quiet("the client prepares one of two branches", || both(mixed(), interactive())),
    quiet("the client leaves", || both(mixed(), left())),
    quiet("a participant loses patience", || both(impatient(), order(&[YES, YES]))),
    Scenario {
        name: "a prepare arrives after the abort",
        script: || both(mixed(), hurried()),
        faults: |faults| faults.first_prepare_ms = 400,
    },
];

const YES: Vote = Vote::Yes;
const NO: Vote = Vote::No;
const READ: Vote = Vote::ReadOnly;

const fn quiet(name: &'static str, script: fn() -> (Vec<Resource>, Vec<Order>)) -> Scenario {
    Scenario { name, script, faults: |_| {} }
}

fn both(resources: Vec<Resource>, order: Order) -> (Vec<Resource>, Vec<Order>) {
    (resources, vec![order])
}

fn resource(kind: Kind) -> Resource {
    Resource {
        kind,
        phases: Phases::Two,
        up: true,
        life: 0,
        clock_ms: 0,
        policy: Policy::Ask,
        planted: Vec::new(),
    }
}

fn services(count: usize) -> Vec<Resource> {
    (0..count).map(|_| resource(Kind::Service)).collect()
}

fn managers(count: usize) -> Vec<Resource> {
    (0..count).map(|_| resource(Kind::Manager)).collect()
}

fn mixed() -> Vec<Resource> {
    vec![resource(Kind::Service), resource(Kind::Manager)]
}

fn deciders() -> Vec<Resource> {
    vec![Resource { phases: Phases::One, ..resource(Kind::Service) }]
}

fn down() -> Vec<Resource> {
    vec![resource(Kind::Service), Resource { up: false, ..resource(Kind::Service) }]
}

fn impatient() -> Vec<Resource> {
    let policy = Policy::Heuristic(Decision::Abort, 12);
    vec![Resource { policy, ..resource(Kind::Service) }, resource(Kind::Manager)]
}

/// One branch on each resource in turn, with these votes.
fn order(votes: &[Vote]) -> Order {
    let share =
        |(resource, &vote): (u8, &Vote)| Share { resource, plan: Some(vote), by_client: false };
    let mut order = Order::new(Mode::Run, (0_u8..).zip(votes).map(share).collect());
    order.timeout_ms = 300;
    order
}

fn rivalled(rival: Rival) -> Order {
    Order { mode: Mode::Interactive, rival: Some((4, rival)), ..order(&[YES, YES]) }
}

fn interactive() -> Order {
    let mut order = Order { mode: Mode::Interactive, at_begin: 0, ..order(&[YES, YES]) };
    order.shares[1].by_client = true;
    order
}

fn left() -> Order {
    Order { wish: Wish::Vanish, ..interactive() }
}

/// Its only slow branch makes it abort long before the prepare arrives.
fn hurried() -> Order {
    Order { timeout_ms: 100, ..order(&[YES, YES]) }
}
