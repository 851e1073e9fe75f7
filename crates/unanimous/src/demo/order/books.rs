//! The count: what each service has of every order, by its own file, and whether that agrees with what
//! the customers were told.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::load::{End, Told};
use crate::exit::Failure;
use crate::stats::median;

/// What the card service has.
#[derive(Debug, Default)]
pub(super) struct CardBook {
    /// Whether and how each order is paid for: its payments' states and amounts.
    payments: BTreeMap<String, Vec<(String, u64)>>,
    /// Each customer's statement: what it says of an order, and when.
    statements: BTreeMap<String, Vec<(String, f64)>>,
    /// What left the accounts, in rupees.
    spent: i64,
    /// Requests that came again and were answered from their keys.
    repeats: u64,
}

/// What the inventory and the orders have.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    by_order: BTreeMap<String, Vec<String>>,
}

/// What all three have.
#[derive(Debug, Default)]
pub(super) struct Books {
    card: CardBook,
    inventory: Deeds,
    /// Pieces that left the inventory.
    pieces: i64,
    orders: Deeds,
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

fn told<T>(path: &Path, read: rusqlite::Result<T>) -> Result<T, Failure> {
    read.map_err(|error| Failure::not_done(format!("{}: {error}", path.display())))
}

/// How long the item's row was locked each time, in milliseconds, without the first `known`.
pub(super) fn locked(path: &Path, known: usize) -> Result<Vec<f64>, Failure> {
    let read = || -> rusqlite::Result<Vec<f64>> {
        let db = open(path)?;
        let mut query = db.prepare("SELECT ms FROM locked ORDER BY rowid LIMIT -1 OFFSET ?")?;
        query.query_map([known as i64], |row| row.get(0))?.collect()
    };
    told(path, read())
}

impl Books {
    /// Reads the files of services that have stopped.
    pub(super) fn read(card: &Path, inventory: &Path, orders: &Path) -> Result<Self, Failure> {
        let (taken, pieces) = told(
            inventory,
            Deeds::read(inventory).and_then(|deeds| {
                let pieces = "SELECT opening - has FROM item";
                Ok((deeds, open(inventory)?.query_row(pieces, [], |row| row.get(0))?))
            }),
        )?;
        Ok(Self {
            card: told(card, CardBook::read(card))?,
            inventory: taken,
            pieces,
            orders: told(orders, Deeds::read(orders))?,
        })
    }
}

impl Deeds {
    fn read(path: &Path) -> rusqlite::Result<Self> {
        let db = open(path)?;
        let mut query = db.prepare("SELECT name, what FROM deed ORDER BY rowid")?;
        let mut rows = query.query([])?;
        let mut deeds = Self::default();
        while let Some(row) = rows.next()? {
            deeds.by_order.entry(row.get(0)?).or_default().push(row.get(1)?);
        }
        Ok(deeds)
    }

    fn of(&self, order: &str) -> Vec<&str> {
        self.by_order.get(order).into_iter().flatten().map(String::as_str).collect()
    }
}

impl CardBook {
    fn read(path: &Path) -> rusqlite::Result<Self> {
        let db = open(path)?;
        let number = |sql| db.query_row(sql, [], |row| row.get::<_, i64>(0));
        let mut book = Self {
            spent: number("SELECT coalesce(sum(opening - has), 0) FROM account")?,
            repeats: number("SELECT coalesce(sum(repeats), 0) FROM request")?.cast_unsigned(),
            ..Self::default()
        };
        // Those without a name bar what was never made.
        let payments = "SELECT name, state, amount FROM payment WHERE name <> ''";
        let mut query = db.prepare(payments)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let payment = (row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned());
            book.payments.entry(row.get(0)?).or_default().push(payment);
        }
        let mut query = db.prepare("SELECT name, what, at_ms FROM statement ORDER BY rowid")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let line = (row.get(1)?, row.get(2)?);
            book.statements.entry(row.get(0)?).or_default().push(line);
        }
        Ok(book)
    }

    fn statement(&self, order: &str) -> Vec<&str> {
        let lines = self.statements.get(order).into_iter().flatten();
        lines.map(|(what, _)| what.as_str()).collect()
    }
}

/// What the count found.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Audit {
    /// Orders that are paid, sold and placed, each once.
    pub(super) whole: u64,
    /// Orders of which nothing is left.
    pub(super) undone: u64,
    /// Orders that are neither.
    pub(super) half_done: u64,
    /// Orders that were charged, sold or placed twice, or for another amount.
    pub(super) done_wrongly: u64,
    /// Orders whose customers were told other than what is so.
    pub(super) lied_about: u64,
    /// Rupees that left the cards, and those of the orders that are paid.
    pub(super) spent: i64,
    pub(super) paid: i64,
    /// Pieces that left the inventory.
    pub(super) pieces: i64,
    /// The first order that anything is wrong with, in words.
    pub(super) example: Option<String>,
    /// What customers saw on their statements of orders that failed, by how many.
    pub(super) seen_of_failed: BTreeMap<String, u64>,
    /// For how long, in milliseconds at the median, of those who saw anything.
    pub(super) seen_ms: f64,
    /// Requests to the card service that came again and were answered from their keys.
    pub(super) repeats: u64,
}

