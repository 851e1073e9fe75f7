//! Kills at random moments, under the load of many clients.
//!
//! A kill takes what is in memory and nothing else; what the system still holds of unsynced writes
//! is taken in `points`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::chance::Chance;
use crate::coordinator::Coordinator;
use crate::crowd::Crowd;
use crate::place::eventually;
use crate::world::World;

/// Cycles of the long test.
const CYCLES: &str = "UNANIMOUS_CRASH_CYCLES";

/// Longest time between two kills.
const LIFE_MS_MAX: u64 = 300;

/// Kills in a row of a coordinator that has not yet recovered from the one before.
const CRASH_LOOP: usize = 100;

/// Longest life in such a loop: some end while the journal is read, some while branches are called.
const SHORT_LIFE_MS_MAX: u64 = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_outcome_that_was_told_is_lost_or_contradicted_by_kills_under_load() {
    kill_under_load(40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: hundreds of kills"]
async fn no_outcome_that_was_told_is_lost_or_contradicted_by_hundreds_of_kills() {
    let cycles = std::env::var(CYCLES).ok().and_then(|cycles| cycles.parse().ok());
    kill_under_load(cycles.unwrap_or(300)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_killed_again_and_again_while_it_recovers_recovers() {
    let mut chance = Chance::new();
    let world = Arc::new(World::new().await);
    let mut coordinator = Coordinator::start(&world.setup).await;
    let crowd = Crowd::start(&world, &mut chance);
    eventually("busy", async || world.told_at_least(500)).await;
    for _ in 0..CRASH_LOOP {
        coordinator.kill_and_respawn().await;
        tokio::time::sleep(chance.pause(SHORT_LIFE_MS_MAX)).await;
    }
    coordinator.kill_and_respawn().await;
    coordinator.ready().await.expect("it has recovered");
    crowd.finish().await;
    world.verdict().await;
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}

async fn kill_under_load(cycles: usize) {
    let start = Instant::now();
    let mut chance = Chance::new();
    let world = Arc::new(World::new().await);
    let mut coordinator = Coordinator::start(&world.setup).await;
    let crowd = Crowd::start(&world, &mut chance);
    let mut recoveries = 0;
    for _ in 0..cycles {
        // Some are killed before they have recovered, the others at work.
        if chance.below(3) > 0 {
            coordinator.ready().await.expect("it recovers from any kill");
            recoveries += 1;
        }
        tokio::time::sleep(chance.pause(LIFE_MS_MAX)).await;
        coordinator.kill_and_respawn().await;
    }
    coordinator.ready().await.expect("it recovers from any kill");
    let killing = start.elapsed();
    let tally = crowd.finish().await;
    world.verdict().await;
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{cycles} kills in {:.1} s, {recoveries} of them after recovery; {} outcomes told; with the \
         SDK {} committed and {} aborted, without it {} replies lost; verdict after {:.1} s",
        killing.as_secs_f64(),
        world.witness.count(),
        count(&tally.committed),
        count(&tally.aborted),
        count(&tally.lost),
        start.elapsed().as_secs_f64(),
    );
    world.told_at_least(5 * cycles).expect("there was load all the time");
}
