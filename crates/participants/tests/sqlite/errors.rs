//! What goes wrong with statements, with the file, and with who owns it.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::json;
use unanimous_core::id::{ShardId, TxnId};
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::testing::steps;
use unanimous_participants::{Call, Fitness, Resource, Settings, Unobserved, open};

use crate::common::{Bank, at, done, finish, prepare, refusal, sql, work};

#[tokio::test]
async fn each_refusal_has_a_kind_and_says_which_statement() {
    let bank = Bank::open();
    bank.sql(
        "CREATE TABLE strict (id INTEGER PRIMARY KEY, n INTEGER) STRICT; \
         CREATE TRIGGER no BEFORE DELETE ON strict BEGIN SELECT RAISE(ABORT, 'on purpose'); END; \
         INSERT INTO strict VALUES (1, 1)",
    );
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) \
                   UPDATE account SET balance = (SELECT count(*) FROM n)";
    let resource = bank.resource();
    for (statement, kind, named, step_kind) in [
        ("UPDATE account SET balance = -1", "constraint", "CHECK", "constraint"),
        ("INSERT INTO account VALUES (1, 1)", "constraint", "UNIQUE", "constraint"),
        ("INSERT INTO strict VALUES (2, 'x')", "constraint", "strict.n", "constraint"),
        ("INSERT INTO account VALUES ('x', 1)", "data", "mismatch", "data"),
        ("DELETE FROM strict", "refused", "on purpose", "refused"),
        ("UPDATE nowhere SET x = 1", "statement", "no such table", "statement"),
        ("UPDAT account", "statement", "syntax error", "statement"),
        ("SELECT 1; SELECT 2", "statement", "Multiple statements", "statement"),
        ("COMMIT", "statement", "begins and ends", "statement"),
        ("DROP TABLE account", "statement", "schema", "statement"),
        ("DELETE FROM unanimous_lock", "statement", "not for a branch", "statement"),
        ("SELECT ?", "statement", "placeholders", "statement"),
        ("", "statement", "statement 1", "statement"),
        (endless, "statement_timeout", "interrupted", "silent"),
    ] {
        let asked = call(&fresh_name(), Verb::Prepare, sql(statement));
        let patience = Duration::from_secs(1);
        let answer = resource.call(Call { patience, ..asked }).await;
        let (found, detail) = refusal(answer);
        assert_eq!(found, kind, "{statement}: {detail}");
        assert!(detail.contains(named) && detail.starts_with("statement 1: "), "{detail}");
        let (found, detail) = steps::refusal(&resource, sql(statement)).await;
        assert_eq!(found, step_kind, "{statement}: {detail}");
    }
    let digits = r#"[{"sql":"UPDATE account SET balance = ?","params":[9.1234567890123456]}]"#;
    let digits = Opaque::new(digits.as_bytes());
    assert_eq!(refusal(prepare(&resource, &fresh_name(), digits).await).0, "data");
    assert_eq!(bank.text("SELECT group_concat(balance) FROM account"), "1000,1000");
    assert_eq!(bank.number("SELECT count(*) FROM unanimous_branch"), 0);
    assert_eq!(bank.number("SELECT count(*) FROM unanimous_barrier"), 0);
}

