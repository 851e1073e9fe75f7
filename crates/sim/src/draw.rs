//! Draws what one seed starts from: the resources, what the clients want, and the faults.

use unanimous_core::Decision;
use unanimous_core::barrier::Policy;
use unanimous_core::commit::{self, Mode, Phases};
use unanimous_core::id::{BranchId, BranchName};

use crate::client::{Order, Rival, Share, Wish};
use crate::coordinator::{CLUSTER, Wait};
use crate::event::{BRANCHES, Slot};
use crate::exhibit::Exhibit;
use crate::participant::{Kind, Planted, Resource, Whose};
use crate::rng::Rng;
use crate::runner::Shape;
use crate::swarm::Faults;
use crate::world::{ORDERS_MAX, RESOURCES_MAX, Setting};

/// What `seed` starts from.
pub(crate) fn setting(seed: u64, shape: Shape, exhibit: Option<Exhibit>) -> Setting {
    let mut rng = Rng::from_seed(seed);
    let faults = Faults::drawn(&mut rng);
    let heuristics = rng.chance(200);
    let resources: Vec<_> = (0..rng.range(2, RESOURCES_MAX as u64))
        .map(|index| resource(&mut rng, index as u8, heuristics))
        .collect();
    let count = rng.range(2, ORDERS_MAX as u64);
    let orders = (0..count).map(|number| {
        let shape = match shape {
            Shape::Atomic => commit::Shape::Atomic,
            Shape::Tcc => commit::Shape::Tcc,
            // Without a draw, so that a seed tells the same story otherwise.
            Shape::Mixed if (seed + number).is_multiple_of(3) => commit::Shape::Tcc,
            Shape::Mixed | Shape::Saga | Shape::Nodes => commit::Shape::Atomic,
        };
        Order { shape, ..order(&mut rng, resources.len() as u64) }
    });
    let orders = orders.collect();
    Setting { rng, faults, exhibit, resources, orders }
}

fn resource(rng: &mut Rng, index: u8, heuristics: bool) -> Resource {
    let kind = if rng.chance(600) { Kind::Service } else { Kind::Manager };
    let policy = match heuristics && rng.chance(500) {
        true => {
            let decision = rng.pick(&[Decision::Commit, Decision::Abort]);
            Policy::Heuristic(decision, rng.range(400, 3_000))
        }
        false => Policy::Ask,
    };
    let mut planted = Vec::new();
    if kind == Kind::Manager && rng.chance(300) {
        planted = plants(index);
    }
    let phases = match kind {
        Kind::Service if rng.chance(500) => Phases::One,
        Kind::Service | Kind::Manager => Phases::Two,
    };
    Resource { kind, phases, up: true, life: 0, clock_ms: 0, policy, planted }
}

/// Prepared branches that are there from the start: some of nobody's business, one orphan of ours.
fn plants(index: u8) -> Vec<Planted> {
    let name = |cluster: &str| {
        let txn = Slot(100 + index).id();
        BranchName { cluster: cluster.to_owned(), txn, branch: BranchId(0) }.to_string()
    };
    let planted = |name: String, whose| Planted { name, whose, held: true };
    vec![
        planted(name(CLUSTER), Whose::Ours),
        planted(name("other"), Whose::Foreign),
        planted(name(CLUSTER).replace("una:", "xid:"), Whose::Foreign),
        planted(format!("{}x", name(CLUSTER)), Whose::Foreign),
    ]
}

fn order(rng: &mut Rng, resources: u64) -> Order {
    let mode = match rng.below(10) {
        0..=4 => Mode::Run,
        5 => Mode::RunLater,
        _ => Mode::Interactive,
    };
    let interactive = mode == Mode::Interactive;
    let few = rng.chance(700);
    let count = if few { rng.range(1, 2) } else { rng.range(3, BRANCHES as u64) };
    let share = |rng: &mut Rng| Share {
        resource: rng.below(resources) as u8,
        plan: None,
        by_client: interactive && rng.chance(400),
    };
    let mut order = Order::new(mode, (0..count).map(|_| share(rng)).collect());
    if interactive {
        order.at_begin = rng.below(count + 1) as u8;
    }
    order.keyed = rng.chance(750);
    order.wait = rng.pick(&[Wait::Decided, Wait::Ended]);
    order.timeout_ms = rng.range(150, 2_500);
    order.starts_ms = rng.below(2_500);
    order.wish = match rng.below(10) {
        0 => Wish::Abort,
        1 => Wish::Vanish,
        _ => Wish::Commit,
    };
    if rng.chance(350) {
        let rival = rng.pick(&[Rival::Abort, Rival::Commit, Rival::Look]);
        order.rival = Some((rng.range(1, 600), rival));
    }
    order
}
