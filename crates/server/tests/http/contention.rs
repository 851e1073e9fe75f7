//! Transactions that want the same rows in several databases.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unanimous_participants::testing::PrivatePostgres;
use unanimous_server::config::{Config, Limits};
use unanimous_server::driver::BranchOrder;

use crate::common::Coordinator;

const CLIENTS: usize = 16;

struct Scene {
    coordinator: Coordinator,
    server: PrivatePostgres,
}

impl Scene {
    /// Two databases with one row each. `None` without PostgreSQL.
    async fn set(branch_order: BranchOrder) -> Option<Self> {
        Self::set_with(&[], branch_order).await
    }

    /// The same on a server with these settings.
    async fn set_with(settings: &[&str], branch_order: BranchOrder) -> Option<Self> {
        let server = PrivatePostgres::start(settings)?;
        for name in ["left", "right"] {
            server.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
            let table = "CREATE TABLE account (id int PRIMARY KEY, balance bigint)";
            server.sql(name, &format!("{table}; INSERT INTO account VALUES (1, 0)"));
            server.sql(name, "CREATE TABLE entry (amount bigint)");
        }
        let urls = ["left", "right"].map(|name| server.url("postgres", name));
        let resources = [("left", &*urls[0]), ("right", &*urls[1])];
        let coordinator = Coordinator::start_and(&resources, |config| Config {
            limits: Limits { branch_order, ..config.limits.clone() },
            ..config
        });
        Some(Self { coordinator: coordinator.await, server })
    }

    /// Has every client move an amount over the hot row so many times; returns the refusals.
    async fn rush(&self, times: usize) -> Vec<Value> {
        self.crowd(CLIENTS, times, &transfer()).await
    }

    /// The same with so many clients that want something else.
    async fn crowd(&self, clients: usize, times: usize, body: &str) -> Vec<Value> {
        let clients = (0..clients).map(|_| {
            let (client, body) = (self.coordinator.client().clone(), body.to_owned());
            tokio::spawn(async move {
                let mut refused = Vec::new();
                for _ in 0..times {
                    let reply = client.post("/v1/transactions", &body).await;
                    if reply.status != 200 {
                        refused.push(reply.json()["reason"].clone());
                    }
                }
                refused
            })
        });
        let mut refused = Vec::new();
        for client in clients.collect::<Vec<_>>() {
            refused.extend(client.await.expect("clients do not panic"));
        }
        refused
    }

    fn balance(&self, database: &str) -> i64 {
        self.server.sql(database, "SELECT balance FROM account").parse().expect("a number")
    }
}

fn branch(resource: &str, amount: i64, expected: u64) -> Value {
    let sql = "UPDATE account SET balance = balance + $1 WHERE id = 1";
    json!({"resource": resource, "statements": [
        {"sql": sql, "params": [amount], "expect_rows": expected}]})
}

fn transfer() -> String {
    // The request's order is not the one that counts.
    let branches = [branch("right", 1, 1), branch("left", -1, 1)];
    json!({"kind": "atomic", "timeout_ms": 20_000, "branches": branches}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_that_work_in_one_order_never_wait_for_each_other_across_databases() {
    let Some(scene) = Scene::set(BranchOrder::Always).await else { return };
    assert_eq!(scene.rush(20).await, Vec::<Value>::new());
    let moved = (CLIENTS * 20) as i64;
    assert_eq!((scene.balance("left"), scene.balance("right")), (-moved, moved));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_that_is_seen_puts_the_branches_in_order() {
    let Some(scene) = Scene::set(BranchOrder::Contended).await else { return };
    // Clients that begin side by side wait for each other until the first lock timeout, at most.
    scene.rush(3).await;
    let start = Instant::now();
    assert_eq!(scene.rush(20).await, Vec::<Value>::new());
    // Far less than the one lock timeout that a single deadlock would have cost.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(scene.balance("left") + scene.balance("right"), 0);
}

/// The row is in the database that comes last by its name, and the server has places for few prepared branches.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_row_that_everybody_wants_take_no_places_elsewhere() {
    let settings = ["max_prepared_transactions=40"];
    let Some(scene) = Scene::set_with(&settings, BranchOrder::Contended).await else { return };
    let add = json!({"resource": "left", "statements": [
        {"sql": "INSERT INTO entry VALUES (1)"}]});
    let branches = [add, branch("right", 1, 1)];
    let body = json!({"kind": "atomic", "timeout_ms": 60_000, "branches": branches}).to_string();
    // Until conflicts are seen.
    scene.crowd(100, 1, &body).await;
    let before = scene.balance("right");
    assert_eq!(scene.crowd(100, 3, &body).await, Vec::<Value>::new());
    assert_eq!(scene.balance("right") - before, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_turn_comes_after_a_refusal_does_no_work() {
    let Some(scene) = Scene::set(BranchOrder::Always).await else { return };
    let branches = [branch("right", 1, 1), branch("left", -1, 7)];
    let body = json!({"kind": "atomic", "branches": branches}).to_string();
    for _ in 0..20 {
        let reply = scene.coordinator.post("/v1/transactions", &body).await;
        let view = reply.json();
        assert_eq!(view["reason"]["participant"], "left", "{}", reply.text);
        assert_eq!(view["reason"]["kind"], "expectation", "{}", reply.text);
    }
    assert_eq!((scene.balance("left"), scene.balance("right")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_database_named_twice_is_one_branch_with_the_statements_of_both() {
    let Some(scene) = Scene::set(BranchOrder::Contended).await else { return };
    let branches = [branch("left", 5, 1), branch("right", 1, 1), branch("left", 6, 1)];
    let body = json!({"kind": "atomic", "branches": branches}).to_string();
    let reply = scene.coordinator.post("/v1/transactions", &body).await;
    let view = reply.json();
    assert_eq!(view["outcome"], "committed", "{}", reply.text);
    let participants = view["participants"].as_array().expect("a list");
    assert_eq!(participants.len(), 2, "{}", reply.text);
    assert_eq!(participants[0]["results"], json!([{"rows_affected": 1}, {"rows_affected": 1}]));
    assert_eq!((scene.balance("left"), scene.balance("right")), (11, 1));
}
