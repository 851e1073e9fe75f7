//! What PostgreSQL refuses, and what a branch's vote says of it.

use serde_json::json;
use unanimous_core::{Answer, Decision, HeuristicKind, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::{Call, Settings, Unobserved, returned};

use crate::common::{Bank, prepare, sql, work};

/// The kind and the detail of a refusal.
fn refusal(answer: Answer) -> (String, String) {
    let Answer::No(reason) = answer else { panic!("{answer:?} is no refusal") };
    (reason.kind.to_string(), reason.detail.to_string())
}

#[tokio::test]
async fn every_error_that_can_be_provoked_is_a_no_of_its_kind_and_leaves_nothing() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "postgres",
        "CREATE TABLE line (account int REFERENCES account DEFERRABLE INITIALLY DEFERRED); \
         CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN NOTIFY something; RETURN new; END'; \
         CREATE TABLE watched (id int); \
         CREATE TRIGGER tells AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION tells(); \
         CREATE ROLE nobody LOGIN",
    );
    let resource = bank.resource();
    for (statement, kind, named) in [
        ("INSERT INTO account VALUES (1, 0)", "constraint", "23505"),
        ("UPDATE account SET balance = -1 WHERE id = 1", "constraint", "23514"),
        ("INSERT INTO line VALUES (99)", "constraint", "PREPARE TRANSACTION"),
        ("UPDATE account SET balance = 'much' WHERE id = 1", "data", "22P02"),
        ("UPDATE account SET balance = 1/0 WHERE id = 1", "data", "22012"),
        ("UPDATE nothing SET x = 1", "statement", "42P01"),
        ("UPDAT account", "statement", "42601"),
        ("UPDATE account SET balance = 1; COMMIT", "statement", "42601"),
        ("INSERT INTO watched VALUES (1)", "unsupported", "0A000"),
        ("CREATE TEMP TABLE t (id int)", "unsupported", "0A000"),
        ("SET LOCAL transaction_read_only = on", "read_only_resource", "25006"),
        ("COMMIT", "statement", "COMMIT is not for a branch"),
        ("/* x */ ; RollBack", "statement", "ROLLBACK is not for a branch"),
        ("SET search_path = x", "statement", "SET is not for a branch"),
        ("COPY account FROM stdin", "statement", "COPY is not for a branch"),
        ("DO 'BEGIN COMMIT; END'", "refused", "2D000"),
        ("SELECT pg_sleep(9) FROM account FOR UPDATE", "statement_timeout", "57014"),
    ] {
        let list = json!([{"sql": statement}, {"sql": "UPDATE account SET balance = 0"}]);
        let name = fresh_name();
        let patience = std::time::Duration::from_secs(1);
        let asked = Call { patience, ..call(&name, Verb::Prepare, work(list)) };
        let (found, detail) = refusal(resource.call(asked).await);
        assert_eq!(found, kind, "{statement}: {detail}");
        assert!(detail.contains(named), "{statement}: {detail}");
    }
    assert!(bank.prepared().is_empty());
    assert_eq!(bank.number("SELECT sum(balance) FROM account"), 2_000);
    let denied = bank.at(&bank.server.url("nobody", "postgres"));
    let answer = prepare(&denied, &fresh_name(), sql("DELETE FROM account")).await;
    assert_eq!(refusal(answer).0, "permission");
}

#[tokio::test]
async fn a_server_without_room_for_prepared_transactions_is_named_with_what_to_change() {
    let Some(bank) = Bank::start(&["max_prepared_transactions=0"]) else { return };
    let (kind, detail) = refusal(prepare(&bank.resource(), &fresh_name(), bank.add(1)).await);
    assert_eq!(kind, "two_phase_disabled");
    assert!(detail.contains("max_prepared_transactions") && detail.contains("restart"), "{detail}");
    assert_eq!(bank.counter(), 1_000);
}

#[tokio::test]
async fn when_all_places_for_prepared_transactions_are_taken_that_is_said() {
    let Some(bank) = Bank::start(&["max_prepared_transactions=1"]) else { return };
    let _foreign = bank.prepare_foreign();
    let (kind, detail) = refusal(prepare(&bank.resource(), &fresh_name(), bank.add(1)).await);
    assert_eq!(kind, "resources");
    assert!(detail.contains("raise max_prepared_transactions"), "{detail}");
}

