//! A wallet to take part with, and calls to it as a coordinator makes them.

#![allow(dead_code, reason = "each test file uses what it needs")]

pub(crate) mod coordinator;

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tower::ServiceExt;
use unanimous_client::participant::{
    BoxError, BranchName, No, SqliteParticipant, SqliteStore, Vote, Work,
};
use unanimous_core::id::{BranchId, ShardId, TxnId};

/// One account; a branch takes an amount from it.
pub(crate) struct Wallet;

#[derive(serde::Deserialize)]
struct Debit {
    amount: i64,
}

impl SqliteParticipant for Wallet {
    fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
        Ok(db.execute_batch(
            "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INT, held INT);
             INSERT OR IGNORE INTO account VALUES (1, 1000, 0);",
        )?)
    }

    fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No> {
        let Debit { amount } = work.json()?;
        if amount == 0 {
            // Written in spite of the vote.
            db.execute("UPDATE account SET balance = 0", [])?;
            return Ok(Vote::read_only());
        }
        let hold = "UPDATE account SET held = held + ?1 WHERE balance - held >= ?1";
        match db.execute(hold, params![amount])? {
            1 => Ok(Vote::yes().with_result(json!({"held": amount}))),
            _ => Err(No::refused("insufficient_funds", format!("{amount} is too much"))),
        }
    }

    fn commit(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        let Debit { amount } = work.json()?;
        db.execute("UPDATE account SET balance = balance - ?1, held = held - ?1", params![amount])?;
        Ok(())
    }

    fn rollback(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        let Debit { amount } = work.json()?;
        db.execute("UPDATE account SET held = held - ?1", params![amount])?;
        Ok(())
    }
}

/// Balance and holds.
pub(crate) async fn books(store: &SqliteStore) -> (i64, i64) {
    let read = store.local(|db| {
        Ok(db.query_row("SELECT balance, held FROM account", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?)
    });
    read.await.expect("the books can be read")
}

/// A branch of a transaction of its own for each number.
pub(crate) fn branch(number: u128) -> BranchName {
    let txn = TxnId::mint(1_763_700_000_000, ShardId::of(0), number << 70 | number);
    BranchName { cluster: "test".to_owned(), txn, branch: BranchId(0) }
}

/// One call, and its answer as status and body.
pub(crate) async fn call(
    router: &Router,
    verb: &str,
    branch: &BranchName,
    body: &str,
) -> (u16, Value) {
    let (path, phases) = match verb {
        "one-phase" => ("/commit", Some("one")),
        verb => (
            ["/prepare", "/commit", "/rollback", "/try", "/confirm", "/cancel"]
                .into_iter()
                .find(|it| it.ends_with(verb))
                .expect("a verb"),
            None,
        ),
    };
    let mut request = Request::post(path)
        .header("unanimous-transaction", branch.txn.to_string())
        .header("unanimous-branch", branch.to_string())
        .header("unanimous-attempt", "1");
    if let Some(phases) = phases {
        request = request.header("unanimous-phases", phases);
    }
    send(router, request.body(Body::from(body.to_owned())).expect("a request")).await
}

/// One request, and its answer as status and body.
pub(crate) async fn send(router: &Router, request: Request<Body>) -> (u16, Value) {
    let response = router.clone().oneshot(request).await.expect("a router always answers");
    let status: StatusCode = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    (status.as_u16(), body)
}

/// Waits until `holds`, for ten seconds at most.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < give_up, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
