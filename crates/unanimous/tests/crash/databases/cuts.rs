//! Databases that the coordinator does not reach for a while, or that do not reach it.
//!
//! A way that is closed holds back what is sent into it; a wire that is cut loses it. Nobody is told of either.

use tokio::task::block_in_place;
use tokio::time::sleep;

use super::{Databases, Load, setup};
use crate::chance::Chance;
use crate::coordinator::Coordinator;
use crate::http::Http;
use crate::network::{Network, Way, Wire};
use crate::place::Folder;
use crate::strait::Strait;

/// Partitions, one after the other.
const CUTS: &str = "UNANIMOUS_PARTITIONS";

/// Longest time that one lasts: longer than a call may take.
const CUT_MS_MAX: u64 = 4_000;

/// Longest time between two.
const LIFE_MS_MAX: u64 = 400;

fn cuts(otherwise: usize) -> usize {
    std::env::var(CUTS).ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(otherwise)
}

/// One or more of so many, by chance.
fn some(count: usize, chance: &mut Chance) -> Vec<usize> {
    let chosen = 1 + chance.below((1 << count) - 1);
    (0..count).filter(|bit| chosen & (1 << bit) != 0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many partitions"]
async fn books_balance_whichever_ways_to_the_databases_are_closed() {
    let Some(databases) = block_in_place(Databases::start) else { return };
    let (mut chance, folder) = (Chance::new(), Folder::new());
    let [postgres, maria, redis] = databases.addresses();
    let ways = [Strait::to(postgres).await, Strait::to(maria).await, Strait::to(redis).await];
    let setup = setup(&folder, ways.each_ref().map(|way| way.address));
    let mut coordinator = Coordinator::start(&setup).await;
    let load = Load::start(&Http::new(&setup.server()));
    let cuts = cuts(6);
    for _ in 0..cuts {
        load.goes_on().await;
        sleep(chance.pause(LIFE_MS_MAX)).await;
        let closed = some(ways.len(), &mut chance);
        closed.iter().for_each(|&way| ways[way].close());
        sleep(chance.pause(CUT_MS_MAX)).await;
        closed.iter().for_each(|&way| ways[way].open());
    }
    println!("{cuts} partitions; {}", load.end(&mut coordinator, &databases).await);
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}

/// One database is at one wire of the coordinator's machine, the others and the clients at the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many partitions"]
async fn books_balance_whichever_wires_to_the_databases_are_cut() {
    let Some(network) = Network::of(1) else { return };
    let [one, other] = [Wire::Journal, Wire::World].map(|wire| network.here(wire));
    let databases = block_in_place(|| {
        Databases::start_with(
            &[&format!("listen_addresses=127.0.0.1,{one}")],
            &[&format!("--bind-address=127.0.0.1,{other}")],
            &[&format!("bind 127.0.0.1 {other}"), "protected-mode no"],
        )
    });
    let Some(mut databases) = databases else { return };
    databases.postgres.let_in_from(&network.all(Wire::Journal));
    let root = "CREATE USER root@'%'; GRANT ALL ON *.* TO root@'%'";
    databases.maria.sql("", root);
    let (mut chance, folder) = (Chance::new(), Folder::new());
    let mut addresses = databases.addresses();
    addresses.iter_mut().zip([one, other, other]).for_each(|(it, place)| it.set_ip(place));
    let setup = setup(&folder, addresses).on_machine(&network, 0);
    let mut coordinator = Coordinator::start(&setup).await;
    let load = Load::start(&Http::new(&setup.server()));
    let ends = [Wire::Journal, Wire::World].map(|wire| [(wire, Way::Out), (wire, Way::In)]);
    let ends = ends.as_flattened();
    let cuts = cuts(6);
    for _ in 0..cuts {
        load.goes_on().await;
        sleep(chance.pause(LIFE_MS_MAX)).await;
        let cut: Vec<_> = some(ends.len(), &mut chance).into_iter().map(|it| ends[it]).collect();
        cut.iter().for_each(|&(wire, way)| network.cut(0, wire, way));
        sleep(chance.pause(CUT_MS_MAX)).await;
        cut.iter().for_each(|&(wire, way)| network.mend(0, wire, way));
    }
    println!("{cuts} partitions; {}", load.end(&mut coordinator, &databases).await);
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}
