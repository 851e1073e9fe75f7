//! Steps of sagas: exactly once in effect, whatever happens to connections and servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use unanimous_core::id::{ShardId, TxnId};
use unanimous_core::{Answer, Verb};
use unanimous_participants::Call;
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::testing::{Proxy, steps};

use crate::common::{Bank, sql};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_passes_the_suite_of_steps() {
    let Some(bank) = Bank::start(&[]) else { return };
    steps::suite(&bank).await;
    let rows = "SELECT count(*) FROM unanimous_barrier WHERE verb NOT IN ('act', 'compensate')";
    assert_eq!(bank.number(rows), 0);
}

#[tokio::test]
async fn a_step_that_is_cut_off_anywhere_takes_effect_once() {
    let Some(bank) = Bank::start(&[]) else { return };
    let proxy = Proxy::start(bank.server.port()).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    steps::cuts(&bank, &proxy, || bank.at(&url)).await;
}

#[tokio::test]
async fn what_no_repetition_cures_is_refused_and_everything_else_is_asked_again() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "postgres",
        "CREATE TABLE line (account int REFERENCES account DEFERRABLE INITIALLY DEFERRED); \
         CREATE SCHEMA aside; CREATE TABLE aside.unanimous_barrier AS SELECT ''::text AS branch, \
         ''::text AS verb, ''::text AS result WHERE false; \
         CREATE FUNCTION fails(code text) RETURNS void LANGUAGE plpgsql AS \
             'BEGIN RAISE EXCEPTION ''on purpose'' USING ERRCODE = code; END'",
    );
    let resource = bank.resource();
    for (statement, kind, named) in [
        ("INSERT INTO account VALUES (1, 0)", "constraint", "23505"),
        ("INSERT INTO line VALUES (99)", "constraint", "COMMIT"),
        ("UPDATE account SET balance = 'much'", "data", "22P02"),
        ("UPDATE nothing SET x = 1", "statement", "42P01"),
        ("UPDAT account", "statement", "42601"),
        ("COMMIT", "statement", "COMMIT is not for a branch"),
        ("SELECT fails('P0001')", "refused", "on purpose"),
        ("SELECT fails('40001')", "silent", "40001"),
        ("SELECT fails('40P01')", "silent", "40P01"),
        ("SELECT fails('53100')", "silent", "53100"),
        ("SELECT pg_sleep(9)", "silent", "57014"),
        ("SET LOCAL search_path = nowhere", "statement", "unanimous_barrier"),
        ("SET LOCAL search_path = aside", "data", "unanimous_barrier"),
    ] {
        let (found, detail) = steps::refusal(&resource, sql(statement)).await;
        assert_eq!(found, kind, "{statement}: {detail}");
        assert!(detail.contains(named), "{statement}: {detail}");
    }
    assert_eq!(bank.number("SELECT count(*) FROM unanimous_barrier"), 0, "all is rolled back");
    assert_eq!(bank.number("SELECT sum(balance) FROM account"), 2_000);
}

#[tokio::test]
async fn a_locked_row_is_waited_for_within_the_patience_and_then_asked_for_again() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, holder) = (bank.resource(), fresh_name());
    assert!(matches!(
        resource.call(call(&holder, Verb::Prepare, bank.add(1))).await,
        Answer::Yes(_)
    ));
    let asked = call(&fresh_name(), Verb::Act, bank.add(1));
    let answer =
        resource.call(Call { patience: Duration::from_millis(400), ..asked.clone() }).await;
    let Answer::Silent(seen) = answer else { panic!("{answer:?}") };
    assert!(seen.contains("55P03"), "{seen}");
    resource.call(call(&holder, Verb::Rollback, bank.add(1))).await;
    assert!(matches!(resource.call(asked).await, Answer::Done(_)));
    assert_eq!(bank.counter(), 1_001);
}

