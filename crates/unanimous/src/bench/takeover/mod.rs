//! A node is killed between the votes and the commit, while everybody wants one row: for how long.
//!
//! A merchant's account in one database is in every transfer, so one transfer at a time has it, and all
//! others wait in line. When all stand there the node whose transfer has it is killed while its branches
//! are prepared: from then on nobody gets the row until somebody has found out what became of that transfer.
//! Measured are the time until the row is let go, until a client is told that the next transfer is
//! committed, and until as many are told as before.

mod cast;
mod crowd;
mod eye;

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use self::cast::{Blow, Cast};
use self::crowd::{Crowd, Moment};
use super::fleet::Fleet;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::stats::percentile;
use crate::table::Table;

/// How long before and after a kill latencies are taken.
const AROUND: Duration = Duration::from_secs(2);

/// Of all transfers, those that stand in line if it is whole, and how many more may be missing: some have just
/// been told, or begin.
const WHOLE: (f64, f64) = (0.98, 4.0);

/// How often it is seen whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a kill may take to be overcome.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `unanimous bench takeover`.
#[derive(Args, Debug)]
pub(super) struct TakeoverArgs {
    /// Where the journal is; several are measured one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "file,postgres,etcd")]
    journals: Vec<Place>,
    /// Nodes on a journal that can be shared. One in a folder is started again at once.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Kills on each journal.
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Transfers that wait for the row.
    #[arg(long, default_value_t = 200)]
    waiting: usize,
}

/// Where a journal can be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Place {
    /// In a folder, with one coordinator that is started again at once.
    File,
    /// In PostgreSQL.
    Postgres,
    /// In etcd.
    Etcd,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::File => "file, restarted",
            Self::Postgres => "PostgreSQL",
            Self::Etcd => "etcd",
        }
    }
}

/// What one kill cost, in milliseconds.
struct Cost {
    /// Until the row was let go that the killed transfer had.
    blocked: f64,
    /// Until somebody was told that the next transfer is committed.
    told: f64,
    /// Until as many were as before.
    flowing: f64,
}

/// All that was measured on one journal.
struct Measured {
    place: Place,
    costs: Vec<Cost>,
    /// Latencies before the kills, in the time that each cost, and after it.
    latencies: [Vec<f64>; 3],
    per_s: f64,
}

pub(super) async fn run(args: &TakeoverArgs, format: Format) -> Result<(), Failure> {
    let mut all = Vec::new();
    for &place in &args.journals {
        all.push(measure(place, args).await?);
    }
    report(&all, args, format);
    Ok(())
}

async fn measure(place: Place, args: &TakeoverArgs) -> Result<Measured, Failure> {
    let nodes = if place == Place::File { 1 } else { args.nodes.max(1) };
    let mut cast = Cast::start(place, nodes).await?;
    cast.fleet.settled().await?;
    let crowd = Crowd::start(&cast.fleet.servers(), args.waiting)?;
    let mut measured =
        Measured { place, costs: Vec::new(), latencies: Default::default(), per_s: 0.0 };
    let mut rates = Vec::new();
    for kill in 0..args.kills {
        in_line(&cast.fleet, args.waiting).await?;
        let before = crowd.since(Instant::now() - AROUND);
        rates.push(before.len() as f64 / AROUND.as_secs_f64());
        let blow = cast.kill(kill % nodes).await?;
        let killed_at = blow.at;
        let cost = overcome(&crowd, blow, &before).await?;
        let over = killed_at + Duration::from_secs_f64(cost.flowing / 1e3);
        if place != Place::File {
            cast.fleet.revive(kill % nodes).await?;
        }
        cast.fleet.settled().await?;
        sleep(AROUND).await;
        let after = crowd.since(killed_at).into_iter();
        let (during, after): (Vec<Moment>, Vec<Moment>) = after.partition(|it| it.at < over);
        for (all, part) in measured.latencies.iter_mut().zip([before, during, after]) {
            all.extend(part.iter().map(|it| it.took.as_secs_f64() * 1e3));
        }
        measured.costs.push(cost);
    }
    measured.per_s = percentile(&rates, 50.0);
    crowd.finish().await?;
    cast.check()?;
    Ok(measured)
}

