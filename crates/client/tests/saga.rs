//! Sagas as an application begins, follows, cancels and signals them.

mod common;

use common::coordinator::{Act, Coordinator, problem, problem_about, view};
use serde_json::{Value, json};
use unanimous_client::api::{Code, RetryRequest, StatementRequest, StatusWord};
use unanimous_client::{Client, Error, Saga, Step};

const ID: &str = "01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10";

fn saga(status: &str, outcome: Option<&str>) -> Value {
    let mut view = view(ID, status, outcome);
    view["kind"] = json!("saga");
    view["steps"] = json!([
        {"name": "reserve", "branch": "una:test:x:0", "status": "ACTED", "attempts": 0},
        {"name": "charge", "branch": "una:test:x:1", "status": "ACTED", "attempts": 0,
         "result": {"id": "ch_1", "amount": 500}}]);
    view
}

fn completed() -> Act {
    Act::Answer(200, saga("COMPLETED", Some("completed")))
}

fn running() -> Act {
    Act::Answer(202, saga("RUNNING", None))
}

fn undone() -> Value {
    let mut view = saga("COMPENSATED", Some("compensated"));
    view["reason"] = json!({"step": "charge", "kind": "no_funds", "detail": "500 is too much"});
    view
}

#[derive(serde::Serialize)]
struct Booking<'a> {
    user: &'a str,
    seat: &'a str,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Charge {
    id: String,
    amount: u64,
}

fn booking(client: &Client) -> Saga {
    let retry = RetryRequest { max_attempts: Some(5), ..RetryRequest::default() };
    let reserve = Step::new("reserve").calls("seats", "/reserve");
    client
        .saga()
        .input(&Booking { user: "u-204", seat: "B2-31" })
        .step(reserve.body(json!({"seat": "{{input.seat}}"})).undone_by("seats", "/release"))
        .step(
            Step::new("charge")
                .after(["reserve"])
                .calls("payment", "/charge")
                .undone_by("payment", "/refund")
                .undo_body(json!({"charge": "{{steps.charge.result.id}}"}))
                .retry(retry)
                .timeout_ms(2_000)
                .state("PaymentPending"),
        )
        .step(Step::new("ticket").after(["charge"]).calls("seats", "/emit").pivot())
        .step(Step::new("notify").after(["ticket"]).calls("sms", "/send").retriable())
}

#[tokio::test]
async fn a_saga_is_asked_for_as_the_contract_has_it_and_its_results_are_typed() {
    let coordinator = Coordinator::playing([completed()]).await;
    let done = booking(&coordinator.client()).key("booking-42").timeout_ms(60_000).run().await;
    let done = done.expect("completed");
    assert_eq!((done.id(), done.view().status), (ID, StatusWord::Completed));
    let charge: Charge = done.result("charge").expect("a charge");
    assert_eq!(charge, Charge { id: "ch_1".into(), amount: 500 });
    assert_eq!(done.result::<Option<Charge>>("reserve").expect("it returned nothing"), None);
    assert!(matches!(done.result::<u64>("charge"), Err(Error::Usage(_))));
    assert!(matches!(done.result::<u64>("nobody"), Err(Error::Usage(_))));
    let asked = coordinator.asked();
    assert_eq!(asked[0].header("idempotency-key"), Some("booking-42"));
    let expected = json!({"kind": "saga", "timeout_ms": 60000, "wait": "finished",
        "input": {"user": "u-204", "seat": "B2-31"}, "steps": [
        {"name": "reserve", "action": {"resource": "seats", "path": "/reserve",
         "body": {"seat": "{{input.seat}}"}}, "compensation": {"resource": "seats", "path": "/release"}},
        {"name": "charge", "after": ["reserve"], "action": {"resource": "payment", "path": "/charge"},
         "compensation": {"resource": "payment", "path": "/refund",
            "body": {"charge": "{{steps.charge.result.id}}"}},
         "retry": {"max_attempts": 5}, "timeout_ms": 2000, "state": "PaymentPending"},
        {"name": "ticket", "after": ["charge"], "pivot": true,
         "action": {"resource": "seats", "path": "/emit"}},
        {"name": "notify", "after": ["ticket"], "retriable": true,
         "action": {"resource": "sms", "path": "/send"}}]});
    assert_eq!(asked[0].body, expected);
}

