//! One service of the demo with bookings: a process with its own SQLite file.
//!
//! Each has a stock: seats of flights, rooms of hotels, rupees of accounts. A step takes from it and
//! refuses if there is not enough, its compensation gives back, and a last step confirms.

use clap::ValueEnum;
use rusqlite::Connection;
use serde::Serialize;
use unanimous_client::participant::{SqliteStore, StepCall, Steps};

use super::super::bank::listen;
use super::super::stock::{confirm, give_back, set_up, take};
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

/// Serves until the demo ends.
pub(crate) async fn serve(args: TravelArgs) -> Result<(), Failure> {
    when_parent_ends(|| std::process::exit(0));
    let TravelArgs { name, items, each, .. } = args;
    let store = SqliteStore::of_steps(&args.data, move |db| set_up(db, items, each))
        .map_err(|error| Failure::usage(format!("{}: {error}", args.data.display())))?;
    let steps = Steps::new(store);
    let take = move |db: &Connection, call: &StepCall| take(db, call, name.refusal());
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
