//! Kills while the coordinator starts: on an empty folder, and on one with work left in it.
//!
//! Calls are counted by thread, so at each number the first thread to come so far is the one that is
//! hit: the one that opens the journal, the one that prepares the next segment, the one that keeps
//! the history.

use std::sync::Arc;

use crate::coordinator::Coordinator;
use crate::deed::Deed;
use crate::place::skip;
use crate::trace::{FOLDER, Fault, Tracer};
use crate::world::World;

/// More calls of one name than any start makes.
const PLACES_MAX: u32 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: every call of a start"]
async fn a_new_folder_survives_a_kill_at_each_call_of_the_first_start() {
    if !Tracer::is_there() {
        return skip("strace");
    }
    let mut places = 0;
    for call in FOLDER {
        for when in 1.. {
            let world = Arc::new(World::new().await);
            let killed = kill_start(&world, call, when).await;
            let mut coordinator = Coordinator::start(&world.setup).await;
            world.perform(Deed::Run, "first").await.expect("nobody is killed any more");
            world.verdict().await;
            coordinator.stop().await;
            if !killed {
                break;
            }
            places += 1;
        }
    }
    report("a first start", places);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: every call of a start"]
async fn open_transactions_survive_a_kill_at_each_call_of_a_restart() {
    if !Tracer::is_there() {
        return skip("strace");
    }
    let world = Arc::new(World::new().await);
    let mut coordinator = Coordinator::start(&world.setup).await;
    let mut places = 0;
    for call in FOLDER {
        for when in 1.. {
            for deed in [Deed::Run, Deed::Abandoned] {
                let label = format!("{deed:?}-{call}-{when}");
                world.perform(deed, &label).await.expect("nobody is killed here");
            }
            coordinator.kill().await;
            let killed = kill_start(&world, call, when).await;
            coordinator = Coordinator::start(&world.setup).await;
            if !killed {
                break;
            }
            places += 1;
        }
    }
    world.verdict().await;
    coordinator.stop().await;
    report("a restart", places);
}

/// Starts a coordinator that is killed at that place, or as soon as it is ready. Returns whether it
/// was killed before.
async fn kill_start(world: &World, call: &'static str, when: u32) -> bool {
    assert!(when < PLACES_MAX, "still killed at {call} {when}");
    let log = world.folder.path().join("calls");
    let tracer = Tracer { log, fault: Fault::Kill, call, only: None, when };
    let mut coordinator = Coordinator::spawn(&world.setup, Some(&tracer));
    let killed = coordinator.ready().await.is_err();
    coordinator.kill().await;
    killed
}

fn report(what: &str, places: u32) {
    println!("killed at {places} places in {what}");
    assert!(places > 10, "the tracer has killed nothing");
}
