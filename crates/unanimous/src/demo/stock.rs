//! What a service has in stock, and what it has done: for services whose steps take, give back and
//! confirm.
//!
//! Everything that is done is written down as often as it is done, so that nothing done twice can hide.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, Row, params};
use serde::{Deserialize, Serialize};
use unanimous_client::participant::{No, StepCall};

use crate::exit::Failure;

/// What a step of a booking wants of a service.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Order {
    pub(super) booking: String,
    pub(super) item: u32,
    pub(super) amount: u64,
}

/// What a service did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Deed {
    Taken,
    GivenBack,
    Confirmed,
}

impl Deed {
    pub(super) fn parse(word: &str) -> Option<Self> {
        [Self::Taken, Self::GivenBack, Self::Confirmed]
            .into_iter()
            .find(|deed| deed.to_string() == word)
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taken => "taken",
            Self::GivenBack => "given back",
            Self::Confirmed => "confirmed",
        })
    }
}

/// What a confirmation returns: the number on the ticket.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Confirmation {
    pub(super) number: String,
}

/// Creates the tables, and as many items with so much of each, unless they are there.
pub(super) fn set_up(db: &Connection, items: u32, each: u64) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS stock (
             item INTEGER PRIMARY KEY, has INTEGER NOT NULL, opening INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS deed (
             booking TEXT NOT NULL, deed TEXT NOT NULL, item INTEGER NOT NULL,
             amount INTEGER NOT NULL, number TEXT);",
    )?;
    let rows = "WITH RECURSIVE number (item) AS (
                    SELECT 0 WHERE ?1 > 0 UNION ALL SELECT item + 1 FROM number WHERE item + 1 < ?1)
                INSERT OR IGNORE INTO stock SELECT item, ?2, ?2 FROM number";
    db.execute(rows, params![items, each.cast_signed()])?;
    Ok(())
}

/// Takes what the order wants of an item; if there is not enough, refuses for that reason.
pub(super) fn take(db: &Connection, call: &StepCall, refusal: &str) -> Result<Order, No> {
    let order: Order = call.json()?;
    let take = "UPDATE stock SET has = has - ?2 WHERE item = ?1 AND has >= ?2";
    let mut take = db.prepare_cached(take)?;
    if take.execute(params![order.item, order.amount.cast_signed()])? == 0 {
        let Order { booking, item, amount } = order;
        let detail = format!("{booking} wants {amount} of number {item}");
        return Err(No::refused(refusal, detail));
    }
    write_down(db, &order, Deed::Taken, None)?;
    Ok(order)
}

/// Gives back what the action has taken.
pub(super) fn give_back(db: &Connection, call: &StepCall) -> Result<(), No> {
    let order: Order = call.result()?;
    let mut give = db.prepare_cached("UPDATE stock SET has = has + ?2 WHERE item = ?1")?;
    give.execute(params![order.item, order.amount.cast_signed()])?;
    Ok(write_down(db, &order, Deed::GivenBack, None)?)
}

/// Writes down what was asked for, under a number of its own.
pub(super) fn confirm(db: &Connection, call: &StepCall) -> Result<Confirmation, No> {
    let number = call.branch().to_string();
    write_down(db, &call.json()?, Deed::Confirmed, Some(&number))?;
    Ok(Confirmation { number })
}

fn write_down(
    db: &Connection,
    order: &Order,
    deed: Deed,
    number: Option<&str>,
) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached("INSERT INTO deed VALUES (?, ?, ?, ?, ?)")?;
    let Order { booking, item, amount } = order;
    insert.execute(params![booking, deed.to_string(), item, amount.cast_signed(), number])?;
    Ok(())
}

/// One thing that a service did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Done {
    pub(super) booking: String,
    pub(super) deed: Deed,
    pub(super) item: u32,
    pub(super) amount: u64,
    pub(super) number: Option<String>,
}

impl Done {
    /// What it adds to the stock.
    fn gives(&self) -> i64 {
        match self.deed {
            Deed::Taken => -self.amount.cast_signed(),
            Deed::GivenBack => self.amount.cast_signed(),
            Deed::Confirmed => 0,
        }
    }
}

/// What each item has, and what it started with.
pub(super) type Stock = BTreeMap<u32, (i64, i64)>;

/// All that one service has done.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    /// In order.
    pub(super) done: Vec<Done>,
    pub(super) stock: Stock,
}

impl Book {
    /// Reads the file of a service that has stopped.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let failed =
            |why: &dyn std::fmt::Display| Failure::not_done(format!("{}: {why}", path.display()));
        let (rows, stock) = Self::rows(path).map_err(|error| failed(&error))?;
        let done = rows.into_iter().map(|(word, done)| match Deed::parse(&word) {
            Some(deed) => Ok(Done { deed, ..done }),
            None => Err(failed(&format_args!("{word:?} is nothing that a service does"))),
        });
        Ok(Self { done: done.collect::<Result<_, _>>()?, stock })
    }

    fn rows(path: &Path) -> rusqlite::Result<(Vec<(String, Done)>, Stock)> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let mut query =
            db.prepare("SELECT deed, booking, item, amount, number FROM deed ORDER BY rowid")?;
        let read = |row: &Row<'_>| {
            let amount: i64 = row.get(3)?;
            let done = Done {
                booking: row.get(1)?,
                deed: Deed::Taken,
                item: row.get(2)?,
                amount: amount.cast_unsigned(),
                number: row.get(4)?,
            };
            Ok((row.get(0)?, done))
        };
        let done = query.query_map([], read)?.collect::<Result<_, _>>()?;
        let mut query = db.prepare("SELECT item, has, opening FROM stock")?;
        let stock = query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        Ok((done, stock.collect::<Result<_, _>>()?))
    }

    /// How much was done in all.
    pub(super) fn total(&self, deed: Deed) -> u64 {
        self.done.iter().filter(|done| done.deed == deed).map(|done| done.amount).sum()
    }

    /// Items of which more was taken than there was, at any time.
    pub(super) fn oversold(&self) -> u64 {
        let mut left: BTreeMap<u32, i64> =
            self.stock.iter().map(|(&item, &(_, opening))| (item, opening)).collect();
        let mut oversold = BTreeSet::new();
        for done in &self.done {
            let left = left.entry(done.item).or_default();
            *left += done.gives();
            if *left < 0 {
                oversold.insert(done.item);
            }
        }
        oversold.len() as u64
    }

    /// Items that do not have what is left of their openings.
    pub(super) fn unbalanced(&self) -> u64 {
        let mut left: BTreeMap<u32, i64> =
            self.stock.iter().map(|(&item, &(_, opening))| (item, opening)).collect();
        for done in &self.done {
            *left.entry(done.item).or_default() += done.gives();
        }
        let is_balanced = |&(item, &(has, _)): &(&u32, &(i64, i64))| left[item] == has;
        self.stock.iter().filter(|it| !is_balanced(it)).count() as u64
    }
}
