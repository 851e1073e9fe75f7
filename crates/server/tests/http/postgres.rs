//! Transactions with a PostgreSQL database, and what becomes of branches that nobody knows.

use serde_json::{Value, json};
use unanimous_participants::testing::PrivatePostgres;
use unanimous_participants::testing::conformance::fresh_name;
use unanimous_server::config::{Config, Limits};

use crate::common::{Coordinator, Service, eventually, text};

const TAKE: &str = "UPDATE account SET balance = balance - $1 WHERE id = $2 AND balance >= $1";

struct Scene {
    coordinator: Coordinator,
    bank: PrivatePostgres,
    ledger: Service,
}

impl Scene {
    /// A database with one account of 1,000, and a service beside it. `None` without PostgreSQL.
    async fn set() -> Option<Self> {
        Self::set_with_grace(300).await
    }

    async fn set_with_grace(orphan_grace_ms: u64) -> Option<Self> {
        Self::set_after(|_| {}, orphan_grace_ms).await
    }

    /// The same with a coordinator that is started after something was done in the database.
    async fn set_after(
        before: impl FnOnce(&PrivatePostgres),
        orphan_grace_ms: u64,
    ) -> Option<Self> {
        let bank = PrivatePostgres::start(&[])?;
        bank.sql(
            "postgres",
            "CREATE TABLE account (id text PRIMARY KEY, balance bigint); \
             INSERT INTO account VALUES ('acc-17', 1000)",
        );
        before(&bank);
        let ledger = Service::default();
        let urls = [bank.url("postgres", "postgres"), ledger.serve().await];
        let resources = [("bank", &*urls[0]), ("ledger", &*urls[1])];
        let coordinator = Coordinator::start_and(&resources, |config| Config {
            cluster: Some("test".to_owned()),
            limits: Limits { orphan_grace_ms, ..config.limits.clone() },
            ..config
        });
        Some(Self { coordinator: coordinator.await, bank, ledger })
    }

    fn balance(&self) -> String {
        self.bank.sql("postgres", "SELECT balance FROM account")
    }

    fn prepared(&self) -> String {
        self.bank.sql("postgres", "SELECT string_agg(gid, ',') FROM pg_prepared_xacts")
    }

    fn prepare_by_hand(&self, name: &str) {
        prepare_by_hand(&self.bank, name);
    }
}

fn prepare_by_hand(bank: &PrivatePostgres, name: &str) {
    let add = format!("INSERT INTO account VALUES ('{name}', 0)");
    let prepare = format!("BEGIN; {add}; PREPARE TRANSACTION '{name}'; COMMIT");
    bank.sql("postgres", &prepare);
}

fn take(amount: i64) -> Value {
    json!({"resource": "bank", "statements": [
        {"sql": TAKE, "params": [amount, "acc-17"], "expect_rows": 1}]})
}

fn both(amount: i64) -> String {
    let ledger = json!({"resource": "ledger", "body": {"entry": amount}});
    json!({"kind": "atomic", "branches": [take(amount), ledger]}).to_string()
}

#[tokio::test]
async fn a_database_and_a_service_commit_together_or_not_at_all() {
    let Some(scene) = Scene::set().await else { return };
    let reply = scene.coordinator.post("/v1/transactions", &both(400)).await;
    let view = reply.json();
    assert_eq!(view["outcome"], "committed", "{}", reply.text);
    assert_eq!(view["participants"][0]["results"], json!([{"rows_affected": 1}]));
    assert_eq!(view["participants"][0]["resource_type"], "postgres");
    assert_eq!(scene.balance(), "600");

    let reply = scene.coordinator.post("/v1/transactions", &both(700)).await;
    assert_eq!(reply.problem(), (409, "UNA0201".into()));
    let detail = "statement 1 changed 0 rows, expected 1";
    let reason = json!({"participant": "bank", "kind": "expectation", "detail": detail});
    assert_eq!(reply.json()["reason"], reason);

    scene.ledger.answer("prepare", 409, "no");
    let reply = scene.coordinator.post("/v1/transactions", &both(100)).await;
    assert_eq!(reply.json()["reason"]["participant"], "ledger", "{}", reply.text);
    assert_eq!(scene.balance(), "600");
    eventually("rolled back", async || scene.prepared().is_empty()).await;
}

