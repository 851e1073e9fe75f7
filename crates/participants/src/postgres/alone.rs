//! Work without a coordinator: one ordinary transaction.

use std::sync::Arc;

use unanimous_core::{Opaque, Reason};

use super::prepare::texts;
use super::wire::{Broken, Connection};
use super::{Inner, PostgresAdapter, sqlstate};
use crate::alone::{Alone, CommitAlone, Working, unsent};
use crate::statement::{self, Statement};

impl CommitAlone for PostgresAdapter {
    fn commit_alone(&self, work: Opaque) -> Working {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match statement::read(&work) {
                Ok(statements) => commit(&inner, &statements).await,
                Err(why) => Alone::Refused(Reason::new("statement", &why)),
            }
        })
    }
}

async fn commit(inner: &Inner, statements: &[Statement]) -> Alone {
    let mut lent = match inner.first_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => return unsent(&why),
    };
    match transaction(inner, &mut lent.connection, statements).await {
        Ok(alone) => {
            inner.first_phase.give_back(lent);
            alone
        }
        Err(Broken(seen)) => Alone::Unknown(seen),
    }
}

async fn transaction(
    inner: &Inner,
    connection: &mut Connection,
    statements: &[Statement],
) -> Result<Alone, Broken> {
    let params = match texts(inner, connection, statements).await? {
        Ok(params) => params,
        Err(reason) => return Ok(Alone::Refused(reason)),
    };
    connection.statement("BEGIN", &[])?;
    for (statement, params) in statements.iter().zip(&params) {
        connection.statement(&statement.sql, params)?;
    }
    connection.sync();
    connection.send().await?;
    let refusal = refusal(connection, statements).await?;
    // A refusal has been read already; the end of the group follows it.
    drop(connection.ready().await?);
    if let Some(reason) = refusal {
        drop(connection.simple("ROLLBACK").await?);
        return Ok(Alone::Refused(reason));
    }
    Ok(match connection.simple("COMMIT").await? {
        Ok(done) if done.tag == "COMMIT" => Alone::Done,
        Ok(done) => Alone::Refused(Reason::new("refused", &done.tag)),
        Err(refused) => Alone::Refused(sqlstate::reason(&refused, "COMMIT")),
    })
}

/// Reads what came of each statement, up to the first that did not do what it should.
async fn refusal(
    connection: &mut Connection,
    statements: &[Statement],
) -> Result<Option<Reason>, Broken> {
    let what = |number: usize| format!("statement {number}");
    if let Err(refused) = connection.executed().await? {
        return Ok(Some(sqlstate::reason(&refused, "BEGIN")));
    }
    for (number, statement) in (1..).zip(statements) {
        let rows = match connection.executed().await? {
            Ok(executed) => executed.result.rows_affected,
            Err(refused) => return Ok(Some(sqlstate::reason(&refused, &what(number)))),
        };
        if let Some(expected) = statement.expect_rows.filter(|&expected| expected != rows) {
            return Ok(Some(statement::unexpected(number, rows, expected)));
        }
    }
    Ok(None)
}
