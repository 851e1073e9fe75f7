//! Prepare, commit and rollback: every answer that a service can give.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use unanimous_core::commit::Shape;
use unanimous_core::{Answer, HeuristicKind, Opaque, Reason, Verb};
use unanimous_participants::guard::{Adapter, Contact, Heard};
use unanimous_participants::http::HttpAdapter;
use unanimous_participants::{Call, Settings};

use crate::service::{Manner, Service, call, reply};

async fn hear(service: &Service, verb: Verb) -> Heard {
    let adapter = HttpAdapter::new(&service.url, &Settings::default()).expect("a good url");
    adapter.call(call(verb)).await
}

async fn answer(status: &str, body: &str, verb: Verb) -> Answer {
    let heard = hear(&Service::start(reply(status, body)).await, verb).await;
    assert_eq!(heard.contact, Contact::Made, "{status} {body}");
    heard.answer
}

fn done() -> Answer {
    Answer::Done(Opaque::default())
}

fn no(kind: &str, detail: &str) -> Answer {
    Answer::No(Reason::new(kind, detail))
}

#[tokio::test]
async fn every_answer_of_the_contract_is_understood() {
    use Verb::{Commit, CommitOnePhase, Prepare, Rollback};
    let yes = Answer::Yes(Opaque::default());
    let because = r#"{"kind":"insufficient_funds","detail":"acc-17 holds 20"}"#;
    let cases = [
        ("200 OK", "", Prepare, yes.clone()),
        ("200 OK", "{}", Prepare, yes.clone()),
        ("200 OK", r#"{"vote":"yes","grown":1}"#, Prepare, yes),
        ("200 OK", r#"{"vote":"read_only"}"#, Prepare, Answer::ReadOnly(Opaque::default())),
        ("200 OK", r#"{"result":{"id":7}}"#, Prepare, Answer::Yes(Opaque::new(br#"[{"id":7}]"#))),
        ("200 OK", "", Commit, done()),
        ("200 OK", "", Rollback, done()),
        ("200 OK", r#"{"heuristic":"rollback"}"#, Commit, heuristic(HeuristicKind::Rollback)),
        ("200 OK", r#"{"heuristic":"commit"}"#, Rollback, heuristic(HeuristicKind::Commit)),
        ("200 OK", r#"{"heuristic":"mixed"}"#, Commit, heuristic(HeuristicKind::Mixed)),
        ("200 OK", r#"{"heuristic":"hazard"}"#, Rollback, heuristic(HeuristicKind::Hazard)),
        ("200 OK", r#"{"result":7}"#, CommitOnePhase, Answer::Done(Opaque::new(b"[7]"))),
        ("200 OK", r#"{"heuristic":"commit"}"#, CommitOnePhase, done()),
        (
            "200 OK",
            r#"{"heuristic":"rollback"}"#,
            CommitOnePhase,
            no("heuristic", "the participant had rolled back by itself"),
        ),
        ("409 Conflict", because, Prepare, no("insufficient_funds", "acc-17 holds 20")),
        ("409 Conflict", because, CommitOnePhase, no("insufficient_funds", "acc-17 holds 20")),
        ("409 Conflict", "sold out\n", Prepare, no("refused", "sold out")),
        ("409 Conflict", "", Prepare, no("refused", "status 409 without a reason")),
        ("409 Conflict", "{}", Prepare, no("refused", "status 409 without a reason")),
        ("409 Conflict", r#"{"kind":"a b","detail":"d"}"#, Prepare, no("refused", "d")),
        ("425 Too Early", "", Prepare, Answer::Working),
        ("425 Too Early", "", Commit, Answer::Working),
    ];
    for (status, body, verb, expected) in cases {
        assert_eq!(answer(status, body, verb).await, expected, "{status} {body} to {verb:?}");
    }
}

#[tokio::test]
async fn to_try_confirm_and_cancel_a_service_is_called_by_these_names() {
    use Verb::{Commit, Prepare, Rollback};
    let service = Service::start(reply("200 OK", "")).await;
    let adapter = HttpAdapter::new(&service.url, &Settings::default()).expect("a good url");
    for verb in [Prepare, Commit, Rollback] {
        let heard = adapter.call(Call { shape: Shape::Tcc, ..call(verb) }).await;
        assert_eq!(heard.contact, Contact::Made);
    }
    let requests = service.requests();
    for (request, word) in requests.iter().zip(["try", "confirm", "cancel"]) {
        assert!(request.starts_with(&format!("POST /bank/{word} HTTP/1.1")), "{request}");
        assert!(request.contains(&format!(":1:{word}\r\n")), "{request}");
        assert_eq!(
            request.contains("unanimous-expires: 1763700030123"),
            word == "try",
            "{request}"
        );
    }
    assert_eq!(requests.len(), 3);
}

fn heuristic(kind: HeuristicKind) -> Answer {
    Answer::Heuristic(kind)
}

#[tokio::test]
async fn a_reply_outside_the_contract_is_never_taken_for_an_answer() {
    use Verb::{Commit, CommitOnePhase, Prepare, Rollback};
    let cases = [
        ("200 OK", "OK", Prepare),
        ("200 OK", "null", Commit),
        ("200 OK", r#"{"vote":"no"}"#, Prepare),
        ("200 OK", r#"{"vote":"perhaps"}"#, Prepare),
        ("200 OK", r#"{"heuristic":"commit"}"#, Prepare),
        ("200 OK", r#"{"vote":"yes"}"#, Commit),
        ("200 OK", r#"{"vote":"yes"}"#, CommitOnePhase),
        ("200 OK", r#"{"heuristic":"hazard"}"#, CommitOnePhase),
        ("201 Created", "", Prepare),
        ("204 No Content", "", Commit),
        ("301 Moved Permanently", "", Prepare),
        ("400 Bad Request", "what?", Rollback),
        ("404 Not Found", "", Commit),
        ("409 Conflict", "{}", Commit),
        ("409 Conflict", "{}", Rollback),
        ("500 Internal Server Error", "oops", Prepare),
        ("503 Service Unavailable", "", Commit),
    ];
    for (status, body, verb) in cases {
        let Answer::Silent(text) = answer(status, body, verb).await else {
            panic!("{status} {body} to {verb:?} was taken for an answer");
        };
        assert!(text.starts_with("POST /bank/"), "{text}");
        assert!(text.contains(&status[..3]), "{text}");
    }
}

#[tokio::test]
async fn a_call_carries_the_headers_and_the_work_of_its_verb() {
    let service = Service::start(reply("200 OK", "")).await;
    for verb in [Verb::Prepare, Verb::Commit, Verb::CommitOnePhase, Verb::Rollback] {
        hear(&service, verb).await;
    }
    let requests = service.requests();
    let branch = call(Verb::Prepare).name;
    for (request, (verb, work)) in requests.iter().zip([
        ("prepare", r#"{"amount":500}"#),
        ("commit", ""),
        ("commit", r#"{"amount":500}"#),
        ("rollback", ""),
    ]) {
        let (head, body) = request.split_once("\r\n\r\n").expect("a whole request");
        assert!(head.starts_with(&format!("POST /bank/{verb} HTTP/1.1")), "{head}");
        assert!(head.contains(&format!("\r\nidempotency-key: {branch}:{verb}")), "{head}");
        assert!(head.contains(&format!("\r\nunanimous-transaction: {}", branch.txn)), "{head}");
        assert!(head.contains(&format!("\r\nunanimous-branch: {branch}")), "{head}");
        assert!(head.contains("\r\nunanimous-attempt: 2"), "{head}");
        assert!(head.contains("\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-"), "{head}");
        assert_eq!(head.contains("content-type: application/json"), !work.is_empty(), "{head}");
        assert_eq!(body, work);
    }
    let one_phase: Vec<_> =
        requests.iter().map(|request| request.contains("unanimous-phases: one")).collect();
    assert_eq!(one_phase, [false, false, true, false]);
}

#[tokio::test]
async fn a_service_that_is_not_there_or_breaks_off_is_silent_and_makes_no_contact() {
    let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{\"vote\":".to_vec();
    for length in 0..whole.len() {
        let service = Service::start(Manner::Hangs(whole[..length].to_vec())).await;
        let heard = hear(&service, Verb::Prepare).await;
        assert!(matches!(heard.answer, Answer::Silent(_)), "{length}: {heard:?}");
        assert_eq!(heard.contact, Contact::Broken, "{length}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", nobody.local_addr().expect("bound"));
    drop(nobody);
    let adapter = HttpAdapter::new(&url, &Settings::default()).expect("a good url");
    let heard = adapter.call(call(Verb::Commit)).await;
    assert_eq!(heard.contact, Contact::Broken);
    let Answer::Silent(text) = heard.answer else { panic!("nobody answered") };
    assert!(text.contains("POST /commit: ") && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn garbage_instead_of_http_is_silent() {
    for garbage in ["SSH-2.0-OpenSSH_9.2\r\n", "\0\0\0\0\r\n\r\n", "HTTP/1.1 2000 ?\r\n\r\n"] {
        let service = Service::start(Manner::Hangs(garbage.as_bytes().to_vec())).await;
        let heard = hear(&service, Verb::Prepare).await;
        assert!(matches!(heard.answer, Answer::Silent(_)), "{garbage:?}: {heard:?}");
    }
}

#[tokio::test]
async fn a_stall_anywhere_in_the_reply_ends_with_the_patience() {
    let started = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{".to_vec();
    for manner in [Manner::Stalls, Manner::Says(started)] {
        let service = Service::start(manner).await;
        let adapter = HttpAdapter::new(&service.url, &Settings::default()).expect("a good url");
        let patience = Duration::from_millis(50);
        let heard = adapter.call(Call { patience, ..call(Verb::Prepare) }).await;
        assert_eq!(heard.contact, Contact::TimedOut);
        let text = "POST /bank/prepare: no answer within 50 ms";
        assert_eq!(heard.answer, Answer::Silent(Arc::from(text)));
    }
}

#[tokio::test]
async fn a_reply_without_bounds_is_not_read_to_its_end() {
    let large = format!(r#"{{"result":"{}"}}"#, "x".repeat(70_000));
    let Answer::Silent(text) = answer("200 OK", &large, Verb::Prepare).await else {
        panic!("taken for an answer");
    };
    assert!(text.contains("more than 65536 bytes"), "{text}");

    let word = format!(r#"{{"vote":"{}"}}"#, "x".repeat(60_000));
    let Answer::Silent(text) = answer("200 OK", &word, Verb::Prepare).await else {
        panic!("taken for an answer");
    };
    assert!(text.len() <= 512, "{} bytes", text.len());
}

#[tokio::test]
async fn calls_one_after_another_share_a_connection() {
    let service = Service::start(reply("200 OK", "")).await;
    let adapter = HttpAdapter::new(&service.url, &Settings::default()).expect("a good url");
    for _ in 0..20 {
        assert_eq!(adapter.call(call(Verb::Commit)).await.answer, done());
    }
    assert_eq!(*service.connections.lock().expect("not poisoned"), 1);
}
