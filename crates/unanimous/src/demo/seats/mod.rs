//! `unanimous demo seats`: seats booked by saga, as many as the machine gives.
//!
//! Reserve, charge, ticket, notify: four services, each a process with its own SQLite file. Some users
//! cannot pay, so their seats are set free again; until then others see them taken. How long that is
//! counts twice: while as many users as get through book at once, and at half that rate. In the end each
//! attempt is counted in the services' own files.

mod books;
mod load;
mod report;
mod service;

use std::path::Path;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use unanimous_client::Client;

use self::books::{Audit, shown};
use self::load::{Load, Users};
use self::report::{Costs, Phase, Report};
pub(crate) use self::service::{ServiceArgs, ServiceName, serve};
use super::child::Ports;
use super::stage::Stage;
use super::stock::Book;
use super::{Place, settle};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::stats::cpu_of;

/// Seats that can be booked in one demo: more than a machine gets through.
const SEATS: u32 = 200_000;

/// Accounts of the wallet, each with so many rupees, which no number of tickets uses up.
const USERS: u32 = 1_000;
const FUNDS: u64 = 1_000_000_000_000;

/// What a ticket costs, in rupees.
const PRICE: u64 = 450;

/// Time for connections to be made and files to grow before anything is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// What to run.
#[derive(Args, Clone, Debug)]
pub(crate) struct SeatsArgs {
    /// Seconds of each of the two loads.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Users who book at once at full load.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    in_flight: u32,
    /// What decides who cannot pay. A random one if not given.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Keep the folder with the databases, the journal and the logs.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo, and succeeds only if every attempt is whole or undone.
pub(super) async fn demo(args: SeatsArgs, format: Format) -> Result<(), Failure> {
    let seed = args.seed.unwrap_or_else(|| output::now_ms() % 1_000_000);
    let place = Place::new()?;
    let (played, kept) = place.run(args.keep, async |folder| play(&args, seed, folder).await).await;
    let mut report = played?;
    report.kept = kept;
    match format {
        Format::Json => output::json(&report),
        Format::Text => output::line(&report.text()),
    }
    if report.is_whole() { Ok(()) } else { Err(Failure::shown()) }
}

async fn play(args: &SeatsArgs, seed: u64, folder: &Path) -> Result<Report, Failure> {
    let services = ServiceName::ALL.map(|name| {
        let (items, each) = name.stock();
        let stock =
            ["--items".to_owned(), items.to_string(), "--each".to_owned(), each.to_string()];
        (name.as_str(), stock.to_vec())
    });
    let mut ports = Ports::new();
    let mut stage = Stage::start("__seats", |_| services.to_vec(), folder, &mut ports).await?;
    let client = Client::connect(&stage.url())?;
    let users = Users::new(client.clone(), seed);
    let time = Duration::from_secs(args.seconds);
    // Drawn only on a terminal.
    let progress = ProgressBar::new_spinner();
    let show = |what: &'static str| {
        progress.set_message(what);
        progress.tick();
    };
    show("warming up");
    let mut loads = vec![users.crowd(args.in_flight, WARM_UP).await];
    show("full load");
    let (load, full) = measured(&mut stage, users.crowd(args.in_flight, time)).await?;
    loads.push(load);
    show("half load");
    let (load, half) = measured(&mut stage, users.stream(full.per_s / 2.0, time)).await?;
    loads.push(load);
    progress.finish_and_clear();
    let ended = settle::to_the_end(&client).await;
    stage.stop().await;
    let books =
        ServiceName::ALL.map(|name| Ok((name, Book::read(&stage.service(name.as_str()).file)?)));
    let books = books.into_iter().collect::<Result<Vec<_>, Failure>>()?;
    let attempts = loads.iter().flat_map(|load| &load.attempts);
    let audit = Audit::of(&books, attempts.clone());
    Ok(Report::new(seed, args.in_flight, [full, half], attempts, audit, &ended))
}

/// Runs a load and tells what it came to.
async fn measured(
    stage: &mut Stage,
    load: impl Future<Output = Load>,
) -> Result<(Load, Phase), Failure> {
    let seats = stage.service(ServiceName::Seats.as_str()).file.clone();
    let known = shown(&seats, 0)?.len();
    let before = costs(stage);
    let load = load.await;
    let costs = costs(stage).since(&before);
    let phase = Phase::new(&load, costs, &shown(&seats, known)?);
    Ok((load, phase))
}

/// Processor time so far.
fn costs(stage: &Stage) -> Costs {
    let of = |pid: Option<u32>| pid.and_then(cpu_of).unwrap_or_default();
    let services = stage.services.iter().map(|it| of(it.process.pid()));
    Costs {
        coordinator: of(stage.coordinator.pid()),
        services: services.sum(),
        users: of(Some(std::process::id())),
    }
}
