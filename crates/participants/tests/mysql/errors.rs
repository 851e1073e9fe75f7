//! What the server refuses, and what a branch's vote says of it.

use std::time::Duration;

use serde_json::json;
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::{Call, Password, Settings, Unobserved, open, returned};

use crate::common::{Bank, at, either, finish, prepare, sql, work};

/// As a table.
const DIGITS: &str =
    "WITH RECURSIVE digit AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM digit WHERE n < 9)";

/// The kind and the detail of a refusal.
fn refusal(answer: Answer) -> (String, String) {
    let Answer::No(reason) = answer else { panic!("{answer:?} is no refusal") };
    (reason.kind.to_string(), reason.detail.to_string())
}

fn impatient(work: Opaque) -> Call {
    Call { patience: Duration::from_secs(1), ..call(&fresh_name(), Verb::Prepare, work) }
}

#[tokio::test]
async fn every_error_that_can_be_provoked_is_a_no_of_its_kind_and_leaves_nothing() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "bank",
        "CREATE TABLE line (account int, FOREIGN KEY (account) REFERENCES account (id)); \
         CREATE TABLE small (n tinyint unsigned); \
         CREATE PROCEDURE ends() COMMIT;\nDELIMITER //\n\
         CREATE PROCEDURE fails() BEGIN UPDATE account SET balance = 7; SELECT 1; SIGNAL SQLSTATE \
             '45000' SET MESSAGE_TEXT = 'no way'; END//",
    );
    let resource = bank.resource();
    for (statement, kind, named) in [
        ("INSERT INTO account VALUES (1, 0)", "constraint", "1062"),
        ("UPDATE account SET balance = -1 WHERE id = 1", "constraint", either("4025", "3819")),
        ("INSERT INTO line VALUES (99)", "constraint", "1452"),
        ("INSERT INTO account VALUES (3, NULL)", "constraint", "1048"),
        ("INSERT INTO small VALUES (300)", "data", "1264"),
        ("UPDATE account SET balance = 'much' WHERE id = 1", "data", "136"),
        ("UPDATE nothing SET x = 1", "statement", "1146"),
        ("UPDATE account SET nothing = 1", "statement", "1054"),
        ("UPDATE account SET", "statement", "1064"),
        ("UPDATE account SET balance = 1; COMMIT", "statement", "more than one"),
        ("UPDATE account /*! , x */ SET balance = 1", "statement", "comment"),
        ("UPDATE account SET balance = ?", "statement", "1 placeholders and 0 values"),
        ("COMMIT", "statement", "COMMIT is not for a branch"),
        ("/* x */ XA COMMIT 'x'", "statement", "XA is not for a branch"),
        ("SET autocommit = 1", "statement", "SET is not for a branch"),
        ("ALTER TABLE account ADD x int", "statement", "ALTER is not for a branch"),
        ("CALL ends()", "unsupported", "1399"),
        ("CALL fails()", "refused", "no way"),
        (
            "UPDATE account SET balance = balance + SLEEP(9)",
            "statement_timeout",
            either("1969", "1317"),
        ),
        (
            "SELECT SLEEP(9) FROM account FOR UPDATE",
            "statement_timeout",
            either("1969", "interrupted"),
        ),
        ("SELECT nothing FROM account", "statement", "1054"),
    ] {
        let list = json!([{"sql": "UPDATE account SET balance = 0"}, {"sql": statement}]);
        let (found, detail) = refusal(resource.call(impatient(work(list))).await);
        assert_eq!(found, kind, "{statement}: {detail}");
        assert!(detail.contains(named) && detail.contains("statement 2"), "{statement}: {detail}");
    }
    let reader = work(json!([{"sql": "SELECT 1"}, {"sql": "SELECT nothing FROM account"}]));
    let (kind, detail) = refusal(resource.call(impatient(reader)).await);
    assert!(kind == "statement" && detail.contains("statement 2"), "{detail}");
    assert!(bank.prepared().is_empty());
    assert_eq!(bank.number("SELECT SUM(balance) FROM account"), 2_000);
    assert_eq!(bank.number("SELECT COUNT(*) FROM unanimous_fence"), 0);
}

#[tokio::test]
async fn conflicts_are_told_apart() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, holder) = (bank.resource(), fresh_name());
    let answer = prepare(&resource, &holder, bank.add(1)).await;
    let Answer::Yes(returned) = answer else { panic!("{answer:?}: it is free") };
    let patience = Duration::from_secs(3);
    let (kind, detail) = refusal(resource.call(Call { patience, ..impatient(bank.add(1)) }).await);
    assert_eq!(kind, "lock_timeout", "{detail}");
    let done = finish(&resource, &holder, Verb::Rollback, &returned).await;
    assert_eq!(done, Answer::Done(Opaque::default()));

    let crossed = |first: i32, second: i32| {
        let add = "UPDATE account SET balance = balance + 1 WHERE id = ?";
        work(json!([{"sql": add, "params": [first]}, {"sql": "DO SLEEP(0.3)"},
            {"sql": add, "params": [second]}]))
    };
    let names = [fresh_name(), fresh_name()];
    let (one, two) = tokio::join!(
        prepare(&resource, &names[0], crossed(1, 2)),
        prepare(&resource, &names[1], crossed(2, 1))
    );
    let answers = [one, two];
    let deadlocks =
        answers.iter().filter(|it| matches!(it, Answer::No(r) if &*r.kind == "deadlock"));
    assert_eq!(deadlocks.count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|it| matches!(it, Answer::Yes(_))).count(), 1, "{answers:?}");
}

