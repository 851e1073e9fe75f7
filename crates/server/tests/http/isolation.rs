//! One participant's trouble stays its own.

use std::time::{Duration, Instant};

use serde_json::json;
use unanimous_participants::testing::free_port;
use unanimous_server::config::Config;

use crate::common::{Coordinator, Service, eventually, two_and};

const ON_WALLET: &str =
    r#"{"kind":"atomic","timeout_ms":20000,"branches":[{"resource":"wallet"}]}"#;
const ON_LEDGER: &str = r#"{"kind":"atomic","branches":[{"resource":"ledger"}]}"#;

fn patience(config: Config) -> Config {
    let mut config = config;
    config.limits.call_timeout_ms = 1_000;
    config
}

async fn circuit(coordinator: &Coordinator) -> String {
    let resources = coordinator.get("/v1/resources").await.json();
    let wallet = &resources["resources"][1];
    assert_eq!(wallet["name"], "wallet");
    crate::common::text(&wallet["circuit"]).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_participant_delays_nobody_else_and_is_soon_refused_at_once() {
    let (coordinator, wallet, _) = two_and(patience).await;
    assert_eq!(circuit(&coordinator).await, "closed");
    wallet.hang();
    let hanging = (0..200).map(|_| {
        let client = coordinator.client().clone();
        tokio::spawn(async move { client.post("/v1/transactions", ON_WALLET).await })
    });
    let hanging: Vec<_> = hanging.collect();
    eventually("200 hang", async || wallet.count("prepare") >= 200).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        let reply = coordinator.post("/v1/transactions", ON_LEDGER).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");

    let refused_at_once = async || {
        let begun = Instant::now();
        let body = ON_WALLET.replace("20000", r#"800,"wait":"decided""#);
        let reply = coordinator.post("/v1/transactions", &body).await;
        assert_eq!(reply.problem(), (409, "UNA0201".into()));
        reply.json()["reason"]["kind"] == "unreachable"
            && begun.elapsed() < Duration::from_millis(400)
    };
    eventually("refused at once", refused_at_once).await;
    assert_ne!(circuit(&coordinator).await, "closed");

    wallet.go_on();
    eventually("closed again", async || circuit(&coordinator).await == "closed").await;
    for hung in hanging {
        let reply = hung.await.expect("no panic");
        assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
    }
}

#[tokio::test]
async fn a_resource_that_nobody_listens_on_aborts_and_is_not_called_for_others() {
    let gone = "http://127.0.0.1:9";
    let coordinator = Coordinator::start(&[("gone", gone)]).await;
    let body = r#"{"kind":"atomic","timeout_ms":300,"branches":[{"resource":"gone"}]}"#;
    let reply = coordinator.post("/v1/transactions", body).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let view = reply.json();
    assert_eq!((&view["status"], &view["reason"]["kind"]), (&"ABORTING".into(), &"timeout".into()));
    let resources = coordinator.get("/v1/resources").await.json();
    let gone = &resources["resources"][0];
    assert_eq!(
        (&gone["url"], &gone["resource_type"]),
        (&"http://127.0.0.1:9".into(), &"http".into())
    );
    assert!(crate::common::text(&gone["last_error"]).contains("refused"), "{gone}");
}

#[tokio::test]
async fn what_waits_for_a_resource_goes_on_as_soon_as_that_answers_again() {
    let (ledger, address) = (Service::default(), format!("127.0.0.1:{}", free_port()));
    let coordinator = Coordinator::start(&[("ledger", &format!("http://{address}"))]).await;
    let saga = |pause_ms: u64| {
        let retry = json!({"backoff_ms": pause_ms, "backoff_max_ms": pause_ms});
        let action = json!({"resource": "ledger", "path": "/charge"});
        let step = json!({"name": "charge", "action": action, "retry": retry});
        json!({"kind": "saga", "wait": "none", "steps": [step]}).to_string()
    };
    let patient = coordinator.post("/v1/transactions", &saga(600_000)).await.path();
    let eager = coordinator.post("/v1/transactions", &saga(50)).await.path();
    eventually("open", async || {
        let resources = coordinator.get("/v1/resources").await.json();
        resources["resources"][0]["circuit"] != "closed"
    })
    .await;
    ledger.serve_at(&address).await;
    for path in [eager, patient] {
        eventually("completed", async || coordinator.status(&path).await == "COMPLETED").await;
    }
}
