//! Transactions of kind `message`: steps that follow a local transaction of the application.

use std::time::Duration;

use serde_json::{Value, json};
use unanimous_participants::testing::{PrivateMariaDb, PrivatePostgres};

use crate::common::{Coordinator, Service, eventually, text, two};

const BEGIN: &str = "/v1/transactions";
const WORK: &str = "INSERT INTO orders (note) VALUES ('paid')";

/// A database in which applications work.
enum Source {
    Postgres(PrivatePostgres),
    Maria(PrivateMariaDb),
}

impl Source {
    /// Those that are installed.
    fn all() -> Vec<Self> {
        let table = "CREATE TABLE orders (note varchar(20))";
        let postgres = PrivatePostgres::start(&[]).inspect(|it| drop(it.sql("postgres", table)));
        let maria = PrivateMariaDb::start(&[]).inspect(|it| {
            it.sql("bank", &format!("{table} ENGINE=InnoDB"));
            it.sql("bank", "CREATE USER app@'127.0.0.1'; GRANT ALL ON bank.* TO app@'127.0.0.1'");
        });
        postgres.map(Self::Postgres).into_iter().chain(maria.map(Self::Maria)).collect()
    }

    fn url(&self) -> String {
        match self {
            Self::Postgres(it) => it.url("postgres", "postgres"),
            Self::Maria(it) => it.url("app", "bank"),
        }
    }

    fn try_sql(&self, sql: &str) -> Result<String, String> {
        match self {
            Self::Postgres(it) => it.try_sql("postgres", sql),
            Self::Maria(it) => it.try_sql("bank", sql),
        }
    }

    fn orders(&self) -> String {
        self.try_sql("SELECT COUNT(*) FROM orders").expect("it answers")
    }

    /// The application's local transaction, with what it runs for the message.
    fn commit_with(&self, statement: &str) -> Result<String, String> {
        self.try_sql(&format!("BEGIN; {WORK}; {statement}; COMMIT"))
    }

    /// The same, and it takes its time.
    fn commit_slowly(&self, statement: &str) -> Result<String, String> {
        let pause = match self {
            Self::Postgres(_) => "SELECT pg_sleep(1)",
            Self::Maria(_) => "SELECT SLEEP(1)",
        };
        self.try_sql(&format!("BEGIN; {WORK}; {statement}; {pause}; COMMIT"))
    }
}

struct Scene {
    source: Source,
    coordinator: Coordinator,
    mail: Service,
}

impl Scene {
    async fn all() -> Vec<Self> {
        let mut scenes = Vec::new();
        for source in Source::all() {
            let mail = Service::default();
            let (source_url, mail_url) = (source.url(), mail.serve().await);
            let resources = [("orders", &*source_url), ("mail", &*mail_url)];
            let coordinator = Coordinator::start(&resources).await;
            // The table is there from the first question on; applications may make it before.
            let scene = Self { source, coordinator, mail };
            let announced = scene.announce(50).await;
            eventually("dropped", async || {
                scene.coordinator.status(&path(&announced)).await == "ABORTED"
            })
            .await;
            scenes.push(scene);
        }
        scenes
    }

    async fn announce(&self, timeout_ms: u64) -> Value {
        let body = json!({"kind": "message", "source": "orders", "timeout_ms": timeout_ms,
            "input": {"user": "u-204"}, "steps": [
                {"name": "receipt", "action": {"resource": "mail", "path": "/receipt",
                    "body": {"to": "{{input.user}}"}}},
                {"name": "stock", "after": ["receipt"],
                    "action": {"resource": "mail", "path": "/stock", "body": {}}}]});
        let reply = self.coordinator.post(BEGIN, &body.to_string()).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        assert_eq!(reply.json()["status"], "INITIATED");
        reply.json()
    }

    async fn reaches(&self, announced: &Value, status: &str) -> Value {
        let path = path(announced);
        eventually(status, async || self.coordinator.status(&path).await == status).await;
        self.coordinator.get(&path).await.json()
    }
}

fn path(announced: &Value) -> String {
    format!("{BEGIN}/{}", text(&announced["id"]))
}

