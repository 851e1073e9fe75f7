//! A cancel, a deadline and a saga's own progress race for the same record: one wins, the loser is told
//! so, and the services were called for no more than that.

use std::collections::BTreeMap;

use serde_json::Value;
use unanimous_core::id::TxnId;

use crate::common::{Coordinator, Reply, Service, text, two};

/// So many of each race.
const TRIALS: u64 = 2_000;

const STEPS: &str = r#"{"name":"reserve","action":{"resource":"wallet","path":"/reserve"},
     "compensation":{"resource":"wallet","path":"/release"}},
    {"name":"charge","after":["reserve"],"action":{"resource":"ledger","path":"/charge"},
     "compensation":{"resource":"ledger","path":"/refund"}}"#;

const PIVOT: &str = r#",{"name":"ticket","after":["charge"],"pivot":true,
     "action":{"resource":"wallet","path":"/emit"}}"#;

fn saga(members: &str, more: &str) -> String {
    format!(r#"{{"kind":"saga",{members}"steps":[{STEPS}{more}]}}"#)
}

fn id(path: &str) -> TxnId {
    path.rsplit('/').next().and_then(|id| id.parse().ok()).expect("an id")
}

/// What both services were called for, by transaction, in the order of each.
fn calls(wallet: &Service, ledger: &Service) -> BTreeMap<TxnId, Vec<String>> {
    let mut calls: BTreeMap<TxnId, Vec<String>> = BTreeMap::new();
    for called in wallet.calls().into_iter().chain(ledger.calls()) {
        let txn = called.headers["unanimous-transaction"].parse().expect("an id");
        calls.entry(txn).or_default().push(called.verb);
    }
    calls
}

/// Every effect is there and none undone, or every one that is there is undone once.
fn check_calls(outcomes: &BTreeMap<TxnId, String>, wallet: &Service, ledger: &Service) {
    let calls = calls(wallet, ledger);
    let nothing = Vec::new();
    for (txn, outcome) in outcomes {
        let called = calls.get(txn).unwrap_or(&nothing);
        let count = |verb: &str| called.iter().filter(|it| *it == verb).count();
        for (act, undo) in [("reserve", "release"), ("charge", "refund")] {
            let expected = match &**outcome {
                "completed" => (1, 0),
                _ => (count(act), count(act)),
            };
            assert_eq!((count(act), count(undo)), expected, "{txn} {outcome}: {called:?}");
            assert!(count(act) <= 1, "{txn}: {called:?}");
        }
        assert!(*outcome == "completed" || count("emit") == 0, "{txn} {outcome}: {called:?}");
    }
}

/// Begins a saga, cancels it a little later each time, and checks what the canceller is told.
async fn cancel(coordinator: &Coordinator, body: &str, round: u64) -> (TxnId, String) {
    let path = coordinator.post("/v1/transactions", body).await.path();
    for _ in 0..round % 400 {
        tokio::task::yield_now().await;
    }
    let cancelled = coordinator.post(&format!("{path}/abort"), r#"{"wait":"finished"}"#).await;
    let view = finished(coordinator, &path).await;
    let outcome = text(&view["outcome"]).to_owned();
    match (&*outcome, cancelled.status) {
        ("compensated", 200) => assert_eq!(view["reason"]["kind"], "client"),
        ("completed", 409) => {
            let (_, code) = cancelled.problem();
            assert!(["UNA0202", "UNA0214"].contains(&&*code), "{}", cancelled.text);
        }
        _ => panic!("{view}, but who cancelled was told {}", cancelled.text),
    }
    (id(&path), outcome)
}

async fn finished(coordinator: &Coordinator, path: &str) -> Value {
    loop {
        let view = coordinator.get(path).await.json();
        if !view["outcome"].is_null() {
            return view;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_racing_the_last_step_has_one_outcome_and_the_loser_is_told() {
    let (coordinator, wallet, ledger) = two().await;
    let mut outcomes = BTreeMap::new();
    for round in 0..TRIALS {
        outcomes.extend([cancel(&coordinator, &saga(r#""wait":"none","#, ""), round).await]);
    }
    check_calls(&outcomes, &wallet, &ledger);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_racing_the_pivot_has_one_outcome_and_the_loser_is_told() {
    let (coordinator, wallet, ledger) = two().await;
    let mut outcomes = BTreeMap::new();
    for round in 0..TRIALS {
        outcomes.extend([cancel(&coordinator, &saga(r#""wait":"none","#, PIVOT), round).await]);
    }
    check_calls(&outcomes, &wallet, &ledger);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_racing_completion_has_one_outcome() {
    let (coordinator, wallet, ledger) = two().await;
    let mut outcomes = BTreeMap::new();
    for round in 0..TRIALS {
        let body = saga(&format!(r#""timeout_ms":{},"#, 1 + round % 6), "");
        let reply: Reply = coordinator.post("/v1/transactions", &body).await;
        let view = reply.json();
        let outcome = text(&view["outcome"]).to_owned();
        match (&*outcome, reply.status) {
            ("completed", 200) => {}
            ("compensated", 409) => assert_eq!(view["reason"]["kind"], "timeout", "{view}"),
            _ => panic!("{}", reply.text),
        }
        let kept = finished(&coordinator, &reply.path()).await;
        assert_eq!(kept["outcome"], view["outcome"]);
        outcomes.insert(id(&reply.path()), outcome);
    }
    check_calls(&outcomes, &wallet, &ledger);
}
