//! Steps of sagas: any request, asked again under the same key until it is known what came of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use unanimous_core::{Answer, Opaque, Reason, Verb};
use unanimous_participants::guard::{Adapter, Contact};
use unanimous_participants::http::HttpAdapter;
use unanimous_participants::{Call, Settings};

use crate::service::{Manner, Service, call, replied, reply};

const CHARGE: &str = r#"{"path":"/charge","body":{"amount":500}}"#;
const WITH_STATUS: &str = r#"{"path":"/charge","status":"/charges?of=7"}"#;

fn step(verb: Verb, work: &str, attempt: u32) -> Call {
    Call { work: Opaque::new(work.as_bytes()), attempt, ..call(verb) }
}

fn adapter(service: &Service) -> HttpAdapter {
    HttpAdapter::new(&service.url, &Settings::default()).expect("a good url")
}

fn done(result: &str) -> Answer {
    Answer::Done(Opaque::new(result.as_bytes()))
}

fn is_status(request: &str) -> bool {
    request.starts_with("GET /bank/charges?of=7 HTTP/1.1\r\n")
}

#[tokio::test]
async fn a_step_is_sent_as_it_describes_itself_under_the_headers_of_the_contract() {
    let service = Service::start(reply("200 OK", "")).await;
    let adapter = adapter(&service);
    let put =
        r#"{"path":"/seats/B2?hold=1","method":"PUT","headers":{"X-Tenant":"7"},"body":[1.50]}"#;
    let delete = r#"{"path":"/seats/B2","method":"DELETE"}"#;
    for (verb, work) in [(Verb::Act, put), (Verb::Compensate, delete)] {
        assert_eq!(adapter.call(step(verb, work, 3)).await.answer, done(""));
    }
    let branch = call(Verb::Act).name;
    let [act, compensate] = &service.requests()[..] else { panic!("two requests") };
    assert!(act.starts_with("PUT /bank/seats/B2?hold=1 HTTP/1.1\r\n"), "{act}");
    for header in [
        format!("idempotency-key: {branch}:act"),
        format!("unanimous-transaction: {}", branch.txn),
        format!("unanimous-branch: {branch}"),
        "unanimous-attempt: 3".to_owned(),
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-".to_owned(),
        "x-tenant: 7".to_owned(),
        "content-type: application/json".to_owned(),
    ] {
        assert!(act.contains(&format!("\r\n{header}")), "no {header} in {act}");
    }
    assert!(act.ends_with("\r\n\r\n[1.50]"), "{act}");
    assert!(compensate.starts_with("DELETE /bank/seats/B2 HTTP/1.1\r\n"), "{compensate}");
    assert!(compensate.contains(&format!("\r\nidempotency-key: {branch}:compensate\r\n")));
    assert!(!compensate.contains("content-type") && compensate.ends_with("\r\n\r\n"));
}

