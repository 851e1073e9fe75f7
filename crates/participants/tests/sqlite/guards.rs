//! Other programs that use the file: what they see and cannot do while a branch is prepared, and what
//! becomes of a branch if they get past the guards.

use unanimous_core::{Answer, HeuristicKind, Verb};
use unanimous_participants::testing::conformance::{Subject, fresh_name};

use crate::common::{Bank, done, finish, prepare, sql};

#[tokio::test]
async fn nobody_changes_what_a_prepared_branch_holds_and_everything_else_is_free() {
    let bank = Bank::open();
    bank.sql(
        "CREATE TABLE seat (row TEXT NOT NULL, no INTEGER NOT NULL, holder TEXT, \
           PRIMARY KEY (row, no)) WITHOUT ROWID; \
         CREATE TABLE person (id INTEGER PRIMARY KEY, email TEXT UNIQUE); \
         CREATE TABLE child (id INTEGER PRIMARY KEY, person REFERENCES person); \
         INSERT INTO seat VALUES ('B', 1, NULL), ('B', 2, NULL); \
         INSERT INTO person VALUES (1, 'a'), (2, 'b')",
    );
    let (resource, name) = (bank.resource(), fresh_name());
    let prepared = prepare(
        &resource,
        &name,
        crate::common::work(&serde_json::json!([
            { "sql": "UPDATE account SET balance = 1 WHERE id = 1" },
            { "sql": "INSERT INTO account VALUES (3, 30)" },
            { "sql": "UPDATE account SET balance = balance WHERE id = 2" },
            { "sql": "UPDATE seat SET holder = 'x' WHERE no = 2" },
            { "sql": "INSERT INTO child VALUES (1, 2)" },
        ])),
    )
    .await;
    assert!(matches!(prepared, Answer::Yes(_)), "{prepared:?}");
    drop(resource);
    // Also while no coordinator runs, and whatever they say is to be done about conflicts.
    let other = bank.other();
    for held in [
        "UPDATE account SET balance = 2 WHERE id = 1",
        "UPDATE OR IGNORE account SET balance = 2 WHERE id = 1",
        "UPDATE OR REPLACE account SET id = 1 WHERE id = 2",
        "UPDATE account SET balance = 2 WHERE id = 2",
        "DELETE FROM account",
        "REPLACE INTO account VALUES (1, 2)",
        "INSERT OR IGNORE INTO account VALUES (3, 1)",
        "INSERT INTO account (balance) VALUES (1)",
        "UPDATE seat SET holder = 'y' WHERE no = 2",
        "UPDATE seat SET no = 2 WHERE no = 1",
        "DELETE FROM person WHERE id = 2",
        "INSERT INTO person VALUES (3, 'c')",
        "INSERT INTO child VALUES (2, 1)",
    ] {
        let error = other.execute_batch(held).expect_err(held).to_string();
        let says = error.contains("is held by a prepared branch") || error.contains("UNIQUE");
        assert!(says, "{held}: {error}");
    }
    assert_eq!(bank.counter(), 1_000, "the old state is seen");
    for free in [
        "INSERT INTO account VALUES (9, 1)",
        "UPDATE account SET balance = 3 WHERE id = 9",
        "UPDATE seat SET holder = 'y' WHERE no = 1",
        "CREATE TABLE another (x)",
    ] {
        other.execute_batch(free).expect(free);
    }
    assert_eq!(finish(&bank.resource(), &name, Verb::Commit).await, done());
    let balances = "SELECT group_concat(id || '=' || balance) FROM account";
    assert_eq!(bank.text(balances), "1=1,2=1000,3=30,9=3");
    other
        .execute_batch("DELETE FROM account; DELETE FROM person WHERE id = 1")
        .expect("all is free");
}

