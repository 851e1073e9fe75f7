//! A branch on the application's own connection to PostgreSQL.
//!
//! The driver keeps the tag of an answer to itself, and in a transaction that has failed
//! `PREPARE TRANSACTION` is answered with `ROLLBACK`, without an error. So two things are looked at: before
//! it, whether the session is still in the transaction that was begun here, by a setting that ends with
//! it; after it, whether the server lists the branch as prepared.
//!
//! A prepared branch does not belong to its connection any more. The coordinator finishes it.

use std::ops::Deref;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use unanimous_api::VoteWord;

use super::{Branch, Own, Reason, Seat, Told};
use crate::error::{Error, chain};
use crate::transaction::Txn;

/// A branch on a connection to PostgreSQL, in a transaction that has begun. Its statements are those
/// of the [`Client`] it stands for.
///
/// One that is dropped is rolled back, and its transaction aborted.
#[must_use = "a branch that goes without commit aborts its transaction"]
pub struct PostgresBranch<'c> {
    client: &'c mut Client,
    seat: Seat,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// The session may be in the transaction.
    Open,
    /// The session is outside of it, and the coordinator ends the branch.
    Prepared,
    /// The branch has ended.
    Over,
}

impl Txn {
    /// Adds a branch at `resource`, and begins a transaction on `client`, a connection to the same
    /// database with the same user. The work is bounded by what the transaction's timeout allows:
    /// `lock_timeout`, `statement_timeout` and `idle_in_transaction_session_timeout` are set in it.
    ///
    /// # Errors
    ///
    /// As [`Txn::enlist`]; [`Error::NotPrepared`] if the connection refuses.
    pub async fn enlist_postgres<'c>(
        &self,
        resource: &str,
        client: &'c mut Client,
    ) -> Result<PostgresBranch<'c>, Error> {
        let seat = Seat::take(self, resource).await?;
        // Zero would mean no bound, and more than this is refused.
        let all_ms = self.of.undecided_ms_max().clamp(8, i32::MAX as u64);
        let (lock_ms, statement_ms) = (all_ms / 4 * 3, all_ms / 8 * 7);
        let begin = format!(
            "BEGIN; SET LOCAL unanimous.branch = '{}'; SET LOCAL lock_timeout = {lock_ms}; \
             SET LOCAL statement_timeout = {statement_ms}; \
             SET LOCAL idle_in_transaction_session_timeout = {all_ms}",
            seat.name
        );
        let branch = PostgresBranch { client, seat, state: State::Open };
        match branch.client.batch_execute(&begin).await {
            Ok(()) => Ok(branch),
            Err(error) => Err(branch.seat.unprepared(reason("BEGIN", &error))),
        }
    }
}

impl Deref for PostgresBranch<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}

impl<'c> From<PostgresBranch<'c>> for Branch<'c> {
    fn from(branch: PostgresBranch<'c>) -> Self {
        Self(Box::new(branch))
    }
}

impl PostgresBranch<'_> {
    async fn vote(&mut self) -> Result<VoteWord, Reason> {
        let look = "SELECT current_setting('unanimous.branch', true), \
                    pg_current_xact_id_if_assigned()::text";
        let rows = self.rows(look).await.map_err(|error| reason("its work", &error))?;
        let field = |index| rows.first().and_then(|row| row.get(index));
        if field(0) != Some(&*self.seat.name.to_string()) {
            let detail = "its work has ended the transaction".to_owned();
            return Err(Reason { kind: "statement", detail });
        }
        if field(1).is_none() {
            self.client.batch_execute("COMMIT").await.map_err(|error| reason("COMMIT", &error))?;
            self.state = State::Over;
            return Ok(VoteWord::ReadOnly);
        }
        let prepare = format!("PREPARE TRANSACTION '{}'", self.seat.name);
        let list = format!(
            "SELECT gid FROM pg_prepared_xacts WHERE gid = '{}' AND database = current_database()",
            self.seat.name
        );
        // Both are sent at once, in this order.
        let (prepared, listed) = join(self.client.batch_execute(&prepare), self.rows(&list)).await;
        prepared.map_err(|error| reason("PREPARE TRANSACTION", &error))?;
        let listed = listed.map_err(|error| reason("pg_prepared_xacts", &error))?;
        if listed.is_empty() {
            let detail = "PREPARE TRANSACTION was answered, and nothing is prepared".to_owned();
            return Err(Reason { kind: "statement", detail });
        }
        self.state = State::Prepared;
        Ok(VoteWord::Yes)
    }

    async fn rows(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, tokio_postgres::Error> {
        let messages = self.client.simple_query(sql).await?.into_iter();
        let rows = messages.filter_map(|message| {
            let SimpleQueryMessage::Row(row) = message else { return None };
            Some(row)
        });
        Ok(rows.collect())
    }
}

impl Own for PostgresBranch<'_> {
    fn seat(&self) -> &Seat {
        &self.seat
    }

    fn prepare(&mut self) -> BoxFuture<'_, Result<VoteWord, Reason>> {
        self.vote().boxed()
    }

    fn commits_itself(&self) -> bool {
        false
    }

    fn end(&mut self, _told: Told) -> BoxFuture<'_, bool> {
        async {
            if self.state == State::Open {
                // A connection that does not take it is broken, and so its transaction is over.
                drop(self.client.batch_execute("ROLLBACK").await);
                self.state = State::Over;
            }
            self.state == State::Over
        }
        .boxed()
    }
}

impl Drop for PostgresBranch<'_> {
    fn drop(&mut self) {
        if self.state == State::Open {
            // Sent without waiting: whatever is asked of the connection next comes behind it.
            drop(self.client.batch_execute("ROLLBACK").now_or_never());
        }
    }
}

fn reason(what: &str, error: &tokio_postgres::Error) -> Reason {
    Reason { kind: kind(error), detail: format!("{what}: {}", chain(error)) }
}

/// What an error means for the transaction, in the words that the coordinator uses, too.
pub(crate) fn kind(error: &tokio_postgres::Error) -> &'static str {
    let Some(refused) = error.as_db_error() else { return "connection" };
    let code = refused.code().code();
    match (code, code.get(..2).unwrap_or_default()) {
        ("40001", _) => "serialization",
        ("40P01", _) => "deadlock",
        ("55P03", _) => "lock_timeout",
        ("57014", _) => "statement_timeout",
        ("25006", _) => "read_only_resource",
        // A statement has failed, and whoever sent it went on.
        ("25P02", _) => "statement",
        ("42501", _) => "permission",
        ("55000", _) if refused.message().contains("prepared transactions are disabled") => {
            "two_phase_disabled"
        }
        (_, "23") => "constraint",
        (_, "22") => "data",
        (_, "42") => "statement",
        (_, "53") => "resources",
        (_, "0A") => "unsupported",
        (_, "08" | "57") => "connection",
        _ => "refused",
    }
}
