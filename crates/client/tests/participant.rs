//! The callbacks of a participant in SQLite: answers, repeats, wrong orders, bad input, crashes.

mod common;

use axum::Router;
use axum::body::Body;
use common::{Wallet, books, branch, call, send};
use http::Request;
use serde_json::{Value, json};
use tempfile::TempDir;
use unanimous_client::Client;
use unanimous_client::participant::{Service, SqliteStore};

const DEBIT: &str = r#"{"amount":100}"#;

struct Bank {
    folder: TempDir,
    store: SqliteStore,
    router: Router,
}

impl Bank {
    fn open() -> Self {
        Self::in_folder(TempDir::new().expect("a folder"))
    }

    fn in_folder(folder: TempDir) -> Self {
        let store = SqliteStore::open(folder.path().join("wallet.db"), Wallet).expect("opens");
        let coordinator = Client::connect("http://127.0.0.1:9").expect("an address");
        let router = Service::new(store.clone(), coordinator).router();
        Self { folder, store, router }
    }

    fn reopened(self) -> Self {
        let Self { folder, store, router } = self;
        drop((store, router));
        Self::in_folder(folder)
    }

    async fn call(&self, number: u128, verb: &str, body: &str) -> (u16, Value) {
        call(&self.router, verb, &branch(number), body).await
    }
}

#[tokio::test]
async fn prepare_holds_and_commit_takes() {
    let bank = Bank::open();
    let yes = (200, json!({"result": {"held": 100}}));
    assert_eq!(bank.call(1, "prepare", DEBIT).await, yes);
    assert_eq!(books(&bank.store).await, (1000, 100));
    assert_eq!(bank.call(1, "commit", "").await, (200, json!({})));
    assert_eq!(books(&bank.store).await, (900, 0));
}

#[tokio::test]
async fn try_confirm_and_cancel_are_the_same_under_other_names() {
    let bank = Bank::open();
    let tried = (200, json!({"result": {"held": 100}}));
    assert_eq!(bank.call(1, "try", DEBIT).await, tried);
    assert_eq!(bank.call(2, "try", DEBIT).await, tried);
    assert_eq!(books(&bank.store).await, (1000, 200));
    assert_eq!(bank.call(1, "confirm", "").await, (200, json!({})));
    assert_eq!(bank.call(2, "cancel", "").await, (200, json!({})));
    assert_eq!(books(&bank.store).await, (900, 0));
    // A cancel without a try is carried out, and bars the try that comes late.
    assert_eq!(bank.call(3, "cancel", "").await, (200, json!({})));
    assert_eq!(bank.call(3, "try", DEBIT).await.0, 409);
    assert_eq!(books(&bank.store).await, (900, 0));
}

