//! Whom a branch waited for, in the words of its vote; and the bounds of that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::guard::AnswerKind;
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::testing::until;
use unanimous_participants::{Call, Observer, Resource, Settings, open, returned};

use crate::common::{Bank, prepare, sql, work};

/// A second and a half until somebody looks, and as long again until the lock timeout.
const PATIENCE: Duration = Duration::from_secs(4);

const ADD: &str = "UPDATE account SET balance = balance + 1 WHERE id = 1";

/// The kind and the detail of the vote of a branch that wants the row.
async fn refused(resource: &Arc<dyn Resource>, work: Opaque) -> (String, String) {
    let asked = Call { patience: PATIENCE, ..call(&fresh_name(), Verb::Prepare, work) };
    let answer = resource.call(asked).await;
    let Answer::No(reason) = answer else { panic!("{answer:?} is no refusal") };
    eprintln!("{}", reason.detail);
    (reason.kind.to_string(), reason.detail.to_string())
}

/// Carries out a branch that has the row and stays at it.
fn at_it(resource: &Arc<dyn Resource>, name: &BranchName) -> tokio::task::JoinHandle<Answer> {
    let list = json!([{"sql": ADD}, {"sql": "SELECT pg_sleep(60)"}]);
    let asked = Call { patience: Duration::from_secs(60), ..call(name, Verb::Prepare, work(list)) };
    tokio::spawn(resource.call(asked))
}

async fn until_somebody_is_at_it(bank: &Bank) {
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    until("somebody has the row", async || bank.number(sleeping) == 1).await;
}

fn end_who_is_at_it(bank: &Bank) {
    let end = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    bank.server.sql("postgres", end);
}

#[tokio::test]
async fn a_prepared_branch_is_named_by_its_identifier_past_those_who_wait_for_it() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, holder) = (bank.resource(), fresh_name());
    let Answer::Yes(_) = prepare(&resource, &holder, bank.add(1)).await else { panic!("free") };
    let bank = Arc::new(bank);
    let first = tokio::task::spawn_blocking({
        let bank = Arc::clone(&bank);
        move || bank.server.sql("postgres", ADD)
    });
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    until("somebody waits for it", async || bank.number(waiting) == 1).await;
    let expected = format!("ms it waited for {holder}, prepared (for ");
    let (kind, detail) = refused(&resource, bank.add(1)).await;
    assert_eq!(kind, "lock_timeout");
    assert!(detail.starts_with("statement 1: ") && detail.contains("(55P03); after "), "{detail}");
    assert!(detail.contains(&expected), "{detail}");
    assert!(detail.ends_with("role \"postgres\"), with 1 more waiting in front"), "{detail}");

    // Whatever bound ends the wait.
    let unbounded = work(json!([{"sql": "SET LOCAL lock_timeout = 0"}, {"sql": ADD}]));
    let (kind, detail) = refused(&resource, unbounded).await;
    assert_eq!(kind, "statement_timeout");
    assert!(detail.starts_with("statement 2: ") && detail.contains(&expected), "{detail}");

    // A step is tried again, and its last error is shown.
    let asked = Call { patience: PATIENCE, ..call(&fresh_name(), Verb::Act, sql(ADD)) };
    let Answer::Silent(seen) = resource.call(asked).await else { panic!("it waits in vain") };
    assert!(seen.contains(&expected), "{seen}");
    bank.end_by_hand(&holder, unanimous_core::Decision::Abort);
    first.await.expect("it is free now");
}

#[tokio::test]
async fn a_branch_that_is_executing_is_named_by_its_identifier() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, holder) = (bank.resource(), fresh_name());
    let executing = at_it(&resource, &holder);
    until_somebody_is_at_it(&bank).await;
    let (kind, detail) = refused(&resource, bank.add(1)).await;
    end_who_is_at_it(&bank);
    assert_eq!(kind, "lock_timeout");
    let expected = format!("it waited for {holder}, still executing (process ");
    assert!(detail.contains(&expected) && detail.contains("active for "), "{detail}");
    assert!(!detail.contains("UPDATE"), "no statement is shown: {detail}");
    let answer = executing.await.expect("it does not panic");
    assert!(matches!(&answer, Answer::No(reason) if &*reason.kind == "statement_timeout"));
}

