//! What a branch changes: the rows that it touched, as they were before and are after.
//!
//! This is what is kept while a branch is prepared, as JSON that an operator can read:
//!
//! ```text
//! [{"table":"account","columns":["id","balance"],"rows":[{"key":[1],"before":[1,500],"after":[1,450]}]}]
//! ```
//!
//! To carry it out is to put the images in place, with triggers and foreign keys asleep: what they had to
//! say is in the images already. A row that is not as it was before has been changed past the guards, and
//! nothing is carried out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::config::DbConfig;
use rusqlite::types::{Value as Stored, ValueRef};
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use serde::{Deserialize, Serialize};

use super::shape::{Shape, Shapes, Unready, identifier};
use crate::limits::SQLITE_ROWS_MAX;

/// Everything that a branch changes in one table.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Changes {
    pub(super) table: String,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Row>,
}

/// One row. No image: there is none.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) key: Vec<Cell>,
    before: Option<Vec<Cell>>,
    after: Option<Vec<Cell>>,
}

/// A value of a column, every bit of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Cell {
    Null(()),
    Integer(i64),
    Text(String),
    Real { real: String },
    Blob { blob: String },
}

impl Cell {
    fn of(value: ValueRef<'_>) -> Result<Self, String> {
        Ok(match value {
            ValueRef::Null => Self::Null(()),
            ValueRef::Integer(integer) => Self::Integer(integer),
            // The shortest text that is read as the same number.
            ValueRef::Real(real) => Self::Real { real: format!("{real:?}") },
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Self::Text(text.to_owned()),
                Err(_) => return Err("has a text that is not UTF-8".to_owned()),
            },
            ValueRef::Blob(bytes) => Self::Blob { blob: STANDARD.encode(bytes) },
        })
    }

    fn stored(&self) -> Result<Stored, Uncarried> {
        let senseless = |text: &str| Uncarried::Senseless(format!("{text:?} is kept as a value"));
        Ok(match self {
            Self::Null(()) => Stored::Null,
            Self::Integer(integer) => Stored::Integer(*integer),
            Self::Text(text) => Stored::Text(text.clone()),
            Self::Real { real } => Stored::Real(real.parse().map_err(|_| senseless(real))?),
            Self::Blob { blob } => {
                Stored::Blob(STANDARD.decode(blob).map_err(|_| senseless(blob))?)
            }
        })
    }

    /// Whether every version of SQLite spells it the same.
    pub(super) fn is_plain(&self) -> bool {
        match self {
            Self::Integer(_) | Self::Text(_) | Self::Blob { .. } => true,
            Self::Null(()) | Self::Real { .. } => false,
        }
    }
}

/// Why changes have not been carried out. Nothing of them has.
pub(super) enum Uncarried {
    Failed(rusqlite::Error),
    /// Somebody has changed a row, past the guards.
    Changed(String),
    /// The table is another than it was.
    Reshaped(String),
    /// What is kept cannot be read.
    Senseless(String),
}

impl From<rusqlite::Error> for Uncarried {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl Changes {
    /// What was touched since the notes were cleared, table by table, with images of now.
    pub(super) fn noted(db: &Connection, shapes: &mut Shapes) -> Result<Vec<Self>, Unready> {
        let sql = "SELECT DISTINCT tbl, k1, k2, k3, k4, k5, k6, k7, k8 FROM temp.unanimous_touched \
                   ORDER BY tbl LIMIT ?1";
        let mut compiled = db.prepare_cached(sql)?;
        let mut rows = compiled.query([SQLITE_ROWS_MAX as i64 + 1])?;
        let (mut all, mut count) = (Vec::<Self>::new(), 0);
        while let Some(row) = rows.next()? {
            count += 1;
            let table: String = row.get(0)?;
            let shape = shapes.of(db, &table)?;
            let wrong = |why: &str| Unready::Unsupported(format!("a row of {table} {why}"));
            let key = (1..=shape.key.len())
                .map(|at| Cell::of(row.get_ref(at)?).map_err(|why| wrong(&why)))
                .collect::<Result<Vec<_>, _>>()?;
            if key.contains(&Cell::Null(())) {
                return Err(wrong("has no value in its primary key"));
            }
            let after = image(db, &shape, &key)?;
            if all.last().is_none_or(|last| last.table != table) {
                let columns = shape.columns.clone();
                all.push(Self { table, columns, rows: Vec::new() });
            }
            let last = all.last_mut().expect("one was pushed if there was none");
            last.rows.push(Row { key, before: None, after });
        }
        match count > SQLITE_ROWS_MAX {
            true => Err(Unready::Unsupported(format!(
                "more than {SQLITE_ROWS_MAX} rows are changed in one branch"
            ))),
            false => Ok(all),
        }
    }

