//! A coordinator on a journal in PostgreSQL: killed, and its database killed as well.

use std::sync::Arc;

use serde_json::json;
use tokio::task::block_in_place;
use unanimous_client::api::Code;
use unanimous_participants::testing::PrivatePostgres;

use crate::chance::Chance;
use crate::coordinator::{Coordinator, Setup};
use crate::crowd::Crowd;
use crate::deed::Deed;
use crate::place::{eventually, free_address};
use crate::world::World;

/// Kills of the coordinator; every fourth time its database dies too.
const KILLS: &str = "UNANIMOUS_SHARED_KILLS";

/// Longest time between two kills.
const LIFE_MS_MAX: u64 = 400;

pub(crate) fn journal() -> Option<PrivatePostgres> {
    journal_with(&[])
}

/// The same with settings.
pub(crate) fn journal_with(settings: &[&str]) -> Option<PrivatePostgres> {
    let server = PrivatePostgres::start(settings)?;
    server.sql("postgres", "CREATE ROLE coordinator LOGIN");
    server.sql("postgres", "CREATE DATABASE journal OWNER coordinator");
    Some(server)
}

pub(crate) async fn world_on(server: &PrivatePostgres) -> Arc<World> {
    let url = server.url("coordinator", "journal");
    Arc::new(World::and(|setup| setup.on_journal(&url)).await)
}

pub(crate) fn rows(server: &PrivatePostgres, wanted: &str) -> String {
    server.sql("journal", &format!("SET search_path = unanimous; {wanted}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many kills"]
async fn no_outcome_is_lost_by_kills_of_the_coordinator_and_of_the_journals_database() {
    let kills = std::env::var(KILLS).ok().and_then(|kills| kills.parse().ok()).unwrap_or(16);
    let Some(mut server) = journal() else { return };
    let mut chance = Chance::new();
    let world = world_on(&server).await;
    let mut coordinator = Coordinator::start(&world.setup).await;
    let crowd = Crowd::start(&world, &mut chance);
    for kill in 0..kills {
        coordinator.ready().await.expect("it recovers from any kill");
        tokio::time::sleep(chance.pause(LIFE_MS_MAX)).await;
        if kill % 4 == 3 {
            block_in_place(|| server.kill());
            tokio::time::sleep(chance.pause(LIFE_MS_MAX)).await;
            block_in_place(|| server.up());
            // It went on by itself.
            coordinator.ready().await.expect("it bears that its database is away");
        }
        coordinator.kill_and_respawn().await;
    }
    coordinator.ready().await.expect("it recovers from any kill");
    crowd.finish().await;
    world.verdict().await;
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
    world.told_at_least(20 * kills).expect("there was load all the time");
    assert!(!world.setup.data.exists(), "nothing of the journal is in a folder");
    let ended = "SELECT count(*) FROM distributed_txn
        WHERE ended_at IS NULL OR status NOT IN ('COMMITTED', 'ABORTED')";
    assert_eq!(rows(&server, ended), "0");
    let doubled = "SELECT count(*) - count(DISTINCT (txn_id, seq)) FROM txn_log";
    assert_eq!(rows(&server, doubled), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_coordinator_has_decided_is_finished_by_the_next_with_another_folder() {
    let Some(server) = journal() else { return };
    let world = world_on(&server).await;
    let mut first = Coordinator::start(&world.setup).await;
    world.perform(Deed::Run, "one").await.expect("nobody is killed here");
    let open = "SELECT count(*) FROM distributed_txn WHERE ended_at IS NULL";
    let begun = json!({"kind": "atomic"});
    let begun = world.http.post("/v1/transactions", None, &begun).await.expect("a reply");
    let txn = begun.view().expect("a transaction").id;
    let status = format!("SELECT status FROM distributed_txn WHERE txn_id = '{txn}'");
    assert_eq!(rows(&server, &status), "INITIATED");
    first.kill().await;
    let mut second = Coordinator::start(&world.setup.in_another_folder()).await;
    let path = format!("/v1/transactions/{txn}/abort");
    let aborted = world.http.post(&path, None, &json!({})).await.expect("a reply");
    assert_eq!(aborted.status, 200);
    assert_eq!(rows(&server, &status), "ABORTED");
    eventually("ended", async || match rows(&server, open) {
        none if none == "0" => Ok(()),
        some => Err(format!("{some} are open")),
    })
    .await;
    world.verdict().await;
    assert_eq!(second.stop().await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_database_is_away_a_coordinator_begins_nothing_and_goes_on_afterwards() {
    let Some(mut server) = journal() else { return };
    let world = world_on(&server).await;
    let mut coordinator = Coordinator::start(&world.setup).await;
    world.perform(Deed::Run, "before").await.expect("nobody is killed here");
    block_in_place(|| server.kill());
    eventually("noticed", async || match world.http.get("/v1/nodes").await {
        Ok(reply) if String::from_utf8_lossy(&reply.body).contains("cut_off") => Ok(()),
        reply => Err(format!("{reply:?}")),
    })
    .await;
    assert_eq!(world.http.get("/readyz").await.expect("a reply").status, 503);
    let body = json!({"kind": "atomic"});
    for key in [None, Some("order-42")] {
        let refused = world.http.post("/v1/transactions", key, &body).await.expect("a reply");
        assert_eq!((refused.status, refused.code()), (503, Some(Code::JournalFull)));
    }
    let list = world.http.get("/v1/transactions").await.expect("a reply");
    assert_eq!(list.status, 503);
    block_in_place(|| server.up());
    coordinator.ready().await.expect("it goes on by itself");
    let begun = world.http.post("/v1/transactions", Some("order-42"), &body).await;
    assert_eq!(begun.expect("a reply").status, 201);
    world.perform(Deed::Run, "after").await.expect("nobody is killed here");
    world.verdict().await;
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_used_is_refused_in_one_line_that_says_what_to_do() {
    let Some(server) = journal() else { return };
    let world = world_on(&server).await;
    let nobody = format!("postgres://coordinator@{}/journal", free_address());
    for (url, named) in [
        (server.url("coordinator", "nowhere"), "createdb nowhere"),
        (server.url("coordinator", "postgres"), "CREATE SCHEMA unanimous AUTHORIZATION"),
        (nobody, "is it running"),
        ("postgres://x".to_owned(), "names no user"),
        ("postgres://u:s3cret@h/d".to_owned(), "UNANIMOUS_JOURNAL_PASSWORD"),
        ("oracle://u:s3cret@h/d".to_owned(), "postgres://user@host:5432/database"),
    ] {
        let setup: Setup = world.setup.clone().on_journal(&url);
        let ended = Coordinator::spawn(&setup, None).ended().await;
        let line = ended.refusal(2);
        assert!(line.contains(named) && !line.contains("s3cret"), "{line}");
        println!("{line}");
    }
}
