//! Transfers between two databases: what the coordinator adds to bare two-phase commit.
//!
//! Two PostgreSQL servers, and PostgreSQL with MariaDB; the same accounts, statements and number of
//! transfers in flight, whichever way they are made. The ways are measured in turn, so that what else the
//! machine does meets all of them.

mod banks;
mod measured;
mod sdk;
mod ways;

use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use self::banks::{Banks, Pair};
use self::measured::Measured;
use self::ways::{Way, Ways};
use super::{Shape, folder};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::table::Table;

const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

/// What to measure.
#[derive(Args, Clone, Debug)]
pub(super) struct SqlArgs {
    #[command(flatten)]
    shape: Shape,
    /// Databases to move money between; may be repeated.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "postgres,mariadb")]
    pair: Vec<Pair>,
}

/// What was measured of one way.
struct Row {
    pair: Pair,
    in_flight: usize,
    way: Way,
    measured: Measured,
    /// Transfers a second, as a share of those by hand.
    to_floor: f64,
}

pub(super) async fn run(args: &SqlArgs, format: Format) -> Result<(), Failure> {
    let (folder, _made) = folder(args.shape.folder.as_ref())?;
    let mut rows = Vec::new();
    for &pair in &args.pair {
        if let Some(missing) = pair.missing() {
            eprintln!("the pair {} is left out: {missing} is not installed", pair.name());
            continue;
        }
        rows.extend(between(pair, &folder.join(pair.name()), &args.shape).await?);
    }
    if rows.is_empty() {
        return Err(Failure::not_done("there is nothing to measure"));
    }
    report(&rows, format);
    Ok(())
}

/// Measures every way between the servers of one pair.
async fn between(pair: Pair, folder: &Path, shape: &Shape) -> Result<Vec<Row>, Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::not_done(format!("{}: {error}", folder.display())))?;
    let banks = block_in_place(|| Banks::start(pair)).expect("what is missing was asked for")?;
    let ways = Ways::start(banks, folder).await?;
    let in_flight = match shape.in_flight.is_empty() {
        true => IN_FLIGHT.to_vec(),
        false => shape.in_flight.clone(),
    };
    let mut rows = Vec::new();
    for count in in_flight {
        let all = in_turn(&ways, count, shape).await?;
        let floor_per_s = all[0].load.per_s;
        rows.extend(Way::ALL.into_iter().zip(all).map(|(way, measured)| {
            let to_floor = measured.load.per_s / floor_per_s;
            Row { pair, in_flight: count, way, measured, to_floor }
        }));
    }
    ways.close().await?;
    Ok(rows)
}

/// The medians of the ways, the floor's first.
async fn in_turn(
    ways: &Ways,
    in_flight: usize,
    shape: &Shape,
) -> Result<[Measured; Way::ALL.len()], Failure> {
    let mut all = Vec::new();
    for way in Way::ALL {
        all.push((way, ways.transfers(way, in_flight)?));
    }
    let mut measured = Way::ALL.map(|_| Vec::new());
    // The first round warms up; the limits of the resources settle in it.
    for round in 0..=shape.rounds {
        for ((way, transfers), of_it) in all.iter().zip(&mut measured) {
            let time = Duration::from_secs(shape.seconds);
            let one = Measured::take(ways, *way, transfers, in_flight, time).await?;
            if round > 0 {
                of_it.push(one);
            }
        }
    }
    Ok(measured.map(|all| Measured::middle(&all)))
}

fn report(rows: &[Row], format: Format) {
    match format {
        Format::Json => {
            let rows: Vec<_> = rows.iter().map(Row::json).collect();
            output::json(&json!({"rows": rows}));
        }
        Format::Text => {
            output::line("transfers between two database servers on this machine\n");
            let mut table = Table::new([
                "pair",
                "in flight",
                "",
                "transfers/s",
                "to floor",
                "p50 ms",
                "p99 ms",
                "coordinator CPU µs",
                "program CPU µs",
                "server CPU µs",
                "flushes",
                "of journal",
            ]);
            for row in rows {
                table.row(row.cells());
            }
            output::line(&table.text());
        }
    }
}

impl Row {
    fn json(&self) -> Value {
        let Measured { load, .. } = self.measured;
        json!({
            "pair": self.pair.name(),
            "in_flight": self.in_flight,
            "way": self.way.name(),
            "transfers_per_s": load.per_s,
            "ratio_to_floor": self.to_floor,
            "p50_ms": load.p50_ms,
            "p99_ms": load.p99_ms,
            "coordinator_cpu_us": self.coordinator_cpu_us(),
            "program_cpu_us": self.measured.program_cpu_us,
            "server_cpu_us": self.measured.server_cpu_us,
            "flushes_per_transfer": self.measured.server_flushes,
            "journal_flushes_per_transfer": self.measured.journal_flushes,
        })
    }

    fn cells(&self) -> [String; 12] {
        let Measured { load, .. } = self.measured;
        let none = || "–".to_owned();
        [
            self.pair.name().to_owned(),
            self.in_flight.to_string(),
            self.way.name().to_owned(),
            output::count(load.per_s as u64),
            format!("{:.2}x", self.to_floor),
            format!("{:.2}", load.p50_ms),
            format!("{:.2}", load.p99_ms),
            self.coordinator_cpu_us().map_or_else(none, |it| format!("{it:.0}")),
            format!("{:.0}", self.measured.program_cpu_us),
            format!("{:.0}", self.measured.server_cpu_us),
            format!("{:.2}", self.measured.server_flushes),
            format!("{:.2}", self.measured.journal_flushes),
        ]
    }

    /// None where no coordinator is a process of its own.
    fn coordinator_cpu_us(&self) -> Option<f64> {
        self.way.has_coordinator_process().then_some(self.measured.load.cpu_us)
    }
}
