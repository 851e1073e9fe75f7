//! What the protocol cannot settle is shown, and settled by an operator with a reason.

use serde_json::{Value, json};

use crate::common::{Coordinator, Service, TWO, eventually, text, two, two_with};

/// A transaction that committed while the wallet had rolled back by itself; returns its path.
async fn mixed(coordinator: &Coordinator, wallet: &Service) -> String {
    wallet.answer("commit", 200, r#"{"heuristic":"rollback"}"#);
    let reply = coordinator.post("/v1/transactions", TWO).await;
    assert_eq!(reply.problem(), (409, "UNA0207".into()));
    assert!(text(&reply.json()["detail"]).contains("wallet"), "{}", reply.text);
    reply.path()
}

async fn resolve(coordinator: &Coordinator, path: &str, body: Value) -> crate::common::Reply {
    coordinator.post(&format!("{path}/resolve"), &body.to_string()).await
}

#[tokio::test]
async fn a_participant_that_ended_by_itself_is_shown_until_an_operator_settles_it() {
    let (coordinator, wallet, _) = two().await;
    let path = mixed(&coordinator, &wallet).await;
    let view = coordinator.get(&path).await.json();
    assert_eq!((&view["outcome"], &view["needs_attention"]), (&json!("mixed"), &json!(true)));
    assert_eq!(view["participants"][0]["heuristic"], "rollback");
    assert_eq!(view["participants"][1].get("heuristic"), None);

    let wish = json!({"outcome": "commit", "reason": "booked by hand,\nticket 7", "by": "meera"});
    let resolved = resolve(&coordinator, &path, wish.clone()).await;
    assert_eq!(resolved.status, 200, "{}", resolved.text);
    let view = resolved.json();
    assert_eq!(view["outcome"], "mixed");
    assert_eq!(view.get("needs_attention"), None);
    let kept = json!({"outcome": "commit", "reason": "booked by hand, ticket 7", "by": "meera"});
    assert_eq!(view["resolution"], kept);
    let log = coordinator.get(&format!("{path}/log")).await.json();
    let last = log["events"].as_array().and_then(|events| events.last()).expect("events");
    assert_eq!(last["event"], "resolved");
    assert_eq!(last["detail"], "commit by meera: booked by hand, ticket 7");

    let again = resolve(&coordinator, &path, wish).await;
    assert_eq!((again.status, again.json()["resolution"].clone()), (200, kept));
    let other = resolve(&coordinator, &path, json!({"outcome": "rollback", "reason": "no"})).await;
    assert_eq!(other.problem(), (409, "UNA0210".into()));
}

#[tokio::test]
async fn what_needs_an_operator_does_so_after_a_restart_too() {
    let (coordinator, wallet, _) = two().await;
    let path = mixed(&coordinator, &wallet).await;
    let coordinator = coordinator.restart().await;
    assert_eq!(coordinator.get(&path).await.json()["needs_attention"], true);
    let wish = json!({"outcome": "commit", "reason": "booked by hand"});
    let resolved = resolve(&coordinator, &path, wish).await;
    assert_eq!(resolved.json()["resolution"]["by"], "operator", "{}", resolved.text);
}

#[tokio::test]
async fn a_resolution_that_contradicts_the_journal_has_to_be_forced() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 503, "");
    let reply = coordinator.post("/v1/transactions", &two_with(r#""wait":"decided""#)).await;
    let path = reply.path();
    let refused = resolve(&coordinator, &path, json!({"outcome": "rollback", "reason": "r"})).await;
    assert_eq!(refused.problem(), (409, "UNA0208".into()));
    assert_eq!(refused.json()["pointer"], "/outcome");
    assert_eq!(refused.json()["outcome"], "committed");
    let wish = json!({"outcome": "rollback", "reason": "rolled back by hand", "force": true});
    let forced = resolve(&coordinator, &path, wish).await;
    assert_eq!(forced.status, 200, "{}", forced.text);
    assert_eq!(forced.json()["outcome"], "mixed");
    assert_eq!(forced.json()["participants"][0]["heuristic"], "rollback");
}

#[tokio::test]
async fn an_operator_may_vouch_for_what_was_decided() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 503, "");
    let reply = coordinator.post("/v1/transactions", &two_with(r#""wait":"decided""#)).await;
    let wish = json!({"outcome": "commit", "reason": "the wallet was restored with it"});
    let resolved = resolve(&coordinator, &reply.path(), wish).await;
    assert_eq!(resolved.status, 200, "{}", resolved.text);
    let view = resolved.json();
    assert_eq!((&view["status"], &view["outcome"]), (&json!("COMMITTED"), &json!("committed")));
    assert_eq!(view["participants"][0]["ack"], true);
}

#[tokio::test]
async fn what_is_not_decided_can_be_rolled_back_by_an_operator() {
    let (coordinator, wallet, _) = two().await;
    let path = coordinator.begin().await;
    coordinator.enlist(&path, "wallet").await;
    let commit = resolve(&coordinator, &path, json!({"outcome": "commit", "reason": "r"})).await;
    assert_eq!(commit.problem(), (409, "UNA0209".into()));
    let rollback = json!({"outcome": "rollback", "reason": "nobody owns it"});
    let resolved = resolve(&coordinator, &path, rollback).await;
    assert_eq!(resolved.json()["outcome"], "aborted", "{}", resolved.text);
    assert_eq!(resolved.json()["reason"]["kind"], "operator");
    eventually("told", async || wallet.verbs() == ["rollback"]).await;
}

#[tokio::test]
async fn an_operator_who_does_not_want_to_wait_has_the_calls_repeated_at_once() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 503, "");
    let reply = coordinator.post("/v1/transactions", &two_with(r#""wait":"decided""#)).await;
    let path = reply.path();
    // From here on the pause is longer than the test waits in all.
    eventually("in a long pause", async || wallet.count("commit") >= 7).await;
    wallet.answer("commit", 200, "");
    let retried = coordinator.post(&format!("{path}/retry"), "").await;
    assert_eq!(retried.status, 200, "{}", retried.text);
    let started = std::time::Instant::now();
    eventually("committed", async || coordinator.status(&path).await == "COMMITTED").await;
    assert!(started.elapsed() < std::time::Duration::from_secs(1));
    let ended = coordinator.post(&format!("{path}/retry"), "{}").await;
    assert_eq!((ended.status, &ended.json()["status"]), (200, &json!("COMMITTED")));
}

#[tokio::test]
async fn a_reason_cannot_forge_a_second_line_or_move_a_cursor() {
    let (coordinator, _, _) = two().await;
    let path = coordinator.begin().await;
    let reason = json!({"reason": "late\r\nERROR all lost \u{1b}[2J\u{0}"}).to_string();
    let aborted = coordinator.post(&format!("{path}/abort"), &reason).await;
    assert_eq!(aborted.status, 200, "{}", aborted.text);
    let detail = "late  ERROR all lost  [2J";
    assert_eq!(aborted.json()["reason"], json!({"kind": "client", "detail": detail}));
    let path = coordinator.begin().await;
    let long = json!({"reason": "x".repeat(100_000)}).to_string();
    let aborted = coordinator.post(&format!("{path}/abort"), &long).await;
    assert_eq!(text(&aborted.json()["reason"]["detail"]).len(), 512);
}
