//! Nobody is told, called or shown anything that a crash could take back.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use crate::common::{
    A_WHILE, Client, Coordinator, Reply, Service, TWO, eventually, text, two_with,
};

async fn held() -> (Coordinator, crate::common::Hand, Service, Service) {
    let (wallet, ledger) = (Service::default(), Service::default());
    let urls = [wallet.serve().await, ledger.serve().await];
    let resources = [("wallet", &*urls[0]), ("ledger", &*urls[1])];
    let (coordinator, hand) = Coordinator::start_held(&resources).await;
    (coordinator, hand, wallet, ledger)
}

fn get(client: &Client, path: &str) -> JoinHandle<Reply> {
    let (client, path) = (client.clone(), path.to_owned());
    tokio::spawn(async move { client.get(&path).await })
}

fn post(client: &Client, path: &str, body: &str) -> JoinHandle<Reply> {
    let (client, path, body) = (client.clone(), path.to_owned(), body.to_owned());
    tokio::spawn(async move { client.post(&path, &body).await })
}

#[tokio::test]
async fn a_decision_is_not_told_shown_or_acted_on_before_it_is_durable() {
    let (coordinator, hand, wallet, ledger) = held().await;
    ledger.hang();
    let mut everything = coordinator.events("/v1/events").await;
    let begun = coordinator.post("/v1/transactions", &two_with(r#""wait":"none""#)).await;
    let path = begun.path();
    let mut narrowed =
        coordinator.events(&format!("/v1/events?transaction={}", text(&begun.json()["id"]))).await;
    assert_eq!(narrowed.next().await.expect("the state")["status"], "PREPARING");
    assert_eq!(everything.next().await.expect("an event")["status"], "PREPARING");

    hand.hold();
    ledger.go_on();
    eventually("decided", async || hand.decisions() == 1).await;
    let client = coordinator.client();
    let mut hidden = vec![
        get(client, &path),
        get(client, &format!("{path}/log")),
        get(client, "/v1/transactions"),
        get(client, "/v1/transactions?status=COMMITTING"),
        get(client, "/v1/resources/wallet/in-doubt"),
        post(client, &format!("{path}/commit"), ""),
        post(client, &format!("{path}/abort"), ""),
        post(client, &format!("{path}/retry"), ""),
    ];
    assert!(tokio::time::timeout(A_WHILE, narrowed.next()).await.is_err(), "an event");
    assert!(tokio::time::timeout(A_WHILE, everything.next()).await.is_err(), "an event");
    for reply in &mut hidden {
        let early = tokio::time::timeout(Duration::ZERO, reply).await;
        assert!(early.is_err(), "told early: {early:?}");
    }
    assert_eq!(wallet.verbs(), ["prepare"]);
    assert_eq!(ledger.verbs(), ["prepare"]);

    hand.let_go();
    assert_eq!(narrowed.statuses_until("COMMITTED").await, ["COMMITTING", "COMMITTED"]);
    assert_eq!(everything.statuses_until("COMMITTED").await, ["COMMITTING", "COMMITTED"]);
    for reply in hidden {
        let reply = reply.await.expect("no panic");
        assert!(matches!(reply.status, 200 | 409), "{} {}", reply.status, reply.text);
    }
    assert_eq!((wallet.count("commit"), ledger.count("commit")), (1, 1));
}

#[tokio::test]
async fn a_client_that_waits_hears_of_an_abort_only_when_it_is_durable() {
    let (coordinator, hand, wallet, ledger) = held().await;
    wallet.answer("prepare", 409, "");
    wallet.hang();
    let mut reply = post(coordinator.client(), "/v1/transactions", TWO);
    eventually("asked", async || ledger.count("prepare") == 1).await;
    tokio::time::sleep(A_WHILE).await;
    hand.hold();
    wallet.go_on();
    eventually("decided", async || hand.decisions() == 1).await;
    // Whoever finds it after a crash does not commit it either.
    eventually("rolled back meanwhile", async || ledger.count("rollback") == 1).await;
    assert!(tokio::time::timeout(A_WHILE, &mut reply).await.is_err(), "told early");
    hand.let_go();
    assert_eq!(reply.await.expect("no panic").problem(), (409, "UNA0201".into()));
}

#[tokio::test]
async fn what_its_client_may_still_commit_is_not_rolled_back_before_the_abort_is_durable() {
    let (coordinator, hand, wallet, ledger) = held().await;
    let path = coordinator.begin().await;
    coordinator.enlist(&path, "wallet").await;
    coordinator.enlist(&path, "ledger").await;
    hand.hold();
    let reply = post(coordinator.client(), &format!("{path}/abort"), "");
    eventually("decided", async || hand.decisions() == 1).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!((wallet.count("rollback"), ledger.count("rollback")), (0, 0));
    hand.let_go();
    assert_eq!(reply.await.expect("no panic").status, 200);
    assert_eq!((wallet.count("rollback"), ledger.count("rollback")), (1, 1));
}

#[tokio::test]
async fn an_identity_is_not_handed_out_before_it_is_durable() {
    let (coordinator, hand, wallet, _) = held().await;
    let path = coordinator.begin().await;
    hand.hold();
    let client = coordinator.client();
    let enlist = json!({"participant": "wallet", "resource": "wallet"}).to_string();
    let mut early = vec![
        post(client, "/v1/transactions", r#"{"kind":"atomic"}"#),
        post(client, "/v1/transactions", &two_with(r#""wait":"none""#)),
        post(client, &format!("{path}/participants"), &enlist),
    ];
    tokio::time::sleep(A_WHILE).await;
    for reply in &mut early {
        let reply = tokio::time::timeout(Duration::ZERO, reply).await;
        assert!(reply.is_err(), "told early: {reply:?}");
    }
    assert_eq!(wallet.verbs(), [""; 0], "called for a transaction that may be forgotten");
    hand.let_go();
    for reply in early {
        let reply = reply.await.expect("no panic");
        assert!(matches!(reply.status, 201 | 202), "{} {}", reply.status, reply.text);
    }
}

#[tokio::test]
async fn a_full_journal_refuses_new_work_finishes_the_old_and_goes_on_when_there_is_room() {
    let (coordinator, hand, wallet, _) = held().await;
    let path = coordinator.begin().await;
    coordinator.enlist(&path, "wallet").await;
    hand.fill();
    let refused = coordinator.post_keyed("/v1/transactions", "k", TWO).await;
    assert_eq!(refused.problem(), (503, "UNA0302".into()));
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(wallet.verbs(), [""; 0]);
    let committed = coordinator.post(&format!("{path}/commit"), "").await;
    assert_eq!(committed.json()["outcome"], "committed", "{}", committed.text);
    hand.make_room();
    let taken = coordinator.post_keyed("/v1/transactions", "k", TWO).await;
    assert_eq!(taken.status, 200, "{}", taken.text);
}

#[tokio::test]
async fn a_journal_that_fails_stops_the_coordinator_with_the_reason() {
    let (mut coordinator, hand, _, _) = held().await;
    hand.fail();
    let stopped = coordinator.ended().await.expect_err("it must not go on");
    assert!(stopped.to_string().contains("input/output error"), "{stopped}");
}
