//! A branch on the application's own connection to MariaDB or MySQL.
//!
//! These servers would prepare what the other statements did after one has failed, so a branch takes no
//! more statements then, and is a no. MariaDB ties a prepared branch to its connection, and a reset of
//! that connection makes it acknowledge a commit that it does not carry out. So the branch keeps its
//! connection until it has heard the outcome and finishes itself over it; and a connection whose branch
//! may still be there is closed, never given back to a pool. The named lock tells the coordinator that
//! the connection lives; once it is free, the coordinator finishes the branch.

use std::error::Error as StdError;
use std::fmt;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mysql_async::prelude::{AsQuery, Queryable, StatementLike};
use mysql_async::{BinaryProtocol, Conn, Params, QueryResult, Statement, TextProtocol};
use unanimous_api::VoteWord;

use super::{Branch, Own, Reason, Seat, Told};
use crate::error::Error;
use crate::transaction::Txn;

/// The format number of Unanimous's identifiers: `UNA` in ASCII.
const FORMAT: u32 = 0x55_4E41;

/// Makes the table of proofs. The coordinator makes it, too.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS unanimous_fence (branch VARBINARY(128) \
     NOT NULL PRIMARY KEY, at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP) ENGINE=InnoDB";

/// A branch on a connection to MariaDB or MySQL, in an XA transaction that has begun. It is
/// [`Queryable`], as the connection was; after a statement that failed it takes no more.
///
/// One that is dropped is rolled back, with its connection, and its transaction aborted.
#[must_use = "a branch that goes without commit aborts its transaction"]
pub struct MysqlBranch {
    /// There until it is closed, which ends the branch.
    conn: Option<Conn>,
    seat: Seat,
    state: State,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    Open,
    /// A statement was sent, and nobody waited for its answer.
    Asked,
    /// A statement failed.
    Failed(Reason),
    Prepared,
}

/// The branch takes no more statements.
#[derive(Debug)]
struct Spoilt;

impl fmt::Display for Spoilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a statement of the branch has failed: it takes no more, and cannot commit")
    }
}

impl StdError for Spoilt {}

type Answered<'a, T> = BoxFuture<'a, mysql_async::Result<T>>;

impl Txn {
    /// Adds a branch at `resource`, and begins an XA transaction on `conn`, a connection to the same
    /// database. The connection goes with the branch: back to its pool once the branch has ended on
    /// it, and closed if that is not certain.
    ///
    /// # Errors
    ///
    /// As [`Txn::enlist`]; [`Error::NotPrepared`] if the connection refuses.
    pub async fn enlist_mysql(&self, resource: &str, conn: Conn) -> Result<MysqlBranch, Error> {
        // Whatever fails, the connection is closed with it.
        let conn = Closing::new(conn);
        let seat = Seat::take(self, resource).await?;
        let mut branch = MysqlBranch { conn: conn.keep(), seat, state: State::Open };
        match branch.begin().await {
            Ok(()) => Ok(branch),
            Err(reason) => Err(branch.seat.unprepared(reason)),
        }
    }
}

/// A connection that is closed when this goes.
pub(crate) struct Closing(Option<Conn>);

impl Closing {
    pub(crate) fn new(conn: Conn) -> Self {
        Self(Some(conn))
    }

    pub(crate) fn conn(&mut self) -> &mut Conn {
        self.0.as_mut().expect("it is there until it is kept")
    }

    /// Nothing is open on it.
    pub(crate) fn keep(mut self) -> Option<Conn> {
        self.0.take()
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        close(self.0.take());
    }
}

/// Closes a connection without a word to its pool, and without waiting. One that is dropped without
/// this would be reset by its pool.
fn close(conn: Option<Conn>) {
    if let Some(conn) = conn {
        // What is not sent at once is not needed: from here on, dropping it closes it.
        drop(conn.disconnect().now_or_never());
    }
}

impl From<MysqlBranch> for Branch<'_> {
    fn from(branch: MysqlBranch) -> Self {
        Self(Box::new(branch))
    }
}

