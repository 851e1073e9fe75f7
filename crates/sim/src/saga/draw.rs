//! Draws what one seed starts from: the services, the sagas with their steps, and the faults.

use std::sync::Arc;

use unanimous_core::Opaque;
use unanimous_core::id::BranchId;
use unanimous_core::saga::{Action, Plan, Retry, Role, Work, check};

use super::client::{Order, Wish, WishKind};
use super::event::STEPS;
use super::exhibit::SagaExhibit;
use super::service::{Service, Share};
use super::world::Setting;
use crate::rng::Rng;
use crate::swarm::Faults;

const ORDERS_MAX: u64 = 4;
/// The first service remembers everything.
const MEMORY: u8 = 0;

/// What `seed` starts from.
pub(super) fn setting(seed: u64, exhibit: Option<SagaExhibit>) -> Setting {
    let mut rng = Rng::from_seed(seed ^ 0x5A6A);
    let faults = Faults::drawn(&mut rng);
    let services: Vec<_> = (0..rng.range(2, 4) as u8)
        .map(|index| Service { up: true, forgets_refusals: index != MEMORY && rng.chance(400) })
        .collect();
    let text: Arc<str> = Arc::from("a step");
    let count = rng.range(1, ORDERS_MAX);
    let orders = (0..count).map(|_| order(&mut rng, services.len() as u64, &text)).collect();
    Setting { rng, faults, exhibit, services, orders }
}

fn order(rng: &mut Rng, services: u64, text: &Arc<str>) -> Order {
    let count = rng.range(1, STEPS as u64) as usize;
    let mut steps: Vec<_> = (0..count).map(|index| step(rng, index, text)).collect();
    if rng.chance(500) {
        let pivot = rng.below(count as u64) as usize;
        turn(&mut steps, pivot, rng);
    }
    shuffle(&mut steps, rng);
    let is_message = rng.chance(250);
    if is_message {
        follow(&mut steps, rng, text);
    }
    debug_assert_eq!(check(&steps), Ok(()));
    let share = |plan: &Plan, rng: &mut Rng| Share {
        // Nothing bars a late call to the pivot, so it has to be known again.
        service: if plan.role == Role::Pivot { MEMORY } else { rng.below(services) as u8 },
        refuses: match (rng.below(12), plan.role) {
            (0, _) => 1_000,
            // A step that may refuse beside a pivot that may is where it gets hard.
            (1..=5, Role::Pivot | Role::Retriable) => 500,
            (1, Role::Compensable) => 300,
            _ => 0,
        },
        undo_refusals: match rng.below(12) {
            0 => u8::MAX,
            1 => rng.range(1, 3) as u8,
            _ => 0,
        },
    };
    let shares = steps.iter().map(|plan| share(plan, rng)).collect();
    let timeout_ms = (!is_message && rng.chance(400)).then(|| rng.range(100, 3_000));
    let mut wishes = wishes(rng, &steps);
    if is_message {
        wishes.extend(of_application(rng));
    }
    Order {
        before: before(&steps),
        steps,
        shares,
        timeout_ms,
        start_in_ms: (!is_message && rng.chance(200)).then(|| rng.range(1, 1_500)),
        starts_ms: rng.below(2_000),
        wishes,
        slot: None,
        done: false,
        attempt: 0,
        version: 0,
    }
}

fn step(rng: &mut Rng, index: usize, text: &Arc<str>) -> Plan {
    let action = match rng.below(10) {
        0 => Action::Signal(rng.chance(500).then(|| rng.range(50, 1_500))),
        1 => Action::Pause(rng.range(1, 400)),
        2 => Action::Message(work(rng, text)),
        _ => Action::Call(work(rng, text)),
    };
    let is_call = matches!(action, Action::Call(_));
    let is_message = matches!(action, Action::Message(_));
    let chain = rng.chance(400);
    let earlier = |rng: &mut Rng, it: usize| match chain {
        true => it + 1 == index,
        false => rng.chance(400),
    };
    Plan {
        name: Arc::clone(text),
        after: (0..index).filter(|it| earlier(rng, *it)).map(id).collect(),
        action,
        compensation: (is_call && rng.chance(800)).then(|| work(rng, text)),
        role: if is_message || rng.chance(100) { Role::Retriable } else { Role::Compensable },
        state: None,
    }
}

