//! Steps of sagas: each in the transaction that has a row written in it which says so.
//!
//! | row of the branch | in `unanimous_barrier` |
//! |---|---|
//! | `act`, with a result | the step was done |
//! | `act`, without | it never was, and will never be: it was compensated before it came |
//! | `compensate` | it was compensated; with a result if there was anything to undo |
//!
//! A local transaction of an application writes the row `act` itself. Who wants to settle whether it has
//! committed writes the row without a result: if that can be, it has not, and never will.
//!
//! Work and row stay or go together, and one thread does one step at a time. So a step is done at most once
//! however often it is asked for. What an earlier attempt did is seen before anything is refused.

use std::time::Instant;

use rusqlite::{OptionalExtension, params};
use unanimous_core::{Answer, Opaque};

use super::branch::{halted, json};
use super::file::File;
use super::owner::{Outcome, Said};
use super::refusal::Refused;
use super::work::Work;
use crate::statement::Statement;
use crate::step::Half;
use crate::{Call, kept, step as contract};

/// What the row of one half says.
enum Mark {
    Absent,
    Done(String),
    Barred,
}

pub(super) fn perform(
    file: &File,
    call: &Call,
    half: Half,
    statements: &[Statement],
    until: Instant,
) -> Result<Outcome, Refused> {
    let undo = |answer| Ok(Outcome::Undo(Said::Answer(answer)));
    match (mark(file, call, half.word())?, half) {
        (Mark::Done(result), Half::Settle) => return pin(file, call).map(|()| keep(&result)),
        (Mark::Done(result), Half::Act | Half::Compensate) => return undo(done(&result)),
        (Mark::Barred, Half::Act) => return undo(Answer::No(contract::barred())),
        (Mark::Barred, Half::Settle) => return undo(Answer::No(contract::not_committed())),
        (Mark::Barred, Half::Compensate) => return undo(done("")),
        (Mark::Absent, Half::Settle) => {
            write(file, call, "act", None)?;
            let answer = contract::settled(done(""), &call.name);
            return Ok(Outcome::Keep(Said::Answer(answer)));
        }
        (Mark::Absent, Half::Act) => {}
        (Mark::Absent, Half::Compensate) => match mark(file, call, "act")? {
            Mark::Done(_) => {}
            Mark::Absent if kept::may_be_gone(&call.name) => {
                return undo(Answer::No(contract::forgotten()));
            }
            Mark::Absent => {
                write(file, call, "act", None)?;
                return write(file, call, "compensate", None).map(|()| keep(""));
            }
            Mark::Barred => return write(file, call, "compensate", None).map(|()| keep("")),
        },
    }
    let work = Work::compile(file, statements, until)?;
    let results = match work.run(file, until) {
        Ok(results) => json(&results),
        Err(halt) => return halted(&file.db, halt),
    };
    write(file, call, half.word(), Some(&results))?;
    Ok(keep(&results))
}

fn done(result: &str) -> Answer {
    Answer::Done(Opaque::new(result.as_bytes()))
}

fn keep(result: &str) -> Outcome {
    Outcome::Keep(Said::Answer(done(result)))
}

fn ours(error: rusqlite::Error) -> Refused {
    Refused::of(&error, "unanimous_barrier")
}

fn mark(file: &File, call: &Call, verb: &str) -> Result<Mark, Refused> {
    let sql = "SELECT result FROM unanimous_barrier WHERE branch = ?1 AND verb = ?2";
    let row = file.db.prepare_cached(sql).and_then(|mut compiled| {
        let key = [call.name.to_string(), verb.to_owned()];
        compiled.query_row(key, |row| row.get::<_, Option<String>>(0)).optional()
    });
    Ok(match row.map_err(ours)? {
        None => Mark::Absent,
        Some(None) => Mark::Barred,
        Some(Some(result)) => Mark::Done(result),
    })
}

/// Changes nothing. What an application committed without waiting for the disk can be seen before it is
/// there; a commit that comes after it is there only with it.
fn pin(file: &File, call: &Call) -> Result<(), Refused> {
    let sql = "UPDATE unanimous_barrier SET at = at WHERE branch = ?1 AND verb = 'act'";
    let pinned = file.db.prepare_cached(sql).and_then(|mut it| it.execute([call.name.to_string()]));
    pinned.map(drop).map_err(ours)
}

fn write(file: &File, call: &Call, verb: &str, result: Option<&str>) -> Result<(), Refused> {
    let sql = "INSERT INTO unanimous_barrier (branch, verb, result) VALUES (?1, ?2, ?3)";
    let written = file
        .db
        .prepare_cached(sql)
        .and_then(|mut it| it.execute(params![call.name.to_string(), verb, result]));
    written.map(drop).map_err(ours)
}
