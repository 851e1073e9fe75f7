//! A file with two accounts, and short ways to ask it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Decision, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, call};
use unanimous_participants::{Resource, Settings, Unobserved, open};

/// A file where the account 1 has 1000.
pub(crate) struct Bank {
    pub(crate) folder: TempDir,
}

impl Bank {
    pub(crate) fn open() -> Self {
        let bank = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        bank.sql(
            "PRAGMA journal_mode = WAL; \
             CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL \
                                   CHECK (balance >= 0)); \
             INSERT INTO account VALUES (1, 1000), (2, 1000)",
        );
        bank
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("bank.db")
    }

    /// As another program opens it.
    pub(crate) fn other(&self) -> Connection {
        let db = Connection::open(self.path()).expect("it can be opened");
        db.busy_timeout(Duration::from_secs(10)).expect("a setting");
        db
    }

    pub(crate) fn sql(&self, sql: &str) {
        self.other().execute_batch(sql).expect(sql);
    }

    /// The value of a query, as a text.
    pub(crate) fn text(&self, query: &str) -> String {
        let sql = format!("SELECT coalesce(CAST(({query}) AS TEXT), 'null')");
        self.other().query_row(&sql, [], |row| row.get(0)).expect(query)
    }

    pub(crate) fn number(&self, query: &str) -> i64 {
        self.text(query).parse().expect("a number")
    }
}

pub(crate) fn at(path: &std::path::Path) -> Arc<dyn Resource> {
    let url = format!("sqlite:{}", path.display());
    open("bank", &url, &Settings::default(), Arc::new(Unobserved)).expect("a good url")
}

pub(crate) fn sql(statement: &str) -> Opaque {
    work(&json!([{ "sql": statement }]))
}

pub(crate) fn work(statements: &serde_json::Value) -> Opaque {
    Opaque::new(statements.to_string().as_bytes())
}

pub(crate) async fn prepare(
    resource: &Arc<dyn Resource>,
    name: &BranchName,
    work: Opaque,
) -> Answer {
    resource.call(call(name, Verb::Prepare, work)).await
}

pub(crate) async fn finish(resource: &Arc<dyn Resource>, name: &BranchName, verb: Verb) -> Answer {
    resource.call(call(name, verb, Opaque::default())).await
}

pub(crate) fn done() -> Answer {
    Answer::Done(Opaque::default())
}

/// The kind and the detail of a refusal.
pub(crate) fn refusal(answer: Answer) -> (String, String) {
    let Answer::No(reason) = answer else { panic!("{answer:?} is no refusal") };
    (reason.kind.to_string(), reason.detail.to_string())
}

impl Subject for Bank {
    fn resource(&self) -> Arc<dyn Resource> {
        at(&self.path())
    }

    fn add(&self, amount: i64) -> Opaque {
        let sql = "UPDATE account SET balance = balance + $1 WHERE id = $2";
        work(&json!([{ "sql": sql, "params": [amount, 1], "expect_rows": 1 }]))
    }

    fn read(&self) -> Opaque {
        sql("SELECT balance FROM account WHERE id = 1")
    }

    fn refused(&self) -> Opaque {
        work(&json!([
            { "sql": "UPDATE account SET balance = balance + 5 WHERE id = 1" },
            { "sql": "UPDATE account SET balance = 0 WHERE id = 99", "expect_rows": 1 },
        ]))
    }

    fn counter(&self) -> i64 {
        self.number("SELECT balance FROM account WHERE id = 1")
    }

    fn end_by_hand(&self, name: &BranchName, decision: Decision) {
        match decision {
            Decision::Abort => self.sql(&format!(
                "BEGIN; DELETE FROM unanimous_lock WHERE branch = '{name}'; \
                 UPDATE unanimous_branch SET state = 'rolled_back' WHERE name = '{name}'; COMMIT"
            )),
            // What is kept is put in place by hand, too.
            Decision::Commit => self.sql(&format!(
                "BEGIN; DELETE FROM unanimous_lock WHERE branch = '{name}'; \
                 UPDATE account SET balance = (SELECT changes ->> '$[0].rows[0].after[1]' \
                   FROM unanimous_branch WHERE name = '{name}') WHERE id = 1; \
                 UPDATE unanimous_branch SET state = 'committed' WHERE name = '{name}'; COMMIT"
            )),
        }
    }

    fn prepare_foreign(&self) -> String {
        // The tables are there from the first question on.
        let resource = self.resource();
        let listing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(resource.in_doubt(Duration::from_secs(10))).expect("a list");
        });
        listing.join().expect("it does not panic");
        self.sql(
            "INSERT INTO unanimous_branch (name, state, changes, results, at) \
             VALUES ('somebody else', 'prepared', '[]', '[]', 0)",
        );
        "somebody else".to_owned()
    }

    fn prepared(&self) -> Vec<String> {
        let sql = "SELECT coalesce(group_concat(name), '') FROM unanimous_branch \
                   WHERE state = 'prepared'";
        let names = self.text(sql);
        names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }
}
