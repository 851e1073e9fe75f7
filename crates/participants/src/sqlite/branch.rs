//! Both phases of a branch, inside of a transaction on the file that the owner begins and commits.
//!
//! Work is carried out, what it touched is looked at, and all of it is taken back. What is left of a
//! prepared branch is how the touched rows were and will be, and a hold on each. Yes is said only after
//! that could be carried out, for trial, on the file as it is; nobody can change what it rests on until the
//! branch has ended, but by getting past the guards.
//!
//! | state of the branch | a prepare | a commit | a rollback |
//! |---|---|---|---|
//! | none | works | is a hazard | keeps a tombstone |
//! | `prepared` | is answered as before | carries out | lets go |
//! | `committed` | is lost | is done | heuristic commit |
//! | `rolled_back` | is lost | heuristic rollback | is done |
//! | `failed`: a commit found rows changed | is lost | heuristic rollback | is done |

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use serde_json::Value;
use unanimous_core::id::{BranchName, Timestamp};
use unanimous_core::{Answer, HeuristicKind, Opaque, Reason};

use super::change::{Cell, Changes, Row, Uncarried, carry_out, spelled};
use super::file::File;
use super::owner::{Outcome, Said};
use super::refusal::Refused;
use super::shape::{HeldBy, Shapes, Unready};
use super::work::{Halt, Work};
use crate::kept::{self, Range};
use crate::limits::{FENCE_KEPT, FENCE_SWEEP, SQLITE_CHANGES_BYTES_MAX};
use crate::statement::Statement;
use crate::{Call, Held};

/// What the file says of a branch.
enum State {
    None,
    Prepared { changes: String, results: String },
    Committed { results: String },
    RolledBack,
    Failed,
}

type Came = Result<Outcome, Refused>;

fn keep(answer: Answer) -> Came {
    Ok(Outcome::Keep(Said::Answer(answer)))
}

fn undo(answer: Answer) -> Came {
    Ok(Outcome::Undo(Said::Answer(answer)))
}

fn done() -> Answer {
    Answer::Done(Opaque::default())
}

/// An error to what we do ourselves.
fn ours(error: rusqlite::Error) -> Refused {
    Refused::of(&error, "what Unanimous keeps in the file")
}

fn lost(why: &str) -> Answer {
    Answer::Lost(Reason::new("lost", why))
}

pub(super) fn prepare(file: &File, call: &Call, statements: &[Statement], until: Instant) -> Came {
    match state(&file.db, &call.name)? {
        State::None if statements.is_empty() => {
            undo(lost("it has no statements, and no branch is prepared under its name"))
        }
        State::None => first(file, call, statements, until),
        State::Prepared { results, .. } => undo(Answer::Yes(Opaque::new(results.as_bytes()))),
        State::Committed { .. } => undo(lost("its branch has ended already: committed")),
        State::RolledBack | State::Failed => {
            undo(lost("its branch has ended already: rolled back"))
        }
    }
}

fn first(file: &File, call: &Call, statements: &[Statement], until: Instant) -> Came {
    let shapes = &mut *file.shapes.borrow_mut();
    shapes.refresh(&file.db).map_err(ours)?;
    let work = Work::compile(file, statements, until)?;
    for table in &work.written {
        shapes.note(&file.db, table).map_err(|why| why.refused("its work"))?;
    }
    file.db
        .execute_batch("DELETE FROM temp.unanimous_touched; SAVEPOINT unanimous_work")
        .map_err(ours)?;
    let results = match work.run(file, until) {
        Ok(results) => results,
        Err(halt) => return halted(&file.db, halt),
    };
    let changes = Changes::noted(&file.db, shapes);
    file.db.execute_batch("ROLLBACK TO unanimous_work; RELEASE unanimous_work").map_err(ours)?;
    let mut changes = changes.map_err(|why| why.refused("its changes"))?;
    let results = json(&results);
    if changes.is_empty() {
        return undo(Answer::ReadOnly(Opaque::new(results.as_bytes())));
    }
    for changes in &mut changes {
        changes.look_before(&file.db, shapes).map_err(|why| why.refused("its changes"))?;
    }
    let held = hold(&file.db, shapes, &call.name, &changes);
    if let Some(held) = held.map_err(|why| why.refused("what it holds"))? {
        return Ok(Outcome::Undo(held));
    }
    try_out(&file.db, shapes, &changes)?;
    let changes = serde_json::to_string(&changes).expect("images are always JSON");
    if changes.len() > SQLITE_CHANGES_BYTES_MAX {
        let why = format!("it changes more than {SQLITE_CHANGES_BYTES_MAX} bytes of rows");
        return Err(Refused::new("unsupported", why));
    }
    let sql = "INSERT INTO unanimous_branch (name, state, changes, results, at) \
               VALUES (?1, 'prepared', ?2, ?3, ?4)";
    let name = call.name.to_string();
    file.db
        .prepare_cached(sql)
        .and_then(|mut it| it.execute(params![name, changes, results, now_ms()]))
        .map_err(ours)?;
    keep(Answer::Yes(Opaque::new(results.as_bytes())))
}

