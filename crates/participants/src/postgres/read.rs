//! Queries outside of branches: one read-only transaction, so that all of them see the same state.
//!
//! Each is sent by itself, so that a text of several statements is refused by the server, and the
//! server gives up when nobody waits any more. The transaction is rolled back whatever came of it.

use std::time::Duration;

use tokio::time::timeout;

use super::Inner;
use super::wire::{Broken, Connection};
use crate::statement;

pub(super) async fn read(
    inner: &Inner,
    queries: &[String],
    patience: Duration,
) -> Result<Vec<Option<String>>, String> {
    let read = async {
        let mut lent = inner.reading.lend().await.map_err(|why| why.to_string())?;
        let values = ask(&mut lent.connection, queries, patience).await;
        let values = values.map_err(|Broken(seen)| seen)?;
        inner.reading.give_back(lent);
        values
    };
    let late = || Err(format!("no answer within {} ms", patience.as_millis()));
    timeout(patience, read).await.unwrap_or_else(|_| late())
}

async fn ask(
    connection: &mut Connection,
    queries: &[String],
    patience: Duration,
) -> Result<Result<Vec<Option<String>>, String>, Broken> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {}",
        patience.as_millis()
    );
    if let Err(refused) = connection.simple(&begin).await? {
        return Ok(Err(refused.to_string()));
    }
    let values = ask_each(connection, queries).await?;
    let ended = connection.simple("ROLLBACK").await?;
    Ok(ended.map_err(|refused| refused.to_string()).and(values))
}

async fn ask_each(
    connection: &mut Connection,
    queries: &[String],
) -> Result<Result<Vec<Option<String>>, String>, Broken> {
    let mut values = Vec::with_capacity(queries.len());
    for sql in queries {
        connection.statement(sql, &[])?;
        connection.sync();
        connection.send().await?;
        let executed = connection.executed().await?;
        let ready = connection.ready().await?;
        let executed = executed.and_then(|executed| ready.map(|()| executed));
        let value = executed.map_err(|refused| refused.to_string());
        match value.and_then(|executed| executed.result.only_value()) {
            Ok(value) => values.push(value),
            Err(why) => return Ok(Err(statement::failed(sql, &why))),
        }
    }
    Ok(Ok(values))
}
