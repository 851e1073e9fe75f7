//! Calls to a coordinator that answers late, twice, wrongly or not at all.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use common::coordinator::{Act, Coordinator, problem, problem_about, view};
use http::Response;
use serde_json::{Value, json};
use unanimous_client::api::{
    Code, OutcomeWord, Problem, ResolveOutcome, ResolveRequest, VoteWord, Wait,
};
use unanimous_client::limits::ATTEMPTS_MAX;
use unanimous_client::{Client, Error, Filter, Run};

const ID: &str = "01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10";

fn committed() -> Value {
    view(ID, "COMMITTED", Some("committed"))
}

fn transfer(client: &Client) -> Run {
    client.transaction().branch("wallet", json!({"amount": 5}))
}

#[tokio::test]
async fn a_transaction_is_asked_for_as_the_contract_has_it() {
    let coordinator = Coordinator::playing([Act::Answer(200, committed())]).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let run = coordinator
        .client()
        .transaction()
        .timeout_ms(9_000)
        .wait(Wait::Decided)
        .key("order-42")
        .traceparent(trace)
        .branch("wallet", json!({"amount": 5}))
        .branch_as("second", "wallet", Value::Null);
    let view = run.run().await.expect("committed");
    assert_eq!((view.id.as_str(), view.outcome), (ID, Some(OutcomeWord::Committed)));
    let asked = coordinator.asked();
    let expected = json!({"kind": "atomic", "timeout_ms": 9000, "wait": "decided", "branches": [
        {"resource": "wallet", "body": {"amount": 5}},
        {"resource": "wallet", "participant": "second"}]});
    assert_eq!(asked[0].body, expected);
    assert_eq!((&*asked[0].method, &*asked[0].path), ("POST", "/v1/transactions"));
    assert_eq!(asked[0].header("idempotency-key"), Some("order-42"));
    assert_eq!(asked[0].header("traceparent"), Some(trace));
}

#[tokio::test]
async fn whatever_leaves_the_result_unknown_is_asked_again_with_the_same_key() {
    let coordinator = Coordinator::playing([
        Act::Hang,
        Act::Stall,
        problem(Code::Internal),
        problem(Code::KeyInUse),
        Act::Answer(502, json!("a proxy")),
        problem(Code::Overloaded),
        problem(Code::ShuttingDown),
        Act::Answer(200, committed()),
    ])
    .await;
    transfer(&coordinator.client()).run().await.expect("committed");
    let asked = coordinator.asked();
    assert_eq!(asked.len(), 8);
    let key = asked[0].header("idempotency-key").expect("a minted key");
    assert_eq!(key.len(), 32);
    for again in &asked {
        assert_eq!(again.header("idempotency-key"), Some(key));
        assert_eq!(again.body, asked[0].body);
    }
}

#[tokio::test]
async fn two_transactions_do_not_share_a_key() {
    let coordinator = Coordinator::playing([Act::Answer(200, committed())]).await;
    let client = coordinator.client();
    transfer(&client).run().await.expect("committed");
    transfer(&client).run().await.expect("committed");
    let asked = coordinator.asked();
    assert_ne!(asked[0].header("idempotency-key"), asked[1].header("idempotency-key"));
}

#[tokio::test]
async fn a_refusal_is_final_and_says_what_to_mend() {
    let refused = [
        Code::UnknownResource,
        Code::KeyReused,
        Code::OutOfBounds,
        Code::Unauthorized,
        Code::BodyTooLarge,
    ];
    for code in refused {
        let coordinator = Coordinator::playing([problem(code)]).await;
        let error = transfer(&coordinator.client()).run().await.expect_err("refused");
        assert!(matches!(error, Error::Refused(_)), "{error:?}");
        assert_eq!(error.code(), Some(code));
        assert_eq!(coordinator.asked().len(), 1, "{code:?}");
    }
}

