//! Branches on connections of `mysql_async`.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mysql_async::prelude::{AsQuery, Queryable, StatementLike};
use mysql_async::{BinaryProtocol, Conn, Params, QueryResult, Statement, TextProtocol};

use super::{Held, Session, State, refusal};
use crate::error::Error;
use crate::own::{Branch, Fault};
use crate::transaction::Txn;

/// A branch on a connection to MariaDB or MySQL, in an XA transaction that has begun. It is
/// [`Queryable`], as the connection was; after a statement that failed it takes no more.
///
/// One that is dropped is rolled back, with its connection, and its transaction aborted.
#[must_use = "a branch that goes without commit aborts its transaction"]
pub struct MysqlBranch(Held<Conn>);

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
        Ok(MysqlBranch(Held::enlist(self, resource, conn).await?))
    }
}

impl From<MysqlBranch> for Branch<'_> {
    fn from(branch: MysqlBranch) -> Self {
        Self(Box::new(branch.0))
    }
}

impl Session for Conn {
    async fn run(&mut self, sql: &str) -> Result<(), Fault> {
        Ok(self.query_drop(sql).await?)
    }

    async fn number(&mut self, sql: &str) -> Result<Option<i64>, Fault> {
        let value: Option<Option<i64>> = self.query_first(sql).await?;
        Ok(value.flatten())
    }

    /// One that is dropped without this would be reset by its pool.
    fn close(self) {
        // What is not sent at once is not needed: from here on, dropping it closes it.
        drop(self.disconnect().now_or_never());
    }
}

impl MysqlBranch {
    /// The connection, if the branch still takes statements, and where to note what comes of one.
    fn ask(&mut self) -> mysql_async::Result<(&mut Conn, &mut State)> {
        self.0.ask().map_err(|spoilt| mysql_async::Error::Other(Box::new(spoilt)))
    }
}

impl Queryable for MysqlBranch {
    fn ping(&mut self) -> Answered<'_, ()> {
        async {
            let (conn, state) = self.ask()?;
            state.note(conn.ping().await)
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
            state.note(conn.query_iter(query).await)
        }
        .boxed()
    }

    fn prep<'a, Q>(&'a mut self, query: Q) -> Answered<'a, Statement>
    where
        Q: AsQuery + 'a,
    {
        async {
            let (conn, state) = self.ask()?;
            state.note(conn.prep(query).await)
        }
        .boxed()
    }

    fn close(&mut self, stmt: Statement) -> Answered<'_, ()> {
        async {
            let (conn, state) = self.ask()?;
            state.note(conn.close(stmt).await)
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
            state.note(conn.exec_iter(stmt, params).await)
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
            state.note(conn.exec_batch(stmt, params_iter).await)
        }
        .boxed()
    }
}

pub(crate) fn code(error: &mysql_async::Error) -> Option<u16> {
    let mysql_async::Error::Server(refused) = error else { return None };
    Some(refused.code)
}

impl From<mysql_async::Error> for Fault {
    fn from(error: mysql_async::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&mysql_async::Error> for Fault {
    fn from(error: &mysql_async::Error) -> Self {
        let text = error.to_string();
        let mysql_async::Error::Server(refused) = error else { return Self::silent(text) };
        refusal(refused.code, &refused.state, text)
    }
}