#[tokio::test]
async fn steps_may_run_statements_wait_and_pause() {
    let coordinator = Coordinator::playing([completed()]).await;
    let statement = |sql: &str| StatementRequest {
        sql: sql.to_owned(),
        params: vec![json!("{{input}}")],
        expect_rows: Some(1),
    };
    let saga = coordinator.client().saga().input("B2-31").delay_ms(10);
    let take = Step::new("take").runs("db", [statement("INSERT INTO taken VALUES ($1)")]);
    let saga = saga
        .step(take.undone_by_running("db", [statement("DELETE FROM taken WHERE seat = $1")]))
        .step(Step::new("approve").waits_for_signal_ms(500))
        .step(Step::new("cool-down").pauses_ms(20));
    saga.run().await.expect("completed");
    let body = &coordinator.asked()[0].body;
    assert_eq!((&body["input"], &body["delay_ms"]), (&json!("B2-31"), &json!(10)));
    assert_eq!(body["steps"][0]["action"]["statements"][0]["expect_rows"], 1);
    assert_eq!(body["steps"][1], json!({"name": "approve", "signal": {"timeout_ms": 500}}));
    assert_eq!(body["steps"][2], json!({"name": "cool-down", "pause_ms": 20}));
}

#[tokio::test]
async fn whatever_leaves_the_end_unknown_is_asked_again_with_the_same_key() {
    let coordinator = Coordinator::playing([
        Act::Hang,
        Act::Stall,
        problem(Code::Internal),
        problem(Code::KeyInUse),
        problem(Code::ShuttingDown),
        running(),
        Act::Answer(200, saga("COMPENSATING", None)),
        completed(),
    ])
    .await;
    booking(&coordinator.client()).run().await.expect("completed");
    let asked = coordinator.asked();
    assert_eq!(asked.len(), 8);
    let key = asked[0].header("idempotency-key").expect("a minted key");
    for again in &asked[..6] {
        assert_eq!((again.header("idempotency-key"), &again.body), (Some(key), &asked[0].body));
    }
    assert!(asked[6..].iter().all(|it| it.path == format!("/v1/transactions/{ID}")));
}

#[tokio::test]
async fn a_saga_that_was_undone_says_at_which_step_and_why() {
    let coordinator = Coordinator::playing([problem_about(Code::Compensated, undone())]).await;
    let error = booking(&coordinator.client()).run().await.expect_err("undone");
    assert!(matches!(error, Error::Compensated(_)), "{error:?}");
    assert_eq!(error.code(), Some(Code::Compensated));
    let reason = error.reason().expect("a reason");
    assert_eq!((reason.step.as_deref(), &*reason.kind), (Some("charge"), "no_funds"));
    assert!(error.to_string().contains("charge: no_funds: 500 is too much"), "{error}");
}

#[tokio::test]
async fn a_saga_that_is_stuck_is_neither_done_nor_undone() {
    let mut stuck = saga("NEEDS_ATTENTION", Some("needs_attention"));
    stuck["needs_attention"] = json!(true);
    stuck["attention"] =
        json!([{"step": "charge", "error": "closed: the day is closed", "actions": ["retry"]}]);
    let coordinator = Coordinator::playing([Act::Answer(202, stuck)]).await;
    let error = booking(&coordinator.client()).run().await.expect_err("stuck");
    assert!(matches!(error, Error::NeedsAttention(_)), "{error:?}");
    assert!(error.to_string().contains("charge: closed: the day is closed"), "{error}");
}

