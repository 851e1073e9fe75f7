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

/// A saga whose steps are in `steps`.
fn definition(name: &str, version: u32, steps: serde_json::Value) -> SagaConfig {
    let text = json!({"steps": steps}).to_string();
    SagaConfig { name: name.into(), version, file: "saga.json".into(), text }
}

fn call(name: &str, path: &str) -> serde_json::Value {
    json!({"name": name, "action": {"resource": "wallet", "path": path, "body": "{{input}}"}})
}

#[tokio::test]
async fn a_child_saga_is_begun_by_its_name_and_a_running_one_keeps_its_version() {
    let trip = json!([
        {"name": "go", "signal": {}},
        {"name": "pay", "after": ["go"], "saga": {"saga": "payment", "input": {"of": "{{input.user}}"}}}]);
    let payment = |version: u32, path: &str| {
        let within = json!({"name": "points", "saga": {"saga": "points@1"}});
        definition("payment", version, json!([call("charge", path), within]))
    };
    let points = definition("points", 1, json!([call("add", "/points")]));
    let trip = definition("trip", 1, trip);
    let sagas = vec![trip.clone(), payment(1, "/first"), points.clone()];
    let (coordinator, wallet, _ledger) = two_and(with(sagas)).await;
    let begin = json!({"kind": "saga", "saga": "trip", "input": {"user": "u-204"}, "wait": "none"});
    let reply = coordinator.post(BEGIN, &begin.to_string()).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let names = reply.json()["steps"].as_array().expect("steps").clone();
    let names: Vec<&str> = names.iter().map(|step| text(&step["name"])).collect();
    assert_eq!(names, ["go", "pay.charge", "pay.points.add"]);

    let newer = with(vec![trip, payment(1, "/first"), payment(2, "/second"), points]);
    let coordinator = coordinator.restart_as(newer).await;
    let path = reply.path();
    assert_eq!(coordinator.post(&format!("{path}/signals/go"), "{}").await.status, 200);
    eventually("done", async || coordinator.status(&path).await == "COMPLETED").await;
    assert_eq!(wallet.verbs(), ["first", "points"]);
    assert!(wallet.calls().iter().all(|call| call.body == r#"{"of":"u-204"}"#));

    let inline = json!({"kind": "saga", "input": {}, "steps": [
        {"name": "pay", "saga": {"saga": "payment"}}, {"name": "old", "after": ["pay"], "saga": {"saga": "payment@1"}}]});
    let reply = coordinator.post(BEGIN, &inline.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(wallet.verbs()[2..], ["second", "points", "first", "points"]);
}

#[tokio::test]
async fn a_child_saga_that_cannot_be_had_is_refused_with_its_place_and_nothing_is_begun() {
    let double = |name: &str, of: &str| {
        let child = |name: &str| json!({"name": name, "saga": {"saga": of}});
        definition(name, 1, json!([child("a"), child("b")]))
    };
    let sagas = vec![
        definition("s1", 1, json!([call("a", "/a")])),
        double("s2", "s1"),
        double("s4", "s2"),
        double("s8", "s4"),
        double("s16", "s8"),
        double("s32", "s16"),
    ];
    let (coordinator, ..) = two_and(with(sagas)).await;
    for (child, status, code, pointer) in [
        (json!({"saga": "no"}), 422, "UNA0123", "/steps/0/saga/saga"),
        (json!({"saga": "s1@2"}), 422, "UNA0123", "/steps/0/saga/saga"),
        (json!({"saga": "s1", "steps": [call("b", "/b")]}), 400, "UNA0102", "/steps/0/saga/steps"),
        (json!({}), 422, "UNA0103", "/steps/0/saga/steps"),
        (
            json!({"steps": [{"name": "x", "saga": {"saga": "s32"}}, {"name": "y", "saga": {"saga": "s32"}}, {"name": "z", "saga": {"saga": "s1"}}]}),
            422,
            "UNA0103",
            "/steps/0/saga/steps/1/saga/steps/0/saga/saga",
        ),
    ] {
        let steps = json!([{"name": "in", "saga": child}]);
        let body = json!({"kind": "saga", "input": {}, "steps": steps}).to_string();
        let reply = coordinator.post(BEGIN, &body).await;
        assert_eq!(reply.problem(), (status, code.into()), "{body}: {}", reply.text);
        assert_eq!(reply.json()["pointer"], pointer, "{body}: {}", reply.text);
    }
    assert_eq!(coordinator.get(BEGIN).await.json()["transactions"], json!([]));
}

#[tokio::test]
async fn a_coordinator_does_not_start_with_sagas_within_themselves() {
    let child = |of: &str| json!([call("a", "/a"), {"name": "in", "saga": {"saga": of}}]);
    let sagas = vec![
        definition("a", 1, json!([call("a", "/a")])),
        definition("a", 2, child("b")),
        definition("b", 1, child("a@1")),
        definition("b", 2, child("a")),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), &[("wallet", "http://127.0.0.1:9")]);
    let error = Server::start(with(sagas)(config)).await.err().expect("it refuses").to_string();
    let line = "saga a@2: /steps/1/saga/steps/1/saga/saga: a@2 is within itself: a@2 > b@2 > a@2 (UNA0125)";
    assert_eq!(error, line);
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