/// What a step or a branch comes to whose work has not come out.
pub(super) fn halted(db: &Connection, halt: Halt) -> Came {
    match halt {
        Halt::Refused(refused) => Err(refused),
        Halt::Unexpected(reason) => undo(Answer::No(reason)),
        Halt::Held(table) => {
            let sql = "SELECT DISTINCT branch FROM unanimous_lock WHERE tbl = ?1 LIMIT 2";
            let holders = db.prepare_cached(sql).and_then(|mut compiled| {
                compiled.query_map([&table], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
            });
            let mut holders = holders.map_err(ours)?;
            // Of several nobody says which one it is.
            let holder = if holders.len() == 1 { holders.pop() } else { None };
            Ok(Outcome::Undo(Said::Held { table, holder }))
        }
    }
}

pub(super) fn json(results: &[Value]) -> String {
    serde_json::to_string(results).expect("values are always JSON")
}

/// What has to be held of one table.
#[derive(Default)]
struct Wanted {
    whole: bool,
    keys: BTreeSet<String>,
}

/// Holds everything that the changes rest on, or says who does.
fn hold(
    db: &Connection,
    shapes: &mut Shapes,
    name: &BranchName,
    all: &[Changes],
) -> Result<Option<Said>, Unready> {
    let mut wanted = BTreeMap::<String, Wanted>::new();
    for changes in all {
        let shape = shapes.of(db, &changes.table)?;
        for table in &shape.related {
            wanted.entry(table.clone()).or_default().whole = true;
        }
        let of_table = wanted.entry(changes.table.clone()).or_default();
        let is_told = |row: &Row| row.key.iter().all(Cell::is_plain);
        of_table.whole |= shape.held_by == HeldBy::Table || !changes.rows.iter().all(is_told);
        if of_table.whole {
            continue;
        }
        for row in &changes.rows {
            of_table.keys.insert(spelled(db, &row.key)?);
        }
    }
    for (table, wanted) in &wanted {
        shapes.guard(db, table)?;
        if let Some(holder) = take(db, name, table, wanted)? {
            return Ok(Some(Said::Held { table: table.clone(), holder: Some(holder) }));
        }
    }
    Ok(None)
}

/// Who is in the way, if anybody is.
fn take(
    db: &Connection,
    name: &BranchName,
    table: &str,
    wanted: &Wanted,
) -> rusqlite::Result<Option<String>> {
    let mut write =
        db.prepare_cached("INSERT INTO unanimous_lock (tbl, key, branch) VALUES (?1, ?2, ?3)")?;
    let name = name.to_string();
    if wanted.whole {
        let sql = "SELECT branch FROM unanimous_lock WHERE tbl = ?1 LIMIT 1";
        let holder = db.prepare_cached(sql)?.query_row([table], |row| row.get(0)).optional()?;
        if holder.is_none() {
            write.execute([table, "*", &name])?;
        }
        return Ok(holder);
    }
    let sql = "SELECT branch FROM unanimous_lock WHERE tbl = ?1 AND key IN ('*', ?2) LIMIT 1";
    let mut ask = db.prepare_cached(sql)?;
    for key in &wanted.keys {
        let holder = ask.query_row([table, key], |row| row.get(0)).optional()?;
        if holder.is_some() {
            return Ok(holder);
        }
        write.execute([table, key, &name])?;
    }
    Ok(None)
}

/// Carries the changes out and takes them back.
fn try_out(db: &Connection, shapes: &mut Shapes, changes: &[Changes]) -> Result<(), Refused> {
    db.execute_batch("SAVEPOINT unanimous_trial").map_err(ours)?;
    let tried = carry_out(db, shapes, changes);
    db.execute_batch("ROLLBACK TO unanimous_trial; RELEASE unanimous_trial").map_err(ours)?;
    let unsupported = |why: &str| {
        let why = format!(
            "what it changes cannot be kept aside: {why}; REPLACE of a row with another key does \
             this: write ON CONFLICT DO UPDATE"
        );
        Refused::new("unsupported", why)
    };
    tried.map_err(|why| match why {
        Uncarried::Failed(error) if is_constraint(&error) => unsupported(&error.to_string()),
        Uncarried::Failed(error) => ours(error),
        Uncarried::Changed(why) | Uncarried::Reshaped(why) | Uncarried::Senseless(why) => {
            unsupported(&why)
        }
    })
}

fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}

