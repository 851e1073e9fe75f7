//! Branches on connections of `tokio_postgres`.

use std::ops::Deref;

use futures_util::FutureExt;
use futures_util::future::join;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Held, Rows, Session, refusal};
use crate::error::{Error, chain};
use crate::own::{Branch, Fault};
use crate::transaction::Txn;

/// A branch on a connection to PostgreSQL, in a transaction that has begun. Its statements are those
/// of the [`Client`] it stands for.
///
/// One that is dropped is rolled back, and its transaction aborted.
#[must_use = "a branch that goes without commit aborts its transaction"]
pub struct PostgresBranch<'c>(Held<&'c mut Client>);

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
        Ok(PostgresBranch(Held::enlist(self, resource, client).await?))
    }
}

impl Deref for PostgresBranch<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.0.session
    }
}

impl<'c> From<PostgresBranch<'c>> for Branch<'c> {
    fn from(branch: PostgresBranch<'c>) -> Self {
        Self(Box::new(branch.0))
    }
}

impl Session for &mut Client {
    async fn begin(&mut self, begin: &str) -> Result<(), Fault> {
        Ok(self.batch_execute(begin).await?)
    }

    async fn rows(&mut self, sql: &str) -> Result<Rows, Fault> {
        rows(self, sql).await
    }

    async fn prepare(&mut self, prepare: &str, list: &str) -> Result<Rows, Fault> {
        // Both are sent at once, in this order.
        let (prepared, listed) = join(self.batch_execute(prepare), rows(self, list)).await;
        prepared?;
        listed
    }

    async fn commit(&mut self) -> Result<(), Fault> {
        Ok(self.batch_execute("COMMIT").await?)
    }

    async fn rollback(&mut self) {
        drop(self.batch_execute("ROLLBACK").await);
    }

    fn start_rollback(&mut self) {
        drop(self.batch_execute("ROLLBACK").now_or_never());
    }
}

async fn rows(client: &Client, sql: &str) -> Result<Rows, Fault> {
    let messages = client.simple_query(sql).await?.into_iter();
    let rows = messages.filter_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect())
    });
    Ok(rows.collect())
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&tokio_postgres::Error> for Fault {
    fn from(error: &tokio_postgres::Error) -> Self {
        let text = chain(error);
        match error.as_db_error() {
            Some(refused) => refusal(refused.code().code(), refused.message(), text),
            None => Self::silent(text),
        }
    }
}
