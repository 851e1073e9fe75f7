//! Connections that break after every possible byte, in both directions.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::Resource;
use unanimous_participants::testing::conformance::{Subject, fresh_name};
use unanimous_participants::testing::{Proxy, Toward, until};

use crate::common::{Bank, at, finish, prepare, work};

const ADD: &str = "UPDATE account SET balance = balance + 1 WHERE id = 1";

/// How many bytes further the next cut is. The server carries out whole messages, so of those that
/// it is sent not every byte is tried.
fn step(toward: Toward) -> usize {
    match toward {
        Toward::Server => 7,
        Toward::Client => 1,
    }
}

/// Whether the branch is prepared, as the resource itself lists it.
async fn is_held(direct: &Arc<dyn Resource>, name: &BranchName) -> bool {
    let held = direct.in_doubt(Duration::from_secs(10)).await;
    let held = held.expect("it answers").expect("it can be asked");
    held.iter().any(|held| held.name == name.to_string())
}

/// Asks again for as long as there is no answer, as the coordinator does.
async fn until_done(direct: &Arc<dyn Resource>, name: &BranchName, verb: Verb, came: &Opaque) {
    until("it is finished", async || {
        let answer = finish(direct, name, verb, came).await;
        let fits = matches!(answer, Answer::Done(_) | Answer::Silent(_) | Answer::Working);
        assert!(fits, "{answer:?}");
        matches!(answer, Answer::Done(_))
    })
    .await;
}

/// Branches whose votes were lost.
type Aborted = Mutex<BTreeSet<BranchName>>;

/// Rolls back what was prepared after it had been rolled back, as the coordinator does with orphans.
async fn sweep(direct: Arc<dyn Resource>, aborted: Arc<Aborted>) {
    loop {
        let held = direct.in_doubt(Duration::from_secs(10)).await;
        for held in held.expect("it answers").expect("it can be asked") {
            let name: BranchName = held.name.parse().expect("one of ours");
            let orphan = aborted.lock().expect("not poisoned").contains(&name);
            if orphan {
                finish(&direct, &name, Verb::Rollback, &Opaque::default()).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Bank {
    fn through(&self, proxy: &Proxy) -> Arc<dyn Resource> {
        at(&format!("mysql://app@127.0.0.1:{}/bank", proxy.port()))
    }
}

/// Cuts a first phase after each byte, and returns how often it voted yes.
async fn cut_prepares(
    bank: &Bank,
    proxy: &Proxy,
    (expects, toward): (bool, Toward),
    aborted: &Aborted,
) -> i64 {
    let direct = bank.resource();
    let statement =
        if expects { json!({"sql": ADD, "expect_rows": 1}) } else { json!({"sql": ADD}) };
    let mut committed = 0;
    for bytes in (0..).step_by(step(toward)) {
        let through = bank.through(proxy);
        // A connection is made before the cut counts.
        let warm = prepare(&through, &fresh_name(), bank.read()).await;
        assert!(matches!(warm, Answer::ReadOnly(_)), "{warm:?}");
        proxy.cut_after(bytes, toward);
        let name = fresh_name();
        let answer = prepare(&through, &name, work(json!([statement]))).await;
        let whole = !proxy.has_cut();
        proxy.mend();
        match answer {
            Answer::Yes(returned) => {
                assert!(is_held(&direct, &name).await, "{toward:?} {bytes}: yes of nothing");
                drop(through);
                until_done(&direct, &name, Verb::Commit, &returned).await;
                committed += 1;
            }
            Answer::No(_) | Answer::Silent(_) => {
                assert!(!is_held(&direct, &name).await, "{toward:?} {bytes}: {answer:?}");
            }
            // It may be prepared, and may be prepared late: the sweeper looks again and again.
            Answer::Lost(_) => {
                until_done(&direct, &name, Verb::Rollback, &Opaque::default()).await;
                aborted.lock().expect("not poisoned").insert(name);
            }
            Answer::ReadOnly(_) | Answer::Done(_) | Answer::Heuristic(_) | Answer::Working => {
                panic!("{toward:?} {bytes}: {answer:?}")
            }
        }
        if whole {
            return committed;
        }
    }
    unreachable!("it counts for ever")
}

#[tokio::test]
async fn a_vote_that_is_cut_off_after_any_byte_is_a_yes_only_of_what_is_prepared() {
    let Some(bank) = Bank::start(&[]) else { return };
    let proxy = Proxy::start(bank.server.port()).await;
    let aborted = Arc::new(Aborted::default());
    let name = fresh_name();
    let Answer::Yes(came) = prepare(&bank.resource(), &name, bank.add(0)).await else {
        panic!("it makes the table")
    };
    until_done(&bank.resource(), &name, Verb::Commit, &came).await;
    let sweeper = tokio::spawn(sweep(bank.resource(), Arc::clone(&aborted)));
    let mut committed = 0;
    for expects in [false, true] {
        for toward in [Toward::Server, Toward::Client] {
            committed += cut_prepares(&bank, &proxy, (expects, toward), &aborted).await;
        }
    }
    until("all is finished", async || bank.prepared().is_empty()).await;
    sweeper.abort();
    assert_eq!(bank.counter(), 1_000 + committed);
    assert!(committed >= 4, "the uncut ones at least");
}

#[tokio::test]
async fn a_commit_that_is_cut_off_after_any_byte_is_done_when_it_is_asked_again() {
    let Some(bank) = Bank::start(&[]) else { return };
    let proxy = Proxy::start(bank.server.port()).await;
    let direct = bank.resource();
    let mut count = 0;
    for toward in [Toward::Server, Toward::Client] {
        for bytes in 0.. {
            let (through, name) = (bank.through(&proxy), fresh_name());
            // It commits over the connection that has prepared.
            let answer = prepare(&through, &name, bank.add(1)).await;
            let Answer::Yes(returned) = answer else { panic!("{answer:?} is no yes") };
            proxy.cut_after(bytes, toward);
            let first = finish(&through, &name, Verb::Commit, &returned).await;
            let whole = !proxy.has_cut();
            proxy.mend();
            let fits = matches!(first, Answer::Done(_) | Answer::Silent(_) | Answer::Working);
            assert!(fits, "{toward:?} {bytes}: {first:?}");
            until_done(&direct, &name, Verb::Commit, &returned).await;
            count += 1;
            if whole {
                break;
            }
        }
    }
    assert_eq!(bank.counter(), 1_000 + count);
}