/// All in one phase: the branch decides for the whole transaction.
pub(super) fn commit_at_once(
    file: &File,
    call: &Call,
    statements: &[Statement],
    until: Instant,
) -> Came {
    match state(&file.db, &call.name)? {
        State::None => {}
        State::Prepared { .. } => return commit(file, call),
        State::Committed { results } => return undo(Answer::Done(Opaque::new(results.as_bytes()))),
        State::RolledBack | State::Failed => {
            return undo(Answer::No(Reason::new("lost", "its branch has been rolled back")));
        }
    }
    if kept::may_be_gone(&call.name) {
        let why = "the transaction is older than what the file remembers: look whether it has \
                   committed, and resolve it by hand";
        return undo(Answer::Silent(why.into()));
    }
    let work = Work::compile(file, statements, until)?;
    let reads = work.written.is_empty();
    let results = match work.run(file, until) {
        Ok(results) => json(&results),
        Err(halt) => return halted(&file.db, halt),
    };
    let result = Opaque::new(results.as_bytes());
    if reads {
        return undo(Answer::ReadOnly(result));
    }
    ended(&file.db, &call.name, "committed", Some(&results))?;
    keep(Answer::Done(result))
}

pub(super) fn commit(file: &File, call: &Call) -> Came {
    let changes = match state(&file.db, &call.name)? {
        State::Prepared { changes, .. } => changes,
        State::Committed { .. } => return undo(done()),
        State::RolledBack | State::Failed => {
            return undo(Answer::Heuristic(HeuristicKind::Rollback));
        }
        // It was prepared once, or nobody would commit it: the file is older, or another.
        State::None => return undo(Answer::Heuristic(HeuristicKind::Hazard)),
    };
    let shapes = &mut *file.shapes.borrow_mut();
    shapes.refresh(&file.db).map_err(ours)?;
    let changes = serde_json::from_str::<Vec<Changes>>(&changes);
    file.db.execute_batch("SAVEPOINT unanimous_commit").map_err(ours)?;
    let carried_out = match &changes {
        Ok(changes) => carry_out(&file.db, shapes, changes),
        Err(error) => Err(Uncarried::Senseless(error.to_string())),
    };
    match carried_out {
        Ok(()) => {
            ended(&file.db, &call.name, "committed", None)?;
            keep(done())
        }
        Err(Uncarried::Failed(error)) if !is_constraint(&error) => Err(ours(error)),
        // Whoever did that can undo it.
        Err(Uncarried::Reshaped(why)) => Err(Refused::new("unsupported", why)),
        Err(Uncarried::Failed(_) | Uncarried::Changed(_) | Uncarried::Senseless(_)) => {
            file.db.execute_batch("ROLLBACK TO unanimous_commit").map_err(ours)?;
            ended(&file.db, &call.name, "failed", None)?;
            keep(Answer::Heuristic(HeuristicKind::Rollback))
        }
    }
}

