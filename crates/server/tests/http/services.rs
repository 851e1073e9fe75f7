//! What service participants get, and what their answers mean.

use std::collections::BTreeSet;

use serde_json::json;
use unanimous_core::commit::Phases;

use crate::common::{Called, TWO, text, two, two_and, two_with};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[track_caller]
fn trace_of(called: &Called) -> String {
    let fields: Vec<&str> = called.headers["traceparent"].split('-').collect();
    assert_eq!(fields.iter().map(|field| field.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
    fields[1].to_owned()
}

#[tokio::test]
async fn a_call_says_for_which_branch_it_is_and_which_attempt() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer_next("commit", 503, "");
    let reply = coordinator.post("/v1/transactions", TWO).await;
    let view = reply.json();
    let (id, branch) = (text(&view["id"]), text(&view["participants"][0]["branch"]));
    assert!(branch.starts_with("una:") && branch.ends_with(&format!(":{id}:0")), "{branch}");
    let calls = wallet.calls();
    let attempts: Vec<(&str, &str)> =
        calls.iter().map(|it| (&*it.verb, &*it.headers["unanimous-attempt"])).collect();
    assert_eq!(attempts, [("prepare", "1"), ("commit", "2"), ("commit", "3")]);
    for called in &calls {
        assert_eq!(called.headers["unanimous-transaction"], id);
        assert_eq!(called.headers["unanimous-branch"], branch);
        assert_eq!(called.headers["idempotency-key"], format!("{branch}:{}", called.verb));
        assert!(!called.headers.contains_key("unanimous-phases"));
        assert_eq!(called.body.is_empty(), called.verb != "prepare");
        trace_of(called);
    }
}

#[tokio::test]
async fn the_trace_of_a_request_goes_through_every_call() {
    let (coordinator, wallet, ledger) = two().await;
    let header = format!("00-{TRACE}-b7ad6b7169203331-00");
    let headers = [("traceparent", &*header)];
    coordinator.send("POST", "/v1/transactions", &headers, TWO).await;
    let calls = [wallet.calls(), ledger.calls()].concat();
    assert_eq!(calls.len(), 4);
    let mut spans = BTreeSet::new();
    for called in &calls {
        assert_eq!(trace_of(called), TRACE);
        let header = &called.headers["traceparent"];
        assert!(header.ends_with("-00"), "not sampled, and kept so: {header}");
        spans.insert(header[36..52].to_owned());
    }
    assert!(!spans.contains("b7ad6b7169203331") && spans.len() >= 2, "{spans:?}");
}

#[tokio::test]
async fn a_request_without_a_valid_trace_gets_one_of_its_own() {
    let (coordinator, wallet, ledger) = two().await;
    let broken = format!("00-{TRACE}-0000000000000000-01");
    for headers in [vec![], vec![("traceparent", &*broken)], vec![("traceparent", "mine")]] {
        coordinator.send("POST", "/v1/transactions", &headers, TWO).await;
    }
    let traces: BTreeSet<String> = wallet.calls().iter().map(trace_of).collect();
    assert_eq!(traces.len(), 3);
    assert!(!traces.contains(TRACE));
    assert_eq!(traces, ledger.calls().iter().map(trace_of).collect());
}

#[tokio::test]
async fn a_participant_that_only_read_is_not_called_again() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("prepare", 200, r#"{"vote":"read_only","result":7}"#);
    let reply = coordinator.post("/v1/transactions", TWO).await;
    assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
    assert_eq!(reply.json()["participants"][0]["vote"], "READ_ONLY");
    assert_eq!(reply.json()["participants"][0]["results"], json!([7]));
    assert_eq!((wallet.verbs(), ledger.verbs().len()), (vec!["prepare".into()], 2));
}

#[tokio::test]
async fn a_participant_that_is_still_working_is_asked_again() {
    let (coordinator, wallet, _) = two().await;
    for verb in ["prepare", "prepare", "commit"] {
        wallet.answer_next(verb, 425, "");
    }
    let reply = coordinator.post("/v1/transactions", TWO).await;
    assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
    assert_eq!(wallet.verbs(), ["prepare", "prepare", "prepare", "commit", "commit"]);
}

#[tokio::test]
async fn a_resource_that_is_alone_and_can_do_it_commits_in_one_phase() {
    let one_phase = |mut config: unanimous_server::config::Config| {
        config.resources.get_mut("wallet").expect("configured").phases = Phases::One;
        config
    };
    let (coordinator, wallet, _) = two_and(one_phase).await;
    let alone = r#"{"kind":"atomic","branches":[{"resource":"wallet","body":{"a":1}}]}"#;
    wallet.answer_next("commit", 503, "");
    let reply = coordinator.post("/v1/transactions", alone).await;
    assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
    assert_eq!(wallet.verbs(), ["commit", "commit"]);
    for called in wallet.calls() {
        assert_eq!(called.headers["unanimous-phases"], "one");
        assert_eq!(called.body, r#"{"a":1}"#);
    }
    wallet.answer_next("commit", 409, r#"{"kind":"insufficient_funds","detail":"balance is 3"}"#);
    let refused = coordinator.post("/v1/transactions", alone).await;
    assert_eq!(refused.problem(), (409, "UNA0201".into()));
    assert_eq!(refused.json()["reason"]["kind"], "insufficient_funds");
    assert_eq!(wallet.count("rollback"), 0);

    let both = coordinator.post("/v1/transactions", TWO).await;
    assert_eq!(both.json()["outcome"], "committed", "{}", both.text);
    assert_eq!(wallet.verbs()[3..], ["prepare", "commit"]);
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_no_answer() {
    let (coordinator, wallet, _) = two().await;
    for (status, body) in [
        (200, "yes"),
        (200, r#"{"vote":"maybe"}"#),
        (200, r#"{"heuristic":"commit"}"#),
        (201, ""),
        (302, ""),
        (500, ""),
    ] {
        wallet.answer_next("prepare", status, body);
    }
    let reply = coordinator.post("/v1/transactions", TWO).await;
    assert_eq!(reply.json()["outcome"], "committed", "{}", reply.text);
    assert_eq!(wallet.count("prepare"), 7);
}

#[tokio::test]
async fn a_branch_in_doubt_that_asks_for_the_outcome_is_told_by_the_next_call_too() {
    let (coordinator, wallet, _) = two().await;
    wallet.answer("commit", 503, "");
    let reply = coordinator.post("/v1/transactions", &two_with(r#""wait":"decided""#)).await;
    let branch = text(&reply.json()["participants"][0]["branch"]).to_owned();
    let asked = async || wallet.count("commit") >= 6;
    crate::common::eventually("in a long pause", asked).await;
    wallet.answer("commit", 200, "");
    let headers = [("unanimous-branch", &*branch)];
    let shown = coordinator.send("GET", &reply.path(), &headers, "").await;
    assert_eq!(shown.json()["outcome"], "committed", "{}", shown.text);
    let path = reply.path();
    let told = async || coordinator.status(&path).await == "COMMITTED";
    crate::common::eventually("told", told).await;

    let foreign = branch.replace("una:", "una:x");
    let headers = [("unanimous-branch", &*foreign)];
    let shown = coordinator.send("GET", &reply.path(), &headers, "").await;
    assert_eq!(shown.problem(), (421, "UNA0212".into()));
}
