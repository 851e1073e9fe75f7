//! One service of the demo with bookings: a process with its own SQLite file.
//!
//! Each has a stock: seats of flights, rooms of hotels, rupees of accounts. A step takes from it and
//! refuses if there is not enough, its compensation gives back, and a last step confirms. Everything
//! that is done is written down as often as it is done, so that nothing done twice can hide.

use std::fmt;

use clap::ValueEnum;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use unanimous_client::participant::{No, SqliteStore, StepCall, Steps};

use super::super::bank::listen;
use crate::cli::TravelArgs;
use crate::exit::Failure;
use crate::serve::when_parent_ends;

/// Which service.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServiceName {
    /// Seats, and tickets.
    Flight,
    /// Rooms, and points.
    Hotel,
    /// Charges and refunds.
    Payment,
}

impl ServiceName {
    pub(super) const ALL: [Self; 3] = [Self::Flight, Self::Hotel, Self::Payment];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Flight => "flight",
            Self::Hotel => "hotel",
            Self::Payment => "payment",
        }
    }

    /// How many flights, hotels or accounts there are.
    pub(super) fn items(self) -> u32 {
        match self {
            Self::Flight => 12,
            Self::Hotel => 10,
            Self::Payment => 40,
        }
    }

    /// Why it refuses.
    fn refusal(self) -> &'static str {
        match self {
            Self::Flight => "no_seat",
            Self::Hotel => "no_room",
            Self::Payment => "no_funds",
        }
    }
}

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

/// Serves until the demo ends.
pub(crate) async fn serve(args: TravelArgs) -> Result<(), Failure> {
    when_parent_ends(|| std::process::exit(0));
    let TravelArgs { name, items, each, .. } = args;
    let store = SqliteStore::of_steps(&args.data, move |db| set_up(db, items, each))
        .map_err(|error| Failure::usage(format!("{}: {error}", args.data.display())))?;
    let steps = Steps::new(store);
    let take = move |db: &Connection, call: &StepCall| take(db, call, name);
    let steps = match name {
        ServiceName::Flight => {
            steps.act("/reserve", take).compensate("/release", give_back).act("/ticket", confirm)
        }
        ServiceName::Hotel => {
            steps.act("/reserve", take).compensate("/release", give_back).act("/points", confirm)
        }
        ServiceName::Payment => steps.act("/charge", take).compensate("/refund", give_back),
    };
    listen(args.listen, steps.router()).await
}

fn set_up(db: &Connection, items: u32, each: u64) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS stock (
             item INTEGER PRIMARY KEY, has INTEGER NOT NULL, opening INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS deed (
             booking TEXT NOT NULL, deed TEXT NOT NULL, item INTEGER NOT NULL,
             amount INTEGER NOT NULL, number TEXT);",
    )?;
    for item in 0..items {
        let insert = "INSERT OR IGNORE INTO stock VALUES (?1, ?2, ?2)";
        db.execute(insert, params![item, each.cast_signed()])?;
    }
    Ok(())
}

fn take(db: &Connection, call: &StepCall, name: ServiceName) -> Result<Order, No> {
    let order: Order = call.json()?;
    let take = "UPDATE stock SET has = has - ?2 WHERE item = ?1 AND has >= ?2";
    let mut take = db.prepare_cached(take)?;
    if take.execute(params![order.item, order.amount.cast_signed()])? == 0 {
        let Order { booking, item, amount } = order;
        let detail = format!("{booking} wants {amount} of {} {item}", name.as_str());
        return Err(No::refused(name.refusal(), detail));
    }
    write_down(db, &order, Deed::Taken, None)?;
    Ok(order)
}

fn give_back(db: &Connection, call: &StepCall) -> Result<(), No> {
    let order: Order = call.result()?;
    let mut give = db.prepare_cached("UPDATE stock SET has = has + ?2 WHERE item = ?1")?;
    give.execute(params![order.item, order.amount.cast_signed()])?;
    Ok(write_down(db, &order, Deed::GivenBack, None)?)
}

fn confirm(db: &Connection, call: &StepCall) -> Result<Confirmation, No> {
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
