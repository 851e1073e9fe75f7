//! The ordinary way of an atomic transaction.

use serde_json::json;

use crate::common::{TWO, eventually, text, two, two_with};

#[tokio::test]
async fn two_yes_votes_commit_both() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("prepare", 200, r#"{"result":{"balance":7}}"#);
    let reply = coordinator.post("/v1/transactions", TWO).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let view = reply.json();
    assert_eq!(view["status"], "COMMITTED");
    assert_eq!(view["outcome"], "committed");
    assert_eq!(view["participants"][0]["vote"], "YES");
    assert_eq!(view["participants"][0]["ack"], true);
    assert_eq!(view["participants"][0]["results"], json!([{"balance": 7}]));
    assert_eq!(wallet.verbs(), ["prepare", "commit"]);
    assert_eq!(ledger.calls()[0].body, r#"{"entry":500}"#);
    let shown = coordinator.get(&reply.path()).await;
    assert_eq!(shown.json()["outcome"], "committed");
    let log = coordinator.get(&format!("{}/log", reply.path())).await.json();
    let events: Vec<_> = log["events"].as_array().expect("events").iter().collect();
    assert_eq!(events[0]["event"], "begun");
    assert_eq!(events.last().expect("some")["event"], "finished");
    let list = coordinator.get("/v1/transactions?status=COMMITTED").await.json();
    assert_eq!(list["transactions"][0]["id"], view["id"]);
}

#[tokio::test]
async fn a_no_aborts_and_says_who_and_why() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("prepare", 409, r#"{"kind":"insufficient_funds","detail":"balance is 3"}"#);
    let reply = coordinator.post("/v1/transactions", TWO).await;
    assert_eq!(reply.problem(), (409, "UNA0201".into()));
    let problem = reply.json();
    assert_eq!(problem["outcome"], "aborted");
    assert_eq!(problem["status"], "ABORTED");
    let reason =
        json!({"participant": "wallet", "kind": "insufficient_funds", "detail": "balance is 3"});
    assert_eq!(problem["reason"], reason);
    assert_eq!(wallet.verbs(), ["prepare"]);
    assert!(ledger.count("rollback") > 0);
}

#[tokio::test]
async fn a_client_enlists_and_commits() {
    let (coordinator, wallet, ledger) = two().await;
    let path = coordinator.begin().await;
    let branch = coordinator.enlist(&path, "wallet").await;
    assert!(branch.starts_with("una:"), "{branch}");
    coordinator.enlist(&path, "ledger").await;
    let body = r#"{"votes":{"wallet":"YES"}}"#;
    let committed = coordinator.post(&format!("{path}/commit"), body).await;
    assert_eq!(committed.json()["outcome"], "committed", "{}", committed.text);
    assert_eq!(wallet.verbs(), ["commit"]);
    assert_eq!(ledger.verbs(), ["prepare", "commit"]);
    let abort = coordinator.post(&format!("{path}/abort"), "").await;
    assert_eq!(abort.problem(), (409, "UNA0202".into()));
    assert_eq!(abort.json()["outcome"], "committed");
}

#[tokio::test]
async fn a_commit_that_is_not_acknowledged_is_repeated_until_it_is() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 503, "");
    let reply = coordinator.post("/v1/transactions", &two_with(r#""wait":"decided""#)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json()["status"], "COMMITTING");
    let path = reply.path();
    eventually("asked again", async || wallet.count("commit") > 2).await;
    let shown = coordinator.get(&path).await.json();
    assert!(text(&shown["participants"][0]["last_error"]).contains("503"));
    let in_doubt = coordinator.get("/v1/resources/wallet/in-doubt").await.json();
    assert_eq!(in_doubt.as_array().expect("a list").len(), 1);
    assert_eq!(in_doubt[0]["transaction"], shown["id"]);
    wallet.answer("commit", 200, "");
    eventually("committed", async || coordinator.status(&path).await == "COMMITTED").await;
    let in_doubt = coordinator.get("/v1/resources/wallet/in-doubt").await.json();
    assert_eq!(in_doubt, json!([]));
}

#[tokio::test]
async fn a_participant_that_was_enlisted_twice_takes_part_once() {
    let (coordinator, _, _) = two().await;
    let path = coordinator.begin().await;
    let first = coordinator.enlist(&path, "wallet").await;
    assert_eq!(coordinator.enlist(&path, "wallet").await, first);
    let body = r#"{"participant":"wallet","resource":"ledger"}"#;
    let other = coordinator.post(&format!("{path}/participants"), body).await;
    assert_eq!(other.problem(), (422, "UNA0107".into()));
    let shown = coordinator.get(&path).await.json();
    assert_eq!(shown["participants"].as_array().expect("a list").len(), 1);
}

#[tokio::test]
async fn nobody_is_enlisted_once_commit_or_abort_was_asked_for() {
    let (coordinator, wallet, ledger) = two().await;
    let body = r#"{"participant":"ledger","resource":"ledger"}"#;
    for verb in ["commit", "abort"] {
        let path = coordinator.begin().await;
        coordinator.enlist(&path, "wallet").await;
        wallet.answer(verb, 503, "");
        coordinator.post(&format!("{path}/{verb}"), r#"{"wait":"none"}"#).await;
        let open = coordinator.post(&format!("{path}/participants"), body).await;
        assert_eq!(open.problem(), (409, "UNA0203".into()));
        wallet.answer(verb, 200, "");
        let over = async || coordinator.get(&path).await.json()["participants"][0]["ack"] == true;
        eventually("over", over).await;
        let ended = coordinator.post(&format!("{path}/participants"), body).await;
        assert_eq!(ended.problem(), (409, "UNA0203".into()));
        assert_eq!(ended.json()["participants"].as_array().expect("a list").len(), 1);
    }
    assert_eq!(ledger.verbs(), [""; 0]);
}

#[tokio::test]
async fn a_transaction_takes_no_more_than_64_participants() {
    let (coordinator, wallet, _) = two().await;
    let path = coordinator.begin().await;
    for number in 0..64 {
        let body = format!(r#"{{"participant":"p{number}","resource":"wallet"}}"#);
        let enlisted = coordinator.post(&format!("{path}/participants"), &body).await;
        assert_eq!(enlisted.status, 201, "{}", enlisted.text);
    }
    let body = r#"{"participant":"p64","resource":"wallet"}"#;
    let refused = coordinator.post(&format!("{path}/participants"), body).await;
    assert_eq!(refused.problem(), (422, "UNA0106".into()));
    let committed = coordinator.post(&format!("{path}/commit"), "").await;
    assert_eq!(committed.json()["outcome"], "committed");
    assert_eq!((wallet.count("prepare"), wallet.count("commit")), (64, 64));
}

#[tokio::test]
async fn two_votes_of_one_participant_that_differ_abort() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.hang();
    ledger.hang();
    let path = coordinator.begin().await;
    coordinator.enlist(&path, "wallet").await;
    coordinator.enlist(&path, "ledger").await;
    let commit = format!("{path}/commit");
    let body = r#"{"votes":{"wallet":"YES"},"wait":"none"}"#;
    assert_eq!(coordinator.post(&commit, body).await.status, 202);
    let body = r#"{"votes":{"wallet":"NO"},"wait":"decided"}"#;
    let reply = coordinator.post(&commit, body).await;
    assert_eq!(reply.problem(), (409, "UNA0201".into()));
    assert_eq!(reply.json()["reason"]["kind"], "contradiction");
}

#[tokio::test]
async fn the_work_of_a_branch_arrives_as_it_was_written() {
    let (coordinator, wallet, _) = two().await;
    let body = r#"{ "z":123456789012345678901234567890, "a":[0.1000, 1e400,"\u00fc"],"z":null }"#;
    let begin =
        format!(r#"{{"kind":"atomic","branches":[{{"resource":"wallet","body":{body}}}]}}"#);
    let reply = coordinator.post("/v1/transactions", &begin).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(wallet.calls()[0].body, body);
    assert_eq!(wallet.calls()[0].headers["content-type"], "application/json");
}
