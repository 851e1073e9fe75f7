//! A shutdown lets come to an end what was begun, and answers everybody.

use unanimous_server::config::Config;

use crate::common::{TWO, eventually, text, two, two_and, two_with};

#[tokio::test]
async fn a_shutdown_answers_what_is_running_and_takes_nothing_new() {
    let patient = |mut config: Config| {
        config.limits.drain_ms = 20_000;
        config
    };
    let (mut coordinator, wallet, _) = two_and(patient).await;
    wallet.hang();
    let client = coordinator.client().clone();
    let running = tokio::spawn(async move { client.post("/v1/transactions", TWO).await });
    eventually("called", async || wallet.count("prepare") == 1).await;
    let mut stream = coordinator.events("/v1/events").await;

    coordinator.begin_stop();
    eventually("not ready", async || coordinator.get("/readyz").await.status == 503).await;
    let ready = coordinator.get("/readyz").await.json();
    assert_eq!(text(&ready["reason"]), "the coordinator is shutting down");
    let new = two_with(r#""wait":"none""#);
    let refused = async || coordinator.post("/v1/transactions", &new).await.status == 503;
    eventually("refused", refused).await;
    for _ in 0..20 {
        let refused = coordinator.post("/v1/transactions", &new).await;
        assert_eq!(refused.problem(), (503, "UNA0303".into()));
        assert_eq!(refused.headers["retry-after"], "1");
    }
    assert_eq!(coordinator.get("/healthz").await.status, 200);

    wallet.go_on();
    let reply = running.await.expect("no panic");
    assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
    while stream.next().await.is_some() {}
    coordinator.ended().await.expect("it stops well");
    let after = coordinator.try_send("GET", "/healthz", &[], "").await;
    assert!(after.is_none(), "{after:?}");
}

#[tokio::test]
async fn who_waits_for_acks_at_a_shutdown_gets_the_state_so_far() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 503, "");
    let client = coordinator.client().clone();
    let waiting = tokio::spawn(async move { client.post("/v1/transactions", TWO).await });
    eventually("decided", async || wallet.count("commit") > 0).await;
    let coordinator = coordinator.restart().await;
    let reply = waiting.await.expect("no panic");
    assert_eq!(reply.status, 202, "{}", reply.text);
    assert_eq!(reply.json()["status"], "COMMITTING");
    assert_eq!(reply.json()["outcome"], "committed");
    wallet.answer("commit", 200, "");
    let path = reply.path();
    eventually("committed", async || coordinator.status(&path).await == "COMMITTED").await;
}

#[tokio::test]
async fn what_is_undecided_at_the_end_of_a_shutdown_aborts_at_the_next_start() {
    let hasty = |mut config: Config| {
        config.limits.call_timeout_ms = 500;
        config.limits.drain_ms = 200;
        config
    };
    let (coordinator, wallet, _) = two_and(hasty).await;
    wallet.hang();
    let client = coordinator.client().clone();
    let waiting = tokio::spawn(async move { client.post("/v1/transactions", TWO).await });
    eventually("called", async || wallet.count("prepare") == 1).await;
    let coordinator = coordinator.restart().await;
    let reply = waiting.await.expect("no panic");
    assert_eq!((reply.status, &reply.json()["status"]), (202, &"PREPARING".into()));
    wallet.go_on();
    let path = reply.path();
    eventually("aborted", async || coordinator.status(&path).await == "ABORTED").await;
    let view = coordinator.get(&path).await.json();
    assert_eq!(view["reason"]["kind"], "restart");
    assert_eq!(wallet.count("commit"), 0);
}

#[tokio::test]
async fn what_its_client_drives_holds_up_no_shutdown_and_goes_on_after_the_restart() {
    let patient = |mut config: Config| {
        config.limits.drain_ms = 60_000;
        config
    };
    let (coordinator, wallet, _) = two_and(patient).await;
    let begun = coordinator.post("/v1/transactions", r#"{"kind":"atomic"}"#).await;
    let path = begun.path();
    let wallet_body = r#"{"participant":"wallet","resource":"wallet"}"#;
    let enlisted = coordinator.post(&format!("{path}/participants"), wallet_body).await;
    assert_eq!(enlisted.status, 201, "{}", enlisted.text);
    let stopped = std::time::Instant::now();
    let coordinator = coordinator.restart().await;
    assert!(stopped.elapsed().as_secs() < 30, "the shutdown waited for the client");
    assert_eq!(coordinator.status(&path).await, "INITIATED");
    let committed = coordinator.post(&format!("{path}/commit"), "").await;
    assert_eq!(committed.json()["outcome"], "committed", "{}", committed.text);
    assert_eq!(wallet.verbs(), ["prepare", "commit"]);
}
