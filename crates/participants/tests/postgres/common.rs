//! A database with a counter, and short ways to ask it.

use std::sync::Arc;

use serde_json::{Value, json};
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Decision, Opaque, Verb};
use unanimous_participants::testing::PrivatePostgres;
use unanimous_participants::testing::conformance::{Subject, call};
use unanimous_participants::{Resource, Settings, Unobserved, open};

/// A server with the table `account`, whose one row has the number 1.
pub(crate) struct Bank {
    pub(crate) server: PrivatePostgres,
}

impl Bank {
    pub(crate) fn start(settings: &[&str]) -> Option<Self> {
        let server = PrivatePostgres::start(settings)?;
        server.sql(
            "postgres",
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0)); \
             INSERT INTO account VALUES (1, 1000), (2, 1000)",
        );
        Some(Self { server })
    }

    pub(crate) fn at(&self, url: &str) -> Arc<dyn Resource> {
        open("bank", url, &Settings::default(), Arc::new(Unobserved)).expect("a good url")
    }

    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.server.sql("postgres", sql).parse().expect("a number")
    }
}

/// The work of a branch: statements as a request has them.
pub(crate) fn work(statements: Value) -> Opaque {
    Opaque::new(statements.to_string().as_bytes())
}

/// One statement without values.
pub(crate) fn sql(text: &str) -> Opaque {
    work(json!([{"sql": text}]))
}

pub(crate) async fn prepare(
    resource: &Arc<dyn Resource>,
    name: &BranchName,
    work: Opaque,
) -> Answer {
    resource.call(call(name, Verb::Prepare, work)).await
}

impl Subject for Bank {
    fn resource(&self) -> Arc<dyn Resource> {
        self.at(&self.server.url("postgres", "postgres"))
    }

    fn add(&self, amount: i64) -> Opaque {
        let add = "UPDATE account SET balance = balance + $1 WHERE id = 1";
        work(json!([{"sql": add, "params": [amount]}]))
    }

    fn read(&self) -> Opaque {
        work(json!([{"sql": "SELECT balance FROM account WHERE id = $1", "params": [1]}]))
    }

    fn refused(&self) -> Opaque {
        let add = "UPDATE account SET balance = balance + 5 WHERE id = $1";
        work(json!([{"sql": add, "params": [1]}, {"sql": add, "params": [99], "expect_rows": 1}]))
    }

    fn counter(&self) -> i64 {
        self.number("SELECT balance FROM account WHERE id = 1")
    }

    fn end_by_hand(&self, name: &BranchName, decision: Decision) {
        let verb = match decision {
            Decision::Commit => "COMMIT",
            Decision::Abort => "ROLLBACK",
        };
        self.server.sql("postgres", &format!("{verb} PREPARED '{name}'"));
    }

    fn prepare_foreign(&self) -> String {
        let foreign = "somebody else".to_owned();
        self.server.sql(
            "postgres",
            &format!(
                "BEGIN; INSERT INTO account VALUES (77, 0); PREPARE TRANSACTION '{foreign}'; COMMIT"
            ),
        );
        foreign
    }

    fn prepared(&self) -> Vec<String> {
        let list = self.server.sql("postgres", "SELECT gid FROM pg_prepared_xacts ORDER BY gid");
        list.lines().map(str::to_owned).collect()
    }
}