impl MysqlBranch {
    async fn begin(&mut self) -> Result<(), Reason> {
        let lock = format!("SELECT GET_LOCK('{}', 0)", self.lock());
        let taken: mysql_async::Result<Option<Option<i64>>> = self.conn().query_first(lock).await;
        if taken.map_err(|error| reason("GET_LOCK", &error))?.flatten() != Some(1) {
            let detail = "another connection works in the branch".to_owned();
            return Err(Reason { kind: "statement", detail });
        }
        self.run("XA START").await?;
        let proof = format!("INSERT INTO unanimous_fence (branch) VALUES ('{}')", self.seat.name);
        match self.conn().query_drop(&*proof).await {
            Ok(()) => return Ok(()),
            Err(error) if code(&error) == Some(1146) => {}
            Err(error) => return Err(reason("unanimous_fence", &error)),
        }
        self.run("XA END").await?;
        self.run("XA ROLLBACK").await?;
        let made = self.conn().query_drop(TABLE).await;
        made.map_err(|error| Reason {
            kind: "fence_missing",
            ..reason("unanimous_fence", &error)
        })?;
        self.run("XA START").await?;
        let written = self.conn().query_drop(proof).await;
        written.map_err(|error| reason("unanimous_fence", &error))
    }

    async fn vote(&mut self) -> Result<VoteWord, Reason> {
        match &self.state {
            State::Open => {}
            State::Asked => {
                let detail = "a statement was given up before its answer came".to_owned();
                return Err(Reason { kind: "statement", detail });
            }
            State::Failed(reason) => return Err(reason.clone()),
            State::Prepared => return Ok(VoteWord::Yes),
        }
        // From here on its state on the server is known only by an answer.
        self.state = State::Asked;
        self.run("XA END").await?;
        self.run("XA PREPARE").await?;
        self.state = State::Prepared;
        Ok(VoteWord::Yes)
    }

    /// Ends the branch on its connection, which is outside of everything afterwards.
    async fn finish(&mut self, told: Told) -> Result<(), Reason> {
        match (told, &self.state) {
            (Told::Commit, State::Prepared) => self.run("XA COMMIT").await?,
            (Told::Rollback, State::Prepared) => self.run("XA ROLLBACK").await?,
            (Told::Rollback, State::Open | State::Failed(_)) => {
                // A deadlock has ended it already.
                drop(self.run("XA END").await);
                self.run("XA ROLLBACK").await?;
            }
            (Told::Commit, State::Open | State::Asked | State::Failed(_))
            | (Told::Rollback, State::Asked)
            | (Told::Nothing, _) => {
                let detail = "not known to have ended".to_owned();
                return Err(Reason { kind: "connection", detail });
            }
        }
        let free = format!("DO RELEASE_LOCK('{}')", self.lock());
        self.conn().query_drop(free).await.map_err(|error| reason("RELEASE_LOCK", &error))
    }

    /// One of the words of XA about this branch.
    async fn run(&mut self, words: &str) -> Result<(), Reason> {
        let name = &self.seat.name;
        let (cluster, txn, qualifier) = (&name.cluster, name.txn, name.branch.0);
        let sql = format!("{words} 'una:{cluster}:{txn}','{qualifier}',{FORMAT}");
        self.conn().query_drop(sql).await.map_err(|error| reason(words, &error))
    }

    /// The coordinator looks for it under the same name. MySQL takes no more than 64 characters.
    fn lock(&self) -> String {
        format!("una:{}:{}", self.seat.name.txn, self.seat.name.branch.0)
    }

    fn conn(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("it is there until the branch has ended")
    }

    /// The connection, if the branch still takes statements, and where to note what comes of one.
    fn ask(&mut self) -> mysql_async::Result<(&mut Conn, &mut State)> {
        let conn = self.conn.as_mut().expect("it is there until the branch has ended");
        match self.state {
            State::Open => {
                self.state = State::Asked;
                Ok((conn, &mut self.state))
            }
            State::Asked | State::Failed(_) | State::Prepared => {
                Err(mysql_async::Error::Other(Box::new(Spoilt)))
            }
        }
    }
}

/// Remembers whether a statement failed.
fn noted<T>(state: &mut State, result: mysql_async::Result<T>) -> mysql_async::Result<T> {
    *state = match &result {
        Ok(_) => State::Open,
        Err(error) => State::Failed(reason("its work", error)),
    };
    result
}

