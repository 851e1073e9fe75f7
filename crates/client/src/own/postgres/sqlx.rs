//! Branches on connections of `sqlx`.
//!
//! The driver counts transactions and savepoints: in one that it counts, its `begin` is a savepoint and not
//! a `BEGIN`, whose `COMMIT` would end the branch. So the branch is begun in its count, and nothing else
//! than the driver's own commit and rollback leaves that.

use std::ops::{Deref, DerefMut};

use futures_util::FutureExt;
use sqlx_core::connection::Connection;
use sqlx_core::executor::Executor;
use sqlx_core::row::Row;
use sqlx_core::sql_str::{AssertSqlSafe, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::{PgConnection, PgTransactionManager};

use super::{Held, Rows, Session};
use crate::error::Error;
use crate::own::{Branch, Fault};
use crate::transaction::Txn;

/// A branch on a connection of `sqlx` to PostgreSQL, in a transaction that has begun. Its statements are
/// those of the [`PgConnection`] it stands for, as with `sqlx::Transaction`: `&mut *branch` executes
/// them. `branch.begin()` is a savepoint.
///
/// One that is dropped is rolled back, and its transaction aborted.
#[must_use = "a branch that goes without commit aborts its transaction"]
pub struct SqlxPostgresBranch<'c>(Held<&'c mut PgConnection>);

impl Txn {
    /// Adds a branch at `resource`, and begins a transaction on `conn`, a connection to the same database
    /// with the same user, or what a pool lends. The work is bounded by what the transaction's timeout
    /// allows: `lock_timeout`, `statement_timeout` and `idle_in_transaction_session_timeout` are set in it.
    ///
    /// ```no_run
    /// # mod sqlx { pub use sqlx_core::query::query; pub use sqlx_postgres::PgPool; }
    /// use sqlx::PgPool;
    /// use unanimous_client::{Client, Txn};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let coordinator = Client::connect("http://127.0.0.1:7070")?;
    /// let wallet_db = PgPool::connect_lazy("postgres://app@127.0.0.1:5432/wallet")?;
    /// let payment = coordinator.transaction().timeout_ms(10_000);
    /// let done = payment
    ///     .retrying(async |txn: Txn| {
    ///         let mut conn = wallet_db.acquire().await?;
    ///         let mut wallet = txn.enlist_sqlx_postgres("wallet", &mut conn).await?;
    ///         sqlx::query("UPDATE account SET balance = balance - $1 WHERE id = $2")
    ///             .bind(500_i64)
    ///             .bind("acc-17")
    ///             .execute(&mut *wallet)
    ///             .await?;
    ///         Ok(txn.commit_branches([wallet.into()]).await?)
    ///     })
    ///     .await?;
    /// println!("{} committed", done.id);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Txn::enlist`]; [`Error::Usage`] if the connection is in a transaction already;
    /// [`Error::NotPrepared`] if it refuses.
    pub async fn enlist_sqlx_postgres<'c>(
        &self,
        resource: &str,
        conn: &'c mut PgConnection,
    ) -> Result<SqlxPostgresBranch<'c>, Error> {
        if conn.is_in_transaction() {
            return Err(Error::Usage(format!(
                "the connection for the branch {resource} is in a transaction already"
            )));
        }
        Ok(SqlxPostgresBranch(Held::enlist(self, resource, conn).await?))
    }
}

impl Deref for SqlxPostgresBranch<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.session
    }
}

impl DerefMut for SqlxPostgresBranch<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.session
    }
}

impl<'c> From<SqlxPostgresBranch<'c>> for Branch<'c> {
    fn from(branch: SqlxPostgresBranch<'c>) -> Self {
        Self(Box::new(branch.0))
    }
}

impl Session for &mut PgConnection {
    async fn begin(&mut self, begin: &str) -> Result<(), Fault> {
        let begin = AssertSqlSafe(begin.to_owned()).into_sql_str();
        Ok(PgTransactionManager::begin(self, Some(begin)).await?)
    }

    async fn rows(&mut self, sql: &str) -> Result<Rows, Fault> {
        let rows = self.fetch_all(AssertSqlSafe(sql.to_owned())).await?;
        let rows = rows.iter().map(|row| (0..row.len()).map(|index| row.try_get(index)).collect());
        Ok(rows.collect::<Result<_, sqlx_core::Error>>()?)
    }

    async fn prepare(&mut self, prepare: &str, list: &str) -> Result<Rows, Fault> {
        is_outermost(self)?;
        // What is prepared is in the driver's count until a transaction is committed in its place.
        let listed = self.rows(&format!("{prepare}; BEGIN READ ONLY; {list}")).await?;
        self.commit().await?;
        Ok(listed)
    }

    async fn commit(&mut self) -> Result<(), Fault> {
        is_outermost(self)?;
        Ok(PgTransactionManager::commit(self).await?)
    }

    async fn rollback(&mut self) {
        queue_rollback(self);
        // Answers to statements that were given up come first, and may be errors.
        while let Err(sqlx_core::Error::Database(_)) = self.flush().await {}
    }

    fn start_rollback(&mut self) {
        queue_rollback(self);
        drop(self.flush().now_or_never());
    }
}

/// A savepoint that was forgotten would be prepared along, and a commit would be its release.
fn is_outermost(conn: &PgConnection) -> Result<(), Fault> {
    match PgTransactionManager::get_transaction_depth(conn) {
        1 => Ok(()),
        depth => Err(Fault {
            code: None,
            kind: "statement",
            text: format!("it is at level {depth} of transactions, not at the first"),
        }),
    }
}

/// Puts a `ROLLBACK` behind whatever is under way, and has the driver count no transaction.
fn queue_rollback(conn: &mut PgConnection) {
    if PgTransactionManager::get_transaction_depth(conn) == 0 {
        // A `BEGIN` that failed halfway, or whose answer was not waited for, is not counted; and only what
        // begins something is sent without waiting for what is under way.
        let rollback = PgTransactionManager::begin(conn, Some("ROLLBACK".into_sql_str()));
        drop(rollback.now_or_never());
    }
    while PgTransactionManager::get_transaction_depth(conn) > 0 {
        PgTransactionManager::start_rollback(conn);
    }
}
