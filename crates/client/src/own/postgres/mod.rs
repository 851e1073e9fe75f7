//! A branch on the application's own connection to PostgreSQL, of whichever driver.
//!
//! Drivers keep the tag of an answer to themselves, and in a transaction that has failed
//! `PREPARE TRANSACTION` is answered with `ROLLBACK`, without an error. So two things are looked at: before
//! it, whether the session is still in the transaction that was begun here, by a setting that ends with
//! it; after it, whether the server lists the branch as prepared.
//!
//! A prepared branch does not belong to its connection any more. The coordinator finishes it.

#[cfg(feature = "tokio-postgres")]
pub(crate) mod client;
#[cfg(feature = "sqlx-postgres")]
pub(crate) mod sqlx;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use unanimous_api::VoteWord;

use super::{Fault, Own, Reason, Seat, Told};
use crate::error::Error;
use crate::transaction::Txn;

/// The values of rows, as text.
type Rows = Vec<Vec<Option<String>>>;

/// What a branch needs of a connection, whatever the driver.
trait Session: Send {
    /// Sends `begin`, which begins a transaction and sets things in it.
    fn begin(&mut self, begin: &str) -> impl Future<Output = Result<(), Fault>> + Send;

    /// The rows of one statement, in the transaction.
    fn rows(&mut self, sql: &str) -> impl Future<Output = Result<Rows, Fault>> + Send;

    /// Sends `prepare` and, outside of the transaction, `list`, whose rows these are. The session is
    /// outside of any transaction afterwards.
    fn prepare(
        &mut self,
        prepare: &str,
        list: &str,
    ) -> impl Future<Output = Result<Rows, Fault>> + Send;

    fn commit(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// A connection that does not take it is broken, and so its transaction is over.
    fn rollback(&mut self) -> impl Future<Output = ()> + Send;

    /// Sends it without waiting: whatever is asked of the connection next comes behind it.
    fn start_rollback(&mut self);
}

/// A connection in a transaction that has begun, and whose branch that is.
struct Held<S: Session> {
    session: S,
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

impl<S: Session> Held<S> {
    async fn enlist(txn: &Txn, resource: &str, session: S) -> Result<Self, Error> {
        let seat = Seat::take(txn, resource).await?;
        // Zero would mean no bound, and more than this is refused.
        let all_ms = txn.of.undecided_ms_max().clamp(8, i32::MAX as u64);
        let (lock_ms, statement_ms) = (all_ms / 4 * 3, all_ms / 8 * 7);
        let begin = format!(
            "BEGIN; SET LOCAL unanimous.branch = '{}'; SET LOCAL lock_timeout = {lock_ms}; \
             SET LOCAL statement_timeout = {statement_ms}; \
             SET LOCAL idle_in_transaction_session_timeout = {all_ms}",
            seat.name
        );
        let mut held = Self { session, seat, state: State::Open };
        match held.session.begin(&begin).await {
            Ok(()) => Ok(held),
            Err(fault) => Err(held.seat.unprepared(fault.during("BEGIN"))),
        }
    }

    async fn vote(&mut self) -> Result<VoteWord, Reason> {
        let look = "SELECT current_setting('unanimous.branch', true), \
                    pg_current_xact_id_if_assigned()::text";
        let looked = self.session.rows(look).await;
        let rows = looked.map_err(|fault| fault.during("its work"))?;
        let field = |index: usize| rows.first().and_then(|row| row.get(index)?.as_deref());
        let name = self.seat.name.to_string();
        if field(0) != Some(&*name) {
            let detail = "its work has ended the transaction".to_owned();
            return Err(Reason { kind: "statement", detail });
        }
        if field(1).is_none() {
            self.session.commit().await.map_err(|fault| fault.during("COMMIT"))?;
            self.state = State::Over;
            return Ok(VoteWord::ReadOnly);
        }
        let prepare = format!("PREPARE TRANSACTION '{name}'");
        let list = format!(
            "SELECT gid FROM pg_prepared_xacts WHERE gid = '{name}' AND database = current_database()"
        );
        let listed = self.session.prepare(&prepare, &list).await;
        if listed.map_err(|fault| fault.during("PREPARE TRANSACTION"))?.is_empty() {
            let detail = "PREPARE TRANSACTION was answered, and nothing is prepared".to_owned();
            return Err(Reason { kind: "statement", detail });
        }
        self.state = State::Prepared;
        Ok(VoteWord::Yes)
    }
}

impl<S: Session> Own for Held<S> {
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
                self.session.rollback().await;
                self.state = State::Over;
            }
            self.state == State::Over
        }
        .boxed()
    }
}

impl<S: Session> Drop for Held<S> {
    fn drop(&mut self) {
        if self.state == State::Open {
            self.session.start_rollback();
        }
    }
}

/// What a server refused, with its code of five characters.
pub(super) fn refusal(code: &str, message: &str, text: String) -> Fault {
    Fault { code: Some(code.to_owned()), kind: kind(code, message), text }
}

/// What an error means for the transaction, in the words that the coordinator uses, too.
fn kind(code: &str, message: &str) -> &'static str {
    match (code, code.get(..2).unwrap_or_default()) {
        ("40001", _) => "serialization",
        ("40P01", _) => "deadlock",
        ("55P03", _) => "lock_timeout",
        ("57014", _) => "statement_timeout",
        ("25006", _) => "read_only_resource",
        // A statement has failed, and whoever sent it went on.
        ("25P02", _) => "statement",
        ("42501", _) => "permission",
        ("55000", _) if message.contains("prepared transactions are disabled") => {
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
