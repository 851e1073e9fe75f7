//! Steps of sagas: exactly once in effect, whatever happens to connections and servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use unanimous_core::id::{ShardId, TxnId};
use unanimous_core::{Answer, Verb};
use unanimous_participants::Call;
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::testing::{Proxy, steps, until};

use crate::common::{Bank, at, either, finish, prepare, sql};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_passes_the_suite_of_steps() {
    let Some(bank) = Bank::start(&[]) else { return };
    steps::suite(&bank).await;
    assert!(bank.prepared().is_empty());
}

#[tokio::test]
async fn a_step_that_is_cut_off_anywhere_takes_effect_once() {
    let Some(bank) = Bank::start(&[]) else { return };
    let proxy = Proxy::start(bank.server.port()).await;
    let url = format!("mysql://app@127.0.0.1:{}/bank", proxy.port());
    steps::cuts(&bank, &proxy, || at(&url)).await;
}

#[tokio::test]
async fn what_no_repetition_cures_is_refused_and_everything_else_is_asked_again() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "bank",
        "CREATE TABLE line (account int, FOREIGN KEY (account) REFERENCES account (id)); \
         CREATE TABLE loose (id int) ENGINE=MyISAM; \
         CREATE PROCEDURE halfway() COMMIT; \
         CREATE PROCEDURE fails() SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'on purpose'; \
         CREATE PROCEDURE clashes() SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213",
    );
    let resource = bank.resource();
    for (statement, kind, named) in [
        ("INSERT INTO account VALUES (1, 0)", "constraint", "1062"),
        ("INSERT INTO line VALUES (99)", "constraint", "1452"),
        ("UPDATE account SET balance = 'much'", "data", "1366"),
        ("UPDATE nothing SET x = 1", "statement", "1146"),
        ("UPDATE account SET", "statement", "1064"),
        ("COMMIT", "statement", "COMMIT is not for a branch"),
        ("INSERT INTO loose VALUES (1)", "unsupported", "cannot be rolled back"),
        ("CALL halfway()", "unsupported", "1399"),
        ("CALL fails()", "refused", "on purpose"),
        ("CALL clashes()", "silent", "1213"),
        ("SELECT SLEEP(9) FROM account FOR UPDATE", "silent", either("1969", "interrupted")),
    ] {
        let (found, detail) = steps::refusal(&resource, sql(statement)).await;
        assert_eq!(found, kind, "{statement}: {detail}");
        assert!(detail.contains(named), "{statement}: {detail}");
    }
    assert_eq!(bank.number("SELECT COUNT(*) FROM unanimous_barrier"), 0, "all is rolled back");
    assert_eq!(bank.number("SELECT SUM(balance) FROM account"), 2_000);
}

#[tokio::test]
async fn a_locked_row_is_waited_for_within_the_patience_and_then_asked_for_again() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, holder) = (bank.resource(), fresh_name());
    let held = prepare(&resource, &holder, bank.add(1)).await;
    let Answer::Yes(returned) = held else { panic!("{held:?}") };
    let asked = call(&fresh_name(), Verb::Act, bank.add(1));
    let answer = resource.call(Call { patience: Duration::from_secs(2), ..asked.clone() }).await;
    let Answer::Silent(seen) = answer else { panic!("{answer:?}") };
    assert!(seen.contains("1205"), "{seen}");
    finish(&resource, &holder, Verb::Rollback, &returned).await;
    assert!(matches!(resource.call(asked).await, Answer::Done(_)));
    assert_eq!(bank.counter(), 1_001);
}

#[tokio::test]
async fn a_table_that_is_missing_is_made_or_asked_for() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "bank",
        "CREATE USER narrow@'127.0.0.1'; GRANT SELECT, UPDATE ON bank.account TO narrow@'127.0.0.1'",
    );
    let denied = at(&bank.server.url("narrow", "bank"));
    let change = || sql("UPDATE account SET balance = balance + 1 WHERE id = 1");
    let (kind, detail) = steps::refusal(&denied, change()).await;
    assert!(kind == "barrier_missing" || kind == "silent", "{kind}: {detail}");
    assert!(detail.contains("unanimous_barrier"), "{detail}");
    let racers: Vec<_> = (0..8)
        .map(|_| tokio::spawn(bank.resource().call(call(&fresh_name(), Verb::Act, bank.add(1)))))
        .collect();
    for racer in racers {
        let answer = racer.await.expect("it does not panic");
        assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    }
    let rights =
        "GRANT SELECT, INSERT, UPDATE, DELETE ON bank.unanimous_barrier TO narrow@'127.0.0.1'";
    bank.server.sql("bank", rights);
    let answer = denied.call(call(&fresh_name(), Verb::Act, change())).await;
    assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    assert_eq!(bank.counter(), 1_009);
}

#[tokio::test]
async fn old_rows_are_removed_and_what_they_may_have_said_is_not_guessed() {
    let Some(bank) = Bank::start(&[]) else { return };
    let mut old = fresh_name();
    old.txn = TxnId::mint(1_600_000_000_000, ShardId::of(1), 7);
    let recent = fresh_name();
    let swept = async || {
        let resource = bank.resource();
        for name in [&recent, &old] {
            resource.call(call(name, Verb::Act, bank.add(1))).await;
        }
        resource.in_doubt(Duration::from_secs(10)).await.expect("it answers");
        bank.number("SELECT COUNT(*) FROM unanimous_barrier")
    };
    // Old by its name, but done just now: a repeat may still come.
    assert_eq!(swept().await, 2);
    bank.server.sql("bank", "UPDATE unanimous_barrier SET at = NOW() - INTERVAL 31 DAY");
    assert_eq!(swept().await, 1, "only the one whose name is old");
    assert_eq!(bank.number("SELECT asked FROM unanimous_barrier"), 1, "it was asked for again");
    let answer = bank.resource().call(call(&old, Verb::Compensate, bank.add(-1))).await;
    let Answer::No(reason) = answer else { panic!("{answer:?}") };
    assert_eq!(&*reason.kind, "forgotten");
    assert_eq!(bank.counter(), 1_002);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_load_keeps_every_step_that_was_done_once() {
    let Some(mut bank) = Bank::start(&[]) else { return };
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
    let acts = bank.number("SELECT COUNT(*) FROM unanimous_barrier WHERE verb = 'act'");
    assert!(acts > 10, "something was done in between: {acts}");
    until("nothing is prepared", async || bank.prepared().is_empty()).await;
}
