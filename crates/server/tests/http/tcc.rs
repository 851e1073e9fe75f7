//! Transactions of kind `tcc`: try, then confirm or cancel.

use serde_json::json;
use unanimous_core::commit::Phases;
use unanimous_server::config::Config;

use crate::common::{Coordinator, Service, eventually, text, two, two_and};

const BOOKING: &str = r#"{"kind":"tcc","timeout_ms":20000,"branches":[
    {"resource":"wallet","body":{"hold":500}},{"resource":"ledger","body":{"seat":"B2-31"}}]}"#;

#[tokio::test]
async fn what_all_could_try_is_confirmed() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("try", 200, r#"{"result":{"hold":"h-1"}}"#);
    let reply = coordinator.post("/v1/transactions", BOOKING).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let view = reply.json();
    assert_eq!((&view["kind"], &view["status"]), (&json!("tcc"), &json!("COMMITTED")));
    assert_eq!(view["participants"][0]["results"], json!([{"hold": "h-1"}]));
    assert_eq!(wallet.verbs(), ["try", "confirm"]);
    assert_eq!(ledger.verbs(), ["try", "confirm"]);
    let [tried, confirmed] = &wallet.calls()[..] else { panic!("two calls") };
    assert_eq!(tried.body, r#"{"hold":500}"#);
    let branch = &tried.headers["unanimous-branch"];
    assert_eq!(tried.headers["idempotency-key"], format!("{branch}:try"));
    assert_eq!(confirmed.headers["idempotency-key"], format!("{branch}:confirm"));
    // Until then the try can be cancelled; a confirmation has no end.
    let begun_ms = view["initiated_at_ms"].as_u64().expect("a time");
    assert_eq!(tried.headers["unanimous-expires"], (begun_ms + 20_000).to_string());
    assert!(!confirmed.headers.contains_key("unanimous-expires"));
    assert_eq!(coordinator.get(&reply.path()).await.json()["kind"], "tcc");
}

#[tokio::test]
async fn what_one_refuses_the_others_cancel() {
    let (coordinator, wallet, ledger) = two().await;
    ledger.answer("try", 409, r#"{"kind":"sold_out","detail":"B2-31 is taken"}"#);
    let reply = coordinator.post("/v1/transactions", BOOKING).await;
    assert_eq!(reply.problem(), (409, "UNA0201".into()));
    assert_eq!(reply.json()["reason"]["kind"], "sold_out");
    eventually("cancelled", async || wallet.verbs().last().is_some_and(|it| it == "cancel")).await;
    assert_eq!(ledger.verbs(), ["try"]);
    assert_eq!(wallet.count("confirm"), 0);
}

#[tokio::test]
async fn the_only_participant_tries_before_it_confirms_even_if_it_could_do_both_at_once() {
    let one_phase = |mut config: Config| {
        config.resources.get_mut("wallet").expect("configured").phases = Phases::One;
        config
    };
    let (coordinator, wallet, _) = two_and(one_phase).await;
    let body = r#"{"kind":"tcc","branches":[{"resource":"wallet"}]}"#;
    let reply = coordinator.post("/v1/transactions", body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(wallet.verbs(), ["try", "confirm"]);
}

#[tokio::test]
async fn a_try_without_an_answer_is_cancelled_at_the_deadline_and_after_a_restart() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("try", 503, "");
    let hasty = BOOKING.replace("20000", "300");
    let reply = coordinator.post("/v1/transactions", &hasty).await;
    assert_eq!(reply.json()["reason"]["kind"], "timeout", "{}", reply.text);
    eventually("cancelled", async || ledger.count("cancel") == 1 && wallet.count("cancel") == 1)
        .await;
    let patient = BOOKING.replace(r#""timeout_ms":20000"#, r#""wait":"none""#);
    let path = coordinator.post("/v1/transactions", &patient).await.path();
    eventually("tried", async || ledger.count("try") == 2).await;
    let coordinator = coordinator.restart().await;
    eventually("aborted", async || coordinator.status(&path).await == "ABORTED").await;
    assert_eq!(coordinator.get(&path).await.json()["kind"], "tcc");
    assert_eq!((ledger.count("cancel"), wallet.count("cancel")), (2, 2));
    assert_eq!(ledger.count("confirm") + wallet.count("confirm") + ledger.count("rollback"), 0);
}

#[tokio::test]
async fn a_client_enlists_services_and_no_databases() {
    let wallet = Service::default();
    let database = "postgres://app@127.0.0.1:9/nowhere";
    let resources = [("wallet", &*wallet.serve().await), ("books", database)];
    let coordinator = Coordinator::start(&resources).await;
    let refused = BOOKING.replace("ledger", "books");
    let refused = coordinator.post("/v1/transactions", &refused).await;
    assert_eq!(refused.problem(), (422, "UNA0115".into()));
    assert_eq!(refused.json()["pointer"], "/branches/1/resource");
    assert!(text(&refused.json()["detail"]).contains("books is a database"), "{}", refused.text);
    assert!(wallet.calls().is_empty());

    let path = coordinator.post("/v1/transactions", r#"{"kind":"tcc"}"#).await.path();
    let books = r#"{"participant":"books","resource":"books"}"#;
    let refused = coordinator.post(&format!("{path}/participants"), books).await;
    assert_eq!(refused.problem(), (422, "UNA0115".into()));
    assert_eq!(refused.json()["pointer"], "/resource");
    coordinator.enlist(&path, "wallet").await;
    let committed = coordinator.post(&format!("{path}/commit"), "").await;
    assert_eq!(committed.json()["outcome"], "committed", "{}", committed.text);
    assert_eq!(wallet.verbs(), ["try", "confirm"]);
}

#[tokio::test]
async fn the_same_key_for_another_kind_is_another_request() {
    let (coordinator, _, _) = two().await;
    let first = coordinator.post_keyed("/v1/transactions", "booking-7", BOOKING).await;
    let again = coordinator.post_keyed("/v1/transactions", "booking-7", BOOKING).await;
    assert_eq!(first.json()["id"], again.json()["id"]);
    let atomic = BOOKING.replace("tcc", "atomic");
    let other = coordinator.post_keyed("/v1/transactions", "booking-7", &atomic).await;
    assert_eq!(other.problem(), (422, "UNA0204".into()));
}