impl Audit {
    pub(super) fn of<'a>(books: &Books, ends: impl Iterator<Item = &'a End>) -> Self {
        let mut audit = Self {
            spent: books.card.spent,
            pieces: books.pieces,
            repeats: books.card.repeats,
            ..Self::default()
        };
        let mut seen_ms = Vec::new();
        for end in ends {
            audit.count(books, end);
            if let Told::Failed(_) = end.told {
                let lines = books.card.statement(&end.order.name);
                let saw = if lines.is_empty() { "nothing".to_owned() } else { lines.join(", ") };
                *audit.seen_of_failed.entry(saw).or_default() += 1;
                if let Some([(_, first), .., (_, last)]) =
                    books.card.statements.get(&end.order.name).map(Vec::as_slice)
                {
                    seen_ms.push(last - first);
                }
            }
        }
        audit.seen_ms = median(&seen_ms);
        audit
    }

    fn count(&mut self, books: &Books, End { order, told, .. }: &End) {
        let payments = books.card.payments.get(&order.name).map_or(&[][..], Vec::as_slice);
        let charged: Vec<_> = payments.iter().filter(|(state, _)| state != "ended").collect();
        let (sold, placed) = (books.inventory.of(&order.name), books.orders.of(&order.name));
        let is_whole = matches!(&*charged, [(state, amount)] if state == "charged" && *amount == order.amount)
            && sold.last() == Some(&"sold")
            && placed.last() == Some(&"placed");
        let is_undone = charged.is_empty()
            && matches!(sold.last(), None | Some(&"freed"))
            && matches!(placed.last(), None | Some(&"dropped"));
        let lines = books.card.statement(&order.name);
        let has_twice = [&lines, &sold, &placed]
            .into_iter()
            .any(|done| done.iter().enumerate().any(|(index, it)| done[..index].contains(it)));
        let is_so = match told {
            Told::Placed => is_whole,
            Told::Failed(_) => is_undone,
            // Who knows nothing was not told anything that is not so.
            Told::Unknown(_) => true,
        };
        self.whole += u64::from(is_whole);
        self.undone += u64::from(is_undone);
        self.half_done += u64::from(!is_whole && !is_undone);
        self.done_wrongly += u64::from(has_twice || payments.len() > 1);
        self.lied_about += u64::from(!is_so);
        if is_whole {
            self.paid += order.amount.cast_signed();
        }
        if !is_so || has_twice || (!is_whole && !is_undone) {
            let name = &order.name;
            self.example.get_or_insert_with(|| {
                format!("{name}: card {payments:?} {lines:?}, inventory {sold:?}, orders {placed:?}; told {told:?}")
            });
        }
    }

    /// Whether there is nothing at all to complain about.
    pub(super) fn balances(&self) -> bool {
        let wrong = self.half_done + self.done_wrongly + self.lied_about;
        wrong == 0 && self.spent == self.paid && self.pieces.cast_unsigned() == self.whole
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::load::Order;
    use super::*;

    fn audit(state: &str, lines: &[&str], sold: &[&str], placed: &[&str], told: Told) -> Audit {
        let order = Order::new(1);
        let name = order.name.clone();
        let deeds = |deeds: &[&str]| Deeds {
            by_order: BTreeMap::from([(
                name.clone(),
                deeds.iter().map(|&it| it.to_owned()).collect(),
            )]),
        };
        let is_charged = state == "charged";
        let lines = lines.iter().enumerate().map(|(at, &what)| (what.to_owned(), at as f64));
        let books = Books {
            card: CardBook {
                payments: BTreeMap::from([(name.clone(), vec![(state.to_owned(), order.amount)])]),
                statements: BTreeMap::from([(name.clone(), lines.collect())]),
                spent: if is_charged { order.amount.cast_signed() } else { 0 },
                repeats: 0,
            },
            inventory: deeds(sold),
            pieces: i64::from(sold.last() == Some(&"sold")),
            orders: deeds(placed),
        };
        Audit::of(&books, [End { order, told, took: Duration::ZERO }].iter())
    }

    #[test]
    fn an_order_is_paid_sold_and_placed_or_nothing_of_it_is() {
        let failed = || Told::Failed("undeliverable".to_owned());
        let all = ["authorised", "captured"];
        assert!(
            audit("charged", &all, &["held", "sold"], &["pending", "placed"], Told::Placed)
                .balances()
        );
        let undone = audit("ended", &["charged", "refunded"], &["sold", "freed"], &[], failed());
        assert!(undone.balances(), "{undone:?}");
        assert_eq!(undone.seen_of_failed["charged, refunded"], 1);
        assert_eq!(audit("charged", &["charged"], &["sold", "freed"], &[], failed()).half_done, 1);
        assert_eq!(audit("held", &["authorised"], &["held", "freed"], &[], failed()).half_done, 1);
        assert_eq!(audit("charged", &all, &["held"], &["placed"], Told::Placed).half_done, 1);
        let twice = audit("charged", &["charged", "charged"], &["sold"], &["placed"], Told::Placed);
        assert_eq!(twice.done_wrongly, 1);
        assert_eq!(audit("ended", &[], &[], &[], Told::Placed).lied_about, 1);
    }
}
