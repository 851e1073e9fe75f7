//! Transactions of kind `saga`: steps that act, and compensations.

use serde_json::{Value, json};

use crate::common::{Coordinator, Service, eventually, text, two};

const BOOKING: &str = r#"{"kind":"saga","input":{"user":"u-204","seat":"B2-31"},"steps":[
    {"name":"reserve","action":{"resource":"wallet","path":"/reserve","body":{"seat":"{{input.seat}}"}},
     "compensation":{"resource":"wallet","path":"/release"}},
    {"name":"charge","after":["reserve"],"state":"PaymentPending",
     "action":{"resource":"ledger","path":"/charge"},
     "compensation":{"resource":"ledger","path":"/refund","body":{"charge":"{{steps.charge.result.id}}"}},
     "retry":{"max_attempts":3,"backoff_ms":5,"backoff_max_ms":20},"timeout_ms":2000},
    {"name":"ticket","after":["charge"],"pivot":true,"state":"Ticketing",
     "action":{"resource":"wallet","path":"/emit","body":{"charge":"{{steps.charge.result.id}}"}}},
    {"name":"notify","after":["ticket"],"retriable":true,"action":{"resource":"ledger","path":"/send"}}]}"#;

/// The same with another member at its beginning, such as `"wait":"none"`.
fn booking_with(member: &str) -> String {
    BOOKING.replacen('{', &format!("{{{member},"), 1)
}

const BEGIN: &str = "/v1/transactions";

fn steps(view: &Value) -> Vec<(String, String)> {
    let steps = view["steps"].as_array().expect("a saga has steps").iter();
    steps.map(|step| (text(&step["name"]).into(), text(&step["status"]).into())).collect()
}

fn words(view: &Value) -> Vec<String> {
    steps(view).into_iter().map(|(_, word)| word).collect()
}

async fn reaches(coordinator: &Coordinator, path: &str, status: &str) -> Value {
    eventually(status, async || coordinator.status(path).await == status).await;
    coordinator.get(path).await.json()
}

