//! Two PostgreSQL servers, killed again and again under load: the books balance.

use serde_json::json;
use unanimous_participants::testing::{PrivatePostgres, until};
use unanimous_server::config::{Config, Limits};

use crate::common::Coordinator;

const ACCOUNTS: i64 = 8;

fn bank() -> Option<PrivatePostgres> {
    let server = PrivatePostgres::start(&[])?;
    let rows = format!("SELECT id, 1000 FROM generate_series(1, {ACCOUNTS}) AS id");
    let table = "CREATE TABLE account (id int PRIMARY KEY, balance bigint)";
    server.sql("postgres", &format!("{table}; INSERT INTO account {rows}"));
    Some(server)
}

fn transfer(account: i64) -> String {
    let branch = |resource: &str, amount: i64| {
        let sql = "UPDATE account SET balance = balance + $1 WHERE id = $2";
        json!({"resource": resource, "statements": [
            {"sql": sql, "params": [amount, account], "expect_rows": 1}]})
    };
    json!({"kind": "atomic", "timeout_ms": 3_000, "wait": "decided",
        "branches": [branch("left", -1), branch("right", 1)]})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_are_killed_under_load_lose_nothing_and_keep_nothing_prepared() {
    let Some(banks) = bank().zip(bank()) else { return };
    let mut banks = [banks.0, banks.1];
    let urls = banks.each_ref().map(|bank| bank.url("postgres", "postgres"));
    let resources = [("left", &*urls[0]), ("right", &*urls[1])];
    let coordinator = Coordinator::start_and(&resources, |config| Config {
        limits: Limits { orphan_grace_ms: 500, ..config.limits.clone() },
        ..config
    });
    let coordinator = coordinator.await;
    let clients = (1..=ACCOUNTS).map(|account| {
        let client = coordinator.client().clone();
        tokio::spawn(async move {
            loop {
                client.post("/v1/transactions", &transfer(account)).await;
                // What a refusal at once would turn into a busy loop.
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    for round in 0..6 {
        let before = balance(&banks[1]);
        until("transfers go through", async || balance(&banks[1]) >= before + 20).await;
        tokio::task::block_in_place(|| {
            banks[round % 2].kill();
            banks[round % 2].up();
        });
    }
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    until("nothing is left prepared", async || banks.iter().all(|bank| held(bank) == "0")).await;
    until("everything has ended", async || {
        let metrics = coordinator.get("/metrics").await.text;
        metrics.contains("\nunanimous_in_flight 0\n")
    })
    .await;
    assert_eq!(balance(&banks[0]) + balance(&banks[1]), 2 * ACCOUNTS * 1_000);
    let metrics = coordinator.get("/metrics").await.text;
    assert!(metrics.contains(r#"unanimous_transactions_total{outcome="mixed",cause=""} 0"#));
}

fn balance(bank: &PrivatePostgres) -> i64 {
    bank.sql("postgres", "SELECT sum(balance) FROM account").parse().expect("a number")
}

fn held(bank: &PrivatePostgres) -> String {
    bank.sql("postgres", "SELECT count(*) FROM pg_prepared_xacts")
}