#[tokio::test]
async fn who_gets_past_the_guards_is_noticed_and_nothing_of_the_branch_is_done() {
    for past in [
        "UPDATE account SET balance = 7 WHERE id = 1",
        "DELETE FROM account WHERE id = 1",
        "UPDATE account SET balance = 8 WHERE id = 2",
    ] {
        let bank = Bank::open();
        let (resource, name) = (bank.resource(), fresh_name());
        let both = sql("UPDATE account SET balance = balance + 1");
        assert!(matches!(prepare(&resource, &name, both).await, Answer::Yes(_)));
        bank.sql(&format!(
            "DROP TRIGGER unanimous_guard_update_account; \
             DROP TRIGGER unanimous_guard_delete_account; {past}"
        ));
        let left = bank.text("SELECT group_concat(balance) FROM account");
        for _ in 0..2 {
            let answer = finish(&bank.resource(), &name, Verb::Commit).await;
            assert_eq!(answer, Answer::Heuristic(HeuristicKind::Rollback), "{past}");
        }
        assert_eq!(bank.text("SELECT group_concat(balance) FROM account"), left, "{past}");
        assert_eq!(finish(&resource, &name, Verb::Rollback).await, done());
        // The guards are back with the next branch.
        let name = fresh_name();
        let two = sql("UPDATE account SET balance = balance + 1 WHERE id = 2");
        assert!(matches!(prepare(&resource, &name, two).await, Answer::Yes(_)));
        let error = bank.other().execute_batch("UPDATE account SET balance = 0 WHERE id = 2");
        assert!(error.is_err(), "{past}");
    }
}

#[tokio::test]
async fn a_table_that_was_changed_is_waited_for_and_one_that_was_restored_is_a_hazard() {
    let bank = Bank::open();
    let (resource, name) = (bank.resource(), fresh_name());
    assert!(matches!(prepare(&resource, &name, bank.add(5)).await, Answer::Yes(_)));
    bank.sql("ALTER TABLE account RENAME TO accounts");
    let answer = finish(&resource, &name, Verb::Commit).await;
    assert!(matches!(&answer, Answer::Silent(seen) if seen.contains("account")), "{answer:?}");
    bank.sql("ALTER TABLE accounts RENAME TO account");
    bank.sql("ALTER TABLE account ADD COLUMN since TEXT");
    let answer = finish(&resource, &name, Verb::Commit).await;
    assert!(matches!(&answer, Answer::Silent(seen) if seen.contains("id, balance")), "{answer:?}");
    bank.sql("ALTER TABLE account DROP COLUMN since");
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
    assert_eq!(bank.counter(), 1_005);

    let name = fresh_name();
    let copy = bank.folder.path().join("copy.db");
    bank.sql(&format!("VACUUM INTO '{}'", copy.display()));
    assert!(matches!(prepare(&resource, &name, bank.add(5)).await, Answer::Yes(_)));
    for ending in ["", "-wal", "-shm"] {
        let mut old = bank.path().into_os_string();
        old.push(ending);
        std::fs::remove_file(old).expect("the file and its log are there");
    }
    std::fs::rename(copy, bank.path()).expect("it is in place");
    let answer = finish(&resource, &name, Verb::Commit).await;
    assert_eq!(answer, Answer::Heuristic(HeuristicKind::Hazard));
    assert_eq!(finish(&resource, &fresh_name(), Verb::Rollback).await, done());
}

#[tokio::test]
async fn a_table_that_gets_another_unique_index_is_held_whole_from_then_on() {
    let bank = Bank::open();
    let (resource, one, two) = (bank.resource(), fresh_name(), fresh_name());
    let second = sql("UPDATE account SET balance = 5 WHERE id = 2");
    assert!(matches!(prepare(&resource, &one, bank.add(5)).await, Answer::Yes(_)));
    bank.sql("UPDATE account SET balance = 7 WHERE id = 2");
    bank.sql("CREATE UNIQUE INDEX distinct_balance ON account (balance)");
    let asked =
        unanimous_participants::testing::conformance::call(&two, Verb::Prepare, second.clone());
    let patience = std::time::Duration::from_millis(200);
    let answer = resource.call(unanimous_participants::Call { patience, ..asked }).await;
    let (kind, detail) = crate::common::refusal(answer);
    assert_eq!(kind, "lock_timeout");
    assert!(detail.contains(&one.to_string()), "{detail}");
    assert_eq!(finish(&resource, &one, Verb::Commit).await, done());
    assert!(matches!(prepare(&resource, &two, second).await, Answer::Yes(_)));
    let error = bank.other().execute_batch("INSERT INTO account VALUES (7, 1)");
    assert!(error.is_err_and(|why| why.to_string().contains("held by a prepared branch")));
    assert_eq!(finish(&resource, &two, Verb::Commit).await, done());
}
