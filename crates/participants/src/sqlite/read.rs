//! Queries outside of branches, over a connection of their own that cannot write.
//!
//! In a file whose journal is a write-ahead log they hold nobody up, and nobody holds them up. In others
//! what is prepared or committed meanwhile waits for them.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::file::{found, shown};
use super::refusal::Refused;
use super::watch::{Watch, Whose};
use super::work::query;
use crate::statement::{self, StatementResult};

/// Opens the file to look into it.
pub(super) fn open(path: &Path, until: Instant) -> Result<(Connection, Watch), Refused> {
    let path = found(path)?;
    let refused = |error: rusqlite::Error| Refused::of(&error, &shown(&path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(&path, flags).map_err(refused)?;
    let left = until.saturating_duration_since(Instant::now());
    db.busy_timeout(left).map_err(refused)?;
    let watch = Watch::begin(&mut db).map_err(refused)?;
    Ok((db, watch))
}

/// The values of queries that see one state of the file.
pub(super) fn read(
    path: &Path,
    queries: &[String],
    patience: Duration,
) -> Result<Vec<Option<String>>, String> {
    let until = Instant::now() + patience;
    let (mut db, watch) = open(path, until).map_err(|why| why.detail)?;
    let state = db.transaction().map_err(|error| error.to_string())?;
    let mut values = Vec::with_capacity(queries.len());
    for sql in queries {
        watch.hand_to(Whose::Reader, Some(until));
        let value = value(&state, sql);
        watch.hand_to_us();
        let value = value.map_err(|why| match watch.denied() {
            Some(denied) => denied,
            None => why,
        });
        values.push(value.map_err(|why| statement::failed(sql, &why))?);
    }
    Ok(values)
}

fn value(db: &Connection, sql: &str) -> Result<Option<String>, String> {
    let mut result = StatementResult::default();
    let mut compiled = db.prepare(sql).map_err(|error| Refused::of(&error, "query").detail)?;
    query(&mut compiled, &mut 0, &mut result)
        .map_err(|error| Refused::of(&error, "query").detail)?;
    result.only_value()
}
