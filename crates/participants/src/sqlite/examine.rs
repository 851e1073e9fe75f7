//! Whether a file can take part, and what to change if not. Looks only, over a connection that cannot
//! write.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension};

use super::file::{found, owned_by};
use super::read;
use super::refusal::Refused;
use super::shape::{HeldBy, Shapes, Unready};
use crate::Finding;
use crate::limits::{PREPARED_SHOWN_MAX, PREPARED_YOUNG};

/// Tables that a finding names.
const TABLES_SHOWN_MAX: usize = 5;

pub(super) fn examine(path: &Path, patience: Duration) -> Vec<Finding> {
    let until = Instant::now() + patience;
    let db = match read::open(path, until) {
        Ok((db, _)) => db,
        Err(why) => return vec![Finding::unfit("file", why.detail)],
    };
    match look(&db, path) {
        Ok(findings) => findings,
        Err(error) => vec![Finding::unfit("file", Refused::of(&error, "file").detail)],
    }
}

fn look(db: &Connection, path: &Path) -> rusqlite::Result<Vec<Finding>> {
    // The first to read: what is no database is seen here.
    let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let mut findings = vec![writable(path), owner(path), journal(&mode)];
    findings.extend(tables(db)?);
    findings.push(prepared(db)?);
    Ok(findings)
}

fn writable(path: &Path) -> Finding {
    const SUBJECT: &str = "file";
    let is_protected =
        |path: &Path| std::fs::metadata(path).is_ok_and(|about| about.permissions().readonly());
    let folder = path.parent().unwrap_or(Path::new("/"));
    match is_protected(path) || is_protected(folder) {
        false => Finding::fit(SUBJECT, "can be read"),
        true => Finding::unfit(
            SUBJECT,
            "write-protected: let the coordinator write to the file and to its folder",
        ),
    }
}

fn owner(path: &Path) -> Finding {
    const SUBJECT: &str = "owner";
    match found(path).ok().and_then(|path| owned_by(&path)) {
        None => Finding::fit(SUBJECT, "nobody has it open as coordinator"),
        Some(owner) => Finding::fit(
            SUBJECT,
            format!("{owner} has it open; another that names this file is refused"),
        ),
    }
}

fn journal(mode: &str) -> Finding {
    const SUBJECT: &str = "journal_mode";
    match mode {
        "wal" => Finding::fit(SUBJECT, "wal"),
        mode => Finding::doubtful(
            SUBJECT,
            format!(
                "{mode}: who reads holds up every prepare and commit; run once, in the file: \
                 PRAGMA journal_mode = WAL"
            ),
        ),
    }
}

/// Which tables a branch cannot change, and which are held whole.
fn tables(db: &Connection) -> rusqlite::Result<Vec<Finding>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
               AND name NOT LIKE 'unanimous\\_%' ESCAPE '\\' ORDER BY name";
    let mut compiled = db.prepare(sql)?;
    let names = compiled.query_map([], |row| row.get::<_, String>(0))?;
    let names = names.collect::<rusqlite::Result<Vec<_>>>()?;
    let (mut shapes, mut unsupported, mut whole) = (Shapes::default(), Vec::new(), Vec::new());
    for name in names {
        match shapes.of(db, &name) {
            Ok(shape) if shape.held_by == HeldBy::Table => whole.push(name),
            Ok(_) => {}
            Err(Unready::Unsupported(why)) => unsupported.push(why),
            Err(Unready::Failed(error)) => return Err(error),
        }
    }
    let listed = |all: &[String], between: &str| {
        let shown = all[..all.len().min(TABLES_SHOWN_MAX)].join(between);
        let more = all.len().saturating_sub(TABLES_SHOWN_MAX);
        if more > 0 { format!("{shown}{between}and {more} more") } else { shown }
    };
    let mut findings = vec![match &*unsupported {
        [] => Finding::fit("tables", "a branch can change all of them"),
        some => Finding::doubtful(
            "tables",
            format!("not for branches of several participants: {}", listed(some, "; ")),
        ),
    }];
    if !whole.is_empty() {
        findings.push(Finding::fit(
            "held_whole",
            format!(
                "for their foreign keys or further unique indexes, one branch at a time changes: {}",
                listed(&whole, ", ")
            ),
        ));
    }
    Ok(findings)
}

/// What has been prepared for long, the oldest first.
fn prepared(db: &Connection) -> rusqlite::Result<Finding> {
    const SUBJECT: &str = "prepared";
    let none = || Ok(Finding::fit(SUBJECT, "none prepared for long"));
    let sql = "SELECT 1 FROM sqlite_schema WHERE name = 'unanimous_branch'";
    if db.query_row(sql, [], |_| Ok(())).optional()?.is_none() {
        return none();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let before_ms = now.saturating_sub(PREPARED_YOUNG).as_millis() as i64;
    let sql = "SELECT name FROM unanimous_branch WHERE state = 'prepared' AND at < ?1 ORDER BY at";
    let mut compiled = db.prepare(sql)?;
    let names = compiled.query_map([before_ms], |row| row.get::<_, String>(0))?;
    let names = names.collect::<rusqlite::Result<Vec<_>>>()?;
    if names.is_empty() {
        return none();
    }
    let first = names[..names.len().min(PREPARED_SHOWN_MAX)].join(", ");
    let (count, age_s) = (names.len(), PREPARED_YOUNG.as_secs());
    Ok(Finding::doubtful(
        SUBJECT,
        format!(
            "{count} branches have been prepared for more than {age_s} s and hold what they change; the \
             oldest: {first}; see `unanimous resource in-doubt`"
        ),
    ))
}
