//! Idempotency keys: one key, one transaction, one answer.

use std::collections::BTreeSet;

use crate::common::{TWO, eventually, text, two, two_with};

const BEGIN: &str = "/v1/transactions";

#[tokio::test]
async fn the_same_key_gives_the_first_answer_also_after_a_restart() {
    let (coordinator, wallet, _) = two().await;
    let first = coordinator.post_keyed(BEGIN, "order-42", TWO).await;
    let again = coordinator.post_keyed(BEGIN, "order-42", TWO).await;
    assert_eq!((again.status, again.json()), (200, first.json()));
    assert_eq!(first.json()["idempotency_key"], "order-42");
    let other = TWO.replace("500", "501");
    let reused = coordinator.post_keyed(BEGIN, "order-42", &other).await;
    assert_eq!(reused.problem(), (422, "UNA0204".into()));

    let coordinator = coordinator.restart().await;
    let after = coordinator.post_keyed(BEGIN, "order-42", TWO).await;
    assert_eq!((after.status, &after.json()["id"]), (200, &first.json()["id"]));
    let reused = coordinator.post_keyed(BEGIN, "order-42", &other).await;
    assert_eq!(reused.problem(), (422, "UNA0204".into()));
    assert_eq!(wallet.verbs(), ["prepare", "commit"]);
}

#[tokio::test]
async fn the_same_key_gives_the_same_refusal() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer_next("prepare", 409, r#"{"detail":"too late"}"#);
    let first = coordinator.post_keyed(BEGIN, "k", TWO).await;
    assert_eq!(first.problem(), (409, "UNA0201".into()));
    let again = coordinator.post_keyed(BEGIN, "k", TWO).await;
    assert_eq!((again.problem(), again.json()), (first.problem(), first.json()));
    assert_eq!(wallet.count("prepare"), 1);
}