#[tokio::test]
async fn results_are_told_and_bounded() {
    let bank = Bank::open();
    let list = json!([
        { "sql": "UPDATE account SET balance = balance + $2 WHERE id = $1 RETURNING id, balance / 3.0 AS third, \
                  x'00ff' AS bytes, NULL AS none, 'ü' AS text", "params": [1, 2] },
        { "sql": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 500) SELECT x FROM n" },
        { "sql": "DELETE FROM account WHERE id = 2" },
    ]);
    let name = fresh_name();
    let Answer::Yes(came) = prepare(&bank.resource(), &name, work(&list)).await else {
        panic!("yes")
    };
    let results = unanimous_participants::returned::results(came.bytes());
    let row = json!({"id": 1, "third": 334.0, "bytes": "0x00ff", "none": null, "text": "ü"});
    assert_eq!(results[0], json!({"rows_affected": 1, "rows": [row]}));
    assert_eq!(results[1]["rows_affected"], 500);
    assert_eq!(results[1]["truncated"], true);
    assert_eq!(results[1]["rows"].as_array().map(Vec::len), Some(100));
    assert_eq!(results[2], json!({"rows_affected": 1}));
    assert_eq!(finish(&bank.resource(), &name, Verb::Rollback).await, done());
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_with_what_to_do() {
    let bank = Bank::open();
    let text = bank.folder.path().join("notes.txt");
    std::fs::write(&text, "no database at all, though long enough to have had a header".repeat(99))
        .expect("a file");
    for (path, kind, named) in [
        (bank.folder.path().join("missing.db"), "configuration", "there is no file"),
        (text, "corrupt", "restore the file"),
        (bank.folder.path().to_owned(), "configuration", "look whether the file"),
    ] {
        let resource = at(&path);
        let (found, detail) = refusal(prepare(&resource, &fresh_name(), bank.add(1)).await);
        assert_eq!(found, kind, "{detail}");
        assert!(detail.contains(named) && detail.contains(&*path.to_string_lossy()), "{detail}");
        assert!(!detail.contains('\n'), "{detail}");
        let answer = finish(&resource, &fresh_name(), Verb::Commit).await;
        assert!(matches!(answer, Answer::Silent(_)), "{answer:?}");
        assert!(resource.in_doubt(Duration::from_secs(5)).await.is_err());
        let found = resource.examine(Duration::from_secs(5)).await;
        assert_eq!((found.len(), found[0].fitness), (1, Fitness::Unfit), "{found:?}");
        assert!(resource.read(vec!["SELECT 1".to_owned()], Duration::from_secs(5)).await.is_err());
    }
    // It is there from now on, and needs no restart.
    let late = bank.folder.path().join("missing.db");
    let resource = at(&late);
    assert_eq!(refusal(prepare(&resource, &fresh_name(), bank.add(1)).await).0, "configuration");
    bank.sql(&format!("VACUUM INTO '{}'", late.display()));
    assert!(matches!(prepare(&resource, &fresh_name(), bank.add(1)).await, Answer::Yes(_)));
}

#[tokio::test]
async fn a_file_has_one_owner() {
    let bank = Bank::open();
    let link = bank.folder.path().join("link.db");
    std::os::unix::fs::symlink(bank.path(), &link).expect("a link");
    let (first, second) = (bank.resource(), at(&link));
    assert_eq!(finish(&first, &fresh_name(), Verb::Rollback).await, done());
    let (kind, detail) = refusal(prepare(&second, &fresh_name(), bank.add(1)).await);
    assert_eq!(kind, "owned_elsewhere", "{detail}");
    assert!(detail.contains("another resource of this coordinator"), "{detail}");
    let found = second.examine(Duration::from_secs(5)).await;
    assert!(found.iter().any(|it| it.subject == "owner" && it.detail.contains("has it open")));
    drop(first);
    // Whoever had it lets go of it.
    assert!(matches!(prepare(&second, &fresh_name(), bank.add(1)).await, Answer::Yes(_)));
}

#[tokio::test]
async fn who_writes_to_the_file_is_waited_for_within_the_patience() {
    let bank = Bank::open();
    let (resource, name) = (bank.resource(), fresh_name());
    assert!(matches!(prepare(&resource, &name, bank.add(1)).await, Answer::Yes(_)));
    let other = bank.other();
    other.execute_batch("BEGIN IMMEDIATE").expect("it is free");
    let patience = Duration::from_secs(2);
    let (blocked, commits) = tokio::join!(
        resource.call(Call { patience, ..call(&fresh_name(), Verb::Prepare, bank.add(1)) }),
        resource.call(Call { patience, ..call(&name, Verb::Commit, Opaque::default()) }),
    );
    let (kind, detail) = refusal(blocked);
    assert_eq!(kind, "lock_timeout", "{detail}");
    assert!(matches!(&commits, Answer::Silent(seen) if seen.contains("locked")), "{commits:?}");
    other.execute_batch("COMMIT").expect("nothing was done");
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
    assert_eq!(bank.counter(), 1_001);
}

#[tokio::test]
async fn what_changes_too_much_at_once_is_refused_and_nothing_of_it_stays() {
    let bank = Bank::open();
    bank.sql("CREATE TABLE big (id INTEGER PRIMARY KEY, v)");
    let resource = bank.resource();
    assert!(matches!(prepare(&resource, &fresh_name(), bank.add(1)).await, Answer::Yes(_)));
    let grows = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 10001) \
                 INSERT INTO big (v) SELECT x FROM n";
    let (kind, detail) = refusal(prepare(&resource, &fresh_name(), sql(grows)).await);
    assert_eq!(kind, "unsupported", "{detail}");
    assert!(detail.contains("10000 rows"), "{detail}");
    let large = "INSERT INTO big (v) VALUES (zeroblob(17000000))";
    let (kind, detail) = refusal(prepare(&resource, &fresh_name(), sql(large)).await);
    assert_eq!(kind, "unsupported", "{detail}");
    assert_eq!(bank.number("SELECT count(*) FROM big"), 0);
}

