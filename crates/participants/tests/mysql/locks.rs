//! Whom a branch waited for, in the words of its vote; and the bounds of that wait.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::testing::{PrivateMariaDb, until};
use unanimous_participants::{Call, Resource, returned};

use crate::common::{Bank, at, either, finish, prepare, sql, work};

/// A second and a half until somebody looks, and as long again until the lock timeout.
const PATIENCE: Duration = Duration::from_secs(4);

const ADD: &str = "UPDATE account SET balance = balance + 1 WHERE id = 1";

/// A server whose user may know who holds locks.
fn start() -> Option<Bank> {
    let bank = Bank::start(&[])?;
    bank.server.sql("", "GRANT PROCESS ON *.* TO app@'127.0.0.1'");
    if PrivateMariaDb::is_mysql() {
        let grant = "GRANT SELECT ON performance_schema.data_lock_waits TO app@'127.0.0.1'";
        bank.server.sql("", grant);
    }
    Some(bank)
}

/// The kind and the detail of the vote of a branch that wants the row.
async fn refused(resource: &Arc<dyn Resource>, work: Opaque) -> (String, String) {
    let asked = Call { patience: PATIENCE, ..call(&fresh_name(), Verb::Prepare, work) };
    let answer = resource.call(asked).await;
    let Answer::No(reason) = answer else { panic!("{answer:?} is no refusal") };
    eprintln!("{}", reason.detail);
    (reason.kind.to_string(), reason.detail.to_string())
}

async fn until_somebody_sleeps(bank: &Bank) {
    let asleep = "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep'";
    until("somebody has the row", async || bank.number(asleep) == 1).await;
}

fn end_who_sleeps(bank: &Bank) {
    let asleep = "SELECT id FROM information_schema.processlist WHERE state = 'User sleep'";
    let session = bank.server.sql("", asleep);
    bank.server.sql("", &format!("KILL QUERY {session}"));
}

/// A branch that has the row and stays at it.
fn at_it(resource: &Arc<dyn Resource>, name: &BranchName) -> tokio::task::JoinHandle<Answer> {
    let list = json!([{"sql": ADD}, {"sql": "DO SLEEP(60)"}]);
    let asked = Call { patience: Duration::from_secs(60), ..call(name, Verb::Prepare, work(list)) };
    tokio::spawn(resource.call(asked))
}

#[tokio::test]
async fn a_prepared_branch_is_named_by_its_identifier_with_its_connection_and_without() {
    let Some(mut bank) = start() else { return };
    let (resource, holder) = (bank.resource(), fresh_name());
    let Answer::Yes(came) = prepare(&resource, &holder, bank.add(1)).await else { panic!("free") };
    let (kind, detail) = refused(&resource, bank.add(1)).await;
    assert_eq!(kind, "lock_timeout");
    assert!(detail.starts_with("statement 1: ") && detail.contains("HY000); after "), "{detail}");
    let expected =
        format!("ms it waited for {holder}, prepared ({}", either("connection ", "begun "));
    assert!(detail.contains(&expected) && detail.contains("begun "), "{detail}");

    // Another coordinator knows of it by the server alone.
    let (_, detail) = refused(&bank.resource(), bank.add(1)).await;
    assert!(detail.contains(&expected), "{detail}");

    // A step is tried again, and its last error is shown.
    let asked = Call { patience: PATIENCE, ..call(&fresh_name(), Verb::Act, sql(ADD)) };
    let Answer::Silent(seen) = resource.call(asked).await else { panic!("it waits in vain") };
    assert!(seen.contains(&expected), "{seen}");

    bank.server.kill();
    bank.server.up();
    let (_, detail) = refused(&bank.resource(), bank.add(1)).await;
    assert!(detail.contains(&format!("it waited for {holder}, prepared (begun ")), "{detail}");
    let done = finish(&bank.resource(), &holder, Verb::Rollback, &came).await;
    assert_eq!(done, Answer::Done(Opaque::default()));
}