#[tokio::test]
async fn a_foreign_session_is_told_as_the_server_knows_it() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql("postgres", "CREATE ROLE app LOGIN; GRANT ALL ON account TO app");
    let at = |role: &str| bank.at(&bank.server.url(role, "postgres"));
    let (all, some) = (at("postgres"), at("app"));
    let bank = Arc::new(bank);
    let foreign = tokio::task::spawn_blocking({
        let bank = Arc::clone(&bank);
        move || bank.server.try_sql("postgres", &format!("{ADD}; SELECT pg_sleep(60)"))
    });
    until_somebody_is_at_it(&bank).await;
    let ((_, all), (_, some)) =
        tokio::join!(refused(&all, bank.add(1)), refused(&some, bank.add(1)));
    end_who_is_at_it(&bank);
    assert!(foreign.await.expect("it does not panic").is_err(), "it was cancelled");
    assert!(all.contains("it waited for process "), "{all}");
    assert!(all.contains(" (application \"psql\", role \"postgres\", active for "), "{all}");
    // Without rights the server does not tell what it is doing.
    assert!(some.contains(" (application \"psql\", role \"postgres\")"), "{some}");
    assert!(!all.contains("UPDATE") && !some.contains("privilege"), "{all}, {some}");
}

#[tokio::test]
async fn what_somebody_else_has_prepared_is_named_and_where_nothing_may_be_known_nothing_is() {
    let Some(mut bank) = Bank::start(&[]) else { return };
    bank.server
        .sql("postgres", &format!("BEGIN; {ADD}; PREPARE TRANSACTION 'somebody else''s'; COMMIT"));
    let resource = bank.resource();
    let expected = "it waited for prepared transaction \"somebody else's\" (for ";
    let (kind, detail) = refused(&resource, bank.add(1)).await;
    assert!(kind == "lock_timeout" && detail.contains(expected), "{detail}");

    // The server knows less of it after a restart.
    bank.server.kill();
    bank.server.up();
    let (_, detail) = refused(&bank.resource(), bank.add(1)).await;
    assert!(detail.contains(expected), "{detail}");

    bank.server.sql(
        "postgres",
        "CREATE ROLE blind LOGIN; GRANT ALL ON account TO blind; \
         REVOKE EXECUTE ON FUNCTION pg_blocking_pids(int) FROM PUBLIC",
    );
    let blind = bank.at(&bank.server.url("blind", "postgres"));
    let (kind, detail) = refused(&blind, bank.add(1)).await;
    assert_eq!(kind, "lock_timeout");
    assert!(detail.ends_with("(55P03); another transaction holds the lock"), "{detail}");
}

#[tokio::test]
async fn a_table_that_is_locked_is_held_by_who_is_in_the_way_and_not_by_who_is_not() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, [holder, harmless]) = (bank.resource(), [fresh_name(), fresh_name()]);
    let lock = work(json!([{"sql": "LOCK TABLE account IN SHARE MODE"},
        {"sql": "SELECT pg_current_xact_id()"}]));
    let Answer::Yes(_) = prepare(&resource, &holder, lock).await else { panic!("free") };
    let lock = sql("SELECT FROM account WHERE id = 2 FOR UPDATE");
    let Answer::Yes(_) = prepare(&resource, &harmless, lock).await else { panic!("free") };
    let (kind, detail) = refused(&resource, bank.add(1)).await;
    assert_eq!(kind, "lock_timeout");
    assert!(detail.contains(&format!("it waited for {holder}, prepared")), "{detail}");
    assert!(!detail.contains(&harmless.to_string()), "{detail}");
}

#[tokio::test]
async fn the_other_side_of_a_deadlock_is_named() {
    let Some(bank) = Bank::start(&["deadlock_timeout=100ms"]) else { return };
    let resource = bank.resource();
    let crossed = |first: i32, second: i32| {
        let add = "UPDATE account SET balance = balance + 1 WHERE id = $1";
        let sleep = "SELECT pg_sleep(1)";
        work(json!([{"sql": add, "params": [first]}, {"sql": sleep},
            {"sql": add, "params": [second]}, {"sql": sleep}]))
    };
    let names = [fresh_name(), fresh_name()];
    let (one, two) = tokio::join!(
        prepare(&resource, &names[0], crossed(1, 2)),
        prepare(&resource, &names[1], crossed(2, 1))
    );
    let (reason, other) = match (one, two) {
        (Answer::No(reason), Answer::Yes(_)) => (reason, &names[1]),
        (Answer::Yes(_), Answer::No(reason)) => (reason, &names[0]),
        answers => panic!("one of them fails: {answers:?}"),
    };
    eprintln!("{}", reason.detail);
    assert_eq!(&*reason.kind, "deadlock");
    assert!(reason.detail.contains(&format!(" is {other}")), "{}", reason.detail);
}

