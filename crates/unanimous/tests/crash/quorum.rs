//! A coordinator on a journal in etcd: killed, and members of the cluster killed as well.

use std::sync::Arc;

use tokio::task::block_in_place;

use crate::chance::Chance;
use crate::coordinator::{Coordinator, Setup};
use crate::crowd::Crowd;
use crate::members::Members;
use crate::place::free_address;
use crate::world::World;

/// Kills of the coordinator; every second time a member of the cluster dies too.
const KILLS: &str = "UNANIMOUS_SHARED_KILLS";

/// Longest time between two kills.
const LIFE_MS_MAX: u64 = 400;

async fn world_on(members: &Members) -> Arc<World> {
    let url = members.url();
    Arc::new(World::and(|setup| setup.on_journal(&url)).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many kills"]
async fn no_outcome_is_lost_by_kills_of_the_coordinator_and_of_members_of_etcd() {
    let kills = std::env::var(KILLS).ok().and_then(|kills| kills.parse().ok()).unwrap_or(10);
    let Some(mut members) = Members::start(3) else { return };
    let mut chance = Chance::new();
    let world = world_on(&members).await;
    let mut coordinator = Coordinator::start(&world.setup).await;
    let crowd = Crowd::start(&world, &mut chance);
    for kill in 0..kills {
        coordinator.ready().await.expect("it recovers from any kill");
        tokio::time::sleep(chance.pause(LIFE_MS_MAX)).await;
        let victim = kill / 2 % 3;
        if kill % 2 == 0 {
            // Whoever leads is among them.
            block_in_place(|| members.kill(victim));
            coordinator.ready().await.expect("a majority is there");
        }
        coordinator.kill_and_respawn().await;
        if kill % 2 == 0 {
            coordinator.ready().await.expect("a majority is there");
            block_in_place(|| members.up(victim));
        }
    }
    coordinator.ready().await.expect("it recovers from any kill");
    crowd.finish().await;
    world.verdict().await;
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
    world.told_at_least(20 * kills).expect("there was load all the time");
    assert!(!world.setup.data.exists(), "nothing of the journal is in a folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_cannot_be_used_is_refused_in_one_line_that_says_what_to_do() {
    let Some(members) = Members::start(1) else { return };
    let world = world_on(&members).await;
    for (url, named) in [
        (format!("etcd://{}", free_address()), "is it running"),
        (members.url().replace("etcd://", "etcd://app@"), "leave the user out"),
        ("etcd://u:s3cret@h".to_owned(), "UNANIMOUS_JOURNAL_PASSWORD"),
        ("etcd://h?tls=perhaps".to_owned(), "tls=on or tls=off"),
    ] {
        let setup: Setup = world.setup.clone().on_journal(&url);
        let ended = Coordinator::spawn(&setup, None).ended().await;
        let line = ended.refusal(2);
        assert!(line.contains(named) && !line.contains("s3cret"), "{line}");
        println!("{line}");
    }
}
