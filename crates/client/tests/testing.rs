//! The helpers for users' tests pass a participant that is right, and catch those that are not.

mod common;

use std::cell::Cell;

use common::Wallet;
use rusqlite::{Connection, params};
use serde_json::json;
use unanimous_client::participant::{BoxError, No, SqliteParticipant, Vote, Work};
use unanimous_client::testing::{State, fail_every_step, repeat_every_step};

fn check(db: &Connection, state: State) -> Result<(), BoxError> {
    let books: (i64, i64) = db
        .query_row("SELECT balance, held FROM account", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let expected = match state {
        State::Untouched | State::RolledBack => (1000, 0),
        State::Prepared => (1000, 100),
        State::Committed => (900, 0),
    };
    match books == expected {
        true => Ok(()),
        false => Err(format!("{books:?} instead of {expected:?}").into()),
    }
}

#[tokio::test]
async fn a_participant_that_is_right_survives_every_crash_and_every_repeat() {
    let runs = fail_every_step(|| Wallet, json!({"amount": 100}), check).await.expect("survives");
    assert!(runs > 50, "{runs} histories");
    repeat_every_step(|| Wallet, json!({"amount": 100}), check).await.expect("harmless");
}

#[tokio::test]
async fn refusals_and_read_only_votes_survive_as_well() {
    for amount in [5000, 0] {
        let body = json!({"amount": amount});
        fail_every_step(|| Wallet, body.clone(), check).await.expect("survives");
        repeat_every_step(|| Wallet, body, check).await.expect("harmless");
    }
}

/// Forgets to release its hold.
struct Forgetful;

impl SqliteParticipant for Forgetful {
    fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
        Wallet.set_up(db)
    }

    fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No> {
        Wallet.prepare(db, work)
    }

    fn commit(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        Wallet.commit(db, work)
    }

    fn rollback(&self, _: &Connection, _: &Work) -> Result<(), BoxError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_rollback_that_undoes_too_little_is_caught() {
    let found = repeat_every_step(|| Forgetful, json!({"amount": 100}), check).await;
    let found = found.expect_err("caught").to_string();
    assert!(found.contains("Rollback") && found.contains("(1000, 100)"), "{found}");
}

/// Keeps what it held in memory only.
#[derive(Default)]
struct Absentminded {
    held: Cell<i64>,
}

impl SqliteParticipant for Absentminded {
    fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
        Wallet.set_up(db)
    }

    fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No> {
        self.held.set(100);
        Wallet.prepare(db, work)
    }

    fn commit(&self, db: &Connection, _: &Work) -> Result<(), BoxError> {
        let take = "UPDATE account SET balance = balance - ?1, held = held - ?1";
        db.execute(take, params![self.held.get()])?;
        Ok(())
    }

    fn rollback(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        Wallet.rollback(db, work)
    }
}

#[tokio::test]
async fn what_is_kept_in_memory_is_caught_by_a_crash() {
    let body = json!({"amount": 100});
    let found = fail_every_step(Absentminded::default, body, check).await.expect_err("caught");
    assert!(found.history.contains("Commit"), "{found}");
}