#[tokio::test]
async fn conflicts_are_told_apart() {
    let Some(bank) = Bank::start(&["deadlock_timeout=100ms"]) else { return };
    let resource = bank.resource();
    let holder = fresh_name();
    let Answer::Yes(_) = prepare(&resource, &holder, bank.add(1)).await else { panic!("free") };
    let patience = std::time::Duration::from_secs(1);
    let waiting = unanimous_participants::Call {
        patience,
        ..call(&fresh_name(), Verb::Prepare, bank.add(1))
    };
    assert_eq!(refusal(resource.call(waiting).await).0, "lock_timeout");
    bank.end_by_hand(&holder, Decision::Abort);

    let crossed = |first: i32, second: i32| {
        let add = "UPDATE account SET balance = balance + 1 WHERE id = $1";
        let sleep = "SELECT pg_sleep(0.3)";
        work(json!([{"sql": add, "params": [first]}, {"sql": sleep},
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
async fn values_of_every_kind_arrive_and_come_back() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "postgres",
        "CREATE TABLE thing (n int, big numeric, f float8, t text, b bool, at timestamptz, u uuid, \
         raw bytea, doc jsonb, list int[], words text[], none text)",
    );
    let insert = "INSERT INTO thing VALUES \
        ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING *";
    let statements = || {
        let text = r#"[{"sql":"INSERT","params":[7, 12345678901234567890.0123456789, 1.5, "a'\"\\ü", true,
            "2026-11-21T09:00:00Z", "0192f0c1-2345-7abc-8def-0123456789ab", "\\x00ff",
            {"a":[1,"x"]}, [1,null,3], ["a,b","c\"d"], null], "expect_rows":1}]"#;
        unanimous_core::Opaque::new(text.replace("INSERT", insert).as_bytes())
    };
    let (resource, name) = (bank.resource(), fresh_name());
    let Answer::Yes(came) = prepare(&resource, &name, statements()).await else { panic!("good") };
    let results = returned::results(came.bytes());
    assert_eq!(
        results,
        [json!({"rows_affected": 1, "rows": [{
            "n": 7, "big": "12345678901234567890.0123456789", "f": 1.5, "t": "a'\"\\ü", "b": true,
            "at": "2026-11-21 09:00:00+00", "u": "0192f0c1-2345-7abc-8def-0123456789ab",
            "raw": "\\x00ff", "doc": {"a": [1, "x"]}, "list": "{1,NULL,3}",
            "words": "{\"a,b\",\"c\\\"d\"}", "none": null}]})]
    );
    bank.end_by_hand(&name, Decision::Abort);
    let many = sql("SELECT n FROM generate_series(1, 100000) AS n");
    let Answer::ReadOnly(came) = prepare(&resource, &fresh_name(), many).await else {
        panic!("reads only")
    };
    let result = &returned::results(came.bytes())[0];
    assert_eq!((&result["rows_affected"], &result["truncated"]), (&json!(100_000), &json!(true)));
    assert_eq!(result["rows"].as_array().expect("rows").len(), 100);
    let wide = json!({"sql": "SELECT repeat('x', 1000) AS text FROM generate_series(1, 90)"});
    let wide = work(json!([wide, wide, wide]));
    let Answer::ReadOnly(came) = prepare(&resource, &fresh_name(), wide).await else {
        panic!("reads only")
    };
    let len = came.bytes().len();
    assert!((60_000..70_000).contains(&len), "{len} bytes of results");
}

#[tokio::test]
async fn a_branch_the_application_prepared_is_confirmed_and_one_it_did_not_is_not() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, name) = (bank.resource(), fresh_name());
    let nothing = Opaque::default;
    assert!(matches!(prepare(&resource, &name, nothing()).await, Answer::Lost(_)));
    let add = "UPDATE account SET balance = 5 WHERE id = 1";
    bank.server.sql("postgres", &format!("BEGIN; {add}; PREPARE TRANSACTION '{name}'; COMMIT"));
    let Answer::Yes(came) = prepare(&resource, &name, nothing()).await else { panic!("prepared") };
    bank.end_by_hand(&name, Decision::Abort);
    let commit = Call { returned: came, ..call(&name, Verb::Commit, nothing()) };
    let by_hand = Answer::Heuristic(HeuristicKind::Rollback);
    assert_eq!(resource.call(commit).await, by_hand);
}

/// Transactions with lower numbers that have not ended leave the snapshot's end behind the branch's number.
#[tokio::test]
async fn how_a_branch_the_application_prepared_has_ended_is_known_whoever_else_is_at_work() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, name) = (bank.resource(), fresh_name());
    for number in 0..3 {
        bank.server.sql(
            "postgres",
            &format!("BEGIN; CREATE TABLE t{number} (); PREPARE TRANSACTION 'other-{number}'"),
        );
    }
    bank.server.sql(
        "postgres",
        &format!(
            "BEGIN; UPDATE account SET balance = balance - 1 WHERE id = 1; PREPARE TRANSACTION '{name}'"
        ),
    );
    let Answer::Yes(came) = prepare(&resource, &name, Opaque::default()).await else {
        panic!("it is prepared")
    };
    let commit = Call { returned: came, ..call(&name, Verb::Commit, Opaque::default()) };
    for _ in 0..2 {
        // As if the first acknowledgement had been lost.
        let answer = resource.call(commit.clone()).await;
        assert_eq!(answer, Answer::Done(Opaque::default()));
    }
    assert_eq!(bank.counter(), 999);
}

#[tokio::test]
async fn a_password_is_proven_and_never_shown() {
    let Some(mut bank) = Bank::start(&[]) else { return };
    for (method, encryption) in
        [("scram-sha-256", "scram-sha-256"), ("md5", "md5"), ("password", "md5")]
    {
        bank.server.sql(
            "postgres",
            &format!(
                "SET password_encryption = '{encryption}'; DROP ROLE IF EXISTS app; \
             CREATE ROLE app LOGIN PASSWORD 's3cret'"
            ),
        );
        bank.server.require(method, "app");
        let url = bank.server.url("app", "postgres");
        let open = |password: Option<&str>| {
            let password = password.map(|it| unanimous_participants::Password::new(it.to_owned()));
            let settings = Settings { password, ..Settings::default() };
            assert!(!format!("{settings:?}").contains("s3cret"));
            unanimous_participants::open("bank", &url, &settings, std::sync::Arc::new(Unobserved))
                .expect("a good url")
        };
        let read = || sql("SELECT 1");
        let answer = prepare(&open(Some("s3cret")), &fresh_name(), read()).await;
        assert!(matches!(answer, Answer::ReadOnly(_)), "{method}: {answer:?}");
        let (kind, detail) = refusal(prepare(&open(Some("wrong")), &fresh_name(), read()).await);
        assert_eq!(kind, "configuration", "{method}");
        assert!(!detail.contains("wrong"), "{detail}");
        let (_, detail) = refusal(prepare(&open(None), &fresh_name(), read()).await);
        assert!(detail.contains("password_env"), "{detail}");
    }
}
