//! A server that is killed again and again under load: what was promised is kept.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::testing::{PATIENCE, until};
use unanimous_participants::{Call, Resource};

use crate::common::{Bank, finish, work};

const ACCOUNTS: i64 = 6;

/// How often it is killed; more in a long run, by `UNANIMOUS_DATABASE_KILLS`.
fn kills() -> usize {
    std::env::var("UNANIMOUS_DATABASE_KILLS").ok().and_then(|it| it.parse().ok()).unwrap_or(5)
}

/// Finishes a branch as the coordinator does: until it is done.
async fn settle(resource: &Arc<dyn Resource>, name: &BranchName, verb: Verb, came: &Opaque) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match finish(resource, name, verb, came).await {
            Answer::Done(_) => return,
            Answer::Silent(_) | Answer::Working => {}
            other @ (Answer::Yes(_)
            | Answer::ReadOnly(_)
            | Answer::No(_)
            | Answer::Lost(_)
            | Answer::Heuristic(_)) => panic!("{verb:?} of {name}: {other:?}"),
        }
        assert!(Instant::now() < deadline, "{verb:?} of {name} is never done");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Adds to one account until it is told to stop, and returns what was committed.
async fn work_on(resource: Arc<dyn Resource>, id: i64, stop: Arc<AtomicBool>) -> Vec<BranchName> {
    let mut committed = Vec::new();
    let add = json!([{"sql": "UPDATE account SET balance = balance + 1 WHERE id = ?",
        "params": [id], "expect_rows": 1}]);
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = fresh_name();
        let patience = Duration::from_secs(2);
        let prepare = Call { patience, ..call(&name, Verb::Prepare, work(add.clone())) };
        match resource.call(prepare).await {
            // One in four is decided otherwise.
            Answer::Yes(came) if round % 4 == 3 => {
                settle(&resource, &name, Verb::Rollback, &came).await;
            }
            Answer::Yes(came) => {
                settle(&resource, &name, Verb::Commit, &came).await;
                committed.push(name);
            }
            Answer::Lost(_) => settle(&resource, &name, Verb::Rollback, &Opaque::default()).await,
            Answer::No(_) | Answer::Silent(_) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other @ (Answer::ReadOnly(_)
            | Answer::Done(_)
            | Answer::Heuristic(_)
            | Answer::Working) => panic!("{name}: {other:?}"),
        }
    }
    committed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_load_keeps_every_promise_and_no_lock() {
    let Some(mut bank) = Bank::start(&["--sync-binlog=1", "--log-bin"]) else { return };
    bank.add_accounts(101..=100 + ACCOUNTS);
    let foreign = bank.prepare_foreign();
    let (resource, stop) = (bank.resource(), Arc::new(AtomicBool::new(false)));
    let workers: Vec<_> = (101..=100 + ACCOUNTS)
        .map(|id| tokio::spawn(work_on(Arc::clone(&resource), id, Arc::clone(&stop))))
        .collect();
    for round in 0..kills() {
        // Somewhere else each time.
        tokio::time::sleep(Duration::from_millis(150 + (round as u64 * 37) % 200)).await;
        bank.server.kill();
        bank = tokio::task::spawn_blocking(move || {
            bank.server.up();
            bank
        })
        .await
        .expect("it starts");
    }
    stop.store(true, Ordering::Relaxed);
    let mut committed = Vec::new();
    for worker in workers {
        committed.extend(worker.await.expect("no promise is broken"));
    }
    // A prepare that was cut off may have been carried out after its rollback.
    until("nothing of ours is left", async || {
        let held = resource.in_doubt(Duration::from_secs(10)).await;
        let Ok(Some(held)) = held else { return false };
        for held in &held {
            let name = held.name.parse().expect("ours");
            finish(&resource, &name, Verb::Rollback, &Opaque::default()).await;
        }
        held.is_empty()
    })
    .await;
    let proofs = bank.server.sql("bank", "SELECT branch FROM unanimous_fence");
    let proofs: HashSet<&str> = proofs.lines().collect();
    let lost: Vec<_> = committed.iter().filter(|it| !proofs.contains(&*it.to_string())).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    let sum = bank.number("SELECT SUM(balance) FROM account WHERE id > 100");
    assert_eq!(sum, committed.len() as i64);
    assert_eq!(bank.prepared(), [foreign]);
    assert!(sum > 0, "something was done in between");
    println!("{} kills, {sum} committed", kills());
}
