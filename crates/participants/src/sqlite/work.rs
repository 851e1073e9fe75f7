//! Runs the statements of a branch or of a step.
//!
//! All of them are compiled before the first runs, so that it is known which tables they write, and
//! nothing is begun that cannot be compiled.

use std::collections::BTreeSet;
use std::time::Instant;

use rusqlite::{Error, Row, Statement as Compiled};
use serde_json::{Map, Value};
use unanimous_core::Reason;

use super::file::File;
use super::refusal::Refused;
use super::shape::held_table;
use super::value::{self, Misfit};
use super::watch::Whose;
use crate::limits::{RESULT_BYTES_MAX, RESULT_ROWS_MAX, STATEMENTS_MAX};
use crate::statement::{self, Statement, StatementResult};

/// Statements that are ready to run.
pub(super) struct Work<'a> {
    statements: &'a [Statement],
    compiled: Vec<Compiled<'a>>,
    /// The tables that they may write.
    pub(super) written: BTreeSet<String>,
}

/// Why work has not come out.
pub(super) enum Halt {
    Refused(Refused),
    /// Something in this table is held by a prepared branch.
    Held(String),
    /// Other rows were found than expected.
    Unexpected(Reason),
}

impl<'a> Work<'a> {
    /// Compiles all of it, and runs nothing.
    pub(super) fn compile(
        file: &'a File,
        statements: &'a [Statement],
        until: Instant,
    ) -> Result<Self, Refused> {
        if statements.len() > STATEMENTS_MAX {
            let count = statements.len();
            let why = format!("{count} statements, at most {STATEMENTS_MAX} are allowed");
            return Err(Refused::new("statement", why));
        }
        let mut work = Self { statements, compiled: Vec::new(), written: BTreeSet::new() };
        drop(file.watch.written());
        for (number, statement) in (1..).zip(statements) {
            file.watch.hand_to(Whose::Branch, Some(until));
            let compiled = file.db.prepare(&statement.sql);
            file.watch.hand_to_us();
            let what = format!("statement {number}");
            let mut compiled = compiled.map_err(|error| denied(file, &error, &what))?;
            value::bind(&mut compiled, &statement.params).map_err(|misfit| match misfit {
                Misfit::Statement(why) => Refused::new("statement", format!("{what}: {why}")),
                Misfit::Data(why) => Refused::new("data", format!("{what}: {why}")),
            })?;
            work.compiled.push(compiled);
        }
        work.written = file.watch.written();
        Ok(work)
    }

    /// Runs it, and ends by that time.
    pub(super) fn run(mut self, file: &File, until: Instant) -> Result<Vec<Value>, Halt> {
        let mut results = Vec::with_capacity(self.statements.len());
        let mut kept_bytes = 0;
        let both = self.statements.iter().zip(&mut self.compiled);
        for (number, (statement, compiled)) in (1..).zip(both) {
            file.watch.hand_to(Whose::Branch, Some(until));
            let ran = run_one(file, compiled, &mut kept_bytes);
            file.watch.hand_to_us();
            let result = ran.map_err(|error| match held_table(&error) {
                Some(table) => Halt::Held(table.to_owned()),
                None => Halt::Refused(denied(file, &error, &format!("statement {number}"))),
            })?;
            let rows = result.rows_affected;
            if let Some(expected) = statement.expect_rows.filter(|&expected| expected != rows) {
                return Err(Halt::Unexpected(statement::unexpected(number, rows, expected)));
            }
            results.push(serde_json::to_value(result).expect("results are always JSON"));
        }
        Ok(results)
    }
}

/// An error, in our words if it was we who would not have it.
fn denied(file: &File, error: &Error, what: &str) -> Refused {
    match file.watch.denied() {
        Some(why) => Refused::new("statement", format!("{what}: {why}")),
        None => Refused::of(error, what),
    }
}

fn run_one(
    file: &File,
    compiled: &mut Compiled<'_>,
    kept_bytes: &mut usize,
) -> Result<StatementResult, Error> {
    let (returns, reads) = (compiled.column_count() > 0, compiled.readonly());
    let mut result = StatementResult::default();
    if returns {
        query(compiled, kept_bytes, &mut result)?;
    } else {
        compiled.raw_execute()?;
        result.rows_affected = if reads { 0 } else { file.db.changes() };
    }
    Ok(result)
}

/// Reads every row, and keeps some.
pub(super) fn query(
    compiled: &mut Compiled<'_>,
    kept_bytes: &mut usize,
    result: &mut StatementResult,
) -> Result<(), Error> {
    let names: Vec<String> = compiled.column_names().map(str::to_owned).collect();
    let mut kept = Vec::new();
    let mut rows = compiled.raw_query();
    while let Some(row) = rows.next()? {
        result.rows_affected += 1;
        if kept.len() == RESULT_ROWS_MAX || *kept_bytes >= RESULT_BYTES_MAX {
            result.truncated = true;
            continue;
        }
        let row = object(&names, row)?;
        let len = row.to_string().len();
        if *kept_bytes + len > RESULT_BYTES_MAX {
            result.truncated = true;
            continue;
        }
        *kept_bytes += len;
        kept.push(row);
    }
    result.rows = Some(kept);
    Ok(())
}

fn object(names: &[String], row: &Row<'_>) -> Result<Value, Error> {
    let mut object = Map::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        object.insert(name.clone(), value::json(row.get_ref(at)?));
    }
    Ok(Value::Object(object))
}
