//! What has to be known of a table before a branch may change it, and the triggers on it.
//!
//! What a prepared branch has changed must still be possible when it commits. Where a row's own key says
//! what else could be in the way, the row is held; where other rows could be, through another unique index
//! or a foreign key, the whole table is, and the tables at the other ends of the keys.
//!
//! Two kinds of triggers are made at the first use of a table. Those that note what is touched exist in our
//! connection alone; those that keep other programs from what is held stay in the file. They use nothing
//! that SQLite has not had for long, because every program that opens the file has to understand them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::refusal::Refused;
use crate::limits::SQLITE_KEY_COLUMNS_MAX;

/// What a trigger says that keeps somebody from a row, around the table's name.
const HELD: (&str, &str) = ("unanimous: what is changed in ", " is held by a prepared branch");

/// A table whose rows a branch may change.
pub(super) struct Shape {
    pub(super) name: String,
    /// Those that are stored, in order.
    pub(super) columns: Vec<String>,
    /// The columns of the primary key.
    pub(super) key: Vec<String>,
    /// What a row's number is called where the key is not that number.
    pub(super) rowid: Option<&'static str>,
    pub(super) held_by: HeldBy,
    /// Tables at the other ends of foreign keys.
    pub(super) related: Vec<String>,
    /// Those among them whose rows refer to this table.
    pub(super) referring: Vec<String>,
}

/// What is held for a row that is changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HeldBy {
    Row,
    Table,
}

/// What is known of the tables, for as long as the schema stays as it is.
#[derive(Default)]
pub(super) struct Shapes {
    version: i64,
    known: HashMap<String, Arc<Shape>>,
    noted: HashSet<String>,
    guarded: HashSet<String>,
    /// Whether triggers were made that go if what is under way is taken back.
    made: bool,
}

/// Why something could not be looked at or made ready.
pub(super) enum Unready {
    Failed(rusqlite::Error),
    /// A branch cannot change it.
    Unsupported(String),
}

impl From<rusqlite::Error> for Unready {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl Unready {
    pub(super) fn refused(&self, what: &str) -> Refused {
        match self {
            Self::Failed(error) => Refused::of(error, what),
            Self::Unsupported(why) => Refused::new("unsupported", format!("{what}: {why}")),
        }
    }
}

impl Shapes {
    /// Forgets everything if the schema has changed.
    pub(super) fn refresh(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let version = db.pragma_query_value(None, "schema_version", |row| row.get(0))?;
        if version != self.version {
            *self = Self { version, ..Self::default() };
        }
        Ok(())
    }

    /// What was under way has been taken back.
    pub(super) fn undone(&mut self) {
        if self.made {
            *self = Self::default();
        }
    }

    /// What was under way stays.
    pub(super) fn stays(&mut self) {
        self.made = false;
    }

    /// What is known of a table.
    pub(super) fn of(&mut self, db: &Connection, name: &str) -> Result<Arc<Shape>, Unready> {
        if let Some(shape) = self.known.get(name) {
            return Ok(Arc::clone(shape));
        }
        let shape = Arc::new(Shape::read(db, name)?);
        self.known.insert(name.to_owned(), Arc::clone(&shape));
        Ok(shape)
    }

    /// Sees to it that what is touched in a table is noted, and in those that it takes along.
    pub(super) fn note(&mut self, db: &Connection, name: &str) -> Result<(), Unready> {
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            if self.noted.contains(&name) || is_view(db, &name)? {
                continue;
            }
            let shape = self.of(db, &name)?;
            for trigger in shape.noting() {
                self.made |= trigger.make(db)?;
            }
            self.noted.insert(name);
            open.extend(shape.referring.iter().cloned());
        }
        Ok(())
    }

    /// Sees to it that nobody changes what is held in a table.
    pub(super) fn guard(&mut self, db: &Connection, name: &str) -> Result<(), Unready> {
        if self.guarded.contains(name) {
            return Ok(());
        }
        let shape = self.of(db, name)?;
        let mut made = false;
        for trigger in shape.guarding() {
            made |= trigger.make(db)?;
        }
        if made {
            // The schema is another now, by our own hand.
            self.version = db.pragma_query_value(None, "schema_version", |row| row.get(0))?;
            self.made = true;
        }
        self.guarded.insert(name.to_owned());
        Ok(())
    }
}

