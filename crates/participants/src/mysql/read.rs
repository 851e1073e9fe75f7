//! Queries outside of branches: one read-only transaction, so that all of them see the same state.
//!
//! The server would run a text of several statements, so each query is taken apart first, and what
//! does not only read is not sent. The server gives up when nobody waits any more.

use std::time::Duration;

use tokio::time::timeout;

use super::Inner;
use super::lexer::lex;
use super::session::{Broken, Product, Ran, Session, Sql};
use crate::statement;

type Values = Result<Vec<Option<String>>, String>;

pub(super) async fn read(inner: &Inner, queries: &[String], patience: Duration) -> Values {
    let texts = queries.iter().map(|sql| only_reads(sql));
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    let read = async {
        let mut lent = inner.reading.lend().await.map_err(|why| why.to_string())?;
        let values = ask(&mut lent.session, queries, &texts, patience).await;
        let values = values.map_err(|Broken(seen)| seen)?;
        inner.reading.give_back(lent.into_session());
        values
    };
    let late = || Err(format!("no answer within {} ms", patience.as_millis()));
    timeout(patience, read).await.unwrap_or_else(|_| late())
}

/// The text to send.
fn only_reads(sql: &str) -> Result<String, String> {
    let lexed = lex(sql).map_err(|why| statement::failed(sql, &why))?;
    if !lexed.reads() {
        return Err(statement::failed(sql, "a query that only reads is wanted"));
    }
    lexed.with(&[]).map_err(|why| statement::failed(sql, &why))
}

async fn ask(
    session: &mut Session,
    queries: &[String],
    texts: &[String],
    patience: Duration,
) -> Result<Values, Broken> {
    let limit = match session.product {
        Product::MariaDb => format!("SET max_statement_time = {}", patience.as_secs_f64()),
        Product::MySql => format!("SET max_execution_time = {}", patience.as_millis()),
    };
    let begin = format!(
        "{limit}\n;\nSET TRANSACTION ISOLATION LEVEL REPEATABLE READ\n;\n\
         START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
    );
    if let Err(refused) = session.execute(&begin).await? {
        return Ok(Err(refused.to_string()));
    }
    let values = ask_each(session, queries, texts).await?;
    let ended = session.execute("ROLLBACK").await?;
    Ok(ended.map_err(|refused| refused.to_string()).and(values))
}

async fn ask_each(
    session: &mut Session,
    queries: &[String],
    texts: &[String],
) -> Result<Values, Broken> {
    let mut values = Vec::with_capacity(queries.len());
    for (sql, text) in queries.iter().zip(texts) {
        let mut ran = Ran::default();
        session.run(&[Sql::asking(text.as_str())], &mut ran).await?;
        let value = match (&ran.refused, ran.results.first()) {
            (Some(refused), _) => Err(refused.to_string()),
            (None, Some(result)) => result.only_value(),
            (None, None) => Err("it was not answered".to_owned()),
        };
        match value {
            Ok(value) => values.push(value),
            Err(why) => return Ok(Err(statement::failed(sql, &why))),
        }
    }
    Ok(Ok(values))
}