#[tokio::test]
async fn a_saga_that_cannot_be_is_refused_at_once() {
    for code in [Code::CyclicSaga, Code::BadTemplate, Code::UnknownStep, Code::BadSaga] {
        let coordinator = Coordinator::playing([problem(code)]).await;
        let error = booking(&coordinator.client()).run().await.expect_err("refused");
        assert!(matches!(error, Error::Refused(_)), "{error:?}");
        assert_eq!((error.code(), coordinator.asked().len()), (Some(code), 1));
    }
}

#[tokio::test]
async fn a_saga_that_has_begun_is_followed_to_its_end_by_anybody() {
    let coordinator = Coordinator::playing([
        running(),
        Act::Answer(200, saga("RUNNING", None)),
        Act::Answer(200, saga("RUNNING", None)),
        completed(),
    ])
    .await;
    let client = coordinator.client();
    let begun = booking(&client).begin().await.expect("begun");
    assert_eq!(coordinator.asked()[0].body["wait"], "none");
    let done = client.begun_saga(begun.id()).finished().await.expect("completed");
    assert_eq!(done.id(), ID);
    coordinator.play([Act::Answer(200, undone())]);
    assert!(matches!(begun.finished().await, Err(Error::Compensated(_))));
}

#[tokio::test]
async fn a_key_whose_saga_is_over_begins_nothing_and_still_finds_it() {
    let coordinator = Coordinator::playing([problem_about(Code::Compensated, undone())]).await;
    let begun = booking(&coordinator.client()).key("booking-42").begin().await.expect("found");
    assert_eq!(begun.id(), ID);
}

#[tokio::test]
async fn a_user_who_cancels_is_told_whether_it_was_in_time() {
    let coordinator = Coordinator::playing([
        Act::Hang,
        Act::Answer(202, saga("COMPENSATING", None)),
        Act::Answer(200, undone()),
    ])
    .await;
    let begun = coordinator.client().begun_saga(ID);
    let view = begun.cancel("changed my mind").await.expect("undone");
    assert_eq!(view.status, StatusWord::Compensated);
    let asked = coordinator.asked();
    assert_eq!(asked[0].path, format!("/v1/transactions/{ID}/abort"));
    assert_eq!(asked[0].body, json!({"reason": "changed my mind", "wait": "finished"}));
    assert_eq!(asked[0].header("idempotency-key"), asked[1].header("idempotency-key"));

    for code in [Code::TooLateToCancel, Code::VersionChanged, Code::AlreadyCommitted] {
        coordinator.play([problem_about(code, saga("RUNNING", None))]);
        let error = begun.cancel_version(7, "too slow").await.expect_err("too late");
        assert_eq!(error.code(), Some(code));
        assert_eq!(error.transaction().map(|view| &*view.id), Some(ID));
    }
    assert_eq!(coordinator.asked().last().expect("asked").body["if_version"], 7);
    coordinator.play([Act::Answer(202, saga("RUNNING", None)), completed()]);
    let error = begun.cancel("too slow").await.expect_err("it has completed");
    assert_eq!(error.code(), Some(Code::AlreadyCommitted));
}

#[tokio::test]
async fn a_signal_goes_to_its_step_once() {
    let coordinator =
        Coordinator::playing([Act::Stall, Act::Answer(200, saga("RUNNING", None))]).await;
    let begun = coordinator.client().begun_saga(ID);
    begun.signal("approve", &json!({"who": "ann"})).await.expect("taken");
    let asked = coordinator.asked();
    assert_eq!(asked[1].path, format!("/v1/transactions/{ID}/signals/approve"));
    assert_eq!(asked[1].body, json!({"who": "ann"}));
    assert_eq!(asked[0].header("idempotency-key"), asked[1].header("idempotency-key"));
}

#[tokio::test]
async fn an_end_that_cannot_be_learned_is_unknown_and_names_key_and_saga() {
    let coordinator = Coordinator::playing([running()]).await;
    let run = booking(&coordinator.client()).deadline_ms(1_000).key("booking-42").run();
    let error = run.await.expect_err("unknown");
    let Error::Unknown { key, id, .. } = &error else { panic!("{error:?}") };
    assert_eq!((&**key, id.as_deref()), ("booking-42", Some(ID)));
}
