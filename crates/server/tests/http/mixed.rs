//! One transaction over everything that can take part.

use serde_json::{Value, json};
use unanimous_core::limits::BRANCHES_MAX;
use unanimous_participants::testing::{PrivateMariaDb, PrivatePostgres, PrivateRedis};

use crate::common::{Coordinator, Service, eventually};

/// Branches of each kind.
const EACH: usize = BRANCHES_MAX / 4;

struct Scene {
    coordinator: Coordinator,
    postgres: PrivatePostgres,
    maria: PrivateMariaDb,
    redis: PrivateRedis,
    service: Service,
}

impl Scene {
    /// `None` if one of them is not installed.
    async fn set() -> Option<Self> {
        let postgres = PrivatePostgres::start(&[])?;
        let maria = PrivateMariaDb::start(&[])?;
        let redis = PrivateRedis::start(&[])?;
        let table = "CREATE TABLE account (id int PRIMARY KEY, balance bigint)";
        postgres.sql(
            "postgres",
            &format!("{table}; INSERT INTO account SELECT generate_series(0, 15), 0"),
        );
        maria.sql("bank", &format!("{table}; INSERT INTO account SELECT seq, 0 FROM seq_0_to_15"));
        maria.sql("bank", "CREATE USER app@'127.0.0.1'; GRANT ALL ON bank.* TO app@'127.0.0.1'");
        let service = Service::default();
        let resources = [
            ("postgres", postgres.url("postgres", "postgres")),
            ("maria", maria.url("app", "bank")),
            ("redis", redis.url()),
            ("service", service.serve().await),
        ];
        let resources = resources.each_ref().map(|(name, url)| (*name, &**url));
        let coordinator = Coordinator::start(&resources).await;
        Some(Self { coordinator, postgres, maria, redis, service })
    }

    /// What the sixteen branches of each kind have added up to.
    fn sums(&self) -> [i64; 3] {
        let sum = "SELECT SUM(balance) FROM account";
        let redis = (0..EACH).map(|id| self.redis.ask(&["GET", &format!("account:{id}")]));
        [
            self.postgres.sql("postgres", sum).parse().expect("a number"),
            self.maria.sql("bank", sum).parse().expect("a number"),
            redis.map(|text| text.trim().parse::<i64>().unwrap_or(0)).sum(),
        ]
    }

    /// Nothing is left prepared anywhere.
    fn is_clean(&self) -> bool {
        let held = "SELECT COUNT(*) FROM pg_prepared_xacts";
        self.postgres.sql("postgres", held) == "0"
            && self.maria.sql("bank", "XA RECOVER").is_empty()
    }
}

/// Sixteen branches of each kind; the last in MariaDB has to change so many rows.
fn branches(expected: u64) -> Vec<Value> {
    let of = |id: usize| {
        let expect_rows = if id == EACH - 1 { expected } else { 1 };
        let add = |placeholder: &str| {
            format!("UPDATE account SET balance = balance + 1 WHERE id = {placeholder}")
        };
        let name = |kind: &str| format!("{kind}-{id}");
        [
            json!({"resource": "postgres", "participant": name("postgres"),
                "statements": [{"sql": add("$1"), "params": [id], "expect_rows": 1}]}),
            json!({"resource": "maria", "participant": name("maria"),
                "statements": [{"sql": add("?"), "params": [id], "expect_rows": expect_rows}]}),
            json!({"resource": "redis", "participant": name("redis"),
                "body": {"commands": [["INCR", format!("account:{id}")]]}}),
            json!({"resource": "service", "participant": name("service"), "body": {"id": id}}),
        ]
    };
    (0..EACH).flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_branches_as_there_can_be_of_every_kind_commit_or_roll_back_as_one() {
    let Some(scene) = Scene::set().await else { return };
    for round in 1..=3 {
        let body = json!({"kind": "atomic", "branches": branches(1)}).to_string();
        let reply = scene.coordinator.post("/v1/transactions", &body).await;
        assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
        let participants = reply.json()["participants"].clone();
        let participants = participants.as_array().expect("a list");
        assert_eq!(participants.len(), BRANCHES_MAX);
        assert!(participants.iter().all(|it| it["ack"] == true), "{}", reply.text);
        assert_eq!(scene.sums(), [round * EACH as i64; 3]);

        let body = json!({"kind": "atomic", "branches": branches(2)}).to_string();
        let refused = scene.coordinator.post("/v1/transactions", &body).await;
        assert_eq!(refused.problem(), (409, "UNA0201".into()));
        assert_eq!(refused.json()["reason"]["participant"], "maria-15", "{}", refused.text);
        let path = refused.path();
        eventually("rolled back", async || scene.coordinator.status(&path).await == "ABORTED")
            .await;
        assert_eq!(scene.sums(), [round * EACH as i64; 3]);
        assert!(scene.is_clean());
    }
    assert_eq!(scene.service.count("commit"), 3 * EACH);
}
