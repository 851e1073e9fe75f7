//! Idempotency keys in databases, and what becomes of them when the process that works under one is killed.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::Request;
use tokio_postgres::NoTls;
use tower::ServiceExt;
use unanimous_client::PostgresPool;
use unanimous_client::idempotency::{IdempotencyLayer, KeyStore, PostgresKeys, SqliteKeys};
use unanimous_client::testing::key_store_suite;
use unanimous_participants::testing::{PrivatePostgres, until};

use crate::scene::url;

/// Where a child process finds its keys: a URL of PostgreSQL, or the path of a file.
const KEYS_OF_CHILD: &str = "UNANIMOUS_TEST_KEYS";

/// What a child process says when it is at work.
const AT_WORK: &str = "at work";

/// Long enough to see that a key is in use.
const LEASE_MS: u64 = 700;

async fn in_postgres(url: &str) -> PostgresKeys {
    let config = url.parse().expect("a URL");
    PostgresKeys::open(PostgresPool::new(config, NoTls)).await.expect("the table can be made")
}

fn router<S: KeyStore>(store: S, answer: Router) -> Router {
    answer.layer(IdempotencyLayer::new(store).lease_ms(LEASE_MS))
}

async fn order(router: &Router) -> u16 {
    let request = Request::post("/orders").header("idempotency-key", "a").body(Body::from("tea"));
    let answered = router.clone().oneshot(request.expect("a request")).await;
    answered.expect("a router always answers").status().as_u16()
}

#[tokio::test]
async fn postgres_passes_the_suite_of_key_stores() {
    let Some(server) = PrivatePostgres::start(&[]) else { return };
    key_store_suite(async || in_postgres(&url(&server)).await).await;
}

/// Does nothing, unless it is run as a child process: then it works under a key until it is killed.
#[tokio::test]
async fn a_child_process_works_under_a_key() {
    let Ok(keys) = env::var(KEYS_OF_CHILD) else { return };
    let work = post(async || {
        println!("{AT_WORK}");
        std::future::pending::<()>().await;
    });
    let work = Router::new().route("/orders", work);
    if keys.starts_with("postgres:") {
        order(&router(in_postgres(&keys).await, work)).await;
    } else {
        order(&router(SqliteKeys::open(keys).expect("opens"), work)).await;
    }
}

/// Kills a process at work, and repeats its request.
async fn kill_at_work<S: KeyStore>(keys: &str, store: S) {
    let mut child = Command::new(env::current_exe().expect("it runs"))
        .args(["--exact", "keys::a_child_process_works_under_a_key", "--nocapture"])
        .env(KEYS_OF_CHILD, keys)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains(AT_WORK))), "it ended early");
    let again = router(store, Router::new().route("/orders", post(async || "ordered")));
    assert_eq!(order(&again).await, 409, "while it works the key is in use");
    child.kill().expect("it can be killed");
    child.wait().expect("it was a child");
    until("the key is free", async || order(&again).await == 200).await;
    assert_eq!(order(&again).await, 200, "the answer is kept");
}

#[tokio::test]
async fn the_key_of_a_process_that_was_killed_is_free_when_its_claim_expires() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.db");
    let store = SqliteKeys::open(&path).expect("opens");
    kill_at_work(path.to_str().expect("readable"), store).await;

    let Some(server) = PrivatePostgres::start(&[]) else { return };
    let store = in_postgres(&url(&server)).await;
    kill_at_work(&url(&server), store).await;
}
