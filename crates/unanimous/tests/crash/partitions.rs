//! Several nodes on one journal that do not hear each other, or do not reach the journal, or both: in one
//! direction, in both, and back before anybody is sure.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::chance::Chance;
use crate::coordinator::Setup;
use crate::crowd::Crowd;
use crate::fleet::Fleet;
use crate::members::Members;
use crate::shared;
use crate::strait::Strait;
use crate::world::World;

/// Partitions, one after the other.
const CUTS: &str = "UNANIMOUS_PARTITIONS";

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
    for number in 0..3 {
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
    // A short one is over before anybody is sure.
    let ms_max = if chance.below(3) == 0 { LIFE_MS_MAX } else { CUT_MS_MAX };
    tokio::time::sleep(chance.pause(ms_max)).await;
    closed.iter().for_each(|it| it.open());
    tokio::time::sleep(chance.pause(LIFE_MS_MAX)).await;
}

async fn endure(
    world: &Arc<World>,
    mut fleet: Fleet,
    ways: &[Ways],
    crowd: Crowd,
    chance: &mut Chance,
    cuts: usize,
) {
    for _ in 0..cuts {
        cut(ways, chance).await;
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
    endure(&world, fleet, &ways, crowd, &mut chance, cuts(12)).await;
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
    endure(&world, fleet, &ways, crowd, &mut chance, cuts(6)).await;
}
