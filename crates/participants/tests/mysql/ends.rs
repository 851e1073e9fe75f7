//! How branches end: over their own connection, over another, by hand, by the application.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;
use unanimous_core::id::{BranchId, BranchName, ShardId, TxnId};
use unanimous_core::{Answer, Decision, HeuristicKind, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::testing::{PATIENCE, until};
use unanimous_participants::{Call, Fitness};

use crate::common::{Bank, at, finish, prepare, sql, work, xid};

fn done() -> Answer {
    Answer::Done(Opaque::default())
}

#[tokio::test]
async fn more_branches_than_connections_can_wait_for_their_decisions() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.add_accounts(101..=120);
    let resource = at(&format!("{}?connections=2", bank.server.url("app", "bank")));
    let mut prepared = Vec::new();
    for id in 101..=120 {
        let (name, add) = (fresh_name(), "UPDATE account SET balance = 1 WHERE id = ?");
        let answer = prepare(&resource, &name, work(json!([{"sql": add, "params": [id]}]))).await;
        let Answer::Yes(returned) = answer else { panic!("{answer:?} is no yes") };
        prepared.push((name, returned));
    }
    let users = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'";
    until("the others have let go", async || bank.number(users) <= 5).await;
    for (name, returned) in &prepared {
        assert_eq!(finish(&resource, name, Verb::Commit, returned).await, done());
    }
    assert_eq!(bank.number("SELECT SUM(balance) FROM account WHERE id > 100"), 20);
    assert!(bank.prepared().is_empty());
}

/// MariaDB lets go of a branch in two steps when its connection ends, and acknowledges between them
/// what it does not carry out.
#[tokio::test]
async fn a_branch_whose_connection_is_just_ending_is_finished_and_not_only_acknowledged() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.add_accounts(101..=108);
    let url = bank.server.url("app", "bank");
    let (first, other) = (fresh_name(), bank.resource());
    let Answer::Yes(came) = prepare(&other, &first, bank.add(0)).await else { panic!("yes") };
    assert_eq!(finish(&other, &first, Verb::Commit, &came).await, done());
    let mut tasks = JoinSet::new();
    for id in 101..=108 {
        let (url, other) = (url.clone(), Arc::clone(&other));
        tasks.spawn(async move {
            for _ in 0..30 {
                let short_lived = at(&url);
                let name = fresh_name();
                let add = "UPDATE account SET balance = balance + 1 WHERE id = ?";
                let add = work(json!([{"sql": add, "params": [id]}]));
                let answer = prepare(&short_lived, &name, add).await;
                let Answer::Yes(came) = answer else { panic!("{answer:?} is no yes") };
                drop(short_lived);
                while finish(&other, &name, Verb::Commit, &came).await != done() {}
            }
        });
    }
    let all = timeout(PATIENCE, tasks.join_all()).await;
    all.expect("no branch keeps its locks");
    assert_eq!(bank.number("SELECT SUM(balance) FROM account WHERE id > 100"), 240);
}

#[tokio::test]
async fn a_branch_tied_to_a_connection_that_nobody_uses_any_more_is_untied() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (half_dead, name) = (bank.resource(), fresh_name());
    let answer = prepare(&half_dead, &name, bank.add(5)).await;
    let Answer::Yes(returned) = answer else { panic!("{answer:?} is no yes") };
    let other = bank.resource();
    let first = finish(&other, &name, Verb::Commit, &returned).await;
    assert_eq!(first, Answer::Working, "it may still be used");
    until("it is committed", async || {
        finish(&other, &name, Verb::Commit, &returned).await == done()
    })
    .await;
    assert_eq!(bank.counter(), 1_005);
    assert_eq!(finish(&half_dead, &name, Verb::Commit, &returned).await, done());
}

#[tokio::test]
async fn a_call_that_is_given_up_in_the_middle_spoils_no_connection() {
    let Some(bank) = Bank::start(&[]) else { return };
    let resource = at(&format!("{}?connections=1", bank.server.url("app", "bank")));
    let slow = || sql("UPDATE account SET balance = balance + 1 + SLEEP(0.05) WHERE id = 1");
    for after_ms in 0..40 {
        let name = fresh_name();
        let given_up = tokio::time::timeout(
            Duration::from_millis(after_ms * 5),
            resource.call(call(&name, Verb::Prepare, slow())),
        )
        .await;
        let returned = match given_up {
            Ok(Answer::Yes(returned)) => returned,
            Ok(answer) => panic!("{answer:?} is no yes"),
            Err(_) => Opaque::default(),
        };
        until("it is rolled back", async || {
            finish(&resource, &name, Verb::Rollback, &returned).await == done()
                && bank.prepared().is_empty()
        })
        .await;
        let answer = prepare(&resource, &fresh_name(), bank.read()).await;
        assert!(matches!(answer, Answer::ReadOnly(_)), "{after_ms}: {answer:?}");
    }
    // A branch that was given up may still be prepared late: it is listed, and rolled back.
    until("nothing is left", async || {
        let held = resource.in_doubt(Duration::from_secs(10)).await.expect("it answers");
        for held in held.expect("it can be asked") {
            let name: BranchName = held.name.parse().expect("ours");
            finish(&resource, &name, Verb::Rollback, &Opaque::default()).await;
        }
        bank.prepared().is_empty()
    })
    .await;
    assert_eq!(bank.counter(), 1_000);
}

