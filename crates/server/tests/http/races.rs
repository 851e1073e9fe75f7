//! Commit, abort and the deadline race for the same record: one wins, and the losers are told.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::{Called, Coordinator, Reply, Service, text, two};

/// So many of each race.
const TRIALS: u64 = 1_000;

/// The outcome that a reply tells; it must not contradict its own status.
#[track_caller]
fn told(reply: &Reply) -> String {
    let view = reply.json();
    let outcome = text(&view["outcome"]).to_owned();
    let status = text(&view["status"]);
    match &*outcome {
        "committed" => assert!(matches!(status, "COMMITTING" | "COMMITTED"), "{}", reply.text),
        "aborted" => assert!(matches!(status, "ABORTING" | "ABORTED"), "{}", reply.text),
        _ => panic!("{}", reply.text),
    }
    outcome
}

async fn check_one(coordinator: &Coordinator, path: &str, replies: &[(&str, Reply)]) -> String {
    let view: Value = coordinator.get(path).await.json();
    let outcome = text(&view["outcome"]).to_owned();
    for (asked, reply) in replies {
        assert_eq!(told(reply), outcome, "{asked}: {}", reply.text);
        let (won, code) = match (*asked, &*outcome) {
            ("commit", "committed") | ("abort", "aborted") => (true, ""),
            ("commit", _) => (false, "UNA0201"),
            (_, _) => (false, "UNA0202"),
        };
        match won {
            true => assert_eq!(reply.status, 200, "{asked}: {}", reply.text),
            false => assert_eq!(reply.problem(), (409, code.to_owned()), "{asked}"),
        }
    }
    outcome
}

/// What a service was called for, by transaction, must agree with the outcomes.
fn check_calls(service: &Service, outcomes: &BTreeMap<String, String>) {
    for called in service.calls() {
        let outcome = &outcomes[&called.headers["unanimous-transaction"]];
        let allowed = match &*called.verb {
            "prepare" => true,
            "commit" => outcome == "committed",
            "rollback" => outcome == "aborted",
            verb => panic!("called for {verb}"),
        };
        assert!(allowed, "{} of a transaction that {outcome}", called.verb);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_racing_abort_has_one_outcome_and_the_loser_is_told() {
    let (coordinator, wallet, ledger) = two().await;
    let mut outcomes = BTreeMap::new();
    for round in 0..TRIALS {
        let path = coordinator.begin().await;
        coordinator.enlist(&path, "wallet").await;
        coordinator.enlist(&path, "ledger").await;
        let racers = ["commit", "abort", "commit"].map(|verb| {
            let (client, path) = (coordinator.client().clone(), format!("{path}/{verb}"));
            tokio::spawn(async move {
                // Later and later, so that the race is met at every point.
                for _ in 0..if verb == "abort" { round % 300 } else { 0 } {
                    tokio::task::yield_now().await;
                }
                (verb, client.post(&path, r#"{"wait":"decided"}"#).await)
            })
        });
        let mut replies = Vec::new();
        for racer in racers {
            replies.push(racer.await.expect("no panic"));
        }
        let outcome = check_one(&coordinator, &path, &replies).await;
        outcomes.insert(path.rsplit('/').next().expect("an id").to_owned(), outcome);
    }
    check_calls(&wallet, &outcomes);
    check_calls(&ledger, &outcomes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_racing_the_deadline_has_one_outcome() {
    let (coordinator, wallet, _) = two().await;
    let mut outcomes = BTreeMap::new();
    let racers = (0..TRIALS).map(|number: u64| {
        let client = coordinator.client().clone();
        tokio::spawn(async move {
            let body = format!(r#"{{"kind":"atomic","timeout_ms":{}}}"#, 50 + number % 20);
            let path = client.post("/v1/transactions", &body).await.path();
            let enlist = r#"{"participant":"wallet","resource":"wallet"}"#;
            client.post(&format!("{path}/participants"), enlist).await;
            tokio::time::sleep(std::time::Duration::from_millis(40 + number % 20)).await;
            let reply = client.post(&format!("{path}/commit"), r#"{"wait":"decided"}"#).await;
            (path, reply)
        })
    });
    let racers: Vec<_> = racers.collect();
    for racer in racers {
        let (path, reply) = racer.await.expect("no panic");
        let outcome = check_one(&coordinator, &path, &[("commit", reply)]).await;
        outcomes.insert(path.rsplit('/').next().expect("an id").to_owned(), outcome);
    }
    check_calls(&wallet, &outcomes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enlisting_racing_abort_leaves_no_participant_that_is_not_told() {
    let (coordinator, wallet, ledger) = two().await;
    let mut outcomes = BTreeMap::new();
    let mut enlisted = Vec::new();
    for round in 0..TRIALS {
        let path = coordinator.begin().await;
        coordinator.enlist(&path, "wallet").await;
        let client = coordinator.client().clone();
        let participants = format!("{path}/participants");
        let enlisting = tokio::spawn(async move {
            for _ in 0..round % 100 {
                tokio::task::yield_now().await;
            }
            let body = r#"{"participant":"ledger","resource":"ledger"}"#;
            client.post(&participants, body).await
        });
        let abort = coordinator.post(&format!("{path}/abort"), r#"{"wait":"finished"}"#).await;
        assert_eq!(told(&abort), "aborted");
        let reply = enlisting.await.expect("no panic");
        let view: Value = coordinator.get(&path).await.json();
        let participants = view["participants"].as_array().expect("a list").len();
        let id = path.rsplit('/').next().expect("an id").to_owned();
        match reply.status {
            201 => {
                assert_eq!(participants, 2, "{view}");
                enlisted.push(id.clone());
            }
            _ => {
                assert_eq!(reply.status, 409, "{}", reply.text);
                assert_eq!(participants, 1, "{view}");
            }
        }
        outcomes.insert(id, text(&view["outcome"]).to_owned());
    }
    check_calls(&wallet, &outcomes);
    check_calls(&ledger, &outcomes);
    let calls = ledger.calls();
    for id in &enlisted {
        let told = |verb| calls.iter().filter(|call| called(call, id, verb)).count();
        assert_eq!((told("prepare"), told("rollback")), (0, 1), "{id}");
    }
}

fn called(call: &Called, txn: &str, verb: &str) -> bool {
    call.verb == verb && call.headers["unanimous-transaction"] == txn
}