fn statement(announced: &Value) -> &str {
    assert_eq!(announced["steps"][0]["name"], "source");
    text(&announced["steps"][0]["statement"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_sent_when_its_application_says_that_it_has_committed() {
    for scene in Scene::all().await {
        let announced = scene.announce(60_000).await;
        assert_eq!(scene.mail.calls().len(), 0);
        assert_eq!(announced["timeout_ms"], 60_000);
        scene.source.commit_with(statement(&announced)).expect("committed");
        let reply = scene.coordinator.post(&format!("{}/commit", path(&announced)), "{}").await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let view = reply.json();
        assert_eq!((&view["status"], &view["outcome"]), (&json!("COMMITTED"), &json!("committed")));
        assert_eq!(scene.mail.verbs(), ["receipt", "stock"]);
        assert_eq!(scene.mail.calls()[0].body, r#"{"to":"u-204"}"#);
        let list = scene.coordinator.get(&format!("{BEGIN}?kind=message&status=COMMITTED")).await;
        assert_eq!(list.json()["transactions"].as_array().expect("a list").len(), 1);
        // Told twice, it is told the same.
        let again = scene.coordinator.post(&format!("{}/commit", path(&announced)), "{}").await;
        assert_eq!((again.status, &again.json()["outcome"]), (200, &json!("committed")));
        let late = scene.coordinator.post(&format!("{}/abort", path(&announced)), "{}").await;
        assert_eq!(late.problem(), (409, "UNA0202".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_application_dies_is_sent_exactly_if_it_had_committed() {
    for scene in Scene::all().await {
        let committed = scene.announce(300).await;
        let died = scene.announce(300).await;
        scene.source.commit_with(statement(&committed)).expect("committed");
        let sent = scene.reaches(&committed, "COMMITTED").await;
        assert_eq!(sent["steps"][0]["result"], json!({}));
        let dropped = scene.reaches(&died, "ABORTED").await;
        assert_eq!(dropped["reason"]["kind"], "not_committed");
        assert_eq!(scene.mail.verbs(), ["receipt", "stock"]);
        // What comes after that fails as a whole.
        let before = scene.source.orders();
        let error = scene.source.commit_with(statement(&died)).expect_err("it cannot any more");
        assert!(error.to_lowercase().contains("duplicate"), "{error}");
        assert_eq!(scene.source.orders(), before);
        let late = scene.coordinator.post(&format!("{}/commit", path(&died)), "{}").await;
        assert_eq!(late.problem(), (409, "UNA0201".into()));
        assert_eq!(scene.mail.verbs(), ["receipt", "stock"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_transaction_that_is_still_open_is_waited_for() {
    for scene in Scene::all().await {
        let announced = scene.announce(200).await;
        let statement = statement(&announced).to_owned();
        let source = &scene.source;
        std::thread::scope(|scope| {
            scope.spawn(|| source.commit_slowly(&statement).expect("committed"));
        });
        scene.reaches(&announced, "COMMITTED").await;
        assert_eq!(scene.mail.verbs(), ["receipt", "stock"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_a_message_back_asks_the_database_whether_that_is_still_true() {
    for scene in Scene::all().await {
        let [lost_reply, given_up] = [scene.announce(60_000).await, scene.announce(60_000).await];
        scene.source.commit_with(statement(&lost_reply)).expect("committed");
        let late = scene.coordinator.post(&format!("{}/abort", path(&lost_reply)), "{}").await;
        assert_eq!(late.problem(), (409, "UNA0202".into()));
        assert_eq!(scene.mail.verbs(), ["receipt", "stock"]);
        let aborted = scene.coordinator.post(&format!("{}/abort", path(&given_up)), "{}").await;
        assert_eq!((aborted.status, &aborted.json()["status"]), (200, &json!("ABORTED")));
        assert!(scene.source.commit_with(statement(&given_up)).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_survives_a_restart_of_the_coordinator_and_silence_of_its_source() {
    for mut scene in Scene::all().await {
        let [told, untold] = [scene.announce(60_000).await, scene.announce(1_500).await];
        for announced in [&told, &untold] {
            scene.source.commit_with(statement(announced)).expect("committed");
        }
        scene.mail.answer_next("receipt", 503, "");
        scene.coordinator = scene.coordinator.restart().await;
        let reply = scene.coordinator.post(&format!("{}/commit", path(&told)), "{}").await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        scene.reaches(&untold, "COMMITTED").await;
        assert_eq!(scene.mail.count("stock"), 2);
    }
}

#[tokio::test]
async fn what_makes_no_message_is_refused_and_nothing_is_begun() {
    let (coordinator, ..) = two().await;
    let step = r#"{"name":"a","action":{"resource":"wallet","path":"/a"}}"#;
    let message = |members: &str| format!(r#"{{"kind":"message",{members}}}"#);
    let steps = |steps: &str| message(&format!(r#""source":"wallet","steps":[{steps}]"#));
    for (body, status, code, pointer) in [
        (message(&format!(r#""steps":[{step}]"#)), 422, "UNA0122", "/source"),
        (message(&format!(r#""source":"no","steps":[{step}]"#)), 422, "UNA0104", "/source"),
        (steps(step), 422, "UNA0122", "/source"),
        (
            message(r#""source":"wallet","branches":[{"resource":"wallet"}]"#),
            400,
            "UNA0102",
            "/branches",
        ),
        (message(r#""source":"wallet","delay_ms":5"#), 400, "UNA0102", "/delay_ms"),
        (r#"{"kind":"saga","source":"wallet","steps":[]}"#.to_owned(), 400, "UNA0102", "/source"),
        (r#"{"kind":"atomic","source":"wallet"}"#.to_owned(), 400, "UNA0102", "/source"),
    ] {
        let reply = coordinator.post(BEGIN, &body).await;
        assert_eq!(reply.problem(), (status, code.into()), "{body}: {}", reply.text);
        assert_eq!(reply.json()["pointer"], pointer, "{body}: {}", reply.text);
    }
    let list = coordinator.get(BEGIN).await.json();
    assert_eq!(list["transactions"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_steps_of_a_message_are_neither_pivots_nor_undone() {
    for scene in Scene::all().await {
        let call = json!({"resource": "mail", "path": "/a"});
        let of = |step: Value| {
            json!({"kind": "message", "source": "orders", "steps": [step]}).to_string()
        };
        for (step, code, pointer) in [
            (json!({"name": "a", "pivot": true, "action": call}), "UNA0122", "/steps/0/pivot"),
            (
                json!({"name": "a", "action": call, "compensation": call}),
                "UNA0122",
                "/steps/0/compensation",
            ),
            (json!({"name": "source", "action": call}), "UNA0119", "/steps/0/name"),
            (json!({"name": "a", "signal": {"timeout_ms": 5}}), "UNA0121", "/steps/0/retriable"),
            (json!({"name": "a", "after": ["a"], "action": call}), "UNA0117", "/steps/0/after"),
        ] {
            let reply = scene.coordinator.post(BEGIN, &of(step)).await;
            assert_eq!(reply.problem(), (422, code.into()), "{}", reply.text);
            assert_eq!(reply.json()["pointer"], pointer, "{}", reply.text);
        }
        let timeout_ms = Duration::from_secs(3_600).as_millis();
        let far = json!({"kind": "message", "source": "orders", "timeout_ms": timeout_ms,
            "steps": [{"name": "a", "after": ["source"],
                "action": {"resource": "mail", "path": "/{{steps.source.result.order}}"}}]});
        let reply = scene.coordinator.post(BEGIN, &far.to_string()).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        let proof = statement(&reply.json()).replace("'{}'", r#"'{"order":"o-7"}'"#);
        scene.source.commit_with(&proof).expect("committed");
        let asked = scene.coordinator.post(&format!("{}/abort", path(&reply.json())), "{}").await;
        assert_eq!(asked.problem(), (409, "UNA0202".into()));
        assert_eq!(scene.mail.verbs(), ["o-7"], "what it wrote is known to its steps");
    }
}