#[tokio::test]
async fn a_request_that_was_refused_leaves_its_key_free() {
    let (coordinator, _, _) = two().await;
    let bad = coordinator.post_keyed(BEGIN, "k", &TWO.replace("ledger", "lodger")).await;
    assert_eq!(bad.problem(), (422, "UNA0104".into()));
    assert_eq!(coordinator.post_keyed(BEGIN, "k", TWO).await.status, 200);
    let path = coordinator.begin().await;
    let commit = format!("{path}/commit");
    let bad = coordinator.post_keyed(&commit, "c", r#"{"wait":"long"}"#).await;
    assert_eq!(bad.problem(), (400, "UNA0102".into()));
    assert_eq!(coordinator.post_keyed(&commit, "c", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_racers_under_one_key_begin_one_transaction() {
    let (coordinator, wallet, ledger) = two().await;
    for round in 0..5 {
        let key = format!("race-{round}");
        let racers = (0..100).map(|number| {
            let (client, key) = (coordinator.client().clone(), key.clone());
            let body =
                if number % 2 == 0 { TWO.to_owned() } else { two_with(r#""wait":"finished""#) };
            tokio::spawn(async move { client.post_keyed(BEGIN, &key, &body).await })
        });
        let racers: Vec<_> = racers.collect();
        let mut ids = BTreeSet::new();
        for racer in racers {
            let reply = racer.await.expect("no panic");
            match reply.status {
                200 => drop(ids.insert(text(&reply.json()["id"]).to_owned())),
                409 => {
                    assert_eq!(reply.problem(), (409, "UNA0205".into()));
                    assert_eq!(reply.headers["retry-after"], "1");
                }
                _ => panic!("{} {}", reply.status, reply.text),
            }
        }
        assert_eq!(ids.len(), 1, "{ids:?}");
        assert_eq!((wallet.count("prepare"), ledger.count("commit")), (round + 1, round + 1));
    }
}

#[tokio::test]
async fn a_key_whose_first_request_is_running_is_refused_or_joined() {
    let (coordinator, wallet, _) = two().await;
    wallet.hang();
    let client = coordinator.client().clone();
    let first = tokio::spawn(async move { client.post_keyed(BEGIN, "k", TWO).await });
    eventually("called", async || wallet.count("prepare") == 1).await;

    let refused = coordinator.post_keyed(BEGIN, "k", TWO).await;
    assert_eq!(refused.problem(), (409, "UNA0205".into()));
    assert_eq!(refused.headers["retry-after"], "1");
    let state = coordinator.post_keyed(BEGIN, "k", &two_with(r#""wait":"none""#)).await;
    assert_eq!((state.status, &state.json()["status"]), (202, &"PREPARING".into()));
    let other = coordinator.post_keyed(BEGIN, "k", &TWO.replace("500", "501")).await;
    assert_eq!(other.problem(), (422, "UNA0204".into()));
    let client = coordinator.client().clone();
    let body = two_with(r#""wait":"finished""#);
    let joined = tokio::spawn(async move { client.post_keyed(BEGIN, "k", &body).await });

    wallet.go_on();
    let (first, joined) = (first.await.expect("no panic"), joined.await.expect("no panic"));
    assert_eq!((first.status, joined.status), (200, 200));
    assert_eq!(first.json()["id"], joined.json()["id"]);
    assert_eq!(wallet.verbs(), ["prepare", "commit"]);
}

#[tokio::test]
async fn a_joined_wait_that_runs_out_shows_the_transaction_that_was_joined() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 503, "");
    let body = two_with(r#""timeout_ms":200,"wait":"finished""#);
    let bodies = [body.clone(), body];
    let requests = bodies.map(|body| {
        let client = coordinator.client().clone();
        tokio::spawn(async move { client.post_keyed(BEGIN, "k", &body).await })
    });
    let mut ids = BTreeSet::new();
    for request in requests {
        let reply = request.await.expect("no panic");
        assert_eq!(reply.status, 202, "{}", reply.text);
        ids.insert(text(&reply.json()["id"]).to_owned());
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_key_that_was_used_survives_a_restart_in_the_middle() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 503, "");
    let body = two_with(r#""wait":"decided""#);
    let first = coordinator.post_keyed(BEGIN, "k", &body).await;
    assert_eq!(first.json()["status"], "COMMITTING", "{}", first.text);
    let coordinator = coordinator.restart().await;
    wallet.answer("commit", 200, "");
    let after = coordinator.post_keyed(BEGIN, "k", &two_with(r#""wait":"finished""#)).await;
    assert_eq!((after.status, &after.json()["id"]), (200, &first.json()["id"]));
    assert_eq!(wallet.count("prepare"), 1);
}

#[tokio::test]
async fn a_transaction_that_its_client_drives_is_begun_once_for_each_key() {
    let (coordinator, _, _) = two().await;
    let body = r#"{"kind":"atomic"}"#;
    let first = coordinator.post_keyed(BEGIN, "k", body).await;
    let again = coordinator.post_keyed(BEGIN, "k", body).await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.json()["id"], again.json()["id"]);
    let list = coordinator.get(BEGIN).await.json();
    assert_eq!(list["transactions"].as_array().expect("a list").len(), 1);
}

#[tokio::test]
async fn the_other_requests_take_keys_too() {
    let (coordinator, wallet, _) = two().await;
    let path = coordinator.begin().await;
    let enlist = format!("{path}/participants");
    let body = r#"{"participant":"wallet","resource":"wallet"}"#;
    let first = coordinator.post_keyed(&enlist, "e", body).await;
    assert_eq!(first.status, 201, "{}", first.text);
    let other = r#"{"participant":"ledger","resource":"ledger"}"#;
    let reused = coordinator.post_keyed(&enlist, "e", other).await;
    assert_eq!(reused.problem(), (422, "UNA0204".into()));
    let elsewhere = coordinator.post_keyed(&format!("{path}/commit"), "e", "").await;
    assert_eq!(elsewhere.problem(), (422, "UNA0204".into()));
    let committed = coordinator.post_keyed(&format!("{path}/commit"), "c", "").await;
    assert_eq!(committed.status, 200, "{}", committed.text);

    let late = coordinator.post_keyed(&enlist, "e", body).await;
    assert_eq!((late.status, late.json()), (201, first.json()));
    let again = coordinator.post_keyed(&format!("{path}/commit"), "c", "").await;
    assert_eq!((again.status, again.json()), (200, committed.json()));
    assert_eq!(wallet.verbs(), ["prepare", "commit"]);
}