fn is_view(db: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'view' AND name = ?1";
    db.prepare_cached(sql)?.exists([name])
}

/// The table whose trigger said so, if one of ours did.
pub(super) fn held_table(error: &rusqlite::Error) -> Option<&str> {
    let rusqlite::Error::SqliteFailure(_, Some(message)) = error else { return None };
    message.strip_prefix(HELD.0)?.strip_suffix(HELD.1)
}

pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn strings(db: &Connection, sql: &str, of: &str) -> rusqlite::Result<Vec<String>> {
    let mut compiled = db.prepare_cached(sql)?;
    compiled.query_map([of], |row| row.get(0))?.collect()
}

impl Shape {
    fn read(db: &Connection, name: &str) -> Result<Self, Unready> {
        let unsupported = |why: &str| Err(Unready::Unsupported(format!("table {name} {why}")));
        let sql = "SELECT type, wr FROM pragma_table_list(?1) WHERE schema = 'main'";
        let listed = db
            .query_row(sql, [name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))
            .optional()?;
        let Some((kind, without_rowid)) = listed else { return unsupported("is not there") };
        if kind != "table" {
            return unsupported("is virtual, and what is changed in it cannot be kept aside");
        }
        let sql = "SELECT name, pk, type, hidden FROM pragma_table_xinfo(?1)";
        let mut compiled = db.prepare(sql)?;
        let rows = compiled.query_map([name], |row| {
            let (name, pk): (String, i64) = (row.get(0)?, row.get(1)?);
            Ok((name, pk, row.get::<_, String>(2)?, row.get::<_, i64>(3)? == 0))
        })?;
        let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let mut key: Vec<_> = rows.iter().filter(|(_, pk, ..)| *pk > 0).collect();
        key.sort_by_key(|(_, pk, ..)| *pk);
        if key.is_empty() {
            return unsupported("has no primary key, which says what a branch holds: declare one");
        }
        if key.len() > SQLITE_KEY_COLUMNS_MAX {
            return unsupported("has a primary key of too many columns");
        }
        let indexes = unique_indexes(db, name)?;
        // The row's number itself is the key where no index had to be made for it.
        let is_number = !without_rowid && !indexes.iter().any(|(_, origin)| origin == "pk");
        let has = |wanted: &str| rows.iter().any(|(name, ..)| name.eq_ignore_ascii_case(wanted));
        let names = ["rowid", "_rowid_", "oid"];
        let rowid = names.into_iter().find(|name| !without_rowid && !is_number && !has(name));
        let (related, referring) = relatives(db, name)?;
        refuse_deferred(db, name, &related)?;
        let held_by = match related.is_empty() && is_told_by_key(db, &indexes)? {
            true => HeldBy::Row,
            false => HeldBy::Table,
        };
        Ok(Self {
            name: name.to_owned(),
            key: key.into_iter().map(|(name, ..)| name.clone()).collect(),
            columns: rows.iter().filter(|it| it.3).map(|it| it.0.clone()).collect(),
            rowid,
            held_by,
            related,
            referring,
        })
    }

    /// The key of `row`, as rows of `unanimous_lock` spell it.
    fn key_of(&self, row: &str) -> String {
        let parts = self.key.iter().map(|column| format!("quote({row}.{})", identifier(column)));
        parts.collect::<Vec<_>>().join(" || ',' || ")
    }

    fn noting(&self) -> [Trigger; 3] {
        let note = |row: &str| {
            let keys = (0..SQLITE_KEY_COLUMNS_MAX).map(|at| match self.key.get(at) {
                Some(column) => format!("{row}.{}", identifier(column)),
                None => "NULL".to_owned(),
            });
            let keys = keys.collect::<Vec<_>>().join(", ");
            format!("INSERT INTO unanimous_touched VALUES ({}, {keys});", literal(&self.name))
        };
        let (old, new) = (note("OLD"), note("NEW"));
        let (on, both) = (format!("main.{}", identifier(&self.name)), format!("{old} {new}"));
        [("INSERT", &new), ("UPDATE", &both), ("DELETE", &old)].map(|(event, notes)| Trigger {
            schema: "temp",
            name: format!("unanimous_note_{}_{}", event.to_ascii_lowercase(), self.name),
            body: format!("AFTER {event} ON {on} BEGIN {notes} END"),
        })
    }

