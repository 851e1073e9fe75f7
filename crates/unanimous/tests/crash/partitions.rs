//! Several nodes on one journal that do not hear each other, or do not reach the journal, or both: in one
//! direction, in both, and back before anybody is sure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::chance::Chance;
use crate::coordinator::Setup;
use crate::crowd::Crowd;
use crate::fleet::Fleet;
use crate::members::Members;
use crate::network::{Machine, Network, Way, Wire};
use crate::shared;
use crate::strait::Strait;
use crate::world::World;

/// Partitions, one after the other.
const CUTS: &str = "UNANIMOUS_PARTITIONS";

const NODES: Machine = 3;

/// Longest time that one lasts: longer than it takes others to notice and to take over.
const CUT_MS_MAX: u64 = 2_500;

/// Longest time between two.
const LIFE_MS_MAX: u64 = 400;

fn cuts(otherwise: usize) -> usize {
    std::env::var(CUTS).ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(otherwise)
}

/// The ways of one node: from the others to it, and from it to the journal.
struct Ways {
    inward: Strait,
    journal: Strait,
}

/// Three nodes, each with ways of its own. `url` says where the journal is when it is reached there.
async fn apart(
    world: &World,
    journal: SocketAddr,
    url: impl Fn(SocketAddr) -> String,
) -> (Fleet, Vec<Ways>) {
    let (mut setups, mut ways): (Vec<Setup>, Vec<Ways>) = (Vec::new(), Vec::new());
    for number in 0..NODES {
        let setup = world.setup.as_node(&format!("node-{number}"));
        let way =
            Ways { inward: Strait::to(setup.address).await, journal: Strait::to(journal).await };
        setups.push(setup.reached_at(way.inward.address).on_journal(&url(way.journal.address)));
        ways.push(way);
    }
    (Fleet::of(world, setups).await, ways)
}

/// Cuts nodes off, in some way, for some time.
async fn cut(ways: &[Ways], chance: &mut Chance) {
    let Ways { inward, journal } = &ways[chance.below(ways.len() as u64) as usize];
    let closed: Vec<&Strait> = match chance.below(4) {
        // Nobody hears anybody, and all reach the journal.
        0 => ways.iter().map(|it| &it.inward).collect(),
        // It hears the others, who do not hear from it what they ask.
        1 => vec![inward],
        // It is heard, and can write nothing.
        2 => vec![journal],
        _ => vec![inward, journal],
    };
    closed.iter().for_each(|it| it.close());
    sleep(duration(chance)).await;
    closed.iter().for_each(|it| it.open());
    sleep(chance.pause(LIFE_MS_MAX)).await;
}

/// A short one is over before anybody is sure.
fn duration(chance: &mut Chance) -> Duration {
    let ms_max = if chance.below(3) == 0 { LIFE_MS_MAX } else { CUT_MS_MAX };
    chance.pause(ms_max)
}

/// Cuts wires of a node, in one way or in both, or those between all nodes, for some time.
async fn lose(network: &Network, chance: &mut Chance) {
    let ends = [Wire::Journal, Wire::World].map(|wire| [(wire, Way::Out), (wire, Way::In)]);
    let ends = ends.as_flattened();
    let wires: Vec<_> = match chance.below(5) {
        0 => (0..NODES).map(|node| (node, (Wire::World, Way::In))).collect(),
        _ => {
            let node = chance.below(u64::from(NODES)) as Machine;
            // At least one of them.
            let chosen = 1 + chance.below((1 << ends.len()) - 1);
            let is_chosen = |bit: &usize| chosen & (1 << bit) != 0;
            (0..ends.len()).filter(is_chosen).map(|bit| (node, ends[bit])).collect()
        }
    };
    wires.iter().for_each(|&(node, (wire, way))| network.cut(node, wire, way));
    sleep(duration(chance)).await;
    wires.iter().for_each(|&(node, (wire, way))| network.mend(node, wire, way));
    sleep(chance.pause(LIFE_MS_MAX)).await;
}

/// Nodes on machines of their own, with services and the journal here, whose wires are cut.
async fn endure_on_machines(network: &Network, url: &str) {
    let mut chance = Chance::new();
    let world = World::at(network.here(Wire::World), |setup| setup.on_journal(url)).await;
    let setups = (0..NODES)
        .map(|node| world.setup.as_node(&format!("node-{node}")).on_machine(network, node));
    let fleet = Fleet::of(&world, setups.collect()).await;
    let world = Arc::new(world);
    let crowd = Crowd::start(&world, &mut chance);
    endure(&world, fleet, crowd, cuts(8), async || lose(network, &mut chance).await).await;
}

async fn endure(
    world: &Arc<World>,
    mut fleet: Fleet,
    crowd: Crowd,
    cuts: usize,
    mut cut: impl AsyncFnMut(),
) {
    for _ in 0..cuts {
        cut().await;
    }
    fleet.settled().await;
    crowd.finish().await;
    world.verdict().await;
    fleet.stop().await;
    world.told_at_least(10 * cuts).expect("there was load all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many partitions"]
async fn no_outcome_is_lost_by_partitions_between_three_nodes_and_their_database() {
    let Some(server) = shared::journal() else { return };
    let mut chance = Chance::new();
    let world = shared::world_on(&server).await;
    let database = SocketAddr::from(([127, 0, 0, 1], server.port()));
    let url = |address| format!("postgres://coordinator@{address}/journal");
    let (fleet, ways) = apart(&world, database, url).await;
    let crowd = Crowd::start(&world, &mut chance);
    endure(&world, fleet, crowd, cuts(12), async || cut(&ways, &mut chance).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many partitions"]
async fn no_outcome_is_lost_by_partitions_between_three_nodes_and_etcd() {
    let Some(members) = Members::start(1) else { return };
    let mut chance = Chance::new();
    let url = members.url();
    let world = Arc::new(World::and(|setup| setup.on_journal(&url)).await);
    let member = url.trim_start_matches("etcd://").parse().expect("there is one member");
    let (fleet, ways) = apart(&world, member, |address| format!("etcd://{address}")).await;
    let crowd = Crowd::start(&world, &mut chance);
    endure(&world, fleet, crowd, cuts(6), async || cut(&ways, &mut chance).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many partitions"]
async fn no_outcome_is_lost_by_wires_between_three_machines_and_their_database_that_are_cut() {
    let Some(network) = Network::of(NODES) else { return };
    let here = network.here(Wire::Journal);
    let listens = format!("listen_addresses=127.0.0.1,{here}");
    let Some(mut server) = shared::journal_with(&[&listens]) else { return };
    server.let_in_from(&network.all(Wire::Journal));
    let url = format!("postgres://coordinator@{here}:{}/journal", server.port());
    endure_on_machines(&network, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many partitions"]
async fn no_outcome_is_lost_by_wires_between_three_machines_and_etcd_that_are_cut() {
    let Some(network) = Network::of(NODES) else { return };
    let Some(members) = Members::start_at(network.here(Wire::Journal), 3) else { return };
    endure_on_machines(&network, &members.url()).await;
}