#[tokio::test]
async fn an_abort_and_a_mixed_end_are_told_apart_from_success() {
    let mut aborted = view(ID, "ABORTED", Some("aborted"));
    aborted["reason"] = json!({"participant": "wallet", "kind": "insufficient_funds",
        "detail": "5 is too much"});
    let coordinator = Coordinator::playing([
        problem_about(Code::Aborted, aborted),
        problem_about(Code::Mixed, view(ID, "COMMITTED", Some("mixed"))),
    ])
    .await;
    let client = coordinator.client();
    let error = transfer(&client).run().await.expect_err("aborted");
    assert_eq!(error.reason().map(|it| &*it.kind), Some("insufficient_funds"));
    assert!(error.to_string().contains("wallet: insufficient_funds: 5 is too much"), "{error}");
    let error = transfer(&client).run().await.expect_err("mixed");
    assert!(matches!(error, Error::Mixed(_)), "{error:?}");
}

#[tokio::test]
async fn a_wait_that_ran_out_is_followed_to_the_outcome() {
    let coordinator = Coordinator::playing([
        Act::Answer(202, view(ID, "PREPARING", None)),
        Act::Answer(200, view(ID, "PREPARING", None)),
        Act::Answer(200, view(ID, "COMMITTING", Some("committed"))),
        Act::Answer(200, committed()),
    ])
    .await;
    let view = transfer(&coordinator.client()).run().await.expect("committed");
    assert_eq!(view.outcome, Some(OutcomeWord::Committed));
    let asked = coordinator.asked();
    assert_eq!(asked.len(), 4);
    assert!(asked[1..].iter().all(|it| it.path == format!("/v1/transactions/{ID}")));
}

#[tokio::test]
async fn what_a_crash_of_the_coordinator_took_before_it_was_decided_is_run_again() {
    let coordinator = Coordinator::playing([
        Act::Answer(202, view(ID, "PREPARING", None)),
        problem(Code::UnknownTransaction),
        Act::Answer(200, committed()),
    ])
    .await;
    transfer(&coordinator.client()).run().await.expect("committed");
    let asked = coordinator.asked();
    assert_eq!(asked[2].method, "POST");
    assert_eq!(asked[2].header("idempotency-key"), asked[0].header("idempotency-key"));
}

#[tokio::test]
async fn an_outcome_that_cannot_be_learned_is_unknown_and_names_key_and_transaction() {
    let coordinator = Coordinator::playing([Act::Answer(202, view(ID, "PREPARING", None))]).await;
    let run = coordinator.client().transaction().deadline_ms(1_000).key("order-42");
    let error = run.branch("wallet", json!(1)).run().await.expect_err("unknown");
    let Error::Unknown { key, id, .. } = &error else { panic!("{error:?}") };
    assert_eq!((&**key, id.as_deref()), ("order-42", Some(ID)));

    coordinator.play([Act::Hang]);
    let run = coordinator.client().transaction().deadline_ms(1_000).key("order-43");
    let error = run.branch("wallet", json!(1)).run().await.expect_err("unknown");
    assert!(matches!(&error, Error::Unknown { id: None, .. }), "{error:?}");
}

#[tokio::test]
async fn a_decision_holds_at_the_deadline_though_not_everybody_has_acknowledged_it() {
    let committing = view(ID, "COMMITTING", Some("committed"));
    let coordinator = Coordinator::playing([Act::Answer(202, committing)]).await;
    let run = coordinator.client().transaction().deadline_ms(1_000).branch("wallet", json!(1));
    assert_eq!(run.run().await.expect("committed").outcome, Some(OutcomeWord::Committed));
}

