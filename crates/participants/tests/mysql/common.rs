//! A database with a counter, and short ways to ask it.
//!
//! It is one of MariaDB, or of MySQL where that runs in its place.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Decision, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, call};
use unanimous_participants::testing::{PATIENCE, PrivateMariaDb};
use unanimous_participants::{Call, Resource, Settings, Unobserved, open};

/// A server with the table `account`, whose one row has the number 1.
pub(crate) struct Bank {
    pub(crate) server: PrivateMariaDb,
}

impl Bank {
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let server = PrivateMariaDb::start(options)?;
        server.sql(
            "bank",
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0)); \
             INSERT INTO account VALUES (1, 1000), (2, 1000); \
             CREATE USER app@'127.0.0.1'; GRANT ALL ON bank.* TO app@'127.0.0.1'",
        );
        let bank = Self { server };
        bank.let_list("app@'127.0.0.1'");
        Some(bank)
    }

    /// Lets a user ask what is prepared, which anybody may in MariaDB.
    pub(crate) fn let_list(&self, user: &str) {
        if PrivateMariaDb::is_mysql() {
            self.server.sql("", &format!("GRANT XA_RECOVER_ADMIN ON *.* TO {user}"));
        }
    }

    /// More rows, of nothing each.
    pub(crate) fn add_accounts(&self, ids: RangeInclusive<i64>) {
        let rows: Vec<_> = ids.map(|id| format!("({id}, 0)")).collect();
        self.server.sql("bank", &format!("INSERT INTO account VALUES {}", rows.join(", ")));
    }

    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.server.sql("bank", sql).parse().expect("a number")
    }

    /// Ends the connections of a user, as an operator does who wants to finish a branch.
    pub(crate) fn disconnect(&self, user: &str) {
        let list = format!("SELECT id FROM information_schema.processlist WHERE user = '{user}'");
        for id in self.server.sql("", &list).lines() {
            // It may have ended by itself.
            drop(self.server.try_sql("", &format!("KILL {id}")));
        }
    }
}

pub(crate) fn at(url: &str) -> Arc<dyn Resource> {
    open("bank", url, &Settings::default(), Arc::new(Unobserved)).expect("a good url")
}

/// What the one has, or else the other.
pub(crate) fn either<T>(mariadb: T, mysql: T) -> T {
    if PrivateMariaDb::is_mysql() { mysql } else { mariadb }
}

/// The identifier as the server spells it.
pub(crate) fn xid(name: &BranchName) -> String {
    format!("'una:{}:{}','{}',5590593", name.cluster, name.txn, name.branch.0)
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

pub(crate) async fn finish(
    resource: &Arc<dyn Resource>,
    name: &BranchName,
    verb: Verb,
    returned: &Opaque,
) -> Answer {
    let returned = returned.clone();
    resource.call(Call { returned, ..call(name, verb, Opaque::default()) }).await
}

impl Subject for Bank {
    fn resource(&self) -> Arc<dyn Resource> {
        at(&self.server.url("app", "bank"))
    }

    fn add(&self, amount: i64) -> Opaque {
        let add = "UPDATE account SET balance = balance + ? WHERE id = 1";
        work(json!([{"sql": add, "params": [amount]}]))
    }

    fn read(&self) -> Opaque {
        work(json!([{"sql": "SELECT balance FROM account WHERE id = ?", "params": [1]}]))
    }

    fn refused(&self) -> Opaque {
        let add = "UPDATE account SET balance = balance + 5 WHERE id = ?";
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
        let deadline = Instant::now() + PATIENCE;
        // The branch is tied to the connection that prepared it until the server has closed that.
        self.disconnect("app");
        while let Err(why) = self.server.try_sql("bank", &format!("XA {verb} {}", xid(name))) {
            assert!(Instant::now() < deadline, "cannot be ended by hand: {why}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn prepare_foreign(&self) -> String {
        self.server.sql(
            "bank",
            "XA START 'una:else','0'; INSERT INTO account VALUES (77, 0); \
             XA END 'una:else','0'; XA PREPARE 'una:else','0'",
        );
        "1\t8\t1\tuna:else0".to_owned()
    }

    fn prepared(&self) -> Vec<String> {
        self.server.sql("bank", "XA RECOVER").lines().map(str::to_owned).collect()
    }
}
