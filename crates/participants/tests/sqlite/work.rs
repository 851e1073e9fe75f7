//! What work a branch can do, and that its commit puts in place what the work came to, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::{Call, Resource, returned};

use crate::common::{Bank, done, finish, prepare, refusal, sql, work};

const TABLES: &str = "
    CREATE TABLE customer (id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT UNIQUE, score REAL);
    CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL
      REFERENCES customer ON DELETE CASCADE, total NUMERIC, note BLOB);
    CREATE TABLE pair (a TEXT NOT NULL, b INTEGER NOT NULL, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE named (name TEXT PRIMARY KEY COLLATE NOCASE, v);
    CREATE TABLE audit (id INTEGER PRIMARY KEY, what TEXT, twice AS (what || what) STORED);
    CREATE TRIGGER audited AFTER UPDATE ON pair BEGIN
      INSERT INTO audit (what) VALUES (OLD.v || '>' || NEW.v); END;
    CREATE TRIGGER stamped AFTER UPDATE OF v ON named BEGIN
      UPDATE named SET v = v || '!' WHERE name = NEW.name AND v NOT LIKE '%!'; END;
    CREATE VIEW both AS SELECT a, v FROM pair;
    CREATE TRIGGER through INSTEAD OF UPDATE ON both BEGIN
      UPDATE pair SET v = NEW.v WHERE a = OLD.a; END;
    CREATE TABLE loose (x);
    CREATE VIRTUAL TABLE words USING fts5(word);
    CREATE TABLE late (id INTEGER PRIMARY KEY, of INTEGER
      REFERENCES pair_of (id) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE pair_of (id INTEGER PRIMARY KEY);
    INSERT INTO customer (email, score) VALUES ('a@x', 0.1), ('b@x', 2.5);
    INSERT INTO orders VALUES (1, 1, 12.5, x'00ff'), (2, 2, 7, NULL);
    INSERT INTO pair VALUES ('x', 1, 'one'), ('x', 2, 'two'), ('y', 1, NULL);
    INSERT INTO named VALUES ('Ann', 'a'), ('Bob', 'b');
    INSERT INTO loose VALUES (1);";

/// Everything in the user's tables, as one text.
const ALL: &str = "SELECT (SELECT group_concat(quote(id) || quote(email) || quote(score)) FROM customer)
    || '|' || (SELECT coalesce(group_concat(quote(id) || quote(customer) || quote(total) || quote(note)), '')
                 FROM orders)
    || '|' || (SELECT group_concat(a || b || quote(v)) FROM pair)
    || '|' || (SELECT group_concat(name || quote(v) ORDER BY name) FROM named)
    || '|' || (SELECT coalesce(group_concat(id || what || twice), '') FROM audit)
    || '|' || (SELECT group_concat(id || '=' || balance) FROM account)";

#[tokio::test]
async fn a_commit_puts_in_place_exactly_what_the_work_came_to() {
    for statements in [
        &["UPDATE account SET balance = balance - 5 WHERE id = 1"][..],
        &["INSERT INTO customer (email, score) VALUES ('c@x', 1e-300) RETURNING id"],
        &[
            "INSERT INTO customer (email) VALUES ('c@x')",
            "INSERT INTO orders (customer, note) VALUES \
           (last_insert_rowid(), randomblob(20))",
        ],
        &["DELETE FROM customer WHERE id = 1"],
        &["DELETE FROM orders"],
        &["UPDATE pair SET v = v || 'x' WHERE a = 'x'"],
        &["UPDATE pair SET b = b + 10"],
        &["UPDATE both SET v = 'through' WHERE a = 'y'"],
        &["UPDATE named SET v = 'c' WHERE name = 'ANN'"],
        &["UPDATE named SET name = 'ANN' WHERE name = 'ann'"],
        &["INSERT INTO named VALUES ('ann', 'z') ON CONFLICT (name) DO UPDATE SET v = excluded.v"],
        &["REPLACE INTO account VALUES (2, 7)"],
        &["UPDATE account SET id = id + 10"],
        &[
            "UPDATE customer SET email = NULL WHERE id = 1",
            "UPDATE customer SET email = 'a@x' WHERE id = 2",
            "UPDATE customer SET email = 'b@x' WHERE id = 1",
        ],
        &["DELETE FROM account WHERE id = 1", "INSERT INTO account VALUES (1, 5)"],
    ] {
        let [expected, bank] = [Bank::open(), Bank::open()];
        [&expected, &bank].into_iter().for_each(|bank| bank.sql(TABLES));
        let what = statements.join("; ");
        let list = statements.iter().map(|sql| json!({ "sql": sql })).collect::<Vec<_>>();
        let (resource, name, before) = (bank.resource(), fresh_name(), bank.text(ALL));
        let answer = prepare(&resource, &name, work(&json!(list))).await;
        assert!(matches!(answer, Answer::Yes(_)), "{what}: {answer:?}");
        assert_eq!(bank.text(ALL), before, "{what}: nothing is seen of it");
        assert_eq!(finish(&resource, &name, Verb::Commit).await, done(), "{what}");
        let db = expected.other();
        db.execute_batch(&what).expect("it can be done alone");
        if what.contains("randomblob") {
            assert_eq!(bank.number("SELECT count(*) FROM orders WHERE length(note) = 20"), 1);
        } else {
            assert_eq!(bank.text(ALL), expected.text(ALL), "{what}");
        }
        let next = "SELECT group_concat(seq) FROM sqlite_sequence";
        assert_eq!(bank.text(next), expected.text(next), "{what}");
        assert_eq!(bank.text_of_pragma("PRAGMA integrity_check"), "ok");
    }
}

impl Bank {
    fn text_of_pragma(&self, pragma: &str) -> String {
        self.other().query_row(pragma, [], |row| row.get(0)).expect(pragma)
    }
}

#[tokio::test]
async fn what_cannot_be_kept_aside_is_refused_and_can_be_done_in_one_phase() {
    let bank = Bank::open();
    bank.sql(TABLES);
    let resource = bank.resource();
    for (statement, named) in [
        ("INSERT INTO loose VALUES (2)", "no primary key"),
        ("INSERT INTO words VALUES ('a')", "virtual"),
        ("INSERT INTO late VALUES (1, NULL)", "deferred"),
        ("INSERT INTO named VALUES (NULL, 1)", "no value in its primary key"),
        ("REPLACE INTO customer (email) VALUES ('b@x')", "ON CONFLICT DO UPDATE"),
    ] {
        let (kind, detail) = refusal(prepare(&resource, &fresh_name(), sql(statement)).await);
        assert_eq!(kind, "unsupported", "{statement}: {detail}");
        assert!(detail.contains(named), "{statement}: {detail}");
        let at_once = call(&fresh_name(), Verb::CommitOnePhase, sql(statement));
        assert!(matches!(resource.call(at_once).await, Answer::Done(_)), "{statement}");
    }
    assert_eq!(bank.text_of_pragma("PRAGMA integrity_check"), "ok");
}

#[tokio::test]
async fn one_phase_takes_effect_once_and_has_the_same_result_when_it_is_repeated() {
    let bank = Bank::open();
    let name = fresh_name();
    let at_once = call(&name, Verb::CommitOnePhase, bank.add(5));
    let first = bank.resource().call(at_once.clone()).await;
    let Answer::Done(result) = &first else { panic!("{first:?}") };
    assert_eq!(returned::results(result.bytes()), [json!({"rows_affected": 1})]);
    assert_eq!(bank.resource().call(at_once).await, first, "after a restart, too");
    assert_eq!(bank.counter(), 1_005);
    let refused = call(&fresh_name(), Verb::CommitOnePhase, bank.refused());
    assert_eq!(refusal(bank.resource().call(refused).await).0, "expectation");
    let reads = call(&fresh_name(), Verb::CommitOnePhase, bank.read());
    assert!(matches!(bank.resource().call(reads).await, Answer::ReadOnly(_)));
    let ended = fresh_name();
    assert_eq!(finish(&bank.resource(), &ended, Verb::Rollback).await, done());
    let late = call(&ended, Verb::CommitOnePhase, bank.add(5));
    assert_eq!(refusal(bank.resource().call(late).await).0, "lost");
    assert_eq!(bank.counter(), 1_005);
}

#[tokio::test]
async fn a_prepare_is_answered_again_and_one_that_comes_after_the_end_is_lost() {
    let bank = Bank::open();
    let (resource, name) = (bank.resource(), fresh_name());
    let first = prepare(&resource, &name, bank.add(5)).await;
    assert_eq!(prepare(&bank.resource(), &name, bank.add(5)).await, first);
    let confirmed = prepare(&resource, &name, Opaque::default()).await;
    assert!(matches!(confirmed, Answer::Yes(_)));
    finish(&resource, &name, Verb::Rollback).await;
    for work in [bank.add(5), Opaque::default()] {
        let late = prepare(&resource, &name, work).await;
        assert!(matches!(late, Answer::Lost(_)), "{late:?}");
    }
    let nothing = prepare(&resource, &fresh_name(), Opaque::default()).await;
    assert!(matches!(nothing, Answer::Lost(_)), "{nothing:?}");
    assert_eq!(bank.counter(), 1_000);
}

#[tokio::test]
async fn branches_on_other_rows_go_side_by_side_and_on_the_same_row_one_after_the_other() {
    let bank = Bank::open();
    let (resource, names) = (bank.resource(), [fresh_name(), fresh_name(), fresh_name()]);
    let take = |id: i64| {
        let sql = "UPDATE account SET balance = balance - 1 WHERE id = $1";
        work(&json!([{ "sql": sql, "params": [id] }]))
    };
    for (name, id) in names.iter().zip([1, 2]) {
        assert!(matches!(prepare(&resource, name, take(id)).await, Answer::Yes(_)));
    }
    let waits = resource.call(call(&names[2], Verb::Prepare, take(1)));
    let waits = tokio::spawn(waits);
    tokio::task::yield_now().await;
    assert_eq!(finish(&resource, &names[1], Verb::Commit).await, done());
    assert!(!waits.is_finished());
    assert_eq!(finish(&resource, &names[0], Verb::Commit).await, done());
    let came = waits.await.expect("it does not panic");
    assert!(matches!(came, Answer::Yes(_)), "{came:?}");
    assert_eq!(finish(&resource, &names[2], Verb::Commit).await, done());
    assert_eq!(bank.text("SELECT group_concat(balance) FROM account"), "998,999");
}

#[tokio::test]
async fn of_two_that_wait_for_each_other_in_two_files_one_is_refused_at_once() {
    let banks = [Bank::open(), Bank::open()];
    let [a, b] = banks.each_ref().map(Bank::resource);
    let (one, two) = (fresh_name(), fresh_name());
    assert!(matches!(prepare(&a, &one, banks[0].add(1)).await, Answer::Yes(_)));
    assert!(matches!(prepare(&b, &two, banks[0].add(1)).await, Answer::Yes(_)));
    // Whoever is refused lets go of what it has, as the coordinator would tell it to.
    let ask = async |name: &BranchName, has: &Arc<dyn Resource>, wants: &Arc<dyn Resource>| {
        let patience = Duration::from_secs(100);
        let asked = call(name, Verb::Prepare, banks[0].add(1));
        let answer = wants.call(Call { patience, ..asked }).await;
        if matches!(answer, Answer::No(_)) {
            assert_eq!(finish(has, name, Verb::Rollback).await, done());
        }
        answer
    };
    let answers = tokio::join!(ask(&one, &a, &b), ask(&two, &b, &a));
    let (refused, holder) = match answers {
        (refused @ Answer::No(_), Answer::Yes(_)) => (refused, two),
        (Answer::Yes(_), refused @ Answer::No(_)) => (refused, one),
        other => panic!("{other:?}"),
    };
    let (kind, detail) = refusal(refused);
    assert_eq!(kind, "deadlock", "{detail}");
    assert!(detail.contains(&holder.to_string()), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gathers_is_answered_together_and_nobody_suffers_for_another() {
    let bank = Bank::open();
    bank.sql(
        "CREATE TABLE entry (id INTEGER PRIMARY KEY, v); \
         CREATE TABLE deep (id INTEGER PRIMARY KEY, of INTEGER REFERENCES deep DEFERRABLE INITIALLY DEFERRED); \
         CREATE TRIGGER fatal BEFORE INSERT ON entry WHEN NEW.v = 'fatal' \
           BEGIN SELECT RAISE(ROLLBACK, 'everything goes'); END",
    );
    let resource: Arc<dyn Resource> = bank.resource();
    let asked = (0..60).map(|id| {
        let statement = match id % 10 {
            // Ends the whole transaction, and is refused at the commit, and does not compile.
            3 => format!("INSERT INTO entry VALUES ({id}, 'fatal')"),
            6 => format!("INSERT INTO deep VALUES ({id}, 1000)"),
            8 => "INSERT INTO nowhere VALUES (1)".to_owned(),
            _ => format!("INSERT INTO entry VALUES ({id}, 'fine')"),
        };
        let at_once = call(&fresh_name(), Verb::CommitOnePhase, sql(&statement));
        let calling = resource.call(at_once);
        tokio::spawn(async move { (id, calling.await) })
    });
    for asked in asked.collect::<Vec<_>>() {
        let (id, answer) = asked.await.expect("it does not panic");
        match id % 10 {
            3 => assert_eq!(refusal(answer).0, "refused"),
            6 => assert_eq!(refusal(answer).0, "constraint"),
            8 => assert_eq!(refusal(answer).0, "statement"),
            _ => assert!(matches!(answer, Answer::Done(_)), "{id}: {answer:?}"),
        }
    }
    assert_eq!(bank.number("SELECT count(*) FROM entry"), 42);
    assert_eq!(bank.number("SELECT count(*) FROM deep"), 0);
}
