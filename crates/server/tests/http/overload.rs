//! More than fits is refused at once, and what was begun goes on.

use unanimous_server::config::{Config, Limits};

use crate::common::{Reply, TWO, two_and};

fn limited(limit: impl Fn(&mut Limits)) -> impl FnOnce(Config) -> Config {
    move |mut config| {
        limit(&mut config.limits);
        config
    }
}

fn is_overload(reply: &Reply) -> bool {
    let refused = reply.status == 429;
    if refused {
        assert_eq!(reply.problem().1, "UNA0301");
        assert_eq!(reply.headers["retry-after"], "1");
    }
    refused
}

#[tokio::test]
async fn when_too_many_transactions_are_open_new_ones_are_refused_and_old_ones_end() {
    let (coordinator, wallet, _) = two_and(limited(|limits| limits.open_max = 5)).await;
    let keyed = coordinator.post_keyed("/v1/transactions", "k", r#"{"kind":"atomic"}"#).await;
    assert_eq!(keyed.status, 201, "{}", keyed.text);
    for _ in 0..4 {
        coordinator.begin().await;
    }
    let refused = coordinator.post("/v1/transactions", TWO).await;
    assert!(is_overload(&refused), "{}", refused.text);
    assert!(wallet.calls().is_empty());
    assert_eq!(coordinator.get("/healthz").await.status, 200);
    let again = coordinator.post_keyed("/v1/transactions", "k", r#"{"kind":"atomic"}"#).await;
    assert_eq!((again.status, again.json()), (201, keyed.json()));

    coordinator.enlist(&keyed.path(), "wallet").await;
    let ended = coordinator.post(&format!("{}/commit", keyed.path()), "").await;
    assert_eq!(ended.status, 200, "{}", ended.text);
    let taken = coordinator.post("/v1/transactions", TWO).await;
    assert_eq!(taken.status, 200, "{}", taken.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_queue_is_full_new_transactions_are_refused_and_none_is_half_begun() {
    let (coordinator, _, _) = two_and(limited(|limits| limits.queue_max = 1)).await;
    let requests = (0..500).map(|_| {
        let client = coordinator.client().clone();
        tokio::spawn(async move { client.post("/v1/transactions", r#"{"kind":"atomic"}"#).await })
    });
    let requests: Vec<_> = requests.collect();
    let mut begun = 0;
    for request in requests {
        let reply = request.await.expect("no panic");
        match reply.status {
            201 => begun += 1,
            _ => assert!(is_overload(&reply), "{}", reply.text),
        }
    }
    let list = coordinator.get("/v1/transactions?limit=1000").await.json();
    assert_eq!(list["transactions"].as_array().expect("a list").len(), begun);
    assert!(begun > 0);
}