/// Waits until all transfers have stood in line for a while: what a kill before has thrown out of it has
/// begun anew.
async fn in_line(fleet: &Fleet, waiting: usize) -> Result<(), Failure> {
    let (started, mut since) = (Instant::now(), Instant::now());
    while since.elapsed() < AROUND {
        sleep(LOOK_EVERY).await;
        if fleet.open().await? < waiting as f64 * WHOLE.0 - WHOLE.1 {
            since = Instant::now();
        }
        if started.elapsed() > PATIENCE {
            return Err(Failure::not_done(format!(
                "{waiting} transfers do not come into the line"
            )));
        }
    }
    Ok(())
}

/// Waits until transfers are committed as before the kill.
async fn overcome(crowd: &Crowd, blow: Blow, before: &[Moment]) -> Result<Cost, Failure> {
    const WINDOW: Duration = Duration::from_millis(100);
    let wanted = before.len() as f64 * WINDOW.as_secs_f64() / AROUND.as_secs_f64() / 2.0;
    let ms = |at: Instant| at.duration_since(blow.at).as_secs_f64() * 1e3;
    let failed = || Failure::not_done("the row is still blocked a minute after the kill");
    let released = timeout(PATIENCE, blow.released.hear()).await.map_err(|_| failed())??;
    while blow.at.elapsed() < PATIENCE {
        let told = crowd.since(released);
        let since: Vec<Instant> = told.iter().map(|it| it.at).collect();
        let is_flowing = |from: &&Instant| {
            let within = since.iter().filter(|at| (**from..**from + WINDOW).contains(at));
            within.count() as f64 >= wanted.max(1.0)
        };
        if let (Some(&first), Some(&flowing)) = (since.first(), since.iter().find(is_flowing)) {
            let [blocked, told, flowing] = [released, first, flowing].map(ms);
            return Ok(Cost { blocked, told, flowing });
        }
        sleep(Duration::from_millis(5)).await;
    }
    Err(failed())
}

fn report(all: &[Measured], args: &TakeoverArgs, format: Format) {
    let mut lines = Vec::new();
    let mut table = Table::new([
        "JOURNAL",
        "KILLS",
        "BLOCKED p50",
        "p99",
        "max ms",
        "TOLD p50",
        "p99 ms",
        "FLOWING p50",
        "p99 ms",
        "LATENCY p99 before",
        "during",
        "after ms",
        "TRANSFERS/s",
    ]);
    for it in all {
        let blocked: Vec<f64> = it.costs.iter().map(|cost| cost.blocked).collect();
        let told: Vec<f64> = it.costs.iter().map(|cost| cost.told).collect();
        let flowing: Vec<f64> = it.costs.iter().map(|cost| cost.flowing).collect();
        let [before, during, after] = it.latencies.each_ref().map(|part| percentile(part, 99.0));
        let [blocked, told, flowing] =
            [blocked, told, flowing].map(|all| [50.0, 99.0, 100.0].map(|it| percentile(&all, it)));
        lines.push(json!({
            "journal": it.place.name(), "kills": it.costs.len(), "waiting": args.waiting,
            "blocked_ms": {"p50": blocked[0], "p99": blocked[1], "max": blocked[2]},
            "told_ms": {"p50": told[0], "p99": told[1], "max": told[2]},
            "flowing_ms": {"p50": flowing[0], "p99": flowing[1]},
            "latency_p99_ms": {"before": before, "during": during, "after": after},
            "transfers_per_s": it.per_s,
        }));
        let ms = |figure: f64| format!("{figure:.0}");
        table.row([
            it.place.name().to_owned(),
            it.costs.len().to_string(),
            ms(blocked[0]),
            ms(blocked[1]),
            ms(blocked[2]),
            ms(told[0]),
            ms(told[1]),
            ms(flowing[0]),
            ms(flowing[1]),
            ms(before),
            ms(during),
            ms(after),
            ms(it.per_s),
        ]);
    }
    match format {
        Format::Json => output::json(&lines),
        Format::Text => {
            output::line(&format!(
                "One row that every transfer wants, {} of them waiting; the node that has it is killed \
                 with -9 between the\nvotes and the commit. {} nodes on a journal that is shared.\n",
                args.waiting, args.nodes
            ));
            output::line(&table.text());
        }
    }
}