#[tokio::test]
async fn every_step_acts_after_those_before_it_and_results_are_passed_on() {
    let (coordinator, wallet, ledger) = two().await;
    ledger.answer("charge", 200, r#"{"id":"ch_1","amount":12345678901234567890.10}"#);
    let reply = coordinator.post(BEGIN, BOOKING).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let view = reply.json();
    assert_eq!(view["kind"], "saga");
    assert_eq!((&view["status"], &view["outcome"]), (&json!("COMPLETED"), &json!("completed")));
    assert_eq!(words(&view), ["ACTED"; 4]);
    assert_eq!(view["steps"][1]["result"]["id"], "ch_1");
    assert_eq!(
        (wallet.verbs(), ledger.verbs()),
        (names(["reserve", "emit"]), names(["charge", "send"]))
    );
    let calls = wallet.calls();
    assert_eq!(calls[0].body, r#"{"seat":"B2-31"}"#);
    assert_eq!(calls[1].body, r#"{"charge":"ch_1"}"#);
    // Without a body of its own a step is sent the input.
    assert_eq!(ledger.calls()[0].body, r#"{"user":"u-204","seat":"B2-31"}"#);
    let branch = &calls[0].headers["unanimous-branch"];
    assert_eq!(*branch, text(&view["steps"][0]["branch"]));
    assert_eq!(calls[0].headers["idempotency-key"], format!("{branch}:act"));
    assert_eq!(calls[0].headers["unanimous-attempt"], "1");
    assert_eq!(calls[0].headers["unanimous-transaction"], text(&view["id"]));
    assert!(calls[0].headers.contains_key("traceparent"));
    assert_eq!(coordinator.get(&reply.path()).await.json(), view);
}

fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).into()
}

#[tokio::test]
async fn what_was_done_before_a_refusal_is_undone_in_the_reverse_order() {
    let (coordinator, wallet, ledger) = two().await;
    ledger.answer("charge", 200, r#"{"id":"ch_1"}"#);
    wallet.answer("emit", 409, r#"{"kind":"sold_out","detail":"B2-31 is taken"}"#);
    let reply = coordinator.post(BEGIN, BOOKING).await;
    assert_eq!(reply.problem(), (409, "UNA0213".into()));
    let view = reply.json();
    assert_eq!((&view["status"], &view["outcome"]), (&json!("COMPENSATED"), &json!("compensated")));
    assert_eq!(view["reason"]["step"], "ticket");
    assert_eq!(view["reason"]["kind"], "sold_out");
    assert_eq!(words(&view), ["COMPENSATED", "COMPENSATED", "REFUSED", "UNREACHED"]);
    assert_eq!(wallet.verbs(), ["reserve", "emit", "release"]);
    assert_eq!(ledger.verbs(), ["charge", "refund"]);
    let refund = &ledger.calls()[1];
    assert_eq!(refund.body, r#"{"charge":"ch_1"}"#);
    assert!(refund.headers["idempotency-key"].ends_with(":compensate"));
    let log = coordinator.get(&format!("{}/log", reply.path())).await.json();
    let events: Vec<&str> =
        log["events"].as_array().expect("a list").iter().map(|it| text(&it["event"])).collect();
    let expected =
        ["begun", "acted", "acted", "refused", "compensating", "compensated", "compensated"];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn silence_is_asked_again_and_never_guessed() {
    let (coordinator, _wallet, ledger) = two().await;
    for (status, body) in [(503, ""), (425, ""), (201, "{}"), (500, "")] {
        ledger.answer_next("send", status, body);
    }
    let reply = coordinator.post(BEGIN, BOOKING).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(ledger.count("send"), 5);
    let attempts = ledger.calls().into_iter().filter(|call| call.verb == "send");
    let attempts: Vec<_> = attempts.map(|call| call.headers["unanimous-attempt"].clone()).collect();
    assert_eq!(attempts, ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn a_step_that_is_silent_too_often_is_compensated_because_it_may_have_acted() {
    let (coordinator, wallet, ledger) = two().await;
    ledger.answer("charge", 503, "");
    let reply = coordinator.post(BEGIN, BOOKING).await;
    assert_eq!(reply.problem(), (409, "UNA0213".into()));
    let reason = &reply.json()["reason"];
    assert_eq!((&reason["step"], &reason["kind"]), (&json!("charge"), &json!("exhausted")));
    assert_eq!(ledger.verbs(), ["charge", "charge", "charge", "refund"]);
    assert_eq!(wallet.verbs(), ["reserve", "release"]);
    assert_eq!(ledger.calls()[3].body, r#"{"charge":null}"#);
}

#[tokio::test]
async fn a_user_who_cancels_gets_everything_undone_or_is_told_that_it_is_too_late() {
    let (coordinator, wallet, ledger) = two().await;
    ledger.answer("charge", 425, "");
    let reply = coordinator.post(BEGIN, &booking_with(r#""wait":"none""#)).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let path = reply.path();
    eventually("charging", async || ledger.count("charge") > 0).await;
    let view = coordinator.get(&path).await.json();
    assert_eq!((&view["status"], &view["state"]), (&json!("RUNNING"), &json!("PaymentPending")));
    assert_eq!(words(&view), ["ACTED", "ACTING", "WAITING", "WAITING"]);
    let stale = coordinator.post(&format!("{path}/abort"), r#"{"if_version":1}"#).await;
    assert_eq!(stale.problem(), (409, "UNA0215".into()));
    assert_eq!(stale.json()["status"], "RUNNING");
    let version = &view["version"];
    let fresh = format!(r#"{{"if_version":{version},"reason":"changed my mind"}}"#);
    let cancelled = coordinator.post(&format!("{path}/abort"), &fresh).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.text);
    assert_eq!(cancelled.json()["status"], "COMPENSATED");
    assert_eq!(cancelled.json()["reason"]["detail"], "changed my mind");
    let again = coordinator.post(&format!("{path}/abort"), &fresh).await;
    assert_eq!((again.status, &again.json()["status"]), (200, &json!("COMPENSATED")));
    assert_eq!((ledger.count("refund"), wallet.count("release")), (1, 1));

    ledger.answer("charge", 200, r#"{"id":"ch_2"}"#);
    wallet.answer("emit", 503, "");
    let path = coordinator.post(BEGIN, &booking_with(r#""wait":"none""#)).await.path();
    eventually("at the pivot", async || wallet.count("emit") > 0).await;
    let late = coordinator.post(&format!("{path}/abort"), "").await;
    assert_eq!(late.problem(), (409, "UNA0214".into()));
    assert!(text(&late.json()["detail"]).contains("step ticket"), "{}", late.text);
    wallet.answer("emit", 200, "");
    reaches(&coordinator, &path, "COMPLETED").await;
    let over = coordinator.post(&format!("{path}/abort"), "").await;
    assert_eq!(over.problem(), (409, "UNA0202".into()));
    assert_eq!(ledger.count("refund"), 1);
}

#[tokio::test]
async fn a_compensation_that_is_refused_waits_for_an_operator() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.answer("emit", 409, "");
    ledger.answer("refund", 409, r#"{"kind":"closed","detail":"the day is closed"}"#);
    let reply = coordinator.post(BEGIN, BOOKING).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let view = reply.json();
    assert_eq!(
        (&view["status"], &view["outcome"]),
        (&json!("NEEDS_ATTENTION"), &json!("needs_attention"))
    );
    assert_eq!(view["attention"][0]["step"], "charge");
    assert_eq!(view["attention"][0]["error"], "closed: the day is closed");
    assert_eq!(view["attention"][0]["actions"].as_array().map(Vec::len), Some(3));
    let path = reply.path();
    let listed = coordinator.get("/v1/transactions?status=needs_attention&kind=saga").await.json();
    assert_eq!(listed["transactions"][0]["id"], view["id"]);
    // The step before it is not undone before it is.
    assert_eq!(wallet.count("release"), 0);
    assert_eq!(coordinator.post(&format!("{path}/retry"), "").await.status, 200);
    eventually("refused again", async || ledger.count("refund") == 2).await;
    reaches(&coordinator, &path, "NEEDS_ATTENTION").await;
    let coordinator = coordinator.restart().await;
    assert_eq!(coordinator.status(&path).await, "NEEDS_ATTENTION");
    let by_hand = r#"{"outcome":"rollback","reason":"refunded by hand","by":"ops"}"#;
    let resolved = coordinator.post(&format!("{path}/resolve"), by_hand).await;
    assert_eq!(resolved.status, 200, "{}", resolved.text);
    let view = reaches(&coordinator, &path, "COMPENSATED").await;
    assert_eq!(
        (&view["outcome"], &view["resolution"]["by"]),
        (&json!("compensated"), &json!("ops"))
    );
    assert_eq!(wallet.count("release"), 1);
    let nothing = coordinator.post(&format!("{path}/resolve"), by_hand).await;
    assert_eq!(nothing.status, 200, "the same once more: {}", nothing.text);
}

#[tokio::test]
async fn a_retriable_step_that_refuses_waits_for_an_operator_who_may_skip_it() {
    let (coordinator, _wallet, ledger) = two().await;
    ledger.answer("send", 409, r#"{"detail":"no such number"}"#);
    let reply = coordinator.post(BEGIN, BOOKING).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    assert_eq!(reply.json()["attention"][0]["step"], "notify");
    let path = reply.path();
    let skip = r#"{"outcome":"rollback","reason":"the user has no phone"}"#;
    assert_eq!(coordinator.post(&format!("{path}/resolve"), skip).await.status, 200);
    let view = reaches(&coordinator, &path, "COMPLETED").await;
    assert_eq!(
        (&view["outcome"], &view["steps"][3]["status"]),
        (&json!("mixed"), &json!("SKIPPED"))
    );
    assert_eq!(ledger.count("refund"), 0);
}

#[tokio::test]
async fn a_saga_survives_a_restart_at_any_step() {
    let (coordinator, wallet, ledger) = two().await;
    ledger.answer("charge", 503, "");
    let patient = booking_with(r#""wait":"none""#).replace(r#""max_attempts":3,"#, "");
    let path = coordinator.post(BEGIN, &patient).await.path();
    eventually("charging", async || ledger.count("charge") > 1).await;
    let coordinator = coordinator.restart().await;
    ledger.answer("charge", 200, r#"{"id":"ch_1"}"#);
    reaches(&coordinator, &path, "COMPLETED").await;
    assert_eq!((wallet.count("reserve"), wallet.count("emit")), (1, 1), "what is done stays done");
    assert_eq!(wallet.calls()[1].body, r#"{"charge":"ch_1"}"#);
}

#[tokio::test]
async fn a_step_waits_for_its_signal_and_passes_it_on() {
    let (coordinator, wallet, _) = two().await;
    let saga = r#"{"kind":"saga","wait":"none","steps":[
        {"name":"approve","signal":{},"state":"WaitingForApproval"},
        {"name":"cool-down","pause_ms":20},
        {"name":"ship","after":["approve","cool-down"],"action":{"resource":"wallet","path":"/ship",
         "body":"by {{steps.approve.result.who}}"}}]}"#;
    let path = coordinator.post(BEGIN, saga).await.path();
    let view = coordinator.get(&path).await.json();
    assert_eq!(
        (&view["state"], words(&view)[2].as_str()),
        (&json!("WaitingForApproval"), "WAITING")
    );
    let nobody = coordinator.post(&format!("{path}/signals/ship"), "").await;
    assert_eq!(nobody.problem(), (422, "UNA0118".into()));
    let garbage = coordinator.post(&format!("{path}/signals/approve"), "{").await;
    assert_eq!(garbage.problem(), (400, "UNA0101".into()));
    for who in ["ann", "bob"] {
        let signal = json!({"who": who}).to_string();
        let taken = coordinator.post(&format!("{path}/signals/approve"), &signal).await;
        assert_eq!(taken.status, 200, "{}", taken.text);
    }
    reaches(&coordinator, &path, "COMPLETED").await;
    assert_eq!(wallet.calls()[0].body, r#""by ann""#, "the first one counts");
}

#[tokio::test]
async fn a_signal_that_does_not_come_in_time_and_a_deadline_undo_the_saga() {
    let (coordinator, wallet, ledger) = two().await;
    let waiting = |limit: &str, signal: &str| {
        format!(
            r#"{{"kind":"saga",{limit}"steps":[{{"name":"reserve","action":{{"resource":"wallet","path":"/reserve"}},
            "compensation":{{"resource":"wallet","path":"/release"}}}},
            {{"name":"approve","after":["reserve"],"signal":{signal}}}]}}"#
        )
    };
    let reply = coordinator.post(BEGIN, &waiting("", r#"{"timeout_ms":30}"#)).await;
    assert_eq!(reply.problem(), (409, "UNA0213".into()));
    assert_eq!(reply.json()["reason"]["step"], "approve");
    let reply = coordinator.post(BEGIN, &waiting(r#""timeout_ms":50,"#, "{}")).await;
    assert_eq!(reply.problem(), (409, "UNA0213".into()));
    assert_eq!(reply.json()["reason"]["kind"], "timeout");
    assert_eq!(wallet.verbs(), ["reserve", "release", "reserve", "release"]);
    let later = waiting(r#""delay_ms":60000,"wait":"none","#, "{}");
    let path = coordinator.post(BEGIN, &later).await.path();
    assert_eq!(coordinator.post(&format!("{path}/abort"), "").await.status, 200);
    assert_eq!(words(&coordinator.get(&path).await.json()), ["UNREACHED", "UNREACHED"]);
    assert_eq!((wallet.calls().len(), ledger.calls().len()), (4, 0), "it never began");
}

#[tokio::test]
async fn steps_that_do_not_wait_for_each_other_act_side_by_side() {
    let (coordinator, wallet, ledger) = two().await;
    wallet.hang();
    ledger.hang();
    let saga = r#"{"kind":"saga","wait":"none","steps":[
        {"name":"a","action":{"resource":"wallet","path":"/a"}},
        {"name":"b","action":{"resource":"ledger","path":"/b"}},
        {"name":"c","after":["a","b"],"action":{"resource":"ledger","path":"/c"}}]}"#;
    let path = coordinator.post(BEGIN, saga).await.path();
    eventually("both", async || wallet.count("a") == 1 && ledger.count("b") == 1).await;
    wallet.go_on();
    ledger.go_on();
    reaches(&coordinator, &path, "COMPLETED").await;
    assert_eq!(ledger.verbs(), ["b", "c"]);
}

#[tokio::test]
async fn a_key_begins_one_saga() {
    let (coordinator, wallet, _) = two().await;
    let first = coordinator.post_keyed(BEGIN, "booking-1", BOOKING).await;
    let again = coordinator.post_keyed(BEGIN, "booking-1", BOOKING).await;
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(first.json()["id"], again.json()["id"]);
    let other = BOOKING.replace("B2-31", "B2-32");
    let other = coordinator.post_keyed(BEGIN, "booking-1", &other).await;
    assert_eq!(other.problem(), (422, "UNA0204".into()));
    let reordered =
        BOOKING.replace(r#""user":"u-204","seat":"B2-31""#, r#""seat":"B2-31","user":"u-204""#);
    assert_eq!(coordinator.post_keyed(BEGIN, "booking-1", &reordered).await.status, 200);
    assert_eq!(wallet.count("reserve"), 1);
}

#[tokio::test]
async fn whoever_watches_sees_every_step() {
    let (coordinator, _, ledger) = two().await;
    ledger.answer("charge", 425, "");
    let path = coordinator.post(BEGIN, &booking_with(r#""wait":"none""#)).await.path();
    let id = path.rsplit('/').next().expect("an id");
    let mut events = coordinator.events(&format!("/v1/events?transaction={id}")).await;
    eventually("charging", async || ledger.count("charge") > 0).await;
    ledger.answer("charge", 200, "{}");
    let mut seen = Vec::new();
    loop {
        let event = events.next().await.expect("the stream goes on");
        seen.push((text(&event["steps"]["charge"]).to_owned(), event["state"].clone()));
        if event["status"] == "COMPLETED" {
            break;
        }
    }
    assert!(seen.contains(&("ACTED".to_owned(), json!("Ticketing"))), "{seen:?}");
}

#[tokio::test]
async fn a_saga_takes_no_votes_and_an_atomic_transaction_no_signals() {
    let (coordinator, _, ledger) = two().await;
    ledger.answer("charge", 425, "");
    let path = coordinator.post(BEGIN, &booking_with(r#""wait":"none""#)).await.path();
    let committed = coordinator.post(&format!("{path}/commit"), "").await;
    assert_eq!(committed.problem(), (409, "UNA0216".into()));
    let enlisted = r#"{"participant":"x","resource":"wallet"}"#;
    let enlisted = coordinator.post(&format!("{path}/participants"), enlisted).await;
    assert_eq!(enlisted.problem(), (409, "UNA0203".into()));
    let atomic = coordinator.begin().await;
    let signalled = coordinator.post(&format!("{atomic}/signals/x"), "").await;
    assert_eq!(signalled.problem(), (409, "UNA0216".into()));
}

#[tokio::test]
async fn a_service_that_is_away_only_delays() {
    let wallet = Service::default();
    let url = wallet.serve().await;
    let coordinator =
        Coordinator::start(&[("wallet", &url), ("ledger", "http://127.0.0.1:1/")]).await;
    let body = r#"{"kind":"saga","timeout_ms":1500,"steps":[
        {"name":"a","action":{"resource":"wallet","path":"/a"},"compensation":{"resource":"wallet","path":"/undo"}},
        {"name":"b","after":["a"],"action":{"resource":"ledger","path":"/b"}}]}"#;
    let reply = coordinator.post(BEGIN, body).await;
    assert_eq!(reply.problem(), (409, "UNA0213".into()));
    let view = reply.json();
    assert_eq!(view["reason"]["kind"], "timeout", "{}", reply.text);
    assert!(text(&view["reason"]["detail"]).contains("last error"), "{}", reply.text);
    // It may have been called, and there is nothing to undo it with.
    assert_eq!(words(&view), ["COMPENSATED", "KEPT"]);
}
