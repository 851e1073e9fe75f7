//! When a request is answered: at once, at the decision, at the end, or when its patience runs out.

use std::time::{Duration, Instant};

use crate::common::{TWO, eventually, two, two_with};

#[tokio::test]
async fn a_request_that_does_not_wait_is_answered_before_the_votes_are_in() {
    let (coordinator, wallet, _) = two().await;
    wallet.hang();
    let reply = coordinator.post("/v1/transactions", &two_with(r#""wait":"none""#)).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    assert_eq!(reply.json()["status"], "PREPARING");
    assert_eq!(reply.json()["outcome"], serde_json::Value::Null);
    wallet.go_on();
    let path = reply.path();
    eventually("committed", async || coordinator.status(&path).await == "COMMITTED").await;
}

#[tokio::test]
async fn a_request_that_waits_for_the_decision_does_not_wait_for_the_acks() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 425, "");
    let reply = coordinator.post("/v1/transactions", &two_with(r#""wait":"decided""#)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let view = reply.json();
    assert_eq!((&view["status"], &view["outcome"]), (&"COMMITTING".into(), &"committed".into()));
    assert_eq!(view["participants"][0]["ack"], false);
}

#[tokio::test]
async fn a_request_waits_for_every_ack_unless_told_otherwise() {
    let (coordinator, wallet, _) = two().await;
    for _ in 0..3 {
        wallet.answer_next("commit", 503, "");
    }
    let reply = coordinator.post("/v1/transactions", TWO).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json()["status"], "COMMITTED");
    assert_eq!(wallet.count("commit"), 4);
}

#[tokio::test]
async fn a_wait_that_runs_out_shows_the_state_so_far() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 503, "");
    let begun = Instant::now();
    let reply = coordinator.post("/v1/transactions", &two_with(r#""timeout_ms":300"#)).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let view = reply.json();
    assert_eq!((&view["status"], &view["outcome"]), (&"COMMITTING".into(), &"committed".into()));
    assert!(begun.elapsed() < Duration::from_secs(5));
    wallet.answer("commit", 200, "");
    let path = reply.path();
    eventually("committed", async || coordinator.status(&path).await == "COMMITTED").await;
}

#[tokio::test]
async fn what_is_not_decided_in_time_aborts_and_every_participant_is_told() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("prepare", 425, "");
    let reply = coordinator.post("/v1/transactions", &two_with(r#""timeout_ms":200"#)).await;
    assert_eq!(reply.problem(), (409, "UNA0201".into()));
    let problem = reply.json();
    assert_eq!(problem["reason"]["kind"], "timeout");
    assert_eq!(problem["reason"]["participant"], "wallet");
    assert_eq!(problem["status"], "ABORTED");
    assert_eq!((wallet.count("rollback"), ledger.count("rollback")), (1, 1));
    assert_eq!(wallet.count("commit") + ledger.count("commit"), 0);
}

#[tokio::test]
async fn what_its_client_leaves_alone_aborts_in_time_and_its_participants_are_told() {
    let (coordinator, wallet, _) = two().await;
    let begun = coordinator.post("/v1/transactions", r#"{"kind":"atomic","timeout_ms":200}"#).await;
    let path = begun.path();
    coordinator.enlist(&path, "wallet").await;
    eventually("aborted", async || coordinator.status(&path).await == "ABORTED").await;
    assert_eq!(coordinator.get(&path).await.json()["reason"]["kind"], "timeout");
    assert_eq!(wallet.verbs(), ["rollback"]);
    let late = coordinator.post(&format!("{path}/commit"), "").await;
    assert_eq!(late.problem(), (409, "UNA0201".into()));
    assert_eq!(late.json()["reason"]["kind"], "timeout");
}

#[tokio::test]
async fn commit_and_abort_wait_as_they_are_asked_to() {
    let (coordinator, wallet, _) = two().await;
    for (verb, call, status, code) in
        [("commit", "commit", "COMMITTING", 200), ("abort", "rollback", "ABORTING", 200)]
    {
        wallet.answer(call, 503, "");
        let path = coordinator.begin().await;
        coordinator.enlist(&path, "wallet").await;
        let body = r#"{"wait":"decided"}"#;
        let decided = coordinator.post(&format!("{path}/{verb}"), body).await;
        assert_eq!((decided.status, &decided.json()["status"]), (code, &status.into()));
        wallet.answer(call, 200, "");
        let finished = coordinator.post(&format!("{path}/{verb}"), "").await;
        assert_eq!(finished.status, code, "{}", finished.text);
        assert_eq!(finished.json()["participants"][0]["ack"], true);
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_change_what_happens() {
    let (coordinator, wallet, _) = two().await;
    wallet.hang();
    let client = coordinator.client().clone();
    let request = tokio::spawn(async move { client.post("/v1/transactions", TWO).await });
    eventually("called", async || wallet.count("prepare") == 1).await;
    request.abort();
    wallet.go_on();
    let path = "/v1/transactions?status=COMMITTED";
    let committed =
        async || coordinator.get(path).await.json()["transactions"][0]["outcome"] == "committed";
    eventually("committed", committed).await;
}