impl Queryable for MysqlBranch {
    fn ping(&mut self) -> Answered<'_, ()> {
        async {
            let (conn, state) = self.ask()?;
            noted(state, conn.ping().await)
        }
        .boxed()
    }

    fn query_iter<'a, Q>(
        &'a mut self,
        query: Q,
    ) -> Answered<'a, QueryResult<'a, 'static, TextProtocol>>
    where
        Q: AsQuery + 'a,
    {
        async {
            let (conn, state) = self.ask()?;
            noted(state, conn.query_iter(query).await)
        }
        .boxed()
    }

    fn prep<'a, Q>(&'a mut self, query: Q) -> Answered<'a, Statement>
    where
        Q: AsQuery + 'a,
    {
        async {
            let (conn, state) = self.ask()?;
            noted(state, conn.prep(query).await)
        }
        .boxed()
    }

    fn close(&mut self, stmt: Statement) -> Answered<'_, ()> {
        async {
            let (conn, state) = self.ask()?;
            noted(state, conn.close(stmt).await)
        }
        .boxed()
    }

    fn exec_iter<'a: 's, 's, Q, P>(
        &'a mut self,
        stmt: Q,
        params: P,
    ) -> Answered<'s, QueryResult<'a, 'static, BinaryProtocol>>
    where
        Q: StatementLike + 's,
        P: Into<Params>,
    {
        let params = params.into();
        async move {
            let (conn, state) = self.ask()?;
            noted(state, conn.exec_iter(stmt, params).await)
        }
        .boxed()
    }

    fn exec_batch<'a: 'b, 'b, S, P, I>(&'a mut self, stmt: S, params_iter: I) -> Answered<'b, ()>
    where
        S: StatementLike + 'b,
        I: IntoIterator<Item = P> + Send + 'b,
        I::IntoIter: Send,
        P: Into<Params> + Send,
    {
        async {
            let (conn, state) = self.ask()?;
            noted(state, conn.exec_batch(stmt, params_iter).await)
        }
        .boxed()
    }
}

impl Own for MysqlBranch {
    fn seat(&self) -> &Seat {
        &self.seat
    }

    fn commits_itself(&self) -> bool {
        true
    }

    fn prepare(&mut self) -> BoxFuture<'_, Result<VoteWord, Reason>> {
        self.vote().boxed()
    }

    fn end(&mut self, told: Told) -> BoxFuture<'_, bool> {
        async move {
            let has_ended = self.finish(told).await.is_ok();
            match has_ended {
                // Back to its pool.
                true => drop(self.conn.take()),
                false => close(self.conn.take()),
            }
            has_ended
        }
        .boxed()
    }
}

impl Drop for MysqlBranch {
    fn drop(&mut self) {
        close(self.conn.take());
    }
}

pub(crate) fn code(error: &mysql_async::Error) -> Option<u16> {
    let mysql_async::Error::Server(refused) = error else { return None };
    Some(refused.code)
}

fn reason(what: &str, error: &mysql_async::Error) -> Reason {
    Reason { kind: kind(error), detail: format!("{what}: {error}") }
}

/// What an error means for the transaction, in the words that the coordinator uses, too.
pub(crate) fn kind(error: &mysql_async::Error) -> &'static str {
    let mysql_async::Error::Server(refused) = error else { return "connection" };
    match (refused.code, refused.state.get(..2).unwrap_or_default()) {
        (1213 | 1614, _) => "deadlock",
        (1205, _) => "lock_timeout",
        (1402, _) => "serialization",
        (1969 | 3024 | 1317 | 1613, _) => "statement_timeout",
        (1290 | 1792 | 1836 | 3989, _) => "read_only_resource",
        (1044 | 1045 | 1142 | 1143 | 1227 | 1370, _) => "permission",
        (1021 | 1030 | 1037 | 1038 | 1041 | 1114 | 1180, _) => "resources",
        (1399, _) => "unsupported",
        (1048 | 1062 | 1169 | 1216 | 1217 | 1451 | 1452 | 1557 | 1586 | 1761 | 1762, _)
        | (3819 | 4025, _)
        | (_, "23") => "constraint",
        (1264 | 1265 | 1292 | 1365 | 1366 | 1406 | 1411 | 1690, _) | (_, "22") => "data",
        (1054 | 1064 | 1136 | 1146 | 1305, _) | (_, "42") => "statement",
        _ => "refused",
    }
}
