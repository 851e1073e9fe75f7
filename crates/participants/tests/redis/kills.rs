//! The server is killed under load, again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::testing::until;
use unanimous_participants::{Call, Resource};

use crate::common::{Shop, commands};

const KILLS: u32 = 30;
const WORKERS: u64 = 8;
const ACCOUNTS: u64 = 20;

/// What the workers were told.
#[derive(Default)]
struct Told {
    committed: AtomicU64,
    over: AtomicBool,
}

/// Asks until there is an answer, as the coordinator does.
async fn insist(
    resource: &Arc<dyn Resource>,
    name: &BranchName,
    verb: Verb,
    work: Opaque,
) -> Answer {
    for attempt in 1.. {
        let patience = Duration::from_secs(1);
        let asked = Call { attempt, patience, ..call(name, verb, work.clone()) };
        let answer = resource.call(asked).await;
        if !matches!(answer, Answer::Silent(_) | Answer::Working) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    unreachable!("it counts for ever")
}

async fn transfers(resource: Arc<dyn Resource>, worker: u64, told: Arc<Told>) {
    let mut state = worker + 1;
    let mut draw = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    while !told.over.load(Ordering::SeqCst) {
        let (from, to) = (draw() % ACCOUNTS, draw() % ACCOUNTS);
        let body = commands(json!([
            ["DECRBY", format!("account:{from}"), 1],
            ["INCRBY", format!("account:{to}"), 1],
            ["INCR", "transfers"],
        ]));
        let name = fresh_name();
        let verb = match insist(&resource, &name, Verb::Prepare, body).await {
            Answer::Yes(_) if draw() % 8 > 0 => Verb::Commit,
            Answer::Yes(_) | Answer::Lost(_) => Verb::Rollback,
            Answer::No(_) => continue,
            answer @ (Answer::ReadOnly(_)
            | Answer::Done(_)
            | Answer::Heuristic(_)
            | Answer::Working
            | Answer::Silent(_)) => panic!("{answer:?}"),
        };
        let ended = insist(&resource, &name, verb, Opaque::default()).await;
        assert!(matches!(ended, Answer::Done(_)), "{verb:?}: {ended:?}");
        told.committed.fetch_add(u64::from(verb == Verb::Commit), Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_keeps_every_promise() {
    let Some(mut shop) = Shop::start(&[]) else { return };
    let foreign = shop.prepare_foreign();
    let told = Arc::new(Told::default());
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| tokio::spawn(transfers(shop.resource(), worker, Arc::clone(&told))))
        .collect();
    for _ in 0..KILLS {
        let goal = told.committed.load(Ordering::SeqCst) + 20;
        until("work goes on", async || told.committed.load(Ordering::SeqCst) >= goal).await;
        shop.server.kill();
        shop.server.up();
    }
    told.over.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.await.expect("no worker has met a contradiction");
    }
    let mut sum = 0;
    for account in 0..ACCOUNTS {
        let balance = shop.server.ask(&["GET", &format!("account:{account}")]);
        sum += balance.parse::<i64>().unwrap_or(0);
    }
    assert_eq!(sum, 0, "money was made or lost");
    let transfers: u64 = shop.server.ask(&["GET", "transfers"]).parse().expect("a number");
    assert_eq!(transfers, told.committed.load(Ordering::SeqCst));
    assert_eq!(shop.prepared(), [foreign], "ours are finished, and others are left alone");
}
