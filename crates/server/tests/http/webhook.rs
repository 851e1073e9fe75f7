//! Webhooks: a service is told how a transaction has ended, and each time that it needs attention.

use serde_json::{Value, json};
use unanimous_participants::SigningSecret;
use unanimous_server::config::Config;

use crate::common::{Coordinator, Service, Step, eventually, text, two_and};

const BEGIN: &str = "/v1/transactions";

/// With a secret for the resource that is told.
fn signed(mut config: Config) -> Config {
    let secret = SigningSecret::read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("good");
    config.resources.get_mut("ledger").expect("it is there").signing = Some(secret);
    config
}

async fn three() -> (Coordinator, Service, Service) {
    two_and(signed).await
}

fn told(hooks: &Service) -> Vec<Value> {
    let calls = hooks.calls().into_iter().filter(|call| call.verb == "ended");
    calls.map(|call| serde_json::from_str(&call.body).expect("JSON")).collect()
}

fn atomic(webhook: Value) -> String {
    json!({"kind": "atomic", "webhook": webhook, "branches": [{"resource": "wallet"}]}).to_string()
}

fn hook() -> Value {
    json!({"resource": "ledger", "path": "/ended"})
}

#[tokio::test]
async fn a_service_is_told_how_a_transaction_ended_by_a_signed_call() {
    let (coordinator, wallet, hooks) = three().await;
    let reply = coordinator.post_keyed(BEGIN, "order-42", &atomic(hook())).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    eventually("told", async || told(&hooks).len() == 1).await;
    let (body, view) = (&told(&hooks)[0], reply.json());
    assert_eq!(body["type"], "transaction.committed");
    assert_eq!((&body["data"]["id"], &body["data"]["outcome"]), (&view["id"], &json!("committed")));
    assert_eq!(body["data"]["idempotency_key"], "order-42");
    let headers = &hooks.calls()[0].headers;
    assert!(headers["webhook-signature"].starts_with("v1,"), "{headers:?}");
    assert_eq!(headers["webhook-id"], headers["idempotency-key"]);
    let notice = format!("{BEGIN}/{}", text(&view["webhook"]));
    eventually("taken", async || coordinator.status(&notice).await == "COMPLETED").await;

    wallet.answer("prepare", 409, r#"{"kind":"funds","detail":"{{too}} little"}"#);
    let reply = coordinator.post(BEGIN, &atomic(hook())).await;
    assert_eq!(reply.status, 409, "{}", reply.text);
    eventually("told", async || told(&hooks).len() == 2).await;
    let body = &told(&hooks)[1];
    assert_eq!(body["type"], "transaction.aborted");
    assert_eq!(body["data"]["reason"]["detail"], "{{too}} little", "it is no template");
}

#[tokio::test]
async fn a_saga_tells_once_also_if_it_is_undone() {
    let (coordinator, wallet, hooks) = three().await;
    let steps = json!([{"name": "a", "action": {"resource": "wallet", "path": "/a"}}]);
    let saga = json!({"kind": "saga", "webhook": hook(), "steps": steps, "wait": "none"});
    let reply = coordinator.post(BEGIN, &saga.to_string()).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    eventually("told", async || told(&hooks).len() == 1).await;
    assert_eq!(told(&hooks)[0]["type"], "transaction.completed");
    wallet.answer("a", 409, "{}");
    coordinator.post(BEGIN, &saga.to_string()).await;
    eventually("told", async || told(&hooks).len() == 2).await;
    assert_eq!(told(&hooks)[1]["type"], "transaction.compensated");
}

/// A saga whose compensation is refused.
fn stuck(wallet: &Service) -> String {
    wallet.answer("b", 409, "{}");
    wallet.answer("undo", 409, r#"{"kind":"closed","detail":"until Monday"}"#);
    let call = |path: &str| json!({"resource": "wallet", "path": path});
    let steps = json!([{"name": "a", "action": call("/a"), "compensation": call("/undo")},
        {"name": "b", "after": ["a"], "action": call("/b")}]);
    json!({"kind": "saga", "webhook": hook(), "steps": steps}).to_string()
}

#[tokio::test]
async fn a_service_is_told_once_of_each_time_that_a_saga_needs_attention() {
    let (coordinator, wallet, hooks) = three().await;
    let reply = coordinator.post(BEGIN, &stuck(&wallet)).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    eventually("told", async || told(&hooks).len() == 1).await;
    let body = &told(&hooks)[0];
    assert_eq!(body["type"], "transaction.needs_attention");
    assert_eq!(body["data"]["id"], reply.json()["id"]);
    assert_eq!(body["data"]["status"], "NEEDS_ATTENTION");
    assert_eq!(body["data"]["attention"][0]["error"], "closed: until Monday");
    let first = text(&reply.json()["attention_webhook"]).to_owned();
    eventually("taken", async || {
        coordinator.status(&format!("{BEGIN}/{first}")).await == "COMPLETED"
    })
    .await;

    let coordinator = coordinator.restart().await;
    let path = reply.path();
    assert_eq!(coordinator.status(&path).await, "NEEDS_ATTENTION");
    assert_eq!(coordinator.post(&format!("{path}/retry"), "").await.status, 200);
    eventually("told again", async || told(&hooks).len() == 2).await;
    assert_eq!(told(&hooks)[1]["type"], "transaction.needs_attention");
    let second = text(&coordinator.get(&path).await.json()["attention_webhook"]).to_owned();
    assert_ne!(first, second);

    let by_hand = r#"{"outcome":"rollback","reason":"undone by hand"}"#;
    assert_eq!(coordinator.post(&format!("{path}/resolve"), by_hand).await.status, 200);
    eventually("told of the end", async || told(&hooks).len() == 3).await;
    assert_eq!(told(&hooks)[2]["type"], "transaction.compensated");
    assert_eq!(told(&hooks)[2]["data"].get("attention"), None);
    let calls = hooks.calls();
    let ids = calls.iter().filter(|call| call.verb == "ended").map(|it| &it.headers["webhook-id"]);
    assert_eq!(ids.collect::<std::collections::BTreeSet<_>>().len(), 3);
}

#[tokio::test]
async fn a_service_is_told_that_a_transaction_which_ended_both_ways_needs_attention() {
    let (coordinator, wallet, hooks) = three().await;
    wallet.answer("commit", 200, r#"{"heuristic":"rollback"}"#);
    let branches = json!([{"resource": "wallet"}, {"resource": "ledger"}]);
    let begin = json!({"kind": "atomic", "webhook": hook(), "branches": branches}).to_string();
    let reply = coordinator.post(BEGIN, &begin).await;
    eventually("told", async || told(&hooks).len() == 1).await;
    let body = &told(&hooks)[0];
    assert_eq!(body["type"], "transaction.needs_attention");
    assert_eq!(
        (&body["data"]["id"], &body["data"]["outcome"]),
        (&reply.json()["id"], &json!("mixed"))
    );
}

#[tokio::test]
async fn nobody_is_told_of_attention_before_the_journal_has_what_needs_it() {
    let (wallet, hooks) = (Service::default(), Service::default());
    let urls = [wallet.serve().await, hooks.serve().await];
    let resources = [("wallet", &*urls[0]), ("ledger", &*urls[1])];
    let (coordinator, hand) = Coordinator::start_held_and(&resources, signed).await;
    let view = coordinator.post(BEGIN, &stuck(&wallet)).await.json();
    let [txn, notice] =
        [&view["id"], &view["attention_webhook"]].map(|id| text(id).parse().expect("an identity"));
    let is_told = async || hand.appended(&[notice]).contains(&(notice, Step::Last));
    eventually("told", is_told).await;
    let appended = hand.appended(&[txn, notice]);
    let begun = appended.iter().position(|it| *it == (notice, Step::First));
    let stuck = appended.iter().rposition(|it| it.0 == txn);
    assert!(stuck.is_some() && stuck < begun, "{view}: {appended:?}");
}

#[tokio::test]
async fn a_service_that_is_away_is_told_later_also_by_a_coordinator_that_was_restarted() {
    let (coordinator, _wallet, hooks) = three().await;
    hooks.answer("ended", 503, "");
    let reply = coordinator.post(BEGIN, &atomic(hook())).await;
    assert_eq!(reply.status, 200, "whoever waits does not wait for the webhook: {}", reply.text);
    eventually("asked", async || !told(&hooks).is_empty()).await;
    let coordinator = coordinator.restart().await;
    hooks.answer("ended", 200, "");
    let notice = format!("{BEGIN}/{}", text(&reply.json()["webhook"]));
    eventually("told", async || coordinator.status(&notice).await == "COMPLETED").await;
    let ids: Vec<_> = told(&hooks).into_iter().map(|body| body["data"]["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == reply.json()["id"]), "{ids:?}");
}

#[tokio::test]
async fn what_tells_of_an_end_is_in_the_journal_before_that_end() {
    let (wallet, hooks) = (Service::default(), Service::default());
    let urls = [wallet.serve().await, hooks.serve().await];
    let resources = [("wallet", &*urls[0]), ("ledger", &*urls[1])];
    let (coordinator, hand) = Coordinator::start_held_and(&resources, signed).await;
    let steps = json!([{"name": "a", "action": {"resource": "wallet", "path": "/a"}}]);
    let saga = json!({"kind": "saga", "webhook": hook(), "steps": steps}).to_string();
    for (begin, answer) in
        [(atomic(hook()), 200), (atomic(hook()), 409), (saga.clone(), 200), (saga, 409)]
    {
        for verb in ["prepare", "commit", "a"] {
            wallet.answer(verb, answer, "{}");
        }
        let view = coordinator.post(BEGIN, &begin).await.json();
        let [txn, notice] =
            [&view["id"], &view["webhook"]].map(|id| text(id).parse().expect("an identity"));
        let is_told = async || hand.appended(&[notice]).contains(&(notice, Step::Last));
        eventually("told", is_told).await;
        let appended = hand.appended(&[txn, notice]);
        let begun = appended.iter().position(|it| *it == (notice, Step::First));
        let ended = appended.iter().position(|it| *it == (txn, Step::Last));
        assert!(begun.is_some() && begun < ended, "{view}: {appended:?}");
    }
}

#[tokio::test]
async fn a_webhook_that_could_not_be_signed_or_sent_is_refused_and_nothing_is_begun() {
    let (coordinator, ..) = three().await;
    for (webhook, status, code, pointer) in [
        (json!({"resource": "wallet", "path": "/ended"}), 422, "UNA0115", "/webhook/resource"),
        (json!({"resource": "no", "path": "/ended"}), 422, "UNA0104", "/webhook/resource"),
        (json!({"resource": "ledger", "path": "ended"}), 400, "UNA0102", "/webhook/path"),
        (json!({"resource": "ledger", "path": "/../x"}), 400, "UNA0102", "/webhook/path"),
        (json!({"resource": "ledger"}), 400, "UNA0102", "/webhook/path"),
    ] {
        let reply = coordinator.post(BEGIN, &atomic(webhook)).await;
        assert_eq!(reply.problem(), (status, code.into()), "{}", reply.text);
        assert_eq!(reply.json()["pointer"], pointer, "{}", reply.text);
    }
    assert_eq!(coordinator.get(BEGIN).await.json()["transactions"], json!([]));
}