#[tokio::test]
async fn a_table_that_cannot_be_rolled_back_is_refused_by_name() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql("bank", "CREATE TABLE notes (id int) ENGINE=MyISAM");
    for statement in ["INSERT INTO notes VALUES (1)", "INSERT INTO bank.`Notes` VALUES (1)"] {
        let answer = prepare(&bank.resource(), &fresh_name(), sql(statement)).await;
        let (kind, detail) = refusal(answer);
        assert_eq!(kind, "unsupported");
        assert!(detail.contains("NOTES") && detail.contains("ENGINE=InnoDB"), "{detail}");
    }
    let reads = prepare(&bank.resource(), &fresh_name(), sql("SELECT * FROM notes")).await;
    assert!(matches!(reads, Answer::ReadOnly(_)), "{reads:?}");
    assert_eq!(bank.number("SELECT COUNT(*) FROM notes"), 0);
}

#[tokio::test]
async fn a_read_only_server_is_a_no_before_and_no_conclusion_after_the_vote() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, name) = (bank.resource(), fresh_name());
    let Answer::Yes(returned) = prepare(&resource, &name, bank.add(5)).await else { panic!("yes") };
    bank.server.sql("", "SET GLOBAL read_only = 1");
    let (kind, _) = refusal(prepare(&bank.resource(), &fresh_name(), bank.add(1)).await);
    assert_eq!(kind, "read_only_resource");
    // MySQL lets what was prepared before be committed.
    let done = either(None, Some(Answer::Done(Opaque::default())));
    let answer = finish(&resource, &name, Verb::Commit, &returned).await;
    match done {
        Some(done) => assert_eq!(answer, done),
        None => assert!(matches!(answer, Answer::Silent(_) | Answer::Working), "{answer:?}"),
    }
    let gone = finish(&resource, &fresh_name(), Verb::Commit, &returned).await;
    assert!(matches!(gone, Answer::Silent(_)), "{gone:?}");
    bank.server.sql("", "SET GLOBAL read_only = 0");
    let answer = finish(&resource, &name, Verb::Commit, &returned).await;
    assert_eq!(answer, Answer::Done(Opaque::default()));
    assert_eq!(bank.counter(), 1_005);
}

#[tokio::test]
async fn without_the_table_of_proofs_the_refusal_says_what_to_run() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "bank",
        "CREATE USER poor@'127.0.0.1'; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON bank.* TO poor@'127.0.0.1'",
    );
    let poor = at(&bank.server.url("poor", "bank"));
    let (kind, detail) = refusal(prepare(&poor, &fresh_name(), bank.add(1)).await);
    assert_eq!(kind, "fence_missing");
    let (_, rest) = detail.split_once("database: ").expect("it says what to run");
    let (ddl, _) = rest.split_once(", and let").expect("and for whom");
    bank.server.sql("bank", ddl);
    let name = fresh_name();
    let Answer::Yes(returned) = prepare(&poor, &name, bank.add(1)).await else { panic!("yes") };
    let done = finish(&poor, &name, Verb::Commit, &returned).await;
    assert_eq!(done, Answer::Done(Opaque::default()));
    assert_eq!(bank.counter(), 1_001);
    bank.server.sql("bank", "REVOKE UPDATE ON bank.* FROM poor@'127.0.0.1'");
    let poor = at(&bank.server.url("poor", "bank"));
    assert_eq!(refusal(prepare(&poor, &fresh_name(), bank.add(1)).await).0, "permission");
}