#[tokio::test]
async fn locks_and_statements_are_given_what_is_left_of_the_transactions_time() {
    let Some(scene) = Scene::set().await else { return };
    let bounds = "SELECT setting::int AS ms FROM pg_settings \
         WHERE name IN ('lock_timeout', 'statement_timeout') ORDER BY name";
    // A call has 5 s by itself.
    for (timeout_ms, call_ms) in [(3_000, 3_000), (60_000, 5_000)] {
        let branch = json!({"resource": "bank", "statements": [{"sql": bounds}]});
        let body = json!({"kind": "atomic", "timeout_ms": timeout_ms, "branches": [branch]});
        let reply = scene.coordinator.post("/v1/transactions", &body.to_string()).await;
        let rows = &reply.json()["participants"][0]["results"][0]["rows"];
        let [lock_ms, statement_ms] = [0, 1].map(|at| rows[at]["ms"].as_u64().expect("a number"));
        assert!((1..=call_ms * 3 / 4).contains(&lock_ms), "{timeout_ms}: {rows}");
        assert!((lock_ms + 1..=call_ms * 7 / 8).contains(&statement_ms), "{timeout_ms}: {rows}");
    }
}

#[tokio::test]
async fn work_of_the_wrong_kind_is_refused_at_its_field_and_nothing_begins() {
    let Some(scene) = Scene::set().await else { return };
    for (branch, code, pointer) in [
        (json!({"resource": "bank", "body": 1}), "UNA0102", "/branches/0/body"),
        (json!({"resource": "bank"}), "UNA0103", "/branches/0/statements"),
        (json!({"resource": "bank", "statements": []}), "UNA0103", "/branches/0/statements"),
        (
            json!({"resource": "bank", "statements": [{"sql": " "}]}),
            "UNA0103",
            "/branches/0/statements/0/sql",
        ),
        (
            json!({"resource": "ledger", "statements": [{"sql": "x"}]}),
            "UNA0102",
            "/branches/0/statements",
        ),
    ] {
        let body = json!({"kind": "atomic", "branches": [branch]}).to_string();
        let reply = scene.coordinator.post("/v1/transactions", &body).await;
        let problem = reply.json();
        assert_eq!((text(&problem["code"]), text(&problem["pointer"])), (code, pointer), "{body}");
    }
    let list = scene.coordinator.get("/v1/transactions").await.json();
    assert_eq!(list["transactions"], json!([]));
}

#[tokio::test]
async fn a_yes_of_the_application_counts_only_if_the_database_holds_the_branch() {
    let Some(scene) = Scene::set().await else { return };
    let commit = r#"{"votes":{"bank":"YES"}}"#;
    let path = scene.coordinator.begin().await;
    let branch = scene.coordinator.enlist(&path, "bank").await;
    scene.prepare_by_hand(&branch);
    let reply = scene.coordinator.post(&format!("{path}/commit"), commit).await;
    assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
    assert_eq!(scene.bank.sql("postgres", "SELECT count(*) FROM account"), "2");

    let path = scene.coordinator.begin().await;
    scene.coordinator.enlist(&path, "bank").await;
    let reply = scene.coordinator.post(&format!("{path}/commit"), commit).await;
    assert_eq!(reply.json()["reason"]["kind"], "lost", "{}", reply.text);
}

