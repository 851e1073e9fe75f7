//! What is counted, as a monitoring system reads it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use unanimous_api::Code;

use crate::common::{Coordinator, TWO, eventually, two, two_with};

/// The samples of one scrape: family and labels, as written, with their value.
struct Scrape {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

/// Reads OpenMetrics text, strictly as far as it goes.
fn parse(text: &str) -> Scrape {
    assert!(text.ends_with("# EOF\n"), "no end");
    let mut scrape = Scrape { types: BTreeMap::new(), samples: BTreeMap::new() };
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').expect("a type");
            assert!(scrape.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            let value = value.parse().expect("a number");
            assert!(scrape.samples.insert(sample.to_owned(), value).is_none(), "{line}");
        }
    }
    for sample in scrape.samples.keys() {
        let name = sample.split('{').next().expect("a name");
        let family = |suffix: &str, kind: &str| {
            let family = name.strip_suffix(suffix).and_then(|name| scrape.types.get(name));
            family.is_some_and(|it| it == kind)
        };
        let suffixes = ["_bucket", "_sum", "_count"];
        let declared = family("_total", "counter")
            || family("", "gauge")
            || suffixes.iter().any(|suffix| family(suffix, "histogram"));
        assert!(declared, "{sample} belongs to no family");
        assert!(name.starts_with("unanimous_"), "{sample}");
    }
    scrape
}

impl Scrape {
    async fn of(coordinator: &Coordinator) -> Self {
        let reply = coordinator.get("/metrics").await;
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(reply.headers["content-type"], kind);
        parse(&reply.text)
    }

    fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| {
            let family = sample.split('{').next().expect("a name");
            let near: Vec<_> = self.samples.keys().filter(|it| it.starts_with(family)).collect();
            panic!("no {sample}, but {near:?}")
        })
    }

    /// The values that a label has.
    fn labels(&self, label: &str) -> BTreeSet<String> {
        let values = self.samples.keys().filter_map(|sample| {
            let (_, value) = sample.split_once(&format!("{label}=\""))?;
            Some(value.split_once('"').expect("it ends").0.to_owned())
        });
        values.collect()
    }
}