#[tokio::test]
async fn values_of_every_kind_arrive_and_come_back() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "bank",
        "CREATE TABLE thing (n int, big decimal(40,20), f double, t text CHARACTER SET utf8mb4, \
         b bool, at datetime(3), raw varbinary(9), doc json, u bigint unsigned, none text)",
    );
    let insert = "INSERT INTO thing VALUES (?, ?, ?, ?, ?, ?, UNHEX(?), ?, ?, ?)";
    let insert = format!("{insert}{}", either(" RETURNING *", ""));
    let read = either("", r#", {"sql":"SELECT * FROM thing"}"#);
    let text = r#"[{"sql":"INSERT","params":[-7, 12345678901234567890.0123456789, 1.5,
        "a'\"\\ü😀\n", true, "2026-11-21 09:00:00.123", "00ff", {"a":[1,"x"]},
        18446744073709551615, null], "expect_rows":1}MORE]"#;
    let (resource, name) = (bank.resource(), fresh_name());
    let list = Opaque::new(text.replace("INSERT", &insert).replace("MORE", read).as_bytes());
    let answer = prepare(&resource, &name, list).await;
    let Answer::Yes(came) = answer else { panic!("{answer:?} is no yes") };
    assert_eq!(
        returned::results(came.bytes()).last(),
        Some(&json!({"rows_affected": 1, "rows": [{
            "n": -7, "big": "12345678901234567890.01234567890000000000", "f": 1.5,
            "t": "a'\"\\ü😀\n", "b": 1, "at": "2026-11-21 09:00:00.123", "raw": "0x00ff",
            "doc": either(json!("{\"a\":[1,\"x\"]}"), json!({"a": [1, "x"]})), "u": 18_446_744_073_709_551_615_u64, "none": null}]}))
    );
    let done = finish(&resource, &name, Verb::Rollback, &came).await;
    assert_eq!(done, Answer::Done(Opaque::default()));
    let many =
        sql(&format!("{DIGITS} SELECT a.n FROM digit a, digit b, digit c, digit d, digit e"));
    let Answer::ReadOnly(came) = prepare(&resource, &fresh_name(), many).await else {
        panic!("reads only")
    };
    let result = &returned::results(came.bytes())[0];
    assert_eq!((&result["rows_affected"], &result["truncated"]), (&json!(100_000), &json!(true)));
    assert_eq!(result["rows"].as_array().expect("rows").len(), 100);
    let wide =
        format!("{DIGITS} SELECT REPEAT('x', 1000) AS text FROM digit a, digit b WHERE b.n < 9");
    let wide = json!({"sql": wide});
    let wide = work(json!([wide, wide, wide]));
    let Answer::ReadOnly(came) = prepare(&resource, &fresh_name(), wide).await else {
        panic!("reads only")
    };
    let len = came.bytes().len();
    assert!((60_000..70_000).contains(&len), "{len} bytes of results");
}

#[tokio::test]
async fn rows_that_an_update_found_count_and_procedures_answer_as_one_statement() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "bank",
        "DELIMITER //\nCREATE PROCEDURE twice() BEGIN SELECT 1 AS a; UPDATE account SET balance = 5; \
         SELECT 2 AS a; END//\n\
         CREATE FUNCTION takes() RETURNS int DETERMINISTIC MODIFIES SQL DATA BEGIN \
             UPDATE account SET balance = balance - 1 WHERE id = 1; RETURN 1; END//",
    );
    let list = json!([
        {"sql": "UPDATE account SET balance = 1000 WHERE id = 1", "expect_rows": 1},
        {"sql": "CALL twice() -- and more"},
        {"sql": "UPDATE account SET balance = 6 WHERE id IN (1, 2) # all"},
    ]);
    let (resource, name) = (bank.resource(), fresh_name());
    let answer = prepare(&resource, &name, work(list)).await;
    let Answer::Yes(came) = answer else { panic!("{answer:?} is no yes") };
    let results = returned::results(came.bytes());
    assert_eq!(results.len(), 3, "{results:?}");
    assert_eq!(results[1]["rows"], json!([{"a": 1}, {"a": 2}]));
    assert_eq!(results[2], json!({"rows_affected": 2}));
    let done = finish(&resource, &name, Verb::Rollback, &came).await;
    assert_eq!(done, Answer::Done(Opaque::default()));

    // It looks like one that only reads, and is found out.
    let name = fresh_name();
    let answer = prepare(&resource, &name, sql("SELECT takes() AS taken")).await;
    let Answer::Yes(came) = answer else { panic!("{answer:?} is no yes") };
    let done = finish(&resource, &name, Verb::Commit, &came).await;
    assert_eq!(done, Answer::Done(Opaque::default()));
    assert_eq!(bank.counter(), 999);
}

#[tokio::test]
async fn a_password_is_proven_and_never_shown() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "bank",
        "CREATE USER keyed@'127.0.0.1' IDENTIFIED BY 's3cret'; \
         GRANT ALL ON bank.* TO keyed@'127.0.0.1'",
    );
    let at = |password: Option<&str>| {
        let password = password.map(|it| Password::new(it.to_owned()));
        let settings = Settings { password, ..Settings::default() };
        let url = bank.server.url("keyed", "bank");
        open("bank", &url, &settings, std::sync::Arc::new(Unobserved)).expect("a good url")
    };
    let answer = prepare(&at(Some("s3cret")), &fresh_name(), sql("SELECT 1")).await;
    assert!(matches!(answer, Answer::ReadOnly(_)), "{answer:?}");
    for password in [Some("wrong"), None] {
        let answer = prepare(&at(password), &fresh_name(), sql("SELECT 1")).await;
        let (kind, detail) = refusal(answer);
        assert_eq!(kind, "configuration");
        assert!(detail.contains("password_env") && !detail.contains("wrong"), "{detail}");
    }
}