#[tokio::test]
async fn an_orphan_is_rolled_back_after_the_grace_time_and_nothing_else_is_touched() {
    let Some(scene) = Scene::set().await else { return };
    let orphan = fresh_name();
    let foreign = ["somebody else", "una:other:0192f0c1-2345-7abc-8def-0123456789ab:0"];
    foreign.iter().for_each(|name| scene.prepare_by_hand(name));
    let path = scene.coordinator.begin().await;
    let live = scene.coordinator.enlist(&path, "bank").await;
    scene.prepare_by_hand(&live);
    scene.prepare_by_hand(&orphan.to_string());
    let list = scene.coordinator.get("/v1/resources/bank/in-doubt").await;
    assert!(list.text.contains(&orphan.to_string()), "{}", list.text);
    assert!(!list.text.contains("una:other"), "{}", list.text);
    eventually("rolled back", async || !scene.prepared().contains(&orphan.to_string())).await;
    let metrics = scene.coordinator.get("/metrics").await.text;
    assert!(metrics.contains(r#"unanimous_orphans_rolled_back_total{resource="bank"} 1"#));
    for name in [foreign[0], foreign[1], &live] {
        assert!(scene.prepared().contains(name), "{name} is gone");
    }
    let reply =
        scene.coordinator.post(&format!("{path}/commit"), r#"{"votes":{"bank":"YES"}}"#).await;
    assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
}

#[tokio::test]
async fn what_a_former_life_prepared_and_never_made_known_does_not_wait_for_the_grace_time() {
    let (orphan, foreign) = (fresh_name().to_string(), "somebody else");
    let left = |bank: &PrivatePostgres| {
        [&*orphan, foreign].iter().for_each(|name| prepare_by_hand(bank, name));
    };
    let Some(scene) = Scene::set_after(left, 3_600_000).await else { return };
    eventually("rolled back", async || scene.prepared() == foreign).await;
}

#[tokio::test]
async fn a_rollback_by_hand_against_the_decision_is_named_and_waits_for_an_operator() {
    let Some(scene) = Scene::set().await else { return };
    scene.ledger.hang();
    let (coordinator, body) = (scene.coordinator.client().clone(), both(400));
    let running = tokio::spawn(async move { coordinator.post("/v1/transactions", &body).await });
    eventually("prepared", async || scene.prepared().starts_with("una:test:")).await;
    scene.bank.sql("postgres", &format!("ROLLBACK PREPARED '{}'", scene.prepared()));
    scene.ledger.go_on();
    let reply = running.await.expect("it does not panic");
    assert_eq!(reply.problem(), (409, "UNA0207".into()), "{}", reply.text);
    let view = reply.json();
    assert_eq!(view["participants"][0]["heuristic"], "rollback", "{}", reply.text);
    assert_eq!(view["needs_attention"], true, "{}", reply.text);
    assert_eq!(view["participants"][1]["ack"], true);
}

#[tokio::test]
async fn journal_and_database_are_compared_and_what_does_not_fit_is_named() {
    let Some(scene) = Scene::set_with_grace(60_000).await else { return };
    let check = async || scene.coordinator.get("/v1/resources/bank/check").await.json();
    let fine = json!({"name": "bank", "answer": "compared", "held": 0, "findings": []});
    assert_eq!(check().await, fine);
    let ledger = scene.coordinator.get("/v1/resources/ledger/check").await.json();
    assert_eq!(ledger["answer"], "asks_itself");

    scene.prepare_by_hand("somebody else");
    scene.prepare_by_hand("una:other:0192f0c1-2345-7abc-8def-0123456789ab:0");
    assert_eq!(check().await, fine, "not ours");
    let orphan = fresh_name().to_string();
    scene.prepare_by_hand(&orphan);
    let found = check().await;
    assert_eq!((&found["held"], &found["findings"][0]["finding"]), (&json!(1), &json!("unknown")));
    assert_eq!(found["findings"][0]["branch"], orphan, "{found}");
    scene.bank.sql("postgres", &format!("ROLLBACK PREPARED '{orphan}'"));

    scene.ledger.hang();
    let (coordinator, body) = (scene.coordinator.client().clone(), both(400));
    let running = tokio::spawn(async move { coordinator.post("/v1/transactions", &body).await });
    let ours = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'una:test:%'";
    eventually("prepared", async || !scene.bank.sql("postgres", ours).is_empty()).await;
    assert_eq!(check().await["findings"], json!([]));
    let name = scene.bank.sql("postgres", ours);
    scene.bank.sql("postgres", &format!("ROLLBACK PREPARED '{name}'"));
    let found = check().await;
    assert_eq!(found["findings"][0]["finding"], "missing", "{found}");
    assert_eq!(found["findings"][0]["branch"], name, "{found}");
    running.abort();

    let reply = scene.coordinator.get("/v1/resources/nobody/check").await;
    assert_eq!(reply.status, 404, "{}", reply.text);
}

#[tokio::test]
async fn what_a_restart_interrupted_is_finished_and_is_no_heuristic() {
    let Some(scene) = Scene::set().await else { return };
    let Scene { coordinator, bank, ledger } = scene;
    // The database has acknowledged; the service keeps the transaction open.
    ledger.answer("commit", 503, "");
    let body = both(400).replacen('{', r#"{"wait":"decided","#, 1);
    let path = coordinator.post("/v1/transactions", &body).await.path();
    let branch = text(&coordinator.get(&path).await.json()["participants"][0]["branch"]).to_owned();
    let acked = async || coordinator.get(&path).await.json()["participants"][0]["ack"] == true;
    eventually("acknowledged", acked).await;
    let coordinator = coordinator.restart().await;
    ledger.answer("commit", 200, "");
    eventually("committed", async || coordinator.status(&path).await == "COMMITTED").await;
    let view = coordinator.get(&path).await.json();
    assert_eq!(view["outcome"], "committed", "{branch}: {view}");
    assert_eq!(bank.sql("postgres", "SELECT balance FROM account"), "600");
}
