//! The stream of changes.

use crate::common::{TWO, text, two, two_with};

#[tokio::test]
async fn every_change_of_every_transaction_is_published_in_order() {
    let (coordinator, wallet, _) = two().await;
    let mut stream = coordinator.events("/v1/events").await;
    let committed = coordinator.post("/v1/transactions", TWO).await;
    wallet.answer("prepare", 409, "");
    let aborted = coordinator.post("/v1/transactions", TWO).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(_, status)| status != "ABORTED") {
        let event = stream.next().await.expect("the stream goes on");
        assert_eq!(event["kind"], "atomic");
        assert!(event["at_ms"].as_u64().is_some_and(|at| at > 0));
        seen.push((text(&event["id"]).to_owned(), text(&event["status"]).to_owned()));
    }
    let of = |reply: &crate::common::Reply| {
        let id = text(&reply.json()["id"]).to_owned();
        let own = seen.iter().filter(|(seen, _)| *seen == id);
        own.map(|(_, status)| status.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(&committed), ["PREPARING", "COMMITTING", "COMMITTED"]);
    assert_eq!(of(&aborted), ["PREPARING", "ABORTING", "ABORTED"]);
}

#[tokio::test]
async fn a_stream_of_one_transaction_begins_with_its_state_and_shows_no_other() {
    let (coordinator, _, _) = two().await;
    let path = coordinator.begin().await;
    let id = path.rsplit('/').next().expect("an id");
    let mut stream = coordinator.events(&format!("/v1/events?transaction={id}")).await;
    assert_eq!(stream.next().await.expect("the state")["status"], "INITIATED");
    coordinator.post("/v1/transactions", TWO).await;
    coordinator.enlist(&path, "wallet").await;
    coordinator.post(&format!("{path}/commit"), "").await;
    let mut last = serde_json::Value::Null;
    let mut statuses = Vec::new();
    while last["outcome"] != "committed" || last["status"] != "COMMITTED" {
        last = stream.next().await.expect("the stream goes on");
        assert_eq!(last["id"], id);
        statuses.push(text(&last["status"]).to_owned());
    }
    assert_eq!(statuses, ["COMMITTING", "COMMITTED"]);
}

#[tokio::test]
async fn a_stream_of_a_transaction_that_has_ended_shows_how() {
    let (coordinator, _, _) = two().await;
    let reply = coordinator.post("/v1/transactions", TWO).await;
    let id = text(&reply.json()["id"]).to_owned();
    let mut stream = coordinator.events(&format!("/v1/events?transaction={id}")).await;
    let event = stream.next().await.expect("the state");
    assert_eq!((&event["status"], &event["outcome"]), (&"COMMITTED".into(), &"committed".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_never_goes_back_behind_what_it_has_shown() {
    let (coordinator, _, _) = two().await;
    let rank = |status: &str| match status {
        "INITIATED" => 0,
        "PREPARING" => 1,
        "PREPARED" => 2,
        "COMMITTING" => 3,
        "COMMITTED" => 4,
        other => panic!("{other}"),
    };
    for _ in 0..100 {
        let begun = coordinator.post("/v1/transactions", &two_with(r#""wait":"none""#)).await;
        let id = text(&begun.json()["id"]).to_owned();
        let mut stream = coordinator.events(&format!("/v1/events?transaction={id}")).await;
        let mut ranks: Vec<i32> = Vec::new();
        while ranks.last() != Some(&4) {
            let event = stream.next().await.expect("the stream goes on");
            ranks.push(rank(text(&event["status"])));
        }
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
    }
}
