//! Messages between two databases, both killed like the coordinator, by applications that die.
//!
//! Each local transaction leaves its number in PostgreSQL, and its message the same number in MariaDB.
//! Some applications tell what came of it, some the contrary by mistake, some nothing. The tables would
//! take the same number twice; nobody may put it there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::{JoinSet, block_in_place};
use tokio_postgres::NoTls;

use crate::coordinator::Coordinator;
use crate::http::Http;
use crate::place::Folder;
use crate::steps::{Databases, settled};

const CLIENTS: u64 = 6;
/// Soon enough for some to be looked into while they are still at work.
const TIMEOUT_MS: u64 = 60;

/// What an application does about its message.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Life {
    CommitsAndTells,
    CommitsAndDies,
    /// Its commit got through, and it thinks that it has not.
    CommitsAndTakesBack,
    RollsBackAndDies,
    RollsBackAndTakesBack,
}

const LIVES: [Life; 5] = [
    Life::CommitsAndTells,
    Life::CommitsAndDies,
    Life::CommitsAndTakesBack,
    Life::RollsBackAndDies,
    Life::RollsBackAndTakesBack,
];

async fn application(life: Life, number: u64, http: &Http, database: &str) -> Option<()> {
    let message = json!({"kind": "message", "source": "postgres", "timeout_ms": TIMEOUT_MS,
        "input": number, "steps": [{"name": "maria", "action": {"resource": "maria",
            "statements": [{"sql": "INSERT INTO entry VALUES (?)", "params": ["{{input}}"]}]}}]});
    let announced = http.post("/v1/transactions", None, &message).await.ok()?.view()?;
    let statement = announced.steps.first()?.statement.clone()?;
    if life != Life::RollsBackAndDies && life != Life::RollsBackAndTakesBack {
        let (client, connection) = tokio_postgres::connect(database, NoTls).await.ok()?;
        let connection = tokio::spawn(connection);
        let insert = format!("INSERT INTO entry VALUES ({number})");
        // Who tells must not have seen what a crash takes; the others may be less careful.
        let durable = if life == Life::CommitsAndTells { "on" } else { "off" };
        let local =
            format!("SET synchronous_commit = {durable}; BEGIN; {insert}; {statement}; COMMIT");
        // Settled by then, or its database is gone: either way nobody knows here.
        drop(client.batch_execute(&local).await);
        connection.abort();
    }
    let verb = match life {
        Life::CommitsAndDies | Life::RollsBackAndDies => return Some(()),
        Life::CommitsAndTells => "commit",
        Life::CommitsAndTakesBack | Life::RollsBackAndTakesBack => "abort",
    };
    if verb == "commit" && !is_there(number, database).await? {
        return Some(());
    }
    let path = format!("/v1/transactions/{}/{verb}", announced.id);
    http.post(&path, None, &json!({"wait": "none"})).await.ok().map(drop)
}

/// Whether the local transaction has committed; who tells that has seen it.
async fn is_there(number: u64, database: &str) -> Option<bool> {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await.ok()?;
    let connection = tokio::spawn(connection);
    let count = format!("SELECT count(*) FROM entry WHERE number = {number}");
    let row = client.query_one(&count, &[]).await.ok()?;
    connection.abort();
    Some(row.get::<_, i64>(0) == 1)
}

async fn client(http: Http, database: String, next: Arc<AtomicU64>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let life = LIVES[number as usize % LIVES.len()];
        if application(life, number, &http, &database).await.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_local_transaction_is_done_once_exactly_if_that_committed() {
    let Some(mut databases) = block_in_place(Databases::start) else { return };
    let folder = Folder::new();
    let setup = databases.setup(&folder);
    let mut coordinator = Coordinator::start(&setup).await;
    let http = Http::new(&setup.server());
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let database = databases.postgres.url("postgres", "postgres");
        clients.spawn(client(http.clone(), database, Arc::clone(&next)));
    }
    let begun = || next.load(Ordering::Relaxed);
    let kills = databases.storm(&mut coordinator, &http, 30, begun).await;
    clients.shutdown().await;
    settled(&mut coordinator, &http).await;
    let [local, sent] = block_in_place(|| databases.entries());
    let only = |these: &[u64], those: &[u64]| {
        these.iter().filter(|it| !those.contains(it)).copied().collect::<Vec<_>>()
    };
    let (unsent, false_alarms) = (only(&local, &sent), only(&sent, &local));
    assert_eq!((unsent, false_alarms), (Vec::new(), Vec::new()), "not sent, or sent for nothing");
    assert_eq!(local.len(), sent.len(), "sent more than once");
    println!("{kills} kills of each of 3; {} announced, {} sent", begun(), sent.len());
    assert!(!sent.is_empty() && (sent.len() as u64) < begun());
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}