#[tokio::test]
async fn queries_see_one_state_change_nothing_and_hold_nobody_up() {
    let bank = Bank::open();
    let (resource, patience) = (bank.resource(), Duration::from_secs(5));
    let read = async |queries: &[&str]| {
        resource.read(queries.iter().map(|it| (*it).to_owned()).collect(), patience).await
    };
    let name = fresh_name();
    assert!(matches!(prepare(&resource, &name, bank.add(7)).await, Answer::Yes(_)));
    let sum = "SELECT sum(balance) FROM account";
    let none = "SELECT sum(balance) FROM account WHERE id > 7; -- none";
    assert_eq!(read(&[sum, none]).await, Ok(vec![Some("2000".to_owned()), None]));
    for (query, named) in [
        ("DELETE FROM account", "only to read"),
        ("COMMIT", "begins and ends"),
        ("ATTACH 'other.db' AS other", "one file"),
        ("SELECT balance FROM account", "2 came"),
        ("SELECT sum(balnce) FROM account", "no such column"),
    ] {
        let why = read(&[query]).await.expect_err(query);
        assert!(why.contains(named), "{query}: {why}");
    }
    let endless =
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
    let late = resource.read(vec![endless.to_owned()], Duration::from_millis(200)).await;
    assert!(late.is_err_and(|why| why.contains("interrupted")));
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
    assert_eq!(read(&[sum]).await, Ok(vec![Some("2007".to_owned())]));
}

#[tokio::test]
async fn an_examination_names_what_has_to_be_changed() {
    let bank = Bank::open();
    let worst = async |bank: &Bank| {
        let found = bank.resource().examine(Duration::from_secs(10)).await;
        let bad = found.into_iter().filter(|it| it.fitness != Fitness::Fit);
        bad.map(|it| (it.subject, it.fitness)).collect::<Vec<_>>()
    };
    assert_eq!(worst(&bank).await, []);
    assert!(matches!(prepare(&bank.resource(), &fresh_name(), bank.add(1)).await, Answer::Yes(_)));
    bank.sql(
        "UPDATE unanimous_branch SET at = 0; CREATE TABLE loose (x); \
         PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE",
    );
    let permissions = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(bank.path(), permissions(0o444)).expect("a file of ours");
    let (unfit, doubtful) = (Fitness::Unfit, Fitness::Doubtful);
    let found = worst(&bank).await;
    std::fs::set_permissions(bank.path(), permissions(0o644)).expect("a file of ours");
    let all =
        [("file", unfit), ("journal_mode", doubtful), ("tables", doubtful), ("prepared", doubtful)];
    assert_eq!(found, all);
}

#[tokio::test]
async fn what_is_old_is_forgotten_and_nothing_is_concluded_from_its_absence() {
    let bank = Bank::open();
    let resource = bank.resource();
    let mut old = fresh_name();
    old.txn = TxnId::mint(1_600_000_000_000, ShardId::of(1), 7);
    let recent = fresh_name();
    for name in [&old, &recent] {
        assert!(matches!(prepare(&resource, name, bank.add(1)).await, Answer::Yes(_)));
        assert_eq!(finish(&resource, name, Verb::Commit).await, done());
        let step = call(name, Verb::Act, bank.add(1));
        assert!(matches!(resource.call(step).await, Answer::Done(_)));
    }
    let rows = "SELECT (SELECT count(*) FROM unanimous_branch) || ',' || \
                (SELECT count(*) FROM unanimous_barrier)";
    bank.sql("UPDATE unanimous_branch SET at = 0; UPDATE unanimous_barrier SET at = 0");
    let resource = bank.resource();
    finish(&resource, &recent, Verb::Rollback).await;
    drop(resource);
    let again = open(
        "again",
        &format!("sqlite://{}", bank.path().display()),
        &Settings::default(),
        std::sync::Arc::new(Unobserved),
    )
    .expect("a good url");
    finish(&again, &recent, Verb::Rollback).await;
    again.in_doubt(Duration::from_secs(10)).await.expect("it answers");
    assert_eq!(bank.text(rows), "1,1", "only those whose names are old are gone");
    let compensates = call(&old, Verb::Compensate, bank.add(-1));
    assert_eq!(refusal(again.call(compensates).await).0, "forgotten");
    let at_once = call(&old, Verb::CommitOnePhase, bank.add(1));
    assert!(matches!(again.call(at_once).await, Answer::Silent(_)));
    assert_eq!(bank.counter(), 1_004);
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let at = |url: &str| open("bank", url, &Settings::default(), std::sync::Arc::new(Unobserved));
    assert!(at("sqlite:").is_err() && at("sqlite::memory:").is_err() && at("sqlite:a.db").is_ok());
    let resource: std::sync::Arc<dyn Resource> = at("sqlite:a.db").expect("a path");
    assert!(resource.location().ends_with("/a.db") && resource.kind() == "sqlite");
}