    /// Adds how the rows are now, before the work.
    pub(super) fn look_before(
        &mut self,
        db: &Connection,
        shapes: &mut Shapes,
    ) -> Result<(), Unready> {
        let shape = shapes.of(db, &self.table)?;
        for row in &mut self.rows {
            row.before = image(db, &shape, &row.key)?;
        }
        Ok(())
    }

    /// Carries them out. The caller takes everything back if that fails.
    fn carry_out(&self, db: &Connection, shapes: &mut Shapes) -> Result<(), Uncarried> {
        let shape = match shapes.of(db, &self.table) {
            Ok(shape) if shape.columns == self.columns => shape,
            Ok(_) | Err(Unready::Unsupported(_)) => {
                return Err(Uncarried::Reshaped(format!(
                    "table {} is not as it was when the branch was prepared: give it back the columns \
                     {}, and its primary key",
                    self.table,
                    self.columns.join(", ")
                )));
            }
            Err(Unready::Failed(error)) => return Err(Uncarried::Failed(error)),
        };
        let numbers = self.take_out(db, &shape)?;
        for (row, number) in self.rows.iter().zip(numbers) {
            if let Some(after) = &row.after {
                put_in(db, &shape, after, number)?;
            }
        }
        Ok(())
    }

    /// Removes every row that is as it was before, and returns its number, where it is not its key.
    fn take_out(&self, db: &Connection, shape: &Shape) -> Result<Vec<Option<i64>>, Uncarried> {
        let (table, is_key) = (identifier(&shape.name), where_key(shape));
        let mut removal = db.prepare_cached(&format!("DELETE FROM {table} WHERE {is_key}"))?;
        let mut numbers = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let now = image(db, shape, &row.key).map_err(|unready| match unready {
                Unready::Failed(error) => Uncarried::Failed(error),
                Unready::Unsupported(why) => Uncarried::Changed(why),
            })?;
            if now != row.before {
                return Err(Uncarried::Changed(format!(
                    "a row of {} was changed while it was held",
                    self.table
                )));
            }
            let key = values(&row.key)?;
            numbers.push(match (shape.rowid, now.is_some()) {
                (Some(rowid), true) => {
                    let sql = format!("SELECT {rowid} FROM {table} WHERE {is_key}");
                    let mut compiled = db.prepare_cached(&sql)?;
                    compiled.query_row(params_from_iter(&key), |row| row.get(0)).optional()?
                }
                (Some(_) | None, _) => None,
            });
            removal.execute(params_from_iter(&key))?;
        }
        Ok(numbers)
    }
}

/// Carries all of it out, with triggers and foreign keys asleep.
pub(super) fn carry_out(
    db: &Connection,
    shapes: &mut Shapes,
    all: &[Changes],
) -> Result<(), Uncarried> {
    let asleep = [DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY];
    for config in asleep {
        db.set_db_config(config, false)?;
    }
    let carried_out = all.iter().try_for_each(|changes| changes.carry_out(db, shapes));
    for config in asleep {
        db.set_db_config(config, true)?;
    }
    carried_out
}

