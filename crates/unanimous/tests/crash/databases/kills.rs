//! Each of the databases killed again and again, the coordinator, and an application that works in two of them.

use std::time::Instant;

use tokio::task::block_in_place;

use super::application::Application;
use super::{Databases, Load, setup};
use crate::chance::Chance;
use crate::coordinator::Coordinator;
use crate::http::Http;
use crate::place::Folder;

/// Kills of each of the five: the step `crash` makes more of them.
const KILLS: &str = "UNANIMOUS_DATABASE_KILLS";

/// Longest time between two kills.
const LIFE_MS_MAX: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_in_three_kinds_of_databases_balance_whatever_is_killed() {
    let Some(mut databases) = block_in_place(Databases::start) else { return };
    let kills = std::env::var(KILLS).ok().and_then(|kills| kills.parse().ok()).unwrap_or(3);
    let mut chance = Chance::new();
    let folder = Folder::new();
    let setup = setup(&folder, databases.addresses());
    let mut coordinator = Coordinator::start(&setup).await;
    let load = Load::start(&Http::new(&setup.server()));
    let own = [databases.postgres.url("postgres", "postgres"), databases.maria.url("root", "bank")];
    let mut application = Application::start(&setup, own, &load.told);
    let start = Instant::now();
    let mut victims: Vec<u64> = (0..5 * kills).map(|number| number % 5).collect();
    while !victims.is_empty() {
        load.goes_on().await;
        tokio::time::sleep(chance.pause(LIFE_MS_MAX)).await;
        let victim = victims.swap_remove(chance.below(victims.len() as u64) as usize);
        match victim {
            0 => coordinator.kill_and_respawn().await,
            1 => application.kill_and_respawn(),
            2 => block_in_place(|| (databases.postgres.kill(), databases.postgres.up())).1,
            3 => block_in_place(|| (databases.maria.kill(), databases.maria.up())).1,
            _ => block_in_place(|| (databases.redis.kill(), databases.redis.up())).1,
        }
    }
    let killing = start.elapsed();
    drop(application);
    let told = load.end(&mut coordinator, &databases).await;
    println!("{kills} kills of each of 5 in {:.0} s; {told}", killing.as_secs_f64());
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}
