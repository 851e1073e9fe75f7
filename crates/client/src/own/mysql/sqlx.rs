//! Branches on connections of `sqlx`.
//!
//! The driver loses its place among the answers when a statement is given up before its answer has come,
//! or a stream of rows at certain moments. Such a branch is a no, and its connection is closed.

use std::fmt;
use std::future::ready;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, Stream, StreamExt};
use sqlx_core::Either;
use sqlx_core::connection::Connection;
use sqlx_core::describe::Describe;
use sqlx_core::error::Error as SqlxError;
use sqlx_core::executor::{Execute, Executor};
use sqlx_core::pool::PoolConnection;
use sqlx_core::row::Row;
use sqlx_core::sql_str::{AssertSqlSafe, SqlStr};
use sqlx_mysql::{
    MySql, MySqlConnection, MySqlQueryResult, MySqlRow, MySqlStatement, MySqlTypeInfo,
};

use super::{Held, Session, Spoilt, State};
use crate::error::Error;
use crate::own::{Branch, Fault};
use crate::transaction::Txn;

/// A branch on a connection of `sqlx` to MariaDB or MySQL, in an XA transaction that has begun.
/// `&mut branch` is an [`Executor`], as `&mut *conn` was; it is not the connection, for after a statement
/// that failed it takes no more.
///
/// One that is dropped is rolled back, with its connection, and its transaction aborted.
#[must_use = "a branch that goes without commit aborts its transaction"]
pub struct SqlxMysqlBranch(Held<PoolConnection<MySql>>);

impl Txn {
    /// Adds a branch at `resource`, and begins an XA transaction on `conn`, a connection to the same
    /// database. The connection goes with the branch: back to its pool once the branch has ended on
    /// it, and closed if that is not certain.
    ///
    /// ```no_run
    /// # mod sqlx { pub use sqlx_core::query::query; pub use sqlx_mysql::MySqlPool; }
    /// use sqlx::MySqlPool;
    /// use unanimous_client::{Client, Txn};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let coordinator = Client::connect("http://127.0.0.1:7070")?;
    /// let ledger_db = MySqlPool::connect_lazy("mysql://app@127.0.0.1:3306/ledger")?;
    /// let booking = coordinator.transaction().timeout_ms(10_000);
    /// let done = booking
    ///     .retrying(async |txn: Txn| {
    ///         let conn = ledger_db.acquire().await?;
    ///         let mut ledger = txn.enlist_sqlx_mysql("ledger", conn).await?;
    ///         sqlx::query("INSERT INTO entry (txn, amount) VALUES (?, ?)")
    ///             .bind("order-42")
    ///             .bind(500)
    ///             .execute(&mut ledger)
    ///             .await?;
    ///         Ok(txn.commit_branches([ledger.into()]).await?)
    ///     })
    ///     .await?;
    /// println!("{} committed", done.id);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Txn::enlist`]; [`Error::NotPrepared`] if the connection refuses.
    pub async fn enlist_sqlx_mysql(
        &self,
        resource: &str,
        conn: PoolConnection<MySql>,
    ) -> Result<SqlxMysqlBranch, Error> {
        Ok(SqlxMysqlBranch(Held::enlist(self, resource, conn).await?))
    }
}

impl From<SqlxMysqlBranch> for Branch<'_> {
    fn from(branch: SqlxMysqlBranch) -> Self {
        Self(Box::new(branch.0))
    }
}

impl fmt::Debug for SqlxMysqlBranch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlxMysqlBranch").field("branch", &self.0.seat.name).finish_non_exhaustive()
    }
}

impl Session for PoolConnection<MySql> {
    async fn run(&mut self, sql: &str) -> Result<(), Fault> {
        self.execute(AssertSqlSafe(sql.to_owned())).await?;
        Ok(())
    }

    async fn number(&mut self, sql: &str) -> Result<Option<i64>, Fault> {
        Ok(self.fetch_one(AssertSqlSafe(sql.to_owned())).await?.try_get(0)?)
    }

    fn close(self) {
        // What is not sent at once is not needed: from here on, dropping it closes it.
        drop(self.detach().close().now_or_never());
    }
}

impl SqlxMysqlBranch {
    /// The connection, if the branch still takes statements, and where to note what comes of one.
    fn ask(&mut self) -> Result<(&mut MySqlConnection, &mut State), SqlxError> {
        let spoilt = |spoilt: Spoilt| SqlxError::InvalidArgument(spoilt.to_string());
        self.0.ask().map(|(conn, state)| (&mut **conn, state)).map_err(spoilt)
    }
}

type Answer = Result<Either<MySqlQueryResult, MySqlRow>, SqlxError>;

impl<'c> Executor<'c> for &'c mut SqlxMysqlBranch {
    type Database = MySql;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Answer>
    where
        'c: 'e,
        E: Execute<'q, MySql> + 'q,
    {
        let answers = async move {
            match self.ask() {
                Ok((conn, state)) => noted(conn.fetch_many(query), state).left_stream(),
                Err(spoilt) => stream::once(ready(Err(spoilt))).right_stream(),
            }
        };
        stream::once(answers).flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<MySqlRow>, SqlxError>>
    where
        'c: 'e,
        E: Execute<'q, MySql> + 'q,
    {
        async move {
            let (conn, state) = self.ask()?;
            state.note(conn.fetch_optional(query).await)
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [MySqlTypeInfo],
    ) -> BoxFuture<'e, Result<MySqlStatement, SqlxError>>
    where
        'c: 'e,
    {
        async move {
            let (conn, state) = self.ask()?;
            state.note(conn.prepare_with(sql, parameters).await)
        }
        .boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<MySql>, SqlxError>>
    where
        'c: 'e,
    {
        async move {
            let (conn, state) = self.ask()?;
            state.note(conn.describe(sql).await)
        }
        .boxed()
    }
}

/// The answers to a statement. It has ended behind the last of them; behind a row, the driver passes over
/// what nobody has read, and an error among it is one of the next statement.
fn noted<'e>(
    answers: BoxStream<'e, Answer>,
    state: &'e mut State,
) -> impl Stream<Item = Answer> + Send + 'e {
    stream::unfold((answers, state), |(mut answers, state)| async move {
        if matches!(state, State::Failed(_)) {
            return None;
        }
        *state = State::Asked;
        let answer = answers.next().await;
        *state = match &answer {
            Some(Ok(Either::Left(_))) => State::Asked,
            Some(Ok(Either::Right(_))) | None => State::Open,
            Some(Err(error)) => State::Failed(error.into()),
        };
        Some((answer?, (answers, state)))
    })
}