#[tokio::test]
async fn a_table_that_is_missing_is_made_or_asked_for() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "postgres",
        "CREATE ROLE app LOGIN; GRANT ALL ON account TO app; REVOKE CREATE ON SCHEMA public FROM public",
    );
    let denied = bank.at(&bank.server.url("app", "postgres"));
    let (kind, detail) = steps::refusal(&denied, sql("UPDATE account SET balance = 0")).await;
    assert_eq!(kind, "barrier_missing", "{detail}");
    assert!(detail.contains("CREATE TABLE IF NOT EXISTS unanimous_barrier"), "{detail}");
    let racers: Vec<_> = (0..8)
        .map(|_| tokio::spawn(bank.resource().call(call(&fresh_name(), Verb::Act, bank.add(1)))))
        .collect();
    for racer in racers {
        let answer = racer.await.expect("it does not panic");
        assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    }
    assert_eq!(bank.counter(), 1_008);
    let (kind, detail) = steps::refusal(&denied, sql("UPDATE account SET balance = 0")).await;
    assert_eq!(kind, "silent", "an earlier attempt may have been allowed to: {detail}");
    bank.server.sql("postgres", "GRANT SELECT, INSERT, UPDATE, DELETE ON unanimous_barrier TO app");
    let answer = denied.call(call(&fresh_name(), Verb::Act, bank.add(1))).await;
    assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
}

#[tokio::test]
async fn old_rows_are_removed_and_what_they_may_have_said_is_not_guessed() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, recent) = (bank.resource(), fresh_name());
    resource.call(call(&recent, Verb::Act, bank.add(1))).await;
    let mut old = fresh_name();
    old.txn = TxnId::mint(1_600_000_000_000, ShardId::of(1), 7);
    resource.call(call(&old, Verb::Act, bank.add(1))).await;
    let rows = "SELECT count(*) FROM unanimous_barrier";
    // Old by its name, but done just now: a repeat may still come.
    let resource = bank.resource();
    resource.call(call(&recent, Verb::Act, bank.add(1))).await;
    resource.in_doubt(Duration::from_secs(10)).await.expect("it answers");
    assert_eq!(bank.number(rows), 2);
    bank.server.sql("postgres", "UPDATE unanimous_barrier SET at = now() - interval '31 days'");
    let resource = bank.resource();
    resource.call(call(&recent, Verb::Act, bank.add(1))).await;
    resource.in_doubt(Duration::from_secs(10)).await.expect("it answers");
    assert_eq!(bank.number(rows), 1, "only the one whose name is old");
    let answer = resource.call(call(&old, Verb::Compensate, bank.add(-1))).await;
    let Answer::No(reason) = answer else { panic!("{answer:?}") };
    assert_eq!(&*reason.kind, "forgotten");
    assert_eq!(bank.counter(), 1_002);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_load_keeps_every_step_that_was_done_once() {
    let Some(mut bank) = Bank::start(&["synchronous_commit=off"]) else { return };
    let (resource, stop) = (bank.resource(), Arc::new(AtomicBool::new(false)));
    let work = [bank.add(1), bank.add(-1)];
    let workers: Vec<_> = (0..4)
        .map(|_| steps::work_on(Arc::clone(&resource), work.clone(), Arc::clone(&stop)))
        .map(tokio::spawn)
        .collect();
    for round in 0..4_u64 {
        // Somewhere else each time.
        tokio::time::sleep(Duration::from_millis(200 + round * 37)).await;
        bank.server.kill();
        bank = tokio::task::spawn_blocking(move || {
            bank.server.up();
            bank
        })
        .await
        .expect("it starts");
    }
    stop.store(true, Ordering::Relaxed);
    let mut stay = 0;
    for worker in workers {
        stay += worker.await.expect("nothing is done that is not told");
    }
    assert_eq!(bank.counter(), 1_000 + stay);
    let acts = bank.number("SELECT count(*) FROM unanimous_barrier WHERE verb = 'act'");
    assert!(acts > 10, "something was done in between: {acts}");
}