/// Makes one step the pivot, and what may run after it such that it can.
fn turn(steps: &mut [Plan], pivot: usize, rng: &mut Rng) {
    if let Action::Message(work) = &steps[pivot].action {
        steps[pivot].action = Action::Call(work.clone());
    }
    steps[pivot].role = Role::Pivot;
    steps[pivot].compensation = None;
    let before = before(steps);
    for (index, step) in steps.iter_mut().enumerate() {
        if index == pivot || before[pivot] >> index & 1 == 1 {
            continue;
        }
        step.role = Role::Retriable;
        if rng.chance(500) {
            step.compensation = None;
        }
        if let Action::Signal(wait_ms) = &mut step.action {
            *wait_ms = None;
        }
    }
}

/// Makes a message of steps: a local transaction that all of them follow.
fn follow(steps: &mut Vec<Plan>, rng: &mut Rng, text: &Arc<str>) {
    steps.truncate(STEPS - 1);
    let count = steps.len();
    for step in steps.iter_mut() {
        step.after.retain(|it| it.index() < count);
        step.after.iter_mut().for_each(|it| *it = id(it.index() + 1));
        if step.after.is_empty() || rng.chance(300) {
            step.after.push(id(0));
        }
        (step.role, step.compensation) = (Role::Retriable, None);
        if let Action::Signal(wait_ms) = &mut step.action {
            *wait_ms = None;
        }
    }
    let source = Plan {
        name: Arc::clone(text),
        after: Vec::new(),
        action: Action::Local(work(rng, text), rng.range(20, 2_000)),
        compensation: None,
        role: Role::Pivot,
        state: None,
    };
    steps.insert(0, source);
}

/// What an application does that has announced a message. It may die at any point.
fn of_application(rng: &mut Rng) -> Vec<Wish> {
    let wish = |kind, after_ms| Wish { after_ms, kind, answered: false };
    let commits_ms = rng.range(1, 2_000);
    let mut wishes = Vec::new();
    if rng.chance(800) {
        wishes.push(wish(WishKind::CommitLocally, commits_ms));
    }
    if rng.chance(600) {
        wishes.push(wish(WishKind::TellCommitted, commits_ms + rng.range(1, 300)));
    }
    wishes
}

fn work(rng: &mut Rng, text: &Arc<str>) -> Work {
    let retry = Retry {
        attempts_max: rng.chance(600).then(|| rng.range(1, 4) as u32),
        backoff_ms: rng.range(1, 100),
        backoff_max_ms: rng.range(100, 1_000),
    };
    Work { resource: Arc::clone(text), work: Opaque::default(), retry, timeout_ms: None }
}

/// The order of the list is not that of the steps.
fn shuffle(steps: &mut Vec<Plan>, rng: &mut Rng) {
    let mut places: Vec<usize> = (0..steps.len()).collect();
    for index in (1..places.len()).rev() {
        places.swap(index, rng.below(index as u64 + 1) as usize);
    }
    let mut moved: Vec<_> = places.iter().copied().zip(std::mem::take(steps)).collect();
    moved.sort_by_key(|(place, _)| *place);
    steps.extend(moved.into_iter().map(|(_, mut plan)| {
        plan.after.iter_mut().for_each(|it| *it = id(places[it.index()]));
        plan
    }));
}

fn wishes(rng: &mut Rng, steps: &[Plan]) -> Vec<Wish> {
    let mut wishes = Vec::new();
    let mut wish = |kind, after_ms| wishes.push(Wish { after_ms, kind, answered: false });
    if rng.chance(250) {
        wish(WishKind::Cancel, rng.range(1, 900));
    }
    if rng.chance(150) {
        wish(WishKind::CancelIfUnchanged, rng.range(300, 1_200));
    }
    for (index, step) in (0_u8..).zip(steps) {
        let Action::Signal(wait_ms) = step.action else { continue };
        // Without a limit somebody must come in the end.
        for _ in 0..rng.range(u64::from(wait_ms.is_none()), 2) {
            wish(WishKind::Signal(index), rng.range(1, 1_500));
        }
    }
    wishes
}

/// For each step those before it, however far, as bits.
pub(super) fn before(steps: &[Plan]) -> Vec<u8> {
    let mut before = vec![0_u8; steps.len()];
    for _ in steps {
        for (index, step) in steps.iter().enumerate() {
            let all = |all, it: &BranchId| all | 1 << it.0 | before[it.index()];
            before[index] = step.after.iter().fold(before[index], all);
        }
    }
    before
}

fn id(index: usize) -> BranchId {
    BranchId(index as u16)
}
