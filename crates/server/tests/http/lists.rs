//! Lists: what filters let through, and pages that miss and repeat nothing.

use std::collections::BTreeSet;

use crate::common::{Coordinator, TWO, eventually, text, two};

async fn ids(coordinator: &Coordinator, query: &str) -> Vec<String> {
    let reply = coordinator.get(&format!("/v1/transactions?{query}")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let rows = reply.json()["transactions"].as_array().expect("a list").clone();
    rows.iter().map(|row| text(&row["id"]).to_owned()).collect()
}

#[tokio::test]
async fn a_list_shows_what_its_filters_let_through() {
    let (coordinator, wallet, _) = two().await;
    let committed = coordinator.post("/v1/transactions", TWO).await.json();
    let only_wallet = r#"{"kind":"atomic","branches":[{"resource":"wallet"}]}"#;
    wallet.answer_next("prepare", 409, "");
    let aborted = coordinator.post_keyed("/v1/transactions", "mine", only_wallet).await.json();
    let tried = r#"{"kind":"tcc","branches":[{"resource":"ledger"}]}"#;
    let tried = coordinator.post("/v1/transactions", tried).await.json();
    let path = coordinator.begin().await;
    let open = path.rsplit('/').next().expect("an id").to_owned();
    let [committed, aborted, tried] =
        [committed, aborted, tried].map(|view| text(&view["id"]).to_owned());

    // Of two that began in one millisecond either may be the newer.
    let mut all = [&*open, &*tried, &*aborted, &*committed];
    all.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(ids(&coordinator, "").await, all);
    let newest = |a: &str, b: &str| [a.max(b).to_owned(), a.min(b).to_owned()];
    let both = newest(&committed, &tried);
    assert_eq!(ids(&coordinator, "status=COMMITTED").await, both);
    assert_eq!(ids(&coordinator, "kind=tcc").await, [&*tried]);
    assert_eq!(ids(&coordinator, "kind=tcc&status=ABORTED").await, [""; 0]);
    assert_eq!(ids(&coordinator, "kind=atomic&status=COMMITTED").await, [&*committed]);
    assert_eq!(ids(&coordinator, "status=aborted").await, [&*aborted]);
    assert_eq!(ids(&coordinator, "status=INITIATED").await, [&*open]);
    assert_eq!(ids(&coordinator, "status=PREPARED").await, [""; 0]);
    assert_eq!(ids(&coordinator, "limit=2").await, all[..2]);
    assert_eq!(ids(&coordinator, "resource=ledger").await, both);
    assert_eq!(ids(&coordinator, "resource=wallet&status=ABORTED").await, [&*aborted]);
    assert_eq!(ids(&coordinator, "resource=nobody").await, [""; 0]);
    assert_eq!(ids(&coordinator, "older_than_ms=3600000").await, [""; 0]);
    eventually("old", async || ids(&coordinator, "older_than_ms=20").await.len() == 4).await;

    let row = &coordinator.get("/v1/transactions?status=ABORTED").await.json()["transactions"][0];
    assert_eq!((&row["idempotency_key"], &row["kind"]), (&"mine".into(), &"atomic".into()));
    assert_eq!((&row["outcome"], &row["resources"][0]), (&"aborted".into(), &"wallet".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_miss_nothing_and_repeat_nothing_while_more_is_begun() {
    let (coordinator, _, _) = two().await;
    let begin = |number: usize| {
        let client = coordinator.client().clone();
        tokio::spawn(async move {
            match number % 3 {
                0 => client.begin().await,
                _ => client.post("/v1/transactions", TWO).await.path(),
            }
        })
    };
    let mut begun = BTreeSet::new();
    for tasks in (0..600).collect::<Vec<_>>().chunks(50) {
        let tasks: Vec<_> = tasks.iter().map(|&number| begin(number)).collect();
        for task in tasks {
            let path = task.await.expect("no panic");
            begun.insert(path.rsplit('/').next().expect("an id").to_owned());
        }
    }
    for limit in [7, 100, 1_000] {
        let mut seen = Vec::new();
        let mut query = format!("limit={limit}");
        loop {
            let page = coordinator.get(&format!("/v1/transactions?{query}")).await.json();
            let rows = page["transactions"].as_array().expect("a list");
            assert!(rows.len() <= limit);
            seen.extend(rows.iter().map(|row| text(&row["id"]).to_owned()));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            query = format!("limit={limit}&cursor={cursor}");
            coordinator.post("/v1/transactions", TWO).await;
        }
        assert!(seen.is_sorted_by(|newer, older| newer > older), "newest first");
        let missed: Vec<_> = begun.iter().filter(|id| !seen.contains(id)).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }
}