    fn guarding(&self) -> [Trigger; 3] {
        let held = format!("{}{}{}", HELD.0, self.name, HELD.1);
        let (table, says, on) = (literal(&self.name), literal(&held), identifier(&self.name));
        let guard = |event: &str, keys: String| Trigger {
            schema: "main",
            name: format!("unanimous_guard_{}_{}", event.to_ascii_lowercase(), self.name),
            body: format!(
                "AFTER {event} ON {on} WHEN EXISTS (SELECT 1 FROM unanimous_lock WHERE tbl = {table} \
                 AND key IN ('*', {keys})) BEGIN SELECT RAISE(ABORT, {says}); END"
            ),
        };
        let (old, new) = (self.key_of("OLD"), self.key_of("NEW"));
        let both = format!("{old}, {new}");
        [guard("INSERT", new), guard("UPDATE", both), guard("DELETE", old)]
    }
}

/// The names and origins of a table's unique indexes.
fn unique_indexes(db: &Connection, name: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let sql = "SELECT name, origin FROM pragma_index_list(?1) WHERE \"unique\" = 1";
    let mut compiled = db.prepare(sql)?;
    compiled.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Whether two rows are in each other's way only if their keys are spelled the same.
fn is_told_by_key(db: &Connection, indexes: &[(String, String)]) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM pragma_index_xinfo(?1) WHERE key = 1 AND coll <> 'BINARY'";
    for (index, origin) in indexes {
        if origin != "pk" || db.prepare_cached(sql)?.exists([index])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Tables at the other ends of foreign keys, and those among them that refer to this one.
fn relatives(db: &Connection, name: &str) -> rusqlite::Result<(Vec<String>, Vec<String>)> {
    let outward = "SELECT DISTINCT t.name FROM pragma_foreign_key_list(?1) f \
                   JOIN main.sqlite_schema t ON t.type = 'table' \
                   AND t.name = f.\"table\" COLLATE NOCASE WHERE t.name <> ?1";
    let inward = "SELECT DISTINCT t.name FROM main.sqlite_schema t, \
                  pragma_foreign_key_list(t.name) f WHERE t.type = 'table' \
                  AND f.\"table\" = ?1 COLLATE NOCASE";
    let referring = strings(db, inward, name)?;
    let mut related = strings(db, outward, name)?;
    related.extend(referring.iter().cloned());
    related.sort();
    related.dedup();
    Ok((related, referring))
}

/// What is checked at the end of a transaction is not checked at the end of work that is taken back.
fn refuse_deferred(db: &Connection, name: &str, related: &[String]) -> Result<(), Unready> {
    let sql = "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1";
    for table in related.iter().map(String::as_str).chain([name]) {
        let text: String = db.query_row(sql, [table], |row| row.get(0))?;
        if text.to_ascii_uppercase().contains("INITIALLY DEFERRED") {
            return Err(Unready::Unsupported(format!(
                "table {table} has a foreign key that is deferred, and would be checked only at a \
                 commit: declare it immediate"
            )));
        }
    }
    Ok(())
}

/// A trigger as it should be.
struct Trigger {
    schema: &'static str,
    name: String,
    body: String,
}

impl Trigger {
    /// Makes it if it is not there as it should be. Whether it had to.
    fn make(&self, db: &Connection) -> rusqlite::Result<bool> {
        let Self { schema, name, body } = self;
        let sql =
            format!("SELECT sql FROM {schema}.sqlite_schema WHERE type = 'trigger' AND name = ?1");
        let there: Option<String> =
            db.prepare_cached(&sql)?.query_row([name], |row| row.get(0)).optional()?;
        if there.as_ref().is_some_and(|there| there.ends_with(body)) {
            return Ok(false);
        }
        let (name, temp) = (identifier(name), if *schema == "temp" { "TEMP " } else { "" });
        if there.is_some() {
            db.execute_batch(&format!("DROP TRIGGER {schema}.{name}"))?;
        }
        db.execute_batch(&format!("CREATE {temp}TRIGGER {name} {body}"))?;
        Ok(true)
    }
}