#[tokio::test]
async fn a_branch_the_application_prepared_is_confirmed_and_one_it_did_not_is_not() {
    let Some(bank) = Bank::start(&[]) else { return };
    let resource = bank.resource();
    let nothing = Opaque::default;
    let missing = prepare(&resource, &fresh_name(), nothing()).await;
    assert!(matches!(missing, Answer::Lost(_)), "{missing:?}");
    // Makes the table.
    let first = fresh_name();
    let Answer::Yes(came) = prepare(&resource, &first, bank.add(0)).await else { panic!("yes") };
    assert_eq!(finish(&resource, &first, Verb::Commit, &came).await, done());
    for (proves, by_hand) in [(true, HeuristicKind::Rollback), (false, HeuristicKind::Hazard)] {
        let name = fresh_name();
        let proof = format!("INSERT INTO unanimous_fence (branch) VALUES ('{name}');");
        bank.server.sql(
            "bank",
            &format!(
                "XA START {xid}; {} UPDATE account SET balance = 5 WHERE id = 2; XA END {xid}; \
                 XA PREPARE {xid}",
                if proves { &*proof } else { "" },
                xid = xid(&name)
            ),
        );
        let answer = prepare(&resource, &name, nothing()).await;
        let Answer::Yes(came) = answer else { panic!("{answer:?} is no yes") };
        bank.end_by_hand(&name, Decision::Abort);
        let commit = finish(&resource, &name, Verb::Commit, &came).await;
        assert_eq!(commit, Answer::Heuristic(by_hand));
    }
}

#[tokio::test]
async fn what_is_nearly_ours_is_neither_listed_nor_finished() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, name) = (bank.resource(), fresh_name());
    // MariaDB tells identifiers apart by their two parts alone, so these differ from ours.
    let foreign = xid(&fresh_name()).replace("5590593", "7");
    let others = [&*foreign, "'una:x','0'", "X'756e613aff',X'00',5590593"];
    for (id, xid) in (50..).zip(others) {
        let add = format!("INSERT INTO account VALUES ({id}, 0)");
        bank.server.sql("bank", &format!("XA START {xid}; {add}; XA END {xid}; XA PREPARE {xid}"));
    }
    let held = resource.in_doubt(Duration::from_secs(10)).await.expect("it answers");
    assert_eq!(held, Some(Vec::new()));
    assert_eq!(finish(&resource, &name, Verb::Rollback, &Opaque::default()).await, done());
    assert_eq!(bank.prepared().len(), 3);
}

#[tokio::test]
async fn a_lock_that_outlives_its_listing_is_no_proof_of_anything() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, name) = (bank.resource(), fresh_name());
    let Answer::Yes(came) = prepare(&resource, &name, bank.add(1)).await else { panic!("yes") };
    assert_eq!(finish(&resource, &name, Verb::Commit, &came).await, done());
    // Somebody is at the very row, as a session is that still finishes the branch.
    let holder = fresh_name();
    let lock = "SELECT 1 FROM unanimous_fence WHERE branch = ? FOR UPDATE";
    let lock = work(json!([{"sql": lock, "params": [name.to_string()]}]));
    let Answer::Yes(held) = prepare(&resource, &holder, lock).await else { panic!("yes") };
    let answer = finish(&resource, &name, Verb::Commit, &came).await;
    assert_eq!(answer, Answer::Working);
    assert_eq!(finish(&resource, &holder, Verb::Rollback, &held).await, done());
    assert_eq!(finish(&resource, &name, Verb::Commit, &came).await, done());
}

