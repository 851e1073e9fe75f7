//! Each single call to the disk and to the network in the life of one transaction, as the place of a
//! kill; and each call to the disk as the place of a power cut.
//!
//! A coordinator is started under a tracer that kills it at the n-th call, one transaction is made,
//! and the coordinator is asked to stop. Then it is started again, untouched, and everything must
//! agree. This is done for n = 1, 2, 3… until nothing is killed any more.
//!
//! A power cut at a sync comes late: the sync is stuck for so long that all who do not wait for it
//! have gone on. What else than one plain transaction is made in such lives is up to others, such as
//! `notices`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use unanimous_client::Client;

use crate::coordinator::{Coordinator, Ended};
use crate::deed::Deed;
use crate::place::skip;
use crate::trace::{DISK, Fault, NETWORK, STUCK, Tracer, kill_stuck, until_stuck};
use crate::world::World;

/// More calls of one name than a life with one transaction has.
const PLACES_MAX: u32 = 200;

/// How long an abandoned transaction is left alone before the coordinator is asked to stop.
const LINGER: Duration = Duration::from_millis(50);

/// What is gone after the crash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Loss {
    /// What was in memory.
    Memory,
    /// Also what was written to the journal and not synced.
    Unsynced,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_survives_a_kill_at_each_call_to_the_disk() {
    sweep(Deed::Run, DISK, Loss::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_survives_a_power_cut_at_each_call_to_the_disk() {
    sweep(Deed::Run, DISK, Loss::Unsynced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_survives_a_kill_at_each_call_to_the_network() {
    sweep(Deed::Run, NETWORK, Loss::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: every kind of transaction at every place"]
async fn every_kind_of_transaction_survives_a_power_cut_at_each_call_to_the_disk() {
    for deed in Deed::ALL {
        sweep(deed, DISK, Loss::Unsynced).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: every kind of transaction at every place"]
async fn every_kind_of_transaction_survives_a_kill_at_each_call_to_the_network() {
    for deed in Deed::ALL {
        sweep(deed, NETWORK, Loss::Memory).await;
    }
}

async fn sweep(deed: Deed, calls: &[&'static str], loss: Loss) {
    let world = Arc::new(World::new().await);
    let live = async |coordinator: &mut Coordinator, label: &str| {
        live(coordinator, &world, deed, label).await
    };
    let heal = async |label: &str| heal(&world, deed, label).await;
    at_each_place(&world, &format!("{deed:?}"), calls, loss, live, heal).await;
}

/// Starts a coordinator to `live` and crash at each of these calls, and has the next one `heal` what
/// is left, each time under another label.
pub(crate) async fn at_each_place(
    world: &World,
    what: &str,
    calls: &[&'static str],
    loss: Loss,
    live: impl AsyncFn(&mut Coordinator, &str) -> Ended,
    heal: impl AsyncFn(&str),
) {
    if !Tracer::is_there() {
        return skip("strace");
    }
    // The first start of all has more to do than the others; `start` looks at it.
    Coordinator::start(&world.setup).await.stop().await;
    let (mut places, mut lost) = (0, 0);
    for call in calls {
        for when in 1.. {
            assert!(when < PLACES_MAX, "still killed at {call} {when}");
            let only = DISK.contains(call).then(|| world.setup.next_segment());
            let log = world.folder.path().join("calls");
            let fault = match (loss, *call) {
                (Loss::Unsynced, "fdatasync") => STUCK,
                (Loss::Unsynced | Loss::Memory, _) => Fault::Kill,
            };
            let tracer = Tracer { log, fault, call, only, when };
            let label = format!("{what}-{call}-{when}");
            let ended = attempt(world, &tracer, &label, &live).await;
            if loss == Loss::Unsynced && ended.killed() {
                lost += tracer.lose_unsynced();
            }
            heal(&label).await;
            if !ended.killed() {
                assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
                break;
            }
            places += 1;
        }
    }
    println!("{what}, {loss:?} lost: killed at {places} places in {calls:?}, {lost} writes lost");
    assert!(places > 2, "the tracer has killed nothing in the transaction");
}

/// One life under the tracer.
async fn attempt(
    world: &World,
    tracer: &Tracer,
    label: &str,
    live: &impl AsyncFn(&mut Coordinator, &str) -> Ended,
) -> Ended {
    let mut coordinator = Coordinator::spawn(&world.setup, Some(tracer));
    let pid = coordinator.pid().expect("nobody has waited for it");
    let stuck = async {
        match tracer.fault {
            Fault::Late(_) => until_stuck(pid).await,
            Fault::Kill | Fault::Error(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = live(&mut coordinator, label) => return ended,
        () = stuck => {}
    }
    kill_stuck(pid);
    coordinator.ended().await
}

async fn live(coordinator: &mut Coordinator, world: &World, deed: Deed, label: &str) -> Ended {
    if let Err(ended) = coordinator.ready().await {
        return ended;
    }
    // Replies that do not come are what this is about.
    let performed = tokio::join!(watch(world), world.perform(deed, label)).1;
    if performed.is_ok() && deed == Deed::Abandoned {
        tokio::time::sleep(LINGER).await;
    }
    coordinator.stop().await
}

/// Listens to the events of one transaction, as long as it takes.
async fn watch(world: &World) {
    let client = Client::builder(&world.setup.server()).deadline_ms(0).build();
    let client = client.expect("the address is one");
    let Ok(mut events) = client.events(None).await else { return };
    while let Ok(Ok(event)) = timeout(LINGER, events.next()).await {
        if let Some(outcome) = event.outcome {
            world.witness.outcome("a watcher", &event.id, outcome);
        }
    }
}

/// The next life, in which all must turn out well.
async fn heal(world: &Arc<World>, deed: Deed, label: &str) {
    let mut coordinator = Coordinator::start(&world.setup).await;
    if deed == Deed::Keyed {
        world.perform(deed, label).await.expect("nobody is killed any more");
    }
    world.verdict().await;
    let ended = coordinator.stop().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
}