#[tokio::test]
async fn every_answer_to_a_step_is_understood_and_no_other_is_taken_for_one() {
    let refused = Answer::No(Reason::new("no_funds", "acc-17 holds 20"));
    for (status, body, expected) in [
        ("200 OK", "", Some(done(""))),
        ("200 OK", r#"{"id":"ch_1","n":1.50}"#, Some(done(r#"{"id":"ch_1","n":1.50}"#))),
        ("200 OK", r#"{"vote":"no"}"#, Some(done(r#"{"vote":"no"}"#))),
        ("200 OK", "booked", Some(done(r#""booked""#))),
        ("409 Conflict", r#"{"kind":"no_funds","detail":"acc-17 holds 20"}"#, Some(refused)),
        (
            "409 Conflict",
            "",
            Some(Answer::No(Reason::new("refused", "status 409 without a reason"))),
        ),
        ("425 Too Early", "", Some(Answer::Working)),
        ("201 Created", "{}", None),
        ("202 Accepted", "", None),
        ("302 Found", "", None),
        ("400 Bad Request", "", None),
        ("404 Not Found", "", None),
        ("500 Internal Server Error", "", None),
        ("503 Service Unavailable", "", None),
    ] {
        let service = Service::start(reply(status, body)).await;
        for verb in [Verb::Act, Verb::Compensate] {
            let heard = adapter(&service).call(step(verb, CHARGE, 1)).await;
            assert_eq!(heard.contact, Contact::Made);
            match (&expected, &heard.answer) {
                (Some(expected), answer) => assert_eq!(answer, expected, "{status} {body}"),
                (None, Answer::Silent(seen)) => {
                    assert!(seen.starts_with("POST /charge: status "), "{seen}");
                }
                (None, answer) => panic!("{status} was taken for {answer:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_repeated_step_asks_its_status_first_and_is_sent_again_only_if_it_is_unknown() {
    for (status, expected, sent_again) in [
        ("200 OK", Some(done("7")), false),
        ("409 Conflict", Some(Answer::No(Reason::new("refused", "7"))), false),
        ("425 Too Early", Some(Answer::Working), false),
        ("404 Not Found", Some(done(r#""again""#)), true),
        ("500 Internal Server Error", None, false),
        ("204 No Content", None, false),
    ] {
        let answers = move |request: &str| match is_status(request) {
            true => replied(status, "7"),
            false => replied("200 OK", "again"),
        };
        let service = Service::start(Manner::Answers(Arc::new(answers))).await;
        let heard = adapter(&service).call(step(Verb::Act, WITH_STATUS, 2)).await;
        match (expected, heard.answer) {
            (Some(expected), answer) => assert_eq!(answer, expected, "{status}"),
            (None, answer) => assert!(matches!(answer, Answer::Silent(_)), "{status}: {answer:?}"),
        }
        let requests = service.requests();
        assert!(is_status(&requests[0]), "{requests:?}");
        assert!(!requests[0].contains("idempotency-key"), "a question has no key");
        assert!(requests[0].contains("\r\nunanimous-branch: una:main:"));
        assert_eq!(requests.len(), 1 + usize::from(sent_again), "{status}");
    }
    let service = Service::start(reply("200 OK", "")).await;
    assert_eq!(adapter(&service).call(step(Verb::Act, WITH_STATUS, 1)).await.answer, done(""));
    assert!(service.requests()[0].starts_with("POST /bank/charge "), "nobody knows of it yet");
}

#[tokio::test]
async fn a_step_that_makes_no_sense_is_refused_and_nothing_is_sent() {
    let service = Service::start(reply("200 OK", "")).await;
    for work in ["", "{}", r#"{"path":"/a/../b"}"#, r#"{"path":"/a","headers":{"host":"x"}}"#] {
        let heard = adapter(&service).call(step(Verb::Act, work, 1)).await;
        let Answer::No(reason) = heard.answer else { panic!("{work:?} was sent") };
        assert_eq!((&*reason.kind, heard.contact), ("request", Contact::Made));
    }
    assert!(service.requests().is_empty());
}

#[tokio::test]
async fn a_step_without_an_answer_is_silent_whatever_it_did() {
    let service = Service::start(Manner::Stalls).await;
    let patience = Duration::from_millis(50);
    for work in [CHARGE, WITH_STATUS] {
        let heard = adapter(&service).call(Call { patience, ..step(Verb::Act, work, 2) }).await;
        assert_eq!(heard.contact, Contact::TimedOut);
        let text = "POST /charge: no answer within 50 ms";
        assert_eq!(heard.answer, Answer::Silent(Arc::from(text)));
    }
}

/// A service that does what it is asked once for each key, and whose first reply breaks off.
async fn charging(cut: usize) -> (Service, Arc<Mutex<HashMap<String, u32>>>) {
    let charges = Arc::<Mutex<HashMap<String, u32>>>::default();
    let kept = Arc::clone(&charges);
    let answers = move |request: &str| {
        let key = request.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
        let mut charges = kept.lock().expect("not poisoned");
        let heard = charges.entry(key.expect("every step has one").to_owned()).or_default();
        *heard += 1;
        let whole = replied("200 OK", r#"{"id":"ch_1"}"#);
        match *heard {
            1 => whole[..cut.min(whole.len())].to_vec(),
            _ => whole,
        }
    };
    (Service::start(Manner::Answers(Arc::new(answers))).await, charges)
}

#[tokio::test]
async fn a_reply_that_breaks_off_anywhere_is_asked_for_again_under_the_same_key() {
    let whole = replied("200 OK", r#"{"id":"ch_1"}"#).len();
    for cut in 0..=whole {
        let (service, charges) = charging(cut).await;
        let adapter = adapter(&service);
        for verb in [Verb::Act, Verb::Compensate] {
            let first = adapter.call(step(verb, CHARGE, 1)).await.answer;
            match matches!(first, Answer::Silent(_)) {
                true => assert!(cut < whole, "a whole reply is an answer"),
                false => assert_eq!((first, cut), (done(r#"{"id":"ch_1"}"#), whole)),
            }
            let again = adapter.call(step(verb, CHARGE, 2)).await.answer;
            assert_eq!(again, done(r#"{"id":"ch_1"}"#), "{cut}");
        }
        assert_eq!(charges.lock().expect("not poisoned").len(), 2, "one for each half of the step");
    }
}
