//! The helpers for users' steps pass a saga that is right, and catch those that are not.

use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;
use unanimous_client::participant::{BoxError, No, SqliteStore, StepCall, Steps};
use unanimous_client::testing::Violation;
use unanimous_client::testing::steps::{Progress, Rehearsed, fail_every_step, repeat_every_step};

type Books = (i64, i64, i64);

fn open(folder: &TempDir) -> Result<SqliteStore, BoxError> {
    static COUNT: AtomicI64 = AtomicI64::new(0);
    let path = folder.path().join(format!("{}.db", COUNT.fetch_add(1, Ordering::Relaxed)));
    let store = SqliteStore::of_steps(path, |db| {
        db.execute_batch("CREATE TABLE books AS SELECT 0 AS seats, 100 AS balance, 0 AS tickets")
    })?;
    Ok(store)
}

fn run(db: &Connection, sql: &str) -> Result<(), No> {
    Ok(db.execute(sql, []).map(drop)?)
}

fn charge(db: &Connection, call: &StepCall) -> Result<i64, No> {
    let amount: i64 = call.json()?;
    let take = "UPDATE books SET balance = balance - ?1 WHERE balance >= ?1";
    match db.execute(take, [amount])? {
        1 => Ok(amount),
        _ => Err(No::refused("no_funds", format!("{amount} is too much"))),
    }
}

fn refund(db: &Connection, call: &StepCall) -> Result<(), No> {
    let amount: i64 = call.result()?;
    db.execute("UPDATE books SET balance = balance + ?1", [amount])?;
    Ok(())
}

/// A trip that is booked as it should be.
fn trip(folder: &TempDir) -> Result<Steps<SqliteStore>, BoxError> {
    Ok(Steps::new(open(folder)?)
        .act("/reserve", |db, _| run(db, "UPDATE books SET seats = seats + 1"))
        .compensate("/release", |db, _| run(db, "UPDATE books SET seats = seats - 1"))
        .act("/charge", charge)
        .compensate("/refund", refund)
        .act("/ticket", |db, _| run(db, "UPDATE books SET tickets = tickets + 1")))
}

fn saga(amount: i64) -> [Rehearsed; 3] {
    [
        Rehearsed::step("/reserve", json!(null)).undone_by("/release"),
        Rehearsed::step("/charge", json!(amount)).undone_by("/refund"),
        Rehearsed::step("/ticket", json!(null)),
    ]
}

async fn check(store: &SqliteStore, progress: Progress) -> Result<(), BoxError> {
    let read = "SELECT seats, balance, tickets FROM books";
    let books: Books = store.local(|db| Ok(db.query_row(read, [], |row| row.try_into())?)).await?;
    let is_right = match progress {
        Progress::Completed => books == (1, 70, 1),
        Progress::Compensated => books == (0, 100, 0),
        Progress::Underway => matches!(books, (0 | 1, 70 | 100, 0 | 1)),
    };
    match is_right {
        true => Ok(()),
        false => Err(format!("seats, balance and tickets are {books:?}").into()),
    }
}

/// What is found to be wrong with steps, by either helper.
async fn caught(steps: impl AsyncFn() -> Result<Steps<SqliteStore>, BoxError>) -> Violation {
    match fail_every_step(&saga(30), &steps, check).await {
        Err(violation) => violation,
        Ok(_) => repeat_every_step(&saga(30), &steps, check).await.expect_err("it is wrong"),
    }
}

#[tokio::test]
async fn a_saga_that_is_right_survives_every_failure_and_every_repeat() {
    let folder = TempDir::new().expect("a folder");
    let steps = async || trip(&folder);
    let runs = fail_every_step(&saga(30), steps, check).await.expect("survives");
    assert!(runs > 100, "{runs} histories");
    repeat_every_step(&saga(30), steps, check).await.expect("harmless");
}

#[tokio::test]
async fn a_step_that_refuses_is_survived_as_well() {
    let folder = TempDir::new().expect("a folder");
    let steps = async || trip(&folder);
    fail_every_step(&saga(500), steps, check).await.expect("survives");
    repeat_every_step(&saga(500), steps, check).await.expect("harmless");
}

#[tokio::test]
async fn a_compensation_that_undoes_too_little_is_caught() {
    let folder = TempDir::new().expect("a folder");
    let found = caught(async || {
        Ok(Steps::new(open(&folder)?)
            .act("/reserve", |db, _| run(db, "UPDATE books SET seats = seats + 1"))
            .compensate("/release", |_, _| Ok(()))
            .act("/charge", charge)
            .compensate("/refund", refund)
            .act("/ticket", |db, _| run(db, "UPDATE books SET tickets = tickets + 1")))
    });
    let found = found.await.to_string();
    assert!(found.contains("gives up") && found.contains("(1, 100, 0)"), "{found}");
}

#[tokio::test]
async fn a_step_that_works_elsewhere_is_caught_when_it_is_taken_back() {
    let folder = TempDir::new().expect("a folder");
    let found = caught(async || {
        let store = open(&folder)?;
        let elsewhere = std::sync::Arc::new(std::sync::Mutex::new(0));
        Ok(Steps::new(store)
            .act("/reserve", move |db, _| {
                let mut seats = elsewhere.lock().expect("no panic");
                *seats += 1;
                db.execute("UPDATE books SET seats = ?1", [*seats])?;
                Ok(())
            })
            .compensate("/release", |db, _| run(db, "UPDATE books SET seats = seats - 1"))
            .act("/charge", charge)
            .compensate("/refund", refund)
            .act("/ticket", |db, _| run(db, "UPDATE books SET tickets = tickets + 1")))
    });
    let found = found.await.to_string();
    assert!(found.contains("TakenBack") && found.contains("(2, "), "{found}");
}

#[tokio::test]
async fn a_path_that_nobody_serves_is_caught() {
    let folder = TempDir::new().expect("a folder");
    let found = caught(async || Ok(Steps::new(open(&folder)?).act("/charge", charge))).await;
    assert!(found.to_string().contains("no path of the service"), "{found}");
}
