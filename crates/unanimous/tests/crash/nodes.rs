//! Several nodes on one journal: killed, paused, restarted, and the journal's servers killed too.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::block_in_place;
use tokio::time::timeout;
use unanimous_client::Events;
use unanimous_client::api::{NodesView, header};
use unanimous_core::id::{ShardId, TxnId};
use unanimous_participants::testing::PrivatePostgres;

use crate::chance::Chance;
use crate::coordinator::Coordinator;
use crate::crowd::{Crowd, patient};
use crate::deed::{Deed, request};
use crate::fleet::Fleet;
use crate::http::Http;
use crate::members::Members;
use crate::place::eventually;
use crate::service::Work;
use crate::shared;
use crate::world::World;

/// What is done to nodes, one thing after the other.
const KILLS: &str = "UNANIMOUS_SHARED_KILLS";

/// Longest time between two of them.
const LIFE_MS_MAX: u64 = 400;

/// Longest pause of a node, in milliseconds. Default: longer than it takes the others to notice.
const PAUSE: &str = "UNANIMOUS_PAUSE_MS_MAX";
const PAUSE_MS_MAX: usize = 2_500;

/// Outcomes that are told between two restarts.
const BETWEEN: &str = "UNANIMOUS_BETWEEN_RESTARTS";

pub(crate) fn blows(otherwise: usize) -> usize {
    number(KILLS).unwrap_or(otherwise)
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Does something bad to one of the nodes.
async fn strike(fleet: &mut Fleet, chance: &mut Chance) {
    let victim = chance.below(fleet.nodes.len() as u64) as usize;
    match chance.below(8) {
        0 | 1 => {
            let pause_ms_max = number(PAUSE).unwrap_or(PAUSE_MS_MAX);
            fleet.pause(victim, chance.pause(pause_ms_max as u64)).await;
        }
        2 => fleet.restart(victim).await,
        _ => fleet.kill(victim).await,
    }
    tokio::time::sleep(chance.pause(LIFE_MS_MAX)).await;
}

/// Strikes so often, and with every eighth kills the journal's server too.
pub(crate) async fn batter(
    fleet: &mut Fleet,
    server: &mut PrivatePostgres,
    chance: &mut Chance,
    blows: usize,
) {
    for blow in 0..blows {
        strike(fleet, chance).await;
        if blow % 8 == 7 {
            // One that starts while its database is away says so and ends.
            fleet.up().await;
            block_in_place(|| server.kill());
            tokio::time::sleep(chance.pause(LIFE_MS_MAX)).await;
            block_in_place(|| server.up());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many kills of nodes"]
async fn no_outcome_is_lost_by_kills_and_pauses_of_three_nodes_and_of_their_database() {
    let blows = blows(16);
    let Some(mut server) = shared::journal() else { return };
    let mut chance = Chance::new();
    let world = shared::world_on(&server).await;
    let mut fleet = Fleet::start(&world, 3).await;
    let crowd = Crowd::start(&world, &mut chance);
    batter(&mut fleet, &mut server, &mut chance, blows).await;
    fleet.settled().await;
    crowd.finish().await;
    world.verdict().await;
    fleet.stop().await;
    world.told_at_least(20 * blows).expect("there was load all the time");
    let open = "SELECT count(*) FROM distributed_txn
        WHERE ended_at IS NULL OR status NOT IN ('COMMITTED', 'ABORTED')";
    assert_eq!(shared::rows(&server, open), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many kills of nodes"]
async fn no_outcome_is_lost_by_kills_and_pauses_of_three_nodes_and_of_members_of_etcd() {
    let blows = blows(8) / 2;
    let Some(mut members) = Members::start(3) else { return };
    let mut chance = Chance::new();
    let url = members.url();
    let world = Arc::new(World::and(|setup| setup.on_journal(&url)).await);
    let mut fleet = Fleet::start(&world, 3).await;
    let crowd = Crowd::start(&world, &mut chance);
    for blow in 0..blows {
        strike(&mut fleet, &mut chance).await;
        if blow % 4 == 3 {
            fleet.up().await;
            let victim = blow / 4 % 3;
            block_in_place(|| members.kill(victim));
            strike(&mut fleet, &mut chance).await;
            block_in_place(|| members.up(victim));
        }
    }
    fleet.settled().await;
    crowd.finish().await;
    world.verdict().await;
    fleet.stop().await;
    world.told_at_least(20 * blows).expect("there was load all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_of_the_sdk_fails_while_every_node_is_restarted_in_turn() {
    let Some(server) = shared::journal() else { return };
    let mut chance = Chance::new();
    let world = shared::world_on(&server).await;
    let mut fleet = Fleet::start(&world, 3).await;
    let crowd = Crowd::start(&world, &mut chance);
    let between = number(BETWEEN).unwrap_or(100);
    for _ in 0..2 {
        for index in 0..3 {
            let enough = world.witness.count() + between;
            while world.witness.count() < enough {
                let more = enough.min(world.witness.count() + 100);
                eventually("busy", async || world.told_at_least(more)).await;
            }
            fleet.restart(index).await;
            fleet.settled().await;
        }
    }
    crowd.finish().await;
    world.verdict().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_paused_loses_everything_says_so_in_one_line_and_gets_its_share_again() {
    let Some(server) = shared::journal() else { return };
    let world = shared::world_on(&server).await;
    let mut fleet = Fleet::start(&world, 2).await;
    fleet.nodes[0].signal(Signal::STOP);
    let other = Http::new(&fleet.setups[1].server());
    eventually("taken over", async || {
        let reply = other.get("/v1/nodes").await?;
        let view: NodesView =
            serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
        match view.nodes[1].partitions.len() {
            8 => Ok(()),
            some => Err(format!("it has {some}")),
        }
    })
    .await;
    fleet.nodes[0].signal(Signal::CONT);
    fleet.settled().await;
    let lines = |log: &str| log.matches("other nodes have taken over").count();
    eventually("said", async || match fleet.setups[0].log() {
        log if lines(&log) > 0 => Ok(()),
        log => Err(log),
    })
    .await;
    for label in ["one", "two", "three"] {
        world.perform(Deed::Run, label).await.expect("nobody is killed here");
    }
    world.verdict().await;
    fleet.stop().await;
    let log = fleet.setups[0].log();
    assert_eq!(lines(&log), 1, "{log}");
}

/// Transactions one after the other, by way of all nodes, until so many in a row were told in a stream.
async fn told(world: &World, events: &mut Events, label: &str, wanted: usize) {
    let (mut row, mut number) = (0, 0);
    eventually("told", async || {
        number += 1;
        let work = Work { label: format!("{label}-{number}"), ..Work::default() };
        let txn = world.run(&work, "finished", None).await?.id;
        let end = async {
            while let Ok(event) = events.next().await {
                if event.id == txn && event.outcome.is_some() {
                    return true;
                }
            }
            false
        };
        let is_told = timeout(Duration::from_secs(1), end).await.unwrap_or(false);
        row = if is_told { row + 1 } else { 0 };
        if row == wanted { Ok(()) } else { Err(format!("{row} in a row")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_any_node_does_is_told_at_every_node_also_after_it_has_moved() {
    let Some(server) = shared::journal() else { return };
    let world = shared::world_on(&server).await;
    let mut fleet = Fleet::start(&world, 2).await;
    let watcher = patient(&fleet.setups[1].server());
    let mut events = watcher.events(None).await.expect("it is there");
    told(&world, &mut events, "before", 8).await;
    fleet.restart(0).await;
    fleet.settled().await;
    told(&world, &mut events, "after", 8).await;
    assert_eq!(events.gaps(), 0, "the stream is that of a node that was there all the time");
    world.verdict().await;
    fleet.stop().await;
}

/// A branch that a former owner called may be told by the next one, before this, that it is aborted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_former_owner_may_have_begun_is_not_begun_under_the_same_identity() {
    let Some(server) = shared::journal() else { return };
    let world = shared::world_on(&server).await;
    let mut fleet = Fleet::start(&world, 1).await;
    fleet.kill(0).await;
    fleet.settled().await;
    let epoch = shared::rows(&server, "SELECT max(epoch) FROM shard");
    let epoch: u64 = epoch.parse().expect("each shard has one");
    let node = Http::new(&fleet.setups[0].server());
    let ask = async |txn: TxnId, epoch: u64| {
        let body = request(&Work::of("again"), "finished");
        node.begin_as(&txn.to_string(), epoch, &body).await.expect("it is there")
    };

    let late = TxnId::mint(1_700_000_000_000, ShardId::of(3), 1);
    let reply = ask(late, epoch - 1).await;
    assert!(reply.headers.contains_key(header::NEVER_BEGUN), "{reply:?}");
    assert_eq!(reply.status, 503);
    let shown = node.get(&format!("/v1/transactions/{late}")).await.expect("it is there");
    assert_eq!(shown.status, 404, "{shown:?}");

    let reply = ask(late, epoch + 1).await;
    assert!(reply.headers.contains_key(header::MOVED), "{reply:?}");

    let ours = TxnId::mint(1_700_000_000_000, ShardId::of(3), 2);
    for _ in 0..2 {
        let view = ask(ours, epoch).await.view().expect("it runs");
        assert_eq!(view.id, ours.to_string());
    }
    // Whatever became of its owner, what is known is the answer.
    let view = ask(ours, epoch - 1).await.view().expect("it has run");
    assert_eq!(view.id, ours.to_string());
    world.verdict().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_of_the_same_name_is_refused_in_one_line() {
    let Some(server) = shared::journal() else { return };
    let world = shared::world_on(&server).await;
    let mut fleet = Fleet::start(&world, 1).await;
    let twin = world.setup.as_node("node-0");
    let ended = Coordinator::spawn(&twin, None).ended().await;
    let line = ended.refusal(2);
    assert!(line.contains("node \"node-0\" is running at"), "{line}");
    fleet.settled().await;
    fleet.stop().await;
}