#[tokio::test]
async fn a_coordinator_that_takes_nothing_on_is_busy_and_one_that_is_not_there_unreachable() {
    let coordinator = Coordinator::playing([problem(Code::Overloaded)]).await;
    let run = coordinator.client().transaction().deadline_ms(1_000).branch("wallet", json!(1));
    let error = run.run().await.expect_err("turned away");
    assert!(matches!(error, Error::Busy(_)), "{error:?}");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let nobody = Client::builder(&format!("http://{address}")).deadline_ms(1_000).build();
    let error = nobody.expect("an address").show(ID).await.expect_err("nobody is there");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn retry_after_is_respected() {
    let busy = serde_json::to_value(unanimous_client::api::Problem::new(Code::Overloaded, "full"));
    let busy = busy.expect("json");
    let coordinator =
        Coordinator::playing([Act::AnswerWith(429, ("retry-after", "18446744073709551615"), busy)])
            .await;
    let run = transfer(&coordinator.client()).run().await;
    assert!(matches!(run, Err(Error::Busy(_))), "that is beyond the deadline: {run:?}");
    assert_eq!(coordinator.asked().len(), 1);
}

/// Cut off, it would make unknown what is known to have had no effect.
#[tokio::test]
async fn an_attempt_that_the_deadline_would_cut_off_is_not_begun() {
    let busy = serde_json::to_value(unanimous_client::api::Problem::new(Code::Overloaded, "full"));
    let busy = Act::AnswerWith(429, ("retry-after", "1"), busy.expect("json"));
    let coordinator = Coordinator::playing([busy, Act::Stall]).await;
    let run = coordinator.client().transaction().deadline_ms(1_050).branch("wallet", json!(1));
    let run = run.run().await;
    assert!(matches!(run, Err(Error::Busy(_))), "{run:?}");
    assert_eq!(coordinator.asked().len(), 1);
}

#[tokio::test]
async fn an_application_can_drive_a_transaction_itself() {
    let enlisted = json!({"id": ID, "participant": "wallet", "resource": "wallet",
        "branch": format!("una:test:{ID}:0")});
    let coordinator = Coordinator::playing([
        Act::Answer(201, view(ID, "INITIATED", None)),
        Act::Hang,
        Act::Answer(200, enlisted),
        Act::Answer(200, committed()),
        problem_about(Code::AlreadyCommitted, committed()),
    ])
    .await;
    let txn = coordinator.client().transaction().begin().await.expect("begun");
    let branch = txn.enlist("wallet", "wallet").await.expect("enlisted");
    assert_eq!(branch, format!("una:test:{ID}:0"));
    txn.commit_with_votes([("wallet", VoteWord::Yes)]).await.expect("committed");
    let late = txn.abort("changed my mind").await.expect_err("too late");
    assert_eq!(late.code(), Some(Code::AlreadyCommitted));

    let asked = coordinator.asked();
    let paths: Vec<_> =
        asked.iter().map(|it| it.path.rsplit('/').next().expect("a path")).collect();
    assert_eq!(paths, ["transactions", "participants", "participants", "commit", "abort"]);
    assert_eq!(asked[0].body, json!({"kind": "atomic"}));
    assert_eq!(asked[1].header("idempotency-key"), asked[2].header("idempotency-key"));
    assert_eq!(asked[3].body, json!({"votes": {"wallet": "YES"}, "wait": "finished"}));
    assert_eq!(asked[4].body, json!({"reason": "changed my mind", "wait": "finished"}));
    let keys: std::collections::BTreeSet<_> =
        asked.iter().map(|it| it.header("idempotency-key")).collect();
    assert_eq!(keys.len(), 4, "each request has a key of its own");
}

#[tokio::test]
async fn an_abort_returns_the_aborted_transaction() {
    let aborted = view(ID, "ABORTED", Some("aborted"));
    let coordinator = Coordinator::playing([Act::Answer(200, aborted)]).await;
    let view = coordinator.client().abort(ID, "stuck").await.expect("aborted");
    assert_eq!(view.outcome, Some(OutcomeWord::Aborted));
}

#[tokio::test]
async fn operators_calls_go_where_the_contract_says() {
    let list = json!({"transactions": [], "next_cursor": "c"});
    let doubt = json!([{"branch": format!("una:test:{ID}:0"), "transaction": ID,
        "status": "COMMITTING", "attempts": 3, "since_ms": 1}]);
    let coordinator = Coordinator::playing([
        Act::Answer(200, list),
        Act::Answer(200, doubt),
        Act::Answer(200, committed()),
        Act::Answer(200, committed()),
        Act::Answer(200, json!({"id": ID, "events": []})),
        Act::Answer(200, json!({"resources": []})),
        Act::Answer(200, json!("ok")),
    ])
    .await;
    let client = coordinator.client();
    let filter = Filter { older_than_ms: Some(5), ..Filter::default() };
    assert_eq!(client.list(&filter).await.expect("a page").next_cursor.as_deref(), Some("c"));
    assert_eq!(client.in_doubt("a/b").await.expect("branches")[0].attempts, 3);
    client.retry(ID).await.expect("shown");
    let outcome = ResolveOutcome::Commit;
    let wish = ResolveRequest { outcome, reason: "seen".into(), force: false, by: None };
    client.resolve(ID, &wish).await.expect("shown");
    client.log(ID).await.expect("a log");
    client.resources().await.expect("resources");
    client.health().await.expect("healthy");
    let paths: Vec<_> = coordinator.asked().into_iter().map(|it| it.path).collect();
    assert_eq!(
        paths,
        [
            "/v1/transactions?older_than_ms=5",
            "/v1/resources/a%2Fb/in-doubt",
            &format!("/v1/transactions/{ID}/retry"),
            &format!("/v1/transactions/{ID}/resolve"),
            &format!("/v1/transactions/{ID}/log"),
            "/v1/resources",
            "/healthz",
        ]
    );
}

#[tokio::test]
async fn what_is_no_coordinator_is_called_so_and_not_asked_again() {
    for act in [Act::Answer(404, json!("nginx")), Act::Answer(200, json!([1]))] {
        let coordinator = Coordinator::playing([act]).await;
        let error = coordinator.client().show(ID).await.expect_err("no coordinator");
        assert!(matches!(error, Error::NotACoordinator { .. }), "{error:?}");
        assert_eq!(coordinator.asked().len(), 1);
    }
    let coordinator = Coordinator::playing([Act::Hang, Act::Answer(404, json!("nginx"))]).await;
    let error = transfer(&coordinator.client()).run().await.expect_err("lost before");
    assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
}

#[tokio::test]
async fn changes_are_read_as_they_come_and_missed_ones_are_counted() {
    let events = concat!(
        ": alive\n\n",
        "event: state\ndata: {\"id\":\"x\",\"kind\":\"atomic\",\"status\":\"PREPARING\",\"at_ms\":1}\n\n",
        "event: missed\ndata: 3\n\n",
        "event: state\ndata: {\"id\":\"x\",\"kind\":\"atomic\",\"status\":\"ABORTED\",\"at_ms\":2}\n\n",
    );
    let coordinator =
        Coordinator::playing([Act::Events(events.to_owned()), problem(Code::UnknownTransaction)])
            .await;
    let client = coordinator.client();
    let mut events = client.events(Some(ID)).await.expect("opened");
    for expected in ["PREPARING", "ABORTED"] {
        assert_eq!(events.next().await.expect("an event").status.as_str(), expected);
    }
    assert_eq!((events.missed(), events.gaps()), (3, 0));
    assert!(matches!(events.next().await, Err(Error::NotFound(_))), "it closed the stream");
    assert_eq!(coordinator.asked()[0].path, format!("/v1/events?transaction={ID}"));
    assert!(matches!(client.events(None).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn an_abort_that_lost_the_race_is_told_so_also_when_it_had_to_wait() {
    let coordinator = Coordinator::playing([
        Act::Answer(201, view(ID, "INITIATED", None)),
        Act::Answer(202, view(ID, "PREPARED", None)),
        Act::Answer(200, committed()),
    ])
    .await;
    let txn = coordinator.client().transaction().begin().await.expect("begun");
    let error = txn.abort("too slow").await.expect_err("committed");
    assert_eq!(error.code(), Some(Code::AlreadyCommitted));
    assert_eq!(error.transaction().map(|view| &*view.id), Some(ID));
}

/// The paths that were asked for, without what all have in common.
fn paths(coordinator: &Coordinator) -> Vec<String> {
    let last = |path: &str| path.rsplit('/').next().expect("a path").to_owned();
    coordinator.asked().iter().map(|it| last(&it.path)).collect()
}

#[tokio::test]
async fn a_conflict_that_the_coordinator_saw_is_made_again_under_a_key_of_its_own() {
    let mut aborted = view(ID, "ABORTED", Some("aborted"));
    aborted["reason"] = json!({"participant": "wallet", "kind": "deadlock", "detail": "met"});
    let coordinator = Coordinator::playing([
        Act::Answer(201, view(ID, "INITIATED", None)),
        problem_about(Code::Aborted, aborted),
        Act::Answer(201, view(ID, "INITIATED", None)),
        Act::Answer(200, committed()),
    ])
    .await;
    let transfer = coordinator.client().transaction().key("order-42");
    let view = transfer.retrying(async |txn| Ok(txn.commit().await?)).await.expect("committed");
    assert_eq!(view.outcome, Some(OutcomeWord::Committed));
    assert_eq!(paths(&coordinator), ["transactions", "commit", "transactions", "commit"]);
    let asked = coordinator.asked();
    let keys = [0, 2].map(|index: usize| asked[index].header("idempotency-key"));
    assert_eq!(keys, [Some("order-42"), Some("order-42/2")]);
}

#[tokio::test]
async fn conflicts_without_end_end_after_the_attempts_that_are_allowed() {
    let mut aborted = view(ID, "ABORTED", Some("aborted"));
    aborted["reason"] = json!({"participant": "wallet", "kind": "lock_timeout", "detail": "met"});
    let attempts = ATTEMPTS_MAX as usize;
    let acts = (0..attempts).flat_map(|_| {
        let begun = Act::Answer(201, view(ID, "INITIATED", None));
        [begun, problem_about(Code::Aborted, aborted.clone())]
    });
    let coordinator = Coordinator::playing(acts).await;
    let transfer = coordinator.client().transaction();
    let error = transfer.retrying(async |txn| Ok(txn.commit().await?)).await.expect_err("aborted");
    assert!(matches!(error.downcast_ref(), Some(Error::Aborted(_))), "{error}");
    assert_eq!(coordinator.asked().len(), 2 * attempts);
}

#[tokio::test]
async fn an_outcome_that_is_not_known_is_asked_for_and_never_tried_again() {
    let begun = Act::Answer(201, view(ID, "INITIATED", None));
    let coordinator = Coordinator::playing([begun, Act::Hang]).await;
    let transfer = coordinator.client().transaction().deadline_ms(1_000);
    let error = transfer.retrying(async |txn| Ok(txn.commit().await?)).await.expect_err("unknown");
    let known =
        matches!(error.downcast_ref(), Some(Error::Unknown { id: Some(id), .. }) if id == ID);
    assert!(known, "{error}");
    let asked = coordinator.asked();
    assert!(asked.len() > 2, "it was asked for once only");
    let key = asked[1].header("idempotency-key");
    assert!(paths(&coordinator)[1..].iter().all(|path| path == "commit"));
    assert!(asked[1..].iter().all(|it| it.header("idempotency-key") == key));
}

/// A client of a coordinator in this process that always answers the same, and how often it was asked.
fn within(status: u16, body: Value) -> (Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let client = Client::within(move |request| {
        assert!(request.uri().authority().is_none(), "nothing is sent anywhere");
        counter.fetch_add(1, Ordering::Relaxed);
        let answer = Response::builder().status(status).body(Body::from(body.to_string()));
        std::future::ready(answer.expect("a response"))
    });
    (client, asked)
}

#[tokio::test]
async fn a_coordinator_in_this_process_is_asked_what_others_are_sent() {
    let (client, asked) = within(200, view(ID, "COMMITTED", Some("committed")));
    let request = json!({"kind": "atomic", "branches": [{"resource": "wallet", "body": 5}]});
    let request = serde_json::from_value(request).expect("a request");
    let committed = client.run(&request, Some("order-42")).await.expect("it is committed");
    assert_eq!((&*committed.id, asked.load(Ordering::Relaxed)), (ID, 1));
}

#[tokio::test]
async fn a_coordinator_in_this_process_that_has_shut_down_is_not_waited_for() {
    let closed = Problem::new(Code::ShuttingDown, "it is closed");
    let (client, asked) = within(503, serde_json::to_value(closed).expect("it is JSON"));
    let error = client.show(ID).await.expect_err("it is closed");
    assert!(matches!(&error, Error::Busy(_)), "{error}");
    assert_eq!((error.code(), asked.load(Ordering::Relaxed)), (Some(Code::ShuttingDown), 1));
}
