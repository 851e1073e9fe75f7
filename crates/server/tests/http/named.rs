//! Sagas that the coordinator knows by name.

use serde_json::json;
use unanimous_server::Server;
use unanimous_server::config::Config;
use unanimous_server::definitions::SagaConfig;

use crate::common::{Coordinator, Service, config, eventually, text, two_and};

const BEGIN: &str = "/v1/transactions";

fn booking(version: u32, path: &str) -> SagaConfig {
    let step = json!({"name": "reserve", "action": {"resource": "wallet", "path": path,
        "body": {"seat": "{{input.seat}}"}}});
    let text = json!({"steps": [step]}).to_string();
    SagaConfig { name: "booking".into(), version, file: "booking.json".into(), text }
}

fn with(sagas: Vec<SagaConfig>) -> impl FnOnce(Config) -> Config {
    |config| Config { sagas, ..config }
}

async fn three() -> (Coordinator, Service, Service) {
    two_and(with(vec![booking(2, "/old"), booking(3, "/new")])).await
}

fn named(name: &str) -> String {
    json!({"kind": "saga", "saga": name, "input": {"seat": "B2-31"}}).to_string()
}

#[tokio::test]
async fn a_saga_is_begun_by_its_name_in_the_newest_version_or_the_one_that_is_asked_for() {
    let (coordinator, wallet, _ledger) = three().await;
    for (name, label, path) in [("booking", "booking@3", "new"), ("booking@2", "booking@2", "old")]
    {
        let reply = coordinator.post(BEGIN, &named(name)).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json()["saga"], label);
        let call = wallet.calls().pop().expect("it was called");
        assert_eq!((&*call.verb, &*call.body), (path, r#"{"seat":"B2-31"}"#));
    }
    let list = coordinator.get("/v1/sagas").await.json();
    let both = json!([
        {"name": "booking", "version": 2, "steps": ["reserve"]},
        {"name": "booking", "version": 3, "steps": ["reserve"]}]);
    assert_eq!(list["sagas"], both);
    let shown = coordinator.get("/v1/sagas/booking").await.json();
    assert_eq!(shown["saga"], "booking@3");
    assert_eq!(shown["steps"][0]["action"]["path"], "/new");
}

#[tokio::test]
async fn a_saga_that_runs_keeps_the_version_that_it_began_with() {
    let waits = json!({"steps": [
        {"name": "go", "signal": {}},
        {"name": "act", "after": ["go"], "action": {"resource": "wallet", "path": "/first"}}]});
    let first = SagaConfig { text: waits.to_string(), ..booking(1, "/") };
    let (coordinator, wallet, _ledger) = two_and(with(vec![first])).await;
    let begin = json!({"kind": "saga", "saga": "booking", "wait": "none"}).to_string();
    let reply = coordinator.post(BEGIN, &begin).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let coordinator = coordinator.restart_as(with(vec![booking(2, "/second")])).await;
    let go = format!("{}/signals/go", reply.path());
    assert_eq!(coordinator.post(&go, "{}").await.status, 200);
    let path = reply.path();
    let show = || coordinator.get(&path);
    eventually("completed", async || show().await.json()["status"] == "COMPLETED").await;
    assert_eq!(text(&show().await.json()["saga"]), "booking@1");
    assert_eq!(wallet.verbs(), ["first"]);
}

#[tokio::test]
async fn a_name_that_is_not_known_or_does_not_belong_is_refused_and_nothing_is_begun() {
    let (coordinator, ..) = three().await;
    let step = json!({"name": "a", "pause_ms": 1});
    for (body, status, code, pointer) in [
        (json!({"kind": "saga", "saga": "booking@4"}), 422, "UNA0123", "/saga"),
        (json!({"kind": "saga", "saga": "trip"}), 422, "UNA0123", "/saga"),
        (json!({"kind": "saga", "saga": "booking", "steps": [step]}), 400, "UNA0102", "/steps"),
        (json!({"kind": "atomic", "saga": "booking"}), 400, "UNA0102", "/saga"),
    ] {
        let reply = coordinator.post(BEGIN, &body.to_string()).await;
        assert_eq!(reply.problem(), (status, code.into()), "{}", reply.text);
        assert_eq!(reply.json()["pointer"], pointer, "{}", reply.text);
    }
    assert_eq!(coordinator.get("/v1/sagas/trip").await.problem(), (422, "UNA0123".into()));
    assert_eq!(coordinator.get(BEGIN).await.json()["transactions"], json!([]));
}

#[tokio::test]
async fn a_coordinator_does_not_start_with_a_saga_that_it_could_not_carry_out() {
    let text = r#"{"steps":[{"name":"a","action":{"resource":"nowhere","path":"/a"}}]}"#;
    let bad = SagaConfig { text: text.into(), ..booking(9, "/") };
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), &[]);
    let error = Server::start(with(vec![bad])(config)).await.err().expect("it refuses").to_string();
    assert!(error.starts_with("saga booking@9: /steps/0/action/resource: "), "{error}");
}
