//! A branch on the application's own connection to MariaDB or MySQL, of whichever driver.
//!
//! These servers would prepare what the other statements did after one has failed, so a branch takes no
//! more statements then, and is a no. MariaDB ties a prepared branch to its connection, and a reset of
//! that connection makes it acknowledge a commit that it does not carry out. So the branch keeps its
//! connection until it has heard the outcome and finishes itself over it; and a connection whose branch
//! may still be there is closed, never given back to a pool. The named lock tells the coordinator that
//! the connection lives; once it is free, the coordinator finishes the branch.

#[cfg(feature = "mysql_async")]
pub(crate) mod conn;
#[cfg(feature = "sqlx-mysql")]
pub(crate) mod sqlx;

use std::error::Error as StdError;
use std::fmt;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use unanimous_api::VoteWord;

use super::{Fault, Own, Reason, Seat, Told};
use crate::error::Error;
use crate::transaction::Txn;

/// The format number of Unanimous's identifiers: `UNA` in ASCII.
const FORMAT: u32 = 0x55_4E41;

/// Makes the table of proofs. The coordinator makes it, too.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS unanimous_fence (branch VARBINARY(128) \
     NOT NULL PRIMARY KEY, at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP) ENGINE=InnoDB";

/// A table that is not there.
const NO_TABLE: &str = "1146";

/// What a branch needs of a connection, whatever the driver. One that is dropped goes back to its pool.
pub(crate) trait Session: Send {
    fn run(&mut self, sql: &str) -> impl Future<Output = Result<(), Fault>> + Send;

    /// The first value of the first row.
    fn number(&mut self, sql: &str) -> impl Future<Output = Result<Option<i64>, Fault>> + Send;

    /// Closes it without a word to its pool, and without waiting.
    fn close(self);
}

/// A connection that is closed when this goes.
pub(crate) struct Closing<S: Session>(Option<S>);

impl<S: Session> Closing<S> {
    pub(crate) fn new(session: S) -> Self {
        Self(Some(session))
    }

    pub(crate) fn conn(&mut self) -> &mut S {
        self.0.as_mut().expect("it is there until it is kept")
    }

    /// Nothing is open on it.
    pub(crate) fn keep(&mut self) -> Option<S> {
        self.0.take()
    }

    fn close(&mut self) {
        if let Some(session) = self.0.take() {
            session.close();
        }
    }
}

impl<S: Session> Drop for Closing<S> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection in an XA transaction that has begun, and whose branch that is.
struct Held<S: Session> {
    /// There until it is closed or back in its pool, which is when the branch has ended.
    session: Closing<S>,
    seat: Seat,
    state: State,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    Open,
    /// A statement was sent, and nobody waited for its answer.
    Asked,
    /// A statement failed.
    Failed(Fault),
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

impl<S: Session> Held<S> {
    async fn enlist(txn: &Txn, resource: &str, session: S) -> Result<Self, Error> {
        // Whatever fails, the connection is closed with it.
        let session = Closing::new(session);
        let seat = Seat::take(txn, resource).await?;
        let mut held = Self { session, seat, state: State::Open };
        match held.begin().await {
            Ok(()) => Ok(held),
            Err(reason) => Err(held.seat.unprepared(reason)),
        }
    }

    async fn begin(&mut self) -> Result<(), Reason> {
        let lock = format!("SELECT GET_LOCK('{}', 0)", self.lock());
        let taken = self.session.conn().number(&lock).await;
        if taken.map_err(|fault| fault.during("GET_LOCK"))? != Some(1) {
            let detail = "another connection works in the branch".to_owned();
            return Err(Reason { kind: "statement", detail });
        }
        self.run("XA START").await?;
        let proof = format!("INSERT INTO unanimous_fence (branch) VALUES ('{}')", self.seat.name);
        match self.session.conn().run(&proof).await {
            Ok(()) => return Ok(()),
            Err(fault) if fault.code.as_deref() == Some(NO_TABLE) => {}
            Err(fault) => return Err(fault.during("unanimous_fence")),
        }
        self.run("XA END").await?;
        self.run("XA ROLLBACK").await?;
        let made = self.session.conn().run(TABLE).await;
        made.map_err(|fault| Reason { kind: "fence_missing", ..fault.during("unanimous_fence") })?;
        self.run("XA START").await?;
        let written = self.session.conn().run(&proof).await;
        written.map_err(|fault| fault.during("unanimous_fence"))
    }

    async fn vote(&mut self) -> Result<VoteWord, Reason> {
        match &self.state {
            State::Open => {}
            State::Asked => {
                let detail = "a statement was given up before its answer came".to_owned();
                return Err(Reason { kind: "statement", detail });
            }
            State::Failed(fault) => return Err(fault.clone().during("its work")),
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
            (Told::Rollback, State::Open) => self.take_back().await?,
            // What failed in the driver or on the way leaves a connection that may not answer any more.
            (Told::Rollback, State::Failed(fault)) if fault.code.is_some() => {
                self.take_back().await?;
            }
            (Told::Commit, State::Open | State::Asked | State::Failed(_))
            | (Told::Rollback, State::Asked | State::Failed(_))
            | (Told::Nothing, _) => {
                let detail = "not known to have ended".to_owned();
                return Err(Reason { kind: "connection", detail });
            }
        }
        let free = format!("DO RELEASE_LOCK('{}')", self.lock());
        let freed = self.session.conn().run(&free).await;
        freed.map_err(|fault| fault.during("RELEASE_LOCK"))
    }

    async fn take_back(&mut self) -> Result<(), Reason> {
        // A deadlock has ended it already.
        drop(self.run("XA END").await);
        self.run("XA ROLLBACK").await
    }

    /// One of the words of XA about this branch.
    async fn run(&mut self, words: &str) -> Result<(), Reason> {
        let name = &self.seat.name;
        let (cluster, txn, qualifier) = (&name.cluster, name.txn, name.branch.0);
        let sql = format!("{words} 'una:{cluster}:{txn}','{qualifier}',{FORMAT}");
        self.session.conn().run(&sql).await.map_err(|fault| fault.during(words))
    }

    /// The coordinator looks for it under the same name. MySQL takes no more than 64 characters.
    fn lock(&self) -> String {
        format!("una:{}:{}", self.seat.name.txn, self.seat.name.branch.0)
    }

    /// The connection, if the branch still takes statements, and where to note what comes of one.
    fn ask(&mut self) -> Result<(&mut S, &mut State), Spoilt> {
        match self.state {
            State::Open => {
                self.state = State::Asked;
                Ok((self.session.conn(), &mut self.state))
            }
            State::Asked | State::Failed(_) | State::Prepared => Err(Spoilt),
        }
    }
}

impl State {
    /// Remembers whether the statement that was asked failed.
    fn note<T, E>(&mut self, answer: Result<T, E>) -> Result<T, E>
    where
        for<'e> &'e E: Into<Fault>,
    {
        *self = match &answer {
            Ok(_) => Self::Open,
            Err(error) => Self::Failed(error.into()),
        };
        answer
    }
}

impl<S: Session> Own for Held<S> {
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
                true => drop(self.session.keep()),
                false => self.session.close(),
            }
            has_ended
        }
        .boxed()
    }
}

/// What a server refused, with the number of its error and its state of five characters.
pub(super) fn refusal(number: u16, state: &str, text: String) -> Fault {
    Fault { code: Some(number.to_string()), kind: kind(number, state), text }
}

/// What an error means for the transaction, in the words that the coordinator uses, too.
fn kind(number: u16, state: &str) -> &'static str {
    match (number, state.get(..2).unwrap_or_default()) {
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