fn where_key(shape: &Shape) -> String {
    // The first finds the row by the key's own index, the second tells A from a.
    let parts = (1..).zip(&shape.key).map(|(at, column)| {
        let column = identifier(column);
        format!("{column} = ?{at} AND {column} = ?{at} COLLATE BINARY")
    });
    parts.collect::<Vec<_>>().join(" AND ")
}

/// A key as rows of `unanimous_lock`, and the guards, spell it.
pub(super) fn spelled(db: &Connection, key: &[Cell]) -> Result<String, Unready> {
    let parts: Vec<_> = (1..=key.len()).map(|at| format!("quote(?{at})")).collect();
    let sql = format!("SELECT {}", parts.join(" || ',' || "));
    let key = key_values(key)?;
    Ok(db.prepare_cached(&sql)?.query_row(params_from_iter(&key), |row| row.get(0))?)
}

fn key_values(key: &[Cell]) -> Result<Vec<Stored>, Unready> {
    values(key).map_err(|_| Unready::Unsupported("its key is unreadable".to_owned()))
}

fn values(cells: &[Cell]) -> Result<Vec<Stored>, Uncarried> {
    cells.iter().map(Cell::stored).collect()
}

/// The row of this key as it is now.
fn image(db: &Connection, shape: &Shape, key: &[Cell]) -> Result<Option<Vec<Cell>>, Unready> {
    let columns = shape.columns.iter().map(|column| identifier(column));
    let columns = columns.collect::<Vec<_>>().join(", ");
    let table = identifier(&shape.name);
    let sql = format!("SELECT {columns} FROM main.{table} WHERE {}", where_key(shape));
    let key = key_values(key)?;
    let mut compiled = db.prepare_cached(&sql)?;
    let mut rows = compiled.query(params_from_iter(&key))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let cells = (0..shape.columns.len()).map(|at| {
        let wrong = |why| Unready::Unsupported(format!("a row of {} {why}", shape.name));
        Cell::of(row.get_ref(at)?).map_err(wrong)
    });
    cells.collect::<Result<_, _>>().map(Some)
}

fn put_in(
    db: &Connection,
    shape: &Shape,
    cells: &[Cell],
    number: Option<i64>,
) -> Result<(), Uncarried> {
    let mut columns: Vec<String> = shape.columns.iter().map(|it| identifier(it)).collect();
    let mut cells = values(cells)?;
    if let (Some(number), Some(rowid)) = (number, shape.rowid) {
        columns.push(rowid.to_owned());
        cells.push(Stored::Integer(number));
    }
    let places = vec!["?"; cells.len()].join(", ");
    let (table, columns) = (identifier(&shape.name), columns.join(", "));
    let sql = format!("INSERT INTO {table} ({columns}) VALUES ({places})");
    db.prepare_cached(&sql)?.execute(params_from_iter(&cells))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_kept_to_the_last_bit() {
        for (value, json) in [
            (ValueRef::Null, "null"),
            (ValueRef::Integer(i64::MIN), "-9223372036854775808"),
            (ValueRef::Real(0.1), r#"{"real":"0.1"}"#),
            (ValueRef::Real(-0.0), r#"{"real":"-0.0"}"#),
            (ValueRef::Real(f64::INFINITY), r#"{"real":"inf"}"#),
            (ValueRef::Text(b"1"), r#""1""#),
            (ValueRef::Blob(b"\xff"), r#"{"blob":"/w=="}"#),
        ] {
            let cell = Cell::of(value).expect("a value");
            assert_eq!(serde_json::to_string(&cell).expect("JSON"), json);
            let read: Cell = serde_json::from_str(json).expect("JSON");
            assert_eq!(read, cell);
            let Ok(stored) = read.stored() else { panic!("{json}") };
            assert_eq!(ValueRef::from(&stored), value);
        }
        assert!(Cell::of(ValueRef::Text(b"\xff")).is_err());
    }
}
