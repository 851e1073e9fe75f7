//! Steps that try and confirm, messages, and sagas within sagas.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::common::{eventually, text, two};

const BEGIN: &str = "/v1/transactions";

fn words(view: &Value) -> Vec<(&str, &str)> {
    let steps = view["steps"].as_array().expect("a saga has steps").iter();
    steps.map(|step| (text(&step["name"]), text(&step["status"]))).collect()
}

fn saga(input: Value, steps: Value) -> String {
    json!({"kind": "saga", "input": input, "steps": steps}).to_string()
}

#[tokio::test]
async fn what_a_step_tries_is_confirmed_when_the_saga_can_only_go_on() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("try", 200, r#"{"vote":"yes","result":{"hold":"h-1"}}"#);
    let body = saga(
        json!({"amount": 500}),
        json!([
            {"name": "hold", "tcc": {"resource": "wallet", "body": {"amount": "{{input.amount}}"}}},
            {"name": "book", "after": ["hold"], "action": {"resource": "ledger", "path": "/book",
                "body": {"hold": "{{steps.hold.result.hold}}"}}},
            {"name": "tell", "after": ["hold-confirm"], "retriable": true,
                "action": {"resource": "ledger", "path": "/tell", "body": {}}}]),
    );
    let reply = coordinator.post(BEGIN, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let view = reply.json();
    let acted = ["hold", "book", "tell", "commit", "hold-confirm"].map(|name| (name, "ACTED"));
    assert_eq!(words(&view), acted);
    assert_eq!(wallet.verbs(), ["try", "confirm"]);
    assert_eq!(ledger.verbs(), ["book", "tell"]);
    assert_eq!(ledger.calls()[0].body, r#"{"hold":"h-1"}"#);
    let calls = wallet.calls();
    assert_eq!(calls[0].body, r#"{"amount":500}"#);
    let branch = text(&view["steps"][0]["branch"]);
    for (call, word) in calls.iter().zip(["try", "confirm"]) {
        assert_eq!(call.headers["unanimous-branch"], branch, "one branch, for its barrier");
        assert_eq!(call.headers["idempotency-key"], format!("{branch}:{word}"));
    }
    assert!(!calls[0].headers.contains_key("unanimous-expires"), "nothing expires");
}

#[tokio::test]
async fn what_a_step_has_tried_is_cancelled_when_the_saga_is_undone() {
    let (coordinator, wallet, ledger) = two().await;
    ledger.answer("book", 409, r#"{"kind":"sold_out","detail":"B2-31 is taken"}"#);
    let steps = json!([
        {"name": "hold", "tcc": {"resource": "wallet"}},
        {"name": "book", "after": ["hold"], "action": {"resource": "ledger", "path": "/book"}}]);
    let reply = coordinator.post(BEGIN, &saga(json!({}), steps.clone())).await;
    assert_eq!(reply.problem(), (409, "UNA0213".into()));
    assert_eq!(wallet.verbs(), ["try", "cancel"]);
    let view = reply.json();
    let expected = [
        ("hold", "COMPENSATED"),
        ("book", "REFUSED"),
        ("commit", "UNREACHED"),
        ("hold-confirm", "UNREACHED"),
    ];
    assert_eq!(words(&view), expected);

    wallet.answer("try", 409, r#"{"kind":"funds","detail":"too little"}"#);
    let reply = coordinator.post(BEGIN, &saga(json!({}), steps)).await;
    assert_eq!(reply.problem(), (409, "UNA0213".into()));
    assert_eq!(reply.json()["reason"]["kind"], "funds");
    assert_eq!(wallet.verbs(), ["try", "cancel", "try"], "a certain no has nothing to cancel");
}

#[tokio::test]
async fn a_confirmation_that_is_silent_is_repeated_and_one_that_expired_needs_an_operator() {
    let (coordinator, wallet, _ledger) = two().await;
    wallet.answer_next("confirm", 503, "");
    let steps = json!([{"name": "hold", "tcc": {"resource": "wallet"}}]);
    let reply = coordinator.post(BEGIN, &saga(json!({}), steps.clone())).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(wallet.verbs(), ["try", "confirm", "confirm"]);

    wallet.answer("confirm", 200, r#"{"heuristic":"rollback"}"#);
    let reply = coordinator.post(BEGIN, &saga(json!({}), steps)).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let view = reply.json();
    assert_eq!(view["outcome"], "needs_attention");
    assert_eq!(view["attention"][0]["step"], "hold-confirm");
}

#[tokio::test]
async fn a_pivot_of_the_request_is_the_point_from_which_is_confirmed() {
    let (coordinator, wallet, ledger) = two().await;
    let steps = json!([
        {"name": "hold", "tcc": {"resource": "wallet"}},
        {"name": "emit", "after": ["hold"], "pivot": true,
            "action": {"resource": "ledger", "path": "/emit"}}]);
    let reply = coordinator.post(BEGIN, &saga(json!({}), steps)).await;
    let acted = ["hold", "emit", "hold-confirm"].map(|name| (name, "ACTED"));
    assert_eq!(words(&reply.json()), acted);
    assert_eq!(
        (wallet.verbs(), ledger.verbs()),
        (vec!["try".to_owned(), "confirm".to_owned()], vec!["emit".to_owned()])
    );
}

/// An order with a receipt that is sent once the order is certain.
fn order(pivot: bool) -> Value {
    json!([
        {"name": "book", "action": {"resource": "wallet", "path": "/book", "body": {}},
            "compensation": {"resource": "wallet", "path": "/unbook", "body": {}}},
        {"name": "receipt", "after": ["book"], "message": {"resource": "ledger", "path": "/receipt",
            "body": {"to": "{{input.user}}", "order": "{{steps.book.result.id}}"}}},
        {"name": "charge", "after": ["receipt"], "pivot": pivot,
            "action": {"resource": "wallet", "path": "/charge", "body": {}}}])
}

#[tokio::test]
async fn a_message_is_announced_at_its_turn_and_sent_when_the_saga_can_only_go_on() {
    for pivot in [true, false] {
        let (coordinator, wallet, ledger) = two().await;
        wallet.answer("book", 200, r#"{"id":7}"#);
        wallet.answer("charge", 503, "");
        ledger.answer("receipt", 503, "");
        let mut begin: Value =
            serde_json::from_str(&saga(json!({"user": "u-204"}), order(pivot))).expect("JSON");
        begin["wait"] = json!("none");
        let path = coordinator.post(BEGIN, &begin.to_string()).await.path();
        eventually("charging", async || wallet.count("charge") > 0).await;
        let view = coordinator.get(&path).await.json();
        assert_eq!(view["steps"][1]["status"], "ANNOUNCED");
        assert_eq!(ledger.verbs(), [""; 0]);
        wallet.answer("charge", 200, "{}");
        eventually("asked", async || ledger.count("receipt") > 0).await;
        assert_eq!(coordinator.get(&path).await.json()["steps"][1]["status"], "ACTING");
        let late = coordinator.post(&format!("{path}/abort"), "").await;
        let code = if pivot { "UNA0214" } else { "UNA0202" };
        assert_eq!(late.problem(), (409, code.into()), "{}", late.text);
        let coordinator = coordinator.restart().await;
        ledger.answer("receipt", 200, "{}");
        eventually("sent", async || coordinator.status(&path).await == "COMPLETED").await;
        let body = r#"{"order":7,"to":"u-204"}"#;
        assert!(ledger.calls().iter().all(|call| call.body == body), "{:?}", ledger.calls());
        let calls = ledger.calls();
        let keys: BTreeSet<_> = calls.iter().map(|call| &call.headers["idempotency-key"]).collect();
        assert_eq!(keys.len(), 1, "{keys:?}");
        assert_eq!(wallet.count("unbook"), 0);
    }
}

#[tokio::test]
async fn a_message_of_a_saga_that_is_undone_is_dropped() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("charge", 409, "{}");
    let reply = coordinator.post(BEGIN, &saga(json!({"user": "u-204"}), order(false))).await;
    assert_eq!(reply.problem(), (409, "UNA0213".into()));
    assert_eq!(reply.json()["steps"][1]["status"], "UNREACHED");
    assert_eq!(wallet.verbs(), ["book", "charge", "unbook"]);
    assert_eq!(ledger.verbs(), [""; 0]);
}

#[tokio::test]
async fn a_message_that_is_refused_waits_for_an_operator_and_nothing_is_undone() {
    let (coordinator, wallet, ledger) = two().await;
    ledger.answer("receipt", 409, r#"{"kind":"bounced"}"#);
    let reply = coordinator.post(BEGIN, &saga(json!({"user": "u-204"}), order(false))).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    assert_eq!(reply.json()["attention"][0]["step"], "receipt");
    let path = reply.path();
    let late = coordinator.post(&format!("{path}/abort"), "").await;
    assert_eq!(late.problem(), (409, "UNA0202".into()), "{}", late.text);
    ledger.answer("receipt", 200, "{}");
    assert_eq!(coordinator.post(&format!("{path}/retry"), "").await.status, 200);
    eventually("sent", async || coordinator.status(&path).await == "COMPLETED").await;
    assert_eq!(wallet.count("unbook"), 0);
}

#[tokio::test]
async fn what_is_wrong_with_a_message_is_said_with_its_place_and_nothing_is_begun() {
    let (coordinator, ..) = two().await;
    let call = json!({"resource": "wallet", "path": "/a", "body": {}});
    let with = |body: &str| json!({"resource": "wallet", "path": "/a", "body": {"x": body}});
    let tcc = json!({"resource": "wallet"});
    for (steps, code, pointer) in [
        (json!([{"name": "a", "message": call, "tcc": tcc}]), "UNA0121", "/steps/0/tcc"),
        (json!([{"name": "a", "message": call, "pivot": true}]), "UNA0121", "/steps/0/pivot"),
        (
            json!([{"name": "a", "message": call, "compensation": call}]),
            "UNA0121",
            "/steps/0/compensation",
        ),
        (
            json!([{"name": "a", "message": call},
                {"name": "b", "after": ["a"], "action": with("{{steps.a.result}}")}]),
            "UNA0120",
            "/steps/1/action/body/x",
        ),
        (
            json!([{"name": "a", "message": {"resource": "no"}}]),
            "UNA0104",
            "/steps/0/message/resource",
        ),
    ] {
        let reply = coordinator.post(BEGIN, &saga(json!({}), steps.clone())).await;
        assert_eq!(reply.problem(), (422, code.into()), "{steps}: {}", reply.text);
        assert_eq!(reply.json()["pointer"], pointer, "{steps}: {}", reply.text);
    }
    assert_eq!(coordinator.get(BEGIN).await.json()["transactions"], json!([]));
}

/// A trip with the payment as a saga of its own, which has another within it.
fn trip() -> Value {
    json!([
        {"name": "seat", "action": {"resource": "wallet", "path": "/seat", "body": {}},
            "compensation": {"resource": "wallet", "path": "/unseat", "body": {}}},
        {"name": "pay", "after": ["seat"], "saga": {
            "input": {"who": "{{input.user}}", "seat": "{{steps.seat.result.row}}"},
            "steps": [
                {"name": "charge", "action": {"resource": "ledger", "path": "/charge", "body": "{{input}}"},
                    "compensation": {"resource": "ledger", "path": "/refund",
                        "body": {"id": "{{steps.charge.result.id}}", "who": "{{input.who}}"}}},
                {"name": "points", "after": ["charge"], "saga": {"steps": [
                    {"name": "add", "action": {"resource": "ledger", "path": "/points",
                        "body": {"for": "{{input.who}}"}}}]}}]}},
        {"name": "ticket", "after": ["pay"], "action": {"resource": "wallet", "path": "/ticket",
            "body": {"charge": "{{steps.pay.charge.result.id}}", "user": "{{input.user}}"}}}])
}

#[tokio::test]
async fn the_steps_of_a_child_saga_act_and_see_what_is_theirs() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("seat", 200, r#"{"row":"B2"}"#);
    ledger.answer("charge", 200, r#"{"id":"ch_1"}"#);
    let reply = coordinator.post(BEGIN, &saga(json!({"user": "u-204"}), trip())).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let acted = ["seat", "pay.charge", "pay.points.add", "ticket"].map(|name| (name, "ACTED"));
    assert_eq!(words(&reply.json()), acted);
    let sent: Vec<_> = ledger.calls().into_iter().map(|call| call.body).collect();
    assert_eq!(sent, [r#"{"seat":"B2","who":"u-204"}"#, r#"{"for":"u-204"}"#]);
    assert_eq!(wallet.calls()[1].body, r#"{"charge":"ch_1","user":"u-204"}"#);
}

#[tokio::test]
async fn a_child_saga_is_undone_with_the_saga_around_it() {
    let (coordinator, wallet, ledger) = two().await;
    ledger.answer("charge", 200, r#"{"id":"ch_1"}"#);
    wallet.answer("ticket", 409, r#"{"kind":"sold_out"}"#);
    let reply = coordinator.post(BEGIN, &saga(json!({"user": "u-204"}), trip())).await;
    assert_eq!(reply.problem(), (409, "UNA0213".into()));
    assert_eq!(ledger.verbs(), ["charge", "points", "refund"]);
    assert_eq!(ledger.calls()[2].body, r#"{"id":"ch_1","who":"u-204"}"#);
    assert_eq!(wallet.verbs(), ["seat", "ticket", "unseat"]);
}

#[tokio::test]
async fn what_is_wrong_within_a_part_is_said_with_its_place_and_nothing_is_begun() {
    let (coordinator, ..) = two().await;
    let call = json!({"resource": "wallet", "path": "/a", "body": {}});
    let with = |body: &str| json!({"resource": "wallet", "path": "/a", "body": {"x": body}});
    let step = |name: &str| json!({"name": name, "action": call});
    let child = |steps: Value| json!([{"name": "in", "saga": {"steps": steps}}]);
    let tcc = json!({"resource": "wallet"});
    for (steps, code, pointer) in [
        (child(json!([])), "UNA0103", "/steps/0/saga/steps"),
        (child(json!([{"name": "a"}])), "UNA0121", "/steps/0/saga/steps/0/action"),
        (child(json!([step("a"), step("a")])), "UNA0119", "/steps/0/saga/steps/1/name"),
        (
            child(json!([{"name": "a", "after": ["b"], "action": call}])),
            "UNA0118",
            "/steps/0/saga/steps/0/after/0",
        ),
        (
            json!([step("out"), {"name": "in", "after": ["out"], "saga": {"steps": [
                {"name": "a", "action": with("{{steps.out.result}}")}]}}]),
            "UNA0120",
            "/steps/1/saga/steps/0/action/body/x",
        ),
        (
            json!([step("out"), {"name": "in", "saga": {"input": "{{steps.out.result}}",
                "steps": [step("a")]}}]),
            "UNA0120",
            "/steps/1/saga/input",
        ),
        (
            json!([{"name": "in", "after": ["b"], "saga": {"steps": [step("a")]}},
                {"name": "b", "after": ["in"], "action": call}]),
            "UNA0117",
            "/steps/0/saga/steps/0/after",
        ),
        (
            json!([{"name": "in", "pivot": true, "saga": {"steps": [step("a")]}}]),
            "UNA0121",
            "/steps/0/pivot",
        ),
        (json!([{"name": "a", "tcc": tcc, "action": call}]), "UNA0121", "/steps/0/action"),
        (
            json!([{"name": "a", "tcc": tcc, "compensation": call}]),
            "UNA0121",
            "/steps/0/compensation",
        ),
        (json!([{"name": "a", "tcc": tcc, "retriable": true}]), "UNA0121", "/steps/0/retriable"),
        (json!([{"name": "a", "tcc": tcc, "pivot": true}]), "UNA0121", "/steps/0/pivot"),
        (json!([{"name": "a", "tcc": {"resource": "no"}}]), "UNA0104", "/steps/0/tcc/resource"),
        (
            json!([{"name": "a", "tcc": {"resource": "wallet", "body": "{{steps.b.result}}"}}]),
            "UNA0120",
            "/steps/0/tcc/body",
        ),
        (json!([{"name": "a", "tcc": tcc}, step("commit")]), "UNA0119", "/steps/1/name"),
        (json!([{"name": "a", "tcc": tcc}, step("a-confirm")]), "UNA0119", "/steps/1/name"),
        (
            json!([{"name": "p", "pivot": true, "action": call},
                {"name": "a", "after": ["p"], "tcc": tcc}]),
            "UNA0121",
            "/steps/1/retriable",
        ),
    ] {
        let reply = coordinator.post(BEGIN, &saga(json!({}), steps.clone())).await;
        assert_eq!(reply.problem(), (422, code.into()), "{steps}: {}", reply.text);
        assert_eq!(reply.json()["pointer"], pointer, "{steps}: {}", reply.text);
    }
    let many: Vec<Value> = (0..33).map(|n| json!({"name": format!("t{n}"), "tcc": tcc})).collect();
    let reply = coordinator.post(BEGIN, &saga(json!({}), json!(many))).await;
    assert_eq!(reply.problem(), (422, "UNA0103".into()), "{}", reply.text);
    let list = coordinator.get(BEGIN).await.json();
    assert_eq!(list["transactions"], json!([]));
}