#[tokio::test]
async fn a_branch_that_is_answered_soon_is_not_looked_at() {
    let Some(bank) = Bank::start(&[]) else { return };
    let resource = bank.resource();
    for _ in 0..20 {
        let name = fresh_name();
        let Answer::Yes(_) = prepare(&resource, &name, bank.add(1)).await else { panic!("free") };
        bank.end_by_hand(&name, unanimous_core::Decision::Commit);
    }
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'unanimous'";
    assert_eq!(bank.number(ours), 1, "all of it went over one connection");
}

#[tokio::test]
async fn the_bounds_of_locks_and_statements_derive_from_what_is_left() {
    let Some(bank) = Bank::start(&[]) else { return };
    let resource = bank.resource();
    let bounds = "SELECT setting::int AS ms FROM pg_settings \
         WHERE name IN ('lock_timeout', 'statement_timeout') ORDER BY name";
    for patience_ms in [8_000, 20_000] {
        let asked = Call {
            patience: Duration::from_millis(patience_ms),
            ..call(&fresh_name(), Verb::Prepare, sql(bounds))
        };
        let Answer::ReadOnly(came) = resource.call(asked).await else { panic!("reads only") };
        let results = returned::results(came.bytes());
        let [lock_ms, statement_ms] =
            [0, 1].map(|at| results[0]["rows"][at]["ms"].as_u64().expect("a number"));
        assert!(lock_ms < statement_ms, "the lock's ends first: {results:?}");
        assert!((1..=patience_ms * 3 / 4).contains(&lock_ms), "{results:?}");
        assert!((1..=patience_ms * 7 / 8).contains(&statement_ms), "{results:?}");
    }
}

/// Otherwise it is prepared when its turn comes, and everybody else waits until it is found.
#[tokio::test]
async fn a_branch_whose_coordinator_is_gone_leaves_the_line_for_its_lock() {
    let Some(bank) = Bank::start(&[]) else { return };
    if bank.number("SELECT current_setting('server_version_num')::int / 10000") < 14 {
        return;
    }
    let (resource, holder) = (bank.resource(), fresh_name());
    let Answer::Yes(_) = prepare(&resource, &holder, bank.add(1)).await else { panic!("free") };
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    let in_line = tokio::spawn(bank.resource().call(call(&fresh_name(), Verb::Prepare, sql(ADD))));
    until("it waits", async || bank.number(waiting) == 1).await;
    // With it goes its connection.
    in_line.abort();
    until("it has left", async || bank.number(waiting) == 0).await;
    bank.end_by_hand(&holder, unanimous_core::Decision::Abort);
    assert_eq!(bank.prepared(), Vec::<String>::new());
}

/// Counts the calls that are sent.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Observer for Counter {
    fn called(&self, _: &str, _: Verb, _: Duration, _: AnswerKind) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn of_thousands_of_branches_only_what_is_prepared_is_asked_to_roll_back() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, held) = (bank.resource(), fresh_name());
    let Answer::Yes(_) = prepare(&resource, &held, bank.add(1)).await else { panic!("free") };
    // Whoever takes over knows nothing of its vote.
    let (sent, url) = (Arc::new(Counter::default()), bank.server.url("postgres", "postgres"));
    let observer = Arc::clone(&sent) as Arc<dyn Observer>;
    let next = open("bank", &url, &Settings::default(), observer).expect("a good url");
    let names = std::iter::once(held).chain((0..2_000).map(|_| fresh_name()));
    let calls = names.map(|name| next.call(call(&name, Verb::Rollback, Opaque::default())));
    let calls: Vec<_> = calls.map(tokio::spawn).collect();
    for rolled_back in calls {
        let answer = rolled_back.await.expect("it does not panic");
        assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    }
    assert_eq!(bank.prepared(), Vec::<String>::new());
    assert_eq!(sent.0.load(Ordering::Relaxed), 1);
}
