//! Invariants across a PostgreSQL and a MariaDB.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use unanimous_participants::testing::{PATIENCE, PrivateMariaDb, PrivatePostgres};
use unanimous_server::config::Config;
use unanimous_server::invariants::{InvariantConfig, QueryConfig, Relation};

use crate::common::{Coordinator, Service, eventually};

const IN_WALLET: &str = "SELECT SUM(balance) FROM account";
const IN_LEDGER: &str = "SELECT 1000 - SUM(amount) FROM entry";

struct Scene {
    coordinator: Coordinator,
    wallet: Arc<PrivatePostgres>,
    ledger: PrivateMariaDb,
    gate: Service,
}

fn invariant(sql: [&str; 2], every_ms: u64) -> InvariantConfig {
    let query = |(resource, sql): (&str, &str)| QueryConfig {
        resource: resource.to_owned(),
        sql: sql.to_owned(),
    };
    let queries = ["wallet", "ledger"].into_iter().zip(sql).map(query).collect();
    InvariantConfig { queries, relation: Relation::Equal, every_ms }
}

impl Scene {
    /// A wallet with 1,000 in it, an empty ledger of what was taken out, and a service beside them.
    /// `books` are checked on demand, `watched` always, `broken` cannot be.
    async fn set() -> Option<Self> {
        let wallet = PrivatePostgres::start(&[])?;
        let ledger = PrivateMariaDb::start(&[])?;
        wallet.sql(
            "postgres",
            "CREATE TABLE account (id int PRIMARY KEY, balance numeric(12,2)); \
             INSERT INTO account VALUES (1, 700), (2, 299.50), (3, 0.50); \
             INSERT INTO account SELECT id, 0 FROM generate_series(4, 8) AS id",
        );
        ledger.sql("bank", "CREATE TABLE entry (id int PRIMARY KEY AUTO_INCREMENT, amount bigint)");
        ledger.sql("bank", "INSERT INTO entry (amount) VALUES (0)");
        let gate = Service::default();
        let urls =
            [wallet.url("postgres", "postgres"), ledger.url("root", "bank"), gate.serve().await];
        let resources = [("wallet", &*urls[0]), ("ledger", &*urls[1]), ("gate", &*urls[2])];
        let invariants = [
            ("books", invariant([IN_WALLET, IN_LEDGER], 0)),
            ("watched", invariant([IN_WALLET, IN_LEDGER], 20)),
            ("broken", invariant(["SELECT SUM(balnce) FROM account", IN_LEDGER], 0)),
        ];
        let invariants = invariants.map(|(name, it)| (name.to_owned(), it)).into();
        let more = |config| Config { invariants, ..config };
        let coordinator = Coordinator::start_and(&resources, more).await;
        Some(Self { coordinator, wallet: Arc::new(wallet), ledger, gate })
    }

    async fn check(&self, name: &str) -> Value {
        let reply = self.coordinator.post(&format!("/v1/invariants/{name}/check"), "{}").await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()
    }

    async fn listed(&self, name: &str) -> Value {
        let list = self.coordinator.get("/v1/invariants").await.json();
        let found = list["invariants"].as_array().expect("a list").iter();
        found.into_iter().find(|it| it["name"] == name).expect("it is listed").clone()
    }

    async fn metric(&self, sample: &str) -> Option<String> {
        let metrics = self.coordinator.get("/metrics").await.text;
        let line = metrics.lines().find_map(|line| line.strip_prefix(sample).map(str::to_owned));
        line.map(|value| value.trim().to_owned())
    }
}

/// Takes an amount out of the wallet and writes it into the ledger.
fn taking(amount: u32, account: u32) -> Value {
    let take = "UPDATE account SET balance = balance - $1 WHERE id = $2";
    let note = "INSERT INTO entry (amount) VALUES (?)";
    json!([
        {"resource": "wallet", "statements": [{"sql": take, "params": [amount, account]}]},
        {"resource": "ledger", "statements": [{"sql": note, "params": [amount]}]},
    ])
}

fn body(branches: &Value) -> String {
    json!({"kind": "atomic", "branches": branches}).to_string()
}

