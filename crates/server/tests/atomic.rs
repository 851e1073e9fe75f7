//! Atomic transactions over service participants, through the HTTP face.

mod common;

use common::{Coordinator, Service, eventually};
use serde_json::json;

const TWO: &str = r#"{"kind":"atomic","branches":[
    {"resource":"wallet","body":{"amount":500}},{"resource":"ledger","body":{"entry":500}}]}"#;

async fn two() -> (Coordinator, Service, Service) {
    let (wallet, ledger) = (Service::default(), Service::default());
    let urls = [wallet.serve().await, ledger.serve().await];
    let coordinator = Coordinator::start(&[("wallet", &urls[0]), ("ledger", &urls[1])]).await;
    (coordinator, wallet, ledger)
}

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
    let id = view["id"].as_str().expect("an id");
    let shown = coordinator.get(&format!("/v1/transactions/{id}")).await;
    assert_eq!(shown.json()["outcome"], "committed");
    let log = coordinator.get(&format!("/v1/transactions/{id}/log")).await.json();
    let events: Vec<_> = log["events"].as_array().expect("events").iter().collect();
    assert_eq!(events[0]["event"], "begun");
    assert_eq!(events.last().expect("some")["event"], "finished");
    let list = coordinator.get("/v1/transactions?status=COMMITTED").await.json();
    assert_eq!(list["transactions"][0]["id"], id);
}

#[tokio::test]
async fn a_no_aborts_and_says_who_and_why() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("prepare", 409, r#"{"kind":"insufficient_funds","detail":"balance is 3"}"#);
    let reply = coordinator.post("/v1/transactions", TWO).await;
    assert_eq!(reply.status, 409, "{}", reply.text);
    let problem = reply.json();
    assert_eq!(problem["code"], "UNA0201");
    assert_eq!(problem["outcome"], "aborted");
    assert_eq!(problem["status"], "ABORTED");
    let reason =
        json!({"participant": "wallet", "kind": "insufficient_funds", "detail": "balance is 3"});
    assert_eq!(problem["reason"], reason);
    assert_eq!(wallet.verbs(), ["prepare"]);
    assert!(ledger.verbs().iter().any(|verb| verb == "rollback"));
}

#[tokio::test]
async fn a_client_enlists_and_commits() {
    let (coordinator, wallet, _) = two().await;
    let begun = coordinator.post("/v1/transactions", r#"{"kind":"atomic"}"#).await;
    assert_eq!(begun.status, 201, "{}", begun.text);
    let id = begun.json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/transactions/{id}");
    for name in ["wallet", "ledger"] {
        let body = json!({"participant": name, "resource": name}).to_string();
        let enlisted = coordinator.post(&format!("{path}/participants"), &body).await;
        assert_eq!(enlisted.status, 201, "{}", enlisted.text);
        assert!(enlisted.json()["branch"].as_str().expect("a branch").starts_with("una:"));
    }
    let body = r#"{"votes":{"wallet":"YES"}}"#;
    let committed = coordinator.post(&format!("{path}/commit"), body).await;
    assert_eq!(committed.json()["outcome"], "committed", "{}", committed.text);
    assert_eq!(wallet.verbs(), ["commit"]);
    let abort = coordinator.post(&format!("{path}/abort"), "").await;
    assert_eq!((abort.status, &abort.json()["code"]), (409, &json!("UNA0202")));
}

#[tokio::test]
async fn the_same_key_gives_the_first_answer_also_after_a_restart() {
    let (mut coordinator, wallet, _) = two().await;
    let key = [("idempotency-key", "order-42")];
    let first = coordinator.send("POST", "/v1/transactions", &key, TWO).await;
    let again = coordinator.send("POST", "/v1/transactions", &key, TWO).await;
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.status, 200);
    let other = TWO.replace("500", "501");
    let reused = coordinator.send("POST", "/v1/transactions", &key, &other).await;
    assert_eq!((reused.status, &reused.json()["code"]), (422, &json!("UNA0204")));
    assert_eq!(wallet.verbs(), ["prepare", "commit"]);
    coordinator.stop().await;

    let url = wallet.serve().await;
    let data = coordinator.data.clone();
    let config = common::config(&data, &[("wallet", &url), ("ledger", &url)]);
    let coordinator = Coordinator::start_with(config).await;
    let after = coordinator.send("POST", "/v1/transactions", &key, TWO).await;
    assert_eq!(after.json()["id"], first.json()["id"]);
    assert_eq!(after.json()["outcome"], "committed");
}

#[tokio::test]
async fn a_commit_that_is_not_acknowledged_is_repeated_until_it_is() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 503, "");
    let body = TWO.replace(r#""kind""#, r#""wait":"decided","kind""#);
    let reply = coordinator.post("/v1/transactions", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json()["status"], "COMMITTING");
    let path = format!("/v1/transactions/{}", reply.json()["id"].as_str().expect("an id"));
    eventually("asked again", async || wallet.verbs().len() > 3).await;
    let shown = coordinator.get(&path).await.json();
    assert!(shown["participants"][0]["last_error"].as_str().expect("an error").contains("503"));
    let in_doubt = coordinator.get("/v1/resources/wallet/in-doubt").await.json();
    assert_eq!(in_doubt.as_array().expect("a list").len(), 1);
    wallet.answer("commit", 200, "");
    eventually("committed", async || coordinator.get(&path).await.json()["status"] == "COMMITTED")
        .await;
}