pub(super) fn roll_back(file: &File, call: &Call) -> Came {
    match state(&file.db, &call.name)? {
        State::None | State::Prepared { .. } => {
            ended(&file.db, &call.name, "rolled_back", None)?;
            keep(done())
        }
        State::RolledBack | State::Failed => undo(done()),
        State::Committed { .. } => undo(Answer::Heuristic(HeuristicKind::Commit)),
    }
}

/// Lets go of everything, and keeps how the branch ended for whoever asks again.
fn ended(
    db: &Connection,
    name: &BranchName,
    state: &str,
    results: Option<&str>,
) -> Result<(), Refused> {
    let write = || {
        let sql = "INSERT INTO unanimous_branch (name, state, results, at) VALUES (?1, ?2, ?3, ?4) \
                   ON CONFLICT (name) DO UPDATE SET state = ?2, changes = NULL, results = ?3";
        let name = name.to_string();
        db.prepare_cached(sql)?.execute(params![name, state, results, now_ms()])?;
        db.prepare_cached("DELETE FROM unanimous_lock WHERE branch = ?1")?.execute([&name])
    };
    write().map(drop).map_err(ours)
}

fn state(db: &Connection, name: &BranchName) -> Result<State, Refused> {
    let sql = "SELECT state, coalesce(changes, ''), coalesce(results, '') FROM unanimous_branch \
               WHERE name = ?1";
    let row = db.prepare_cached(sql).and_then(|mut compiled| {
        compiled
            .query_row([name.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()
    });
    let Some((word, changes, results)) = row.map_err(ours)? else { return Ok(State::None) };
    let word: String = word;
    Ok(match &*word {
        "prepared" => State::Prepared { changes, results },
        "committed" => State::Committed { results },
        "rolled_back" => State::RolledBack,
        _ => State::Failed,
    })
}

/// What is prepared under names that start like ours. Removes what nobody will ask about again.
pub(super) fn list(file: &File, forget: &[String], old: Option<&Range>) -> Came {
    let listed = || {
        let sql = "DELETE FROM unanimous_branch WHERE name = ?1 AND state <> 'prepared'";
        let mut removal = file.db.prepare_cached(sql)?;
        for name in forget {
            removal.execute([name])?;
        }
        if let Some(old) = old {
            sweep(&file.db, old)?;
        }
        let sql = "SELECT name, at FROM unanimous_branch WHERE state = 'prepared' ORDER BY at";
        let mut compiled = file.db.prepare_cached(sql)?;
        let rows = compiled.query_map([], |row| {
            let since = u64::try_from(row.get::<_, i64>(1)?).ok();
            Ok(Held { name: row.get(0)?, since: since.map(Timestamp) })
        })?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    let mut held = listed().map_err(ours)?;
    held.retain(|held| held.name.starts_with("una:"));
    Ok(Outcome::Keep(Said::Listed(held)))
}

/// Removes some of what is too old to be asked for.
fn sweep(db: &Connection, (from, before): &Range) -> rusqlite::Result<()> {
    let kept_since_ms = now_ms() - FENCE_KEPT.as_millis() as i64;
    let rows_max = FENCE_SWEEP.1 as i64;
    let branches = "DELETE FROM unanimous_branch WHERE name IN (SELECT name FROM unanimous_branch \
                    WHERE name >= ?1 AND name < ?2 AND state <> 'prepared' AND at < ?3 LIMIT ?4)";
    db.prepare_cached(branches)?.execute(params![from, before, kept_since_ms, rows_max])?;
    let steps = "DELETE FROM unanimous_barrier WHERE (branch, verb) IN (SELECT branch, verb FROM \
                 unanimous_barrier WHERE branch >= ?1 AND branch < ?2 AND at < ?3 LIMIT ?4)";
    db.prepare_cached(steps)?.execute(params![from, before, kept_since_ms / 1_000, rows_max])?;
    Ok(())
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as i64
}