#[tokio::test]
async fn books_hold_until_money_is_made_by_hand_and_the_values_are_named() {
    let Some(scene) = Scene::set().await else { return };
    assert_eq!(scene.listed("books").await["result"], "unchecked");
    assert_eq!(scene.metric(r#"unanimous_invariant_holds{invariant="books"}"#).await, None);
    let reply = scene.coordinator.post("/v1/transactions", &body(&taking(400, 1))).await;
    assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
    let found = scene.check("books").await;
    assert_eq!((&found["result"], &found["difference"]), (&json!("holds"), &json!("0")), "{found}");
    assert_eq!((&found["quiet"], &found["readings"]), (&json!(true), &json!(1)));
    assert_eq!(
        found["queries"][0],
        json!({"resource": "wallet", "sql": IN_WALLET, "value": "600.00"})
    );
    assert_eq!(found["queries"][1]["value"], "600");
    let holds = async |name: &str, is: &str| {
        let sample = format!("unanimous_invariant_holds{{invariant=\"{name}\"}}");
        scene.metric(&sample).await.as_deref() == Some(is)
    };
    assert!(holds("books", "1").await);

    scene.wallet.sql("postgres", "UPDATE account SET balance = balance + 0.25 WHERE id = 2");
    let found = scene.check("books").await;
    assert_eq!(found["result"], "violated", "{found}");
    assert_eq!((&found["difference"], &found["readings"]), (&json!("0.25"), &json!(2)));
    assert_eq!(found["queries"][0]["value"], "600.25");
    assert_eq!(scene.listed("books").await, found);
    assert!(holds("books", "0").await);
    let counted = r#"unanimous_invariant_checks_total{invariant="books",result="violated"}"#;
    assert_eq!(scene.metric(counted).await.as_deref(), Some("1"));
    eventually("seen on schedule", async || holds("watched", "0").await).await;

    scene.wallet.sql("postgres", "UPDATE account SET balance = balance - 0.25 WHERE id = 2");
    assert_eq!(scene.check("books").await["result"], "holds");
    eventually("seen on schedule", async || holds("watched", "1").await).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_unknown_and_what_is_not_configured_is_not_found() {
    let Some(scene) = Scene::set().await else { return };
    let found = scene.check("broken").await;
    assert_eq!(found["result"], "unknown");
    let why = crate::common::text(&found["detail"]);
    assert!(why.starts_with("wallet: SELECT SUM(balnce) FROM account: "), "{why}");
    let counted = r#"unanimous_invariant_checks_total{invariant="broken",result="unknown"}"#;
    assert_eq!(scene.metric(counted).await.as_deref(), Some("1"));
    let reply = scene.coordinator.post("/v1/invariants/bokks/check", "").await;
    assert_eq!(reply.problem(), (404, "UNA0116".into()));
    let reply = scene.coordinator.post("/v1/invariants/books/check", r#"{"now":1}"#).await;
    assert_eq!(reply.problem(), (400, "UNA0102".into()));
    scene.ledger.sql("bank", "DELETE FROM entry");
    assert_eq!(scene.check("books").await["queries"][1]["value"], "0", "NULL is zero");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_books_are_never_called_violated_and_made_money_is_found_after_it() {
    let Some(scene) = Scene::set().await else { return };
    let mut load = JoinSet::new();
    let stop = Arc::new(AtomicBool::new(false));
    let made = Arc::new(AtomicU32::new(0));
    for worker in 0..8 {
        let (client, stop) = (scene.coordinator.client().clone(), Arc::clone(&stop));
        let made = Arc::clone(&made);
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // Equal amounts: the same difference is seen again and again.
                let reply = client.post("/v1/transactions", &body(&taking(1, worker + 1))).await;
                made.fetch_add(u32::from(reply.status == 200), Ordering::Relaxed);
            }
        });
    }
    let mut moving = 0;
    let deadline = Instant::now() + PATIENCE;
    while made.load(Ordering::Relaxed) < 500 || moving < 3 {
        let found = scene.check("books").await;
        assert!(found["result"] == "holds" || found["result"] == "busy", "{found}");
        moving += u32::from(found["quiet"] == false || found["readings"] != 1);
        assert!(Instant::now() < deadline, "{made:?} transfers, {moving} checks while they moved");
    }
    stop.store(true, Ordering::Relaxed);
    load.join_all().await;
    let violated = r#"unanimous_invariant_checks_total{invariant="watched",result="violated"}"#;
    assert_eq!(scene.metric(violated).await.as_deref(), Some("0"));
    assert_eq!(scene.check("books").await["result"], "holds");
    scene.ledger.sql("bank", "INSERT INTO entry (amount) VALUES (1)");
    assert_eq!(scene.check("books").await["result"], "violated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_that_a_half_done_transaction_explains_is_not_a_violation() {
    let Some(scene) = Scene::set().await else { return };
    scene.gate.hang();
    let mut branches = taking(100, 1);
    branches.as_array_mut().expect("a list").push(json!({"resource": "gate"}));
    let (client, body) = (scene.coordinator.client().clone(), body(&branches));
    let running = tokio::spawn(async move { client.post("/v1/transactions", &body).await });
    let prepared = "SELECT COUNT(*) FROM pg_prepared_xacts";
    eventually("prepared", async || scene.wallet.sql("postgres", prepared) == "1").await;
    assert_eq!(scene.check("books").await["result"], "holds", "what is prepared is not seen");

    let standby = MissingStandby::of(&scene.wallet);
    let waiting = async || {
        let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        scene.wallet.sql("postgres", sql).parse::<u32>().expect("a number")
    };
    eventually("commits wait", async || waiting().await > 0).await;
    scene.gate.go_on();
    let noted = "SELECT COUNT(*) FROM entry WHERE amount = 100";
    eventually("half done", async || scene.ledger.sql("bank", noted) == "1").await;
    let found = scene.check("books").await;
    assert_eq!(
        (&found["result"], &found["difference"]),
        (&json!("busy"), &json!("100")),
        "{found}"
    );
    assert_eq!(found["quiet"], false);
    assert!(crate::common::text(&found["detail"]).contains("was being committed"), "{found}");

    drop(standby);
    let reply = running.await.expect("it does not panic");
    assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
    let found = async || scene.check("books").await["result"] == "holds";
    eventually("it adds up again", found).await;
}

/// Every commit in the wallet waits for a standby that is not there, until this goes.
struct MissingStandby {
    wallet: Arc<PrivatePostgres>,
    gone: Arc<AtomicBool>,
}

impl MissingStandby {
    /// Makes one, and commits beside it so that it can be seen when they wait.
    fn of(wallet: &Arc<PrivatePostgres>) -> Self {
        wallet.sql("postgres", "CREATE TABLE probe ()");
        wallet.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
        wallet.sql("postgres", "SELECT pg_reload_conf()");
        let standby = Self { wallet: Arc::clone(wallet), gone: Arc::default() };
        let (wallet, gone) = (Arc::clone(wallet), Arc::clone(&standby.gone));
        std::thread::spawn(move || {
            while !gone.load(Ordering::Relaxed) {
                drop(wallet.try_sql("postgres", "INSERT INTO probe DEFAULT VALUES"));
            }
        });
        standby
    }
}

impl Drop for MissingStandby {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        self.wallet.sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
        self.wallet.sql("postgres", "SELECT pg_reload_conf()");
    }
}