#[tokio::test]
async fn every_repeat_is_answered_as_before_and_does_nothing_also_after_a_restart() {
    let mut bank = Bank::open();
    let calls = [
        (1, "prepare", DEBIT),
        (1, "commit", ""),
        (2, "prepare", DEBIT),
        (2, "rollback", ""),
        (3, "prepare", r#"{"amount":5000}"#),
        (4, "rollback", ""),
        (5, "one-phase", DEBIT),
        (6, "one-phase", r#"{"amount":5000}"#),
        (7, "prepare", r#"{"amount":0}"#),
    ];
    for (number, verb, body) in calls {
        let first = bank.call(number, verb, body).await;
        let after = books(&bank.store).await;
        assert_eq!(bank.call(number, verb, body).await, first, "{verb} of {number}, repeated");
        bank = bank.reopened();
        assert_eq!(bank.call(number, verb, body).await, first, "{verb} of {number}, restarted");
        assert_eq!(books(&bank.store).await, after, "{verb} of {number}");
    }
    assert_eq!(books(&bank.store).await, (800, 0));
}

#[tokio::test]
async fn a_no_tells_why_and_leaves_nothing() {
    let bank = Bank::open();
    let (status, body) = bank.call(1, "prepare", r#"{"amount":5000}"#).await;
    assert_eq!(status, 409);
    assert_eq!(body, json!({"kind": "insufficient_funds", "detail": "5000 is too much"}));
    let (status, body) = bank.call(2, "prepare", r#"{"amount":"all"}"#).await;
    assert_eq!((status, &body["kind"]), (409, &json!("bad_body")));
    assert_eq!(books(&bank.store).await, (1000, 0));
}

#[tokio::test]
async fn a_rollback_that_overtakes_its_prepare_bars_it() {
    let bank = Bank::open();
    assert_eq!(bank.call(1, "rollback", "").await, (200, json!({})));
    let (status, body) = bank.call(1, "prepare", DEBIT).await;
    assert_eq!((status, &body["kind"]), (409, &json!("rolled_back")));
    assert_eq!(books(&bank.store).await, (1000, 0));
}

#[tokio::test]
async fn a_commit_of_work_that_is_gone_is_reported() {
    let bank = Bank::open();
    let reported = (200, json!({"heuristic": "rollback"}));
    assert_eq!(bank.call(1, "commit", "").await, reported);
    assert_eq!(bank.reopened().call(1, "commit", "").await, reported);
}

#[tokio::test]
async fn a_read_only_vote_takes_back_what_was_written_in_spite_of_it() {
    let bank = Bank::open();
    let vote = bank.call(1, "prepare", r#"{"amount":0}"#).await;
    assert_eq!(vote, (200, json!({"vote": "read_only"})));
    assert_eq!(books(&bank.store).await, (1000, 0));
}

#[tokio::test]
async fn one_phase_does_all_or_nothing() {
    let bank = Bank::open();
    let done = (200, json!({"result": {"held": 100}}));
    assert_eq!(bank.call(1, "one-phase", DEBIT).await, done);
    assert_eq!(books(&bank.store).await, (900, 0));
    assert_eq!(bank.call(2, "one-phase", r#"{"amount":5000}"#).await.0, 409);
    assert_eq!(books(&bank.store).await, (900, 0));
}

#[tokio::test]
async fn of_identical_concurrent_calls_one_is_carried_out() {
    let bank = Bank::open();
    for (verb, body) in [("prepare", DEBIT), ("commit", "")] {
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let router = bank.router.clone();
                tokio::spawn(async move { call(&router, verb, &branch(1), body).await })
            })
            .collect();
        for answer in calls {
            assert_eq!(answer.await.expect("no panic").0, 200);
        }
    }
    assert_eq!(books(&bank.store).await, (900, 0));
}

#[tokio::test]
async fn what_is_no_call_is_refused_and_changes_nothing() {
    let bank = Bank::open();
    let name = branch(1);
    let request = |txn: &str, branch: &str, phases: Option<&str>| {
        let mut request = Request::post("/commit")
            .header("unanimous-transaction", txn)
            .header("unanimous-branch", branch);
        if let Some(phases) = phases {
            request = request.header("unanimous-phases", phases);
        }
        request.body(Body::from(DEBIT)).expect("a request")
    };
    let (txn, text) = (name.txn.to_string(), name.to_string());
    for (wrong, field) in [
        (request(&txn, "una:test:1:0", None), "unanimous-branch"),
        (request(&branch(2).txn.to_string(), &text, None), "unanimous-transaction"),
        (request("", &text, None), "unanimous-transaction"),
        (request(&txn, &text, Some("three")), "unanimous-phases"),
        (Request::post("/commit").body(Body::empty()).expect("a request"), "unanimous-branch"),
    ] {
        let (status, body) = send(&bank.router, wrong).await;
        assert_eq!(status, 400, "{field}: {body}");
        assert!(body["detail"].as_str().is_some_and(|it| it.contains(field)), "{field}: {body}");
    }
    assert_eq!(bank.call(1, "prepare", DEBIT).await.0, 200, "nothing was barred");
}
