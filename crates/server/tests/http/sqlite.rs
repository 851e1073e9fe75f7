//! Transactions and sagas over SQLite files, and what becomes of branches that nobody knows.

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use unanimous_participants::testing::conformance::fresh_name;
use unanimous_server::config::{Config, Limits};

use crate::common::{Coordinator, Service, eventually};

struct Scene {
    folder: TempDir,
    coordinator: Coordinator,
    audit: Service,
}

impl Scene {
    /// Two files with one account of 1,000 each, and a service beside them.
    async fn set() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let audit = Service::default();
        let file = |name: &str| {
            let path = folder.path().join(name);
            let db = Connection::open(&path).expect("a file");
            let tables = "PRAGMA journal_mode = WAL; CREATE TABLE account (id TEXT PRIMARY KEY, \
                          balance INTEGER); INSERT INTO account VALUES ('acc-17', 1000)";
            db.execute_batch(tables).expect("its tables");
            format!("sqlite:{}", path.display())
        };
        let urls = [file("wallet"), file("ledger"), audit.serve().await];
        let resources = [("wallet", &*urls[0]), ("ledger", &*urls[1]), ("audit", &*urls[2])];
        let coordinator = Coordinator::start_and(&resources, |config| Config {
            cluster: Some("test".to_owned()),
            limits: Limits { orphan_grace_ms: 300, ..config.limits.clone() },
            ..config
        });
        let coordinator = coordinator.await;
        Self { folder, coordinator, audit }
    }

    fn ask<T: rusqlite::types::FromSql>(&self, file: &str, sql: &str) -> T {
        let db = Connection::open(self.folder.path().join(file)).expect("the file is there");
        db.busy_timeout(std::time::Duration::from_secs(10)).expect("a setting");
        db.query_row(sql, [], |row| row.get(0)).expect(sql)
    }

    fn balances(&self) -> [i64; 2] {
        ["wallet", "ledger"].map(|file| self.ask(file, "SELECT balance FROM account"))
    }

    fn is_clean(&self) -> bool {
        let held = "SELECT (SELECT count(*) FROM unanimous_lock) + \
                    (SELECT count(*) FROM unanimous_branch WHERE state = 'prepared')";
        ["wallet", "ledger"].iter().all(|file| self.ask::<i64>(file, held) == 0)
    }
}

fn add(resource: &str, amount: i64) -> Value {
    let sql = "UPDATE account SET balance = balance + $1 WHERE id = $2 AND balance + $1 >= 0";
    json!({"resource": resource, "statements": [
        {"sql": sql, "params": [amount, "acc-17"], "expect_rows": 1}]})
}

fn transfer(amount: i64) -> String {
    let branches =
        json!([add("wallet", -amount), add("ledger", amount), {"resource": "audit", "body": {}}]);
    json!({"kind": "atomic", "branches": branches}).to_string()
}

#[tokio::test]
async fn files_and_a_service_commit_together_or_not_at_all_also_after_a_restart() {
    let mut scene = Scene::set().await;
    let reply = scene.coordinator.post("/v1/transactions", &transfer(400)).await;
    let view = reply.json();
    assert_eq!(view["outcome"], "committed", "{}", reply.text);
    assert_eq!(view["participants"][0]["results"], json!([{"rows_affected": 1}]));
    assert_eq!(view["participants"][0]["resource_type"], "sqlite");
    assert_eq!(scene.balances(), [600, 1_400]);

    let reply = scene.coordinator.post("/v1/transactions", &transfer(700)).await;
    assert_eq!(reply.problem(), (409, "UNA0201".into()));
    let detail = "statement 1 changed 0 rows, expected 1";
    let reason = json!({"participant": "wallet", "kind": "expectation", "detail": detail});
    assert_eq!(reply.json()["reason"], reason);

    scene.audit.answer("prepare", 409, "no");
    let reply = scene.coordinator.post("/v1/transactions", &transfer(100)).await;
    assert_eq!(reply.json()["reason"]["participant"], "audit", "{}", reply.text);
    eventually("rolled back", async || scene.is_clean()).await;
    assert_eq!(scene.balances(), [600, 1_400]);

    scene.coordinator = scene.coordinator.restart().await;
    let alone = json!({"kind": "atomic", "branches": [add("wallet", -100)]}).to_string();
    for balance in [500, 400] {
        let reply = scene.coordinator.post("/v1/transactions", &alone).await;
        assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
        assert_eq!(scene.balances()[0], balance);
    }
    assert!(scene.is_clean());
}

#[tokio::test]
async fn a_saga_over_files_is_done_or_undone() {
    let scene = Scene::set().await;
    let saga = |amount: i64| {
        let step = |name: &str, resource: &str, amount: i64| {
            let undo = "UPDATE account SET balance = balance - $1";
            let undo =
                json!({"resource": resource, "statements": [{"sql": undo, "params": [amount]}]});
            json!({"name": name, "action": add(resource, amount), "compensation": undo})
        };
        let mut second = step("take", "wallet", -amount);
        second["after"] = json!(["give"]);
        json!({"kind": "saga", "steps": [step("give", "ledger", amount), second]}).to_string()
    };
    let reply = scene.coordinator.post("/v1/transactions", &saga(400)).await;
    assert_eq!(reply.json()["status"], "COMPLETED", "{}", reply.text);
    assert_eq!(scene.balances(), [600, 1_400]);
    let reply = scene.coordinator.post("/v1/transactions", &saga(700)).await;
    assert_eq!(reply.json()["status"], "COMPENSATED", "{}", reply.text);
    assert_eq!(scene.balances(), [600, 1_400]);
}

#[tokio::test]
async fn what_is_prepared_in_a_file_and_nobody_knows_is_rolled_back_and_what_is_foreign_stays() {
    let scene = Scene::set().await;
    // The tables are there from the first transaction on.
    scene.coordinator.post("/v1/transactions", &transfer(1)).await;
    let (ours, foreign) = (fresh_name().to_string(), "somebody else".to_owned());
    let db = Connection::open(scene.folder.path().join("wallet")).expect("the file is there");
    for name in [&ours, &foreign] {
        let sql = "INSERT INTO unanimous_branch (name, state, changes, results, at) \
                   VALUES (?1, 'prepared', '[]', '[]', 0)";
        db.execute(sql, [name]).expect("a row");
    }
    let state = |name: &str| {
        let sql = format!("SELECT state FROM unanimous_branch WHERE name = '{name}'");
        scene.ask::<String>("wallet", &sql)
    };
    eventually("rolled back", async || state(&ours) == "rolled_back").await;
    assert_eq!(state(&foreign), "prepared");
}