#[tokio::test]
async fn a_branch_that_is_executing_is_named_by_its_identifier() {
    let Some(bank) = start() else { return };
    let (resource, holder) = (bank.resource(), fresh_name());
    let executing = at_it(&resource, &holder);
    until_somebody_sleeps(&bank).await;
    let (kind, detail) = refused(&resource, bank.add(1)).await;
    end_who_sleeps(&bank);
    assert_eq!(kind, "lock_timeout");
    let expected = format!("it waited for {holder}, still executing (connection ");
    assert!(detail.contains(&expected) && detail.contains("Query for "), "{detail}");
    assert!(!detail.contains("UPDATE"), "no statement is shown: {detail}");
    drop(executing.await.expect("it does not panic"));
}

#[tokio::test]
async fn a_foreign_session_is_told_as_the_server_knows_it_and_to_nobody_else() {
    let Some(bank) = start() else { return };
    bank.server.sql("", "CREATE USER blind@'127.0.0.1'; GRANT ALL ON bank.* TO blind@'127.0.0.1'");
    let (resource, blind) = (bank.resource(), at(&bank.server.url("blind", "bank")));
    let bank = Arc::new(bank);
    let foreign = tokio::task::spawn_blocking({
        let bank = Arc::clone(&bank);
        move || bank.server.try_sql("bank", &format!("BEGIN; {ADD}; DO SLEEP(60)"))
    });
    until_somebody_sleeps(&bank).await;
    let ((_, told), (kind, untold)) =
        tokio::join!(refused(&resource, bank.add(1)), refused(&blind, bank.add(1)));
    end_who_sleeps(&bank);
    drop(foreign.await.expect("it does not panic"));
    assert!(told.contains("it waited for connection "), "{told}");
    assert!(told.contains(" (user \"root\", Query for "), "{told}");
    assert!(told.contains("transaction begun ") && !told.contains("UPDATE"), "{told}");
    assert_eq!(kind, "lock_timeout");
    assert!(untold.ends_with("HY000); another transaction holds the lock"), "{untold}");
}

#[tokio::test]
async fn what_somebody_else_has_prepared_is_named_by_its_identifier() {
    let Some(bank) = start() else { return };
    let ended = "XA END 'else','q'; XA PREPARE 'else','q'";
    bank.server.sql("bank", &format!("XA START 'else','q'; {ADD}; {ended}"));
    let (kind, detail) = refused(&bank.resource(), bank.add(1)).await;
    assert_eq!(kind, "lock_timeout");
    let expected = "it waited for prepared transaction \"elseq\" (begun ";
    assert!(detail.contains(expected), "{detail}");
}

#[tokio::test]
async fn a_branch_that_is_answered_soon_is_not_looked_at() {
    let Some(bank) = start() else { return };
    let resource = bank.resource();
    for _ in 0..20 {
        let name = fresh_name();
        let answer = prepare(&resource, &name, bank.add(1)).await;
        let Answer::Yes(came) = answer else { panic!("{answer:?}: it is free") };
        let done = finish(&resource, &name, Verb::Commit, &came).await;
        assert_eq!(done, Answer::Done(Opaque::default()));
    }
    let ours = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'";
    assert_eq!(bank.number(ours), 1, "all of it went over one connection");
}

#[tokio::test]
async fn the_bounds_of_locks_and_statements_derive_from_what_is_left() {
    let Some(bank) = start() else { return };
    let resource = bank.resource();
    let statement_ms =
        either("CAST(@@max_statement_time * 1000 AS SIGNED)", "@@max_execution_time");
    let bounds =
        format!("SELECT @@innodb_lock_wait_timeout AS lock_s, {statement_ms} AS statement_ms");
    for patience_ms in [4_000, 8_000, 20_000] {
        let asked = Call {
            patience: Duration::from_millis(patience_ms),
            ..call(&fresh_name(), Verb::Prepare, sql(&bounds))
        };
        let Answer::ReadOnly(came) = resource.call(asked).await else { panic!("reads only") };
        let results = returned::results(came.bytes());
        let number = |name: &str| results[0]["rows"][0][name].as_u64().expect("a number");
        let (lock_ms, statement_ms) = (number("lock_s") * 1_000, number("statement_ms"));
        assert!(lock_ms < statement_ms, "the lock's ends first: {results:?}");
        assert!((1_000..=patience_ms * 3 / 4).contains(&lock_ms), "{results:?}");
        assert!((1..=patience_ms * 7 / 8).contains(&statement_ms), "{results:?}");
    }
}