#[tokio::test]
async fn everything_that_somebody_has_to_be_woken_for_is_counted() {
    let (coordinator, wallet, _) = two().await;
    let before = Scrape::of(&coordinator).await;
    assert_eq!(before.value("unanimous_in_flight"), 0.0);
    let never = r#"unanimous_transactions_total{outcome="aborted",cause="timeout"}"#;
    assert_eq!(before.value(never), 0.0);

    coordinator.post("/v1/transactions", TWO).await;
    wallet.answer_next("prepare", 409, "");
    coordinator.post("/v1/transactions", TWO).await;
    wallet.answer("commit", 503, "");
    coordinator.post("/v1/transactions", &two_with(r#""wait":"decided""#)).await;
    wallet.answer("commit", 200, r#"{"heuristic":"rollback"}"#);
    coordinator.post("/v1/transactions", TWO).await;
    let settled =
        async || Scrape::of(&coordinator).await.value("unanimous_attention_transactions") == 2.0;
    eventually("settled", settled).await;
    wallet.answer("commit", 503, "");
    coordinator.post("/v1/transactions", &two_with(r#""wait":"decided","timeout_ms":40"#)).await;
    coordinator.begin().await;
    coordinator.get("/v1/transactions/1").await;

    let after = Scrape::of(&coordinator).await;
    for (name, kind) in [
        ("unanimous_transactions", "counter"),
        ("unanimous_open_transactions", "gauge"),
        ("unanimous_in_flight", "gauge"),
        ("unanimous_overdue_transactions", "gauge"),
        ("unanimous_attention_transactions", "gauge"),
        ("unanimous_quarantined_transactions", "counter"),
        ("unanimous_oldest_undecided_age_seconds", "gauge"),
        ("unanimous_oldest_in_doubt_age_seconds", "gauge"),
        ("unanimous_transaction_duration_seconds", "histogram"),
        ("unanimous_calls", "counter"),
        ("unanimous_call_duration_seconds", "histogram"),
        ("unanimous_problems", "counter"),
        ("unanimous_journal_syncs", "counter"),
        ("unanimous_journal_sync_seconds", "counter"),
        ("unanimous_journal_sync_time_seconds", "gauge"),
        ("unanimous_journal_entries", "counter"),
        ("unanimous_journal_batch_entries", "gauge"),
        ("unanimous_journal_written_bytes", "counter"),
        ("unanimous_journal_projection_lag_bytes", "gauge"),
    ] {
        assert_eq!(after.types.get(name).map(String::as_str), Some(kind), "{name}");
    }
    let ended = |outcome: &str, cause: &str| {
        after.value(&format!(
            "unanimous_transactions_total{{outcome=\"{outcome}\",cause=\"{cause}\"}}"
        ))
    };
    assert_eq!((ended("committed", ""), ended("aborted", "refused")), (1.0, 1.0));
    assert_eq!(after.value("unanimous_in_flight"), 4.0);
    assert_eq!(after.value(r#"unanimous_open_transactions{status="INITIATED"}"#), 1.0);
    for age in ["unanimous_oldest_undecided_age_seconds", "unanimous_oldest_in_doubt_age_seconds"] {
        eventually("aged", async || Scrape::of(&coordinator).await.value(age) > 0.0).await;
    }
    let late =
        async || Scrape::of(&coordinator).await.value("unanimous_overdue_transactions") == 1.0;
    eventually("overdue", late).await;
    let calls = r#"unanimous_calls_total{resource="wallet",verb="prepare",answer="yes"}"#;
    assert_eq!(after.value(calls), 4.0);
    let calls = r#"unanimous_call_duration_seconds_count{resource="ledger",verb="commit"}"#;
    assert_eq!(after.value(calls), 4.0);
    let durations = r#"unanimous_transaction_duration_seconds_count{outcome="committed"}"#;
    assert_eq!(after.value(durations), 1.0);
    assert_eq!(after.value(r#"unanimous_problems_total{code="UNA0108"}"#), 1.0);
    assert_eq!(after.value(r#"unanimous_problems_total{code="UNA0207"}"#), 1.0);
    for counted in ["syncs_total", "sync_seconds_total", "entries_total", "written_bytes_total"] {
        assert!(after.value(&format!("unanimous_journal_{counted}")) > 0.0, "{counted}");
    }
}

#[tokio::test]
async fn labels_never_come_from_what_clients_or_services_write() {
    let (coordinator, wallet, _) = two().await;
    for number in 0..30 {
        let refusal = json!({"kind": format!("kind-{number}"), "detail": "no"}).to_string();
        wallet.answer_next("prepare", 409, &refusal);
        let key = format!("key-{number}");
        coordinator.post_keyed("/v1/transactions", &key, TWO).await;
        let body = TWO.replace("wallet", &format!("resource-{number}"));
        coordinator.post("/v1/transactions", &body).await;
        let path = coordinator.begin().await;
        let reason = json!({"reason": format!("reason-{number}")}).to_string();
        coordinator.post(&format!("{path}/abort"), &reason).await;
        coordinator.get(&format!("/path-{number}")).await;
    }
    let scrape = Scrape::of(&coordinator).await;
    let text: Vec<&str> = scrape.samples.keys().map(String::as_str).collect();
    for word in ["kind-", "key-", "resource-", "reason-", "path-"] {
        assert!(!text.iter().any(|sample| sample.contains(word)), "{word}");
    }
    let causes = [
        "",
        "client",
        "contradiction",
        "exhausted",
        "expectation",
        "operator",
        "overloaded",
        "refused",
        "restart",
        "timeout",
        "unreachable",
    ];
    assert_eq!(scrape.labels("cause"), causes.map(String::from).into());
    assert!(scrape.labels("resource").iter().all(|it| ["wallet", "ledger"].contains(&&**it)));
    let known = |code: &String| Code::parse(code).is_some();
    assert!(scrape.labels("code").iter().all(known));
}