#[tokio::test]
async fn proofs_go_when_they_are_old_and_then_nothing_is_concluded_from_their_absence() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, name) = (bank.resource(), fresh_name());
    let Answer::Yes(came) = prepare(&resource, &name, bank.add(1)).await else { panic!("yes") };
    assert_eq!(finish(&resource, &name, Verb::Commit, &came).await, done());
    let old = TxnId::mint(1_600_000_000_000, ShardId::of(1), 1);
    let old =
        |cluster: &str| BranchName { cluster: cluster.to_owned(), txn: old, branch: BranchId(0) };
    let (ours, others) = (old("test"), old("test-2"));
    bank.server.sql(
        "bank",
        &format!("INSERT INTO unanimous_fence (branch) VALUES ('{ours}'), ('{others}')"),
    );
    assert_eq!(finish(&resource, &ours, Verb::Commit, &came).await, done());
    resource.in_doubt(Duration::from_secs(10)).await.expect("it answers");
    let left = bank.server.sql("bank", "SELECT branch FROM unanimous_fence ORDER BY branch");
    let mut kept = [others.to_string(), name.to_string()];
    kept.sort();
    assert_eq!(left.lines().collect::<Vec<_>>(), kept);
    let hazard = Answer::Heuristic(HeuristicKind::Hazard);
    assert_eq!(finish(&resource, &ours, Verb::Commit, &came).await, hazard);
}

#[tokio::test]
async fn an_examination_names_what_has_to_be_changed() {
    let Some(bank) = Bank::start(&[
        "--log-bin",
        "--sync-binlog=0",
        "--innodb-flush-log-at-trx-commit=2",
        "--loose-innodb-log-file-mmap=ON",
    ]) else {
        return;
    };
    let worst = async |bank: &Bank, query: &str| {
        let resource = at(&format!("{}{query}", bank.server.url("app", "bank")));
        let found = resource.examine(Duration::from_secs(10)).await;
        // Which MariaDB alone has, and not in every version.
        let mapped = found.iter().find(|it| it.subject == "innodb_log_file_mmap");
        let maps = bank.server.sql("", "SHOW VARIABLES LIKE 'innodb_log_file_mmap'");
        assert_eq!(mapped.map(|it| it.fitness), maps.contains("ON").then_some(Fitness::Doubtful));
        let bad = found
            .into_iter()
            .filter(|it| it.fitness != Fitness::Fit && it.subject != "innodb_log_file_mmap");
        bad.map(|it| (it.subject, it.fitness)).collect::<Vec<_>>()
    };
    bank.server.sql("", "SET GLOBAL read_only = 1");
    bank.server.sql("bank", "CREATE TABLE notes (id int) ENGINE=MyISAM");
    let found = worst(&bank, "?connections=200").await;
    let (unfit, doubtful) = (Fitness::Unfit, Fitness::Doubtful);
    assert_eq!(
        found,
        [
            ("read_only", unfit),
            ("innodb_flush_log_at_trx_commit", unfit),
            ("sync_binlog", doubtful),
            ("log_bin", doubtful),
            ("max_connections", unfit),
            ("unanimous_fence", doubtful),
            ("engine", doubtful),
        ]
    );
    bank.server.sql("", "SET GLOBAL read_only = 0, GLOBAL innodb_flush_log_at_trx_commit = 1");
    bank.server.sql("bank", "DROP TABLE notes; SET GLOBAL sync_binlog = 1");
    let name = fresh_name();
    let Answer::Yes(came) = prepare(&bank.resource(), &name, bank.add(1)).await else {
        panic!("yes")
    };
    assert_eq!(finish(&bank.resource(), &name, Verb::Commit, &came).await, done());
    assert_eq!(worst(&bank, "").await, [("log_bin", doubtful)]);
    let nowhere = at("mysql://app@127.0.0.1:1/bank");
    let found = nowhere.examine(Duration::from_secs(10)).await;
    assert_eq!((found[0].subject, found[0].fitness), ("connection", unfit));
}

#[tokio::test]
async fn a_second_attempt_after_a_lost_answer_does_not_send_the_work_again() {
    let Some(bank) = Bank::start(&[]) else { return };
    let (resource, name) = (bank.resource(), fresh_name());
    let slow = sql("UPDATE account SET balance = balance + 1 + SLEEP(9) WHERE id = 1");
    let patience = Duration::from_millis(20);
    let first = resource.call(Call { patience, ..call(&name, Verb::Prepare, slow) }).await;
    assert!(matches!(first, Answer::Lost(_) | Answer::No(_) | Answer::Silent(_)), "{first:?}");
    if matches!(first, Answer::Lost(_)) {
        let second = prepare(&resource, &name, bank.add(1)).await;
        assert!(matches!(second, Answer::Lost(_)), "{second:?}");
    }
    until("it is rolled back", async || {
        finish(&resource, &name, Verb::Rollback, &Opaque::default()).await == done()
            && bank.prepared().is_empty()
    })
    .await;
    assert_eq!(bank.counter(), 1_000);
}
