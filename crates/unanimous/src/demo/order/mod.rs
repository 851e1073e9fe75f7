//! `unanimous demo order`: the same orders in three ways.
//!
//! An order is a card payment, a piece of an item that everybody wants, and a row among the orders, at
//! three services that take 300, 50 and 100 ms. It is placed by two-phase commit, by a saga that charges
//! first and refunds if it has to, and by authorising what is captured or released later. What is
//! compared is how long the item's row is locked, how long the customer waits, and what is on the
//! statement of those whose orders fail. In the end all is counted in the services' own files.

mod books;
mod card;
mod load;
mod report;
mod service;

use std::path::Path;

use clap::Args;
use indicatif::ProgressBar;
use unanimous_client::Client;

use self::books::{Audit, Books, locked};
use self::load::{Load, Order, RUSH, Way};
use self::report::{Pace, Report, Run};
pub(crate) use self::service::{ServiceArgs, ServiceName, serve};
use super::child::Ports;
use super::stage::Stage;
use super::{Place, settle};
use crate::exit::Failure;
use crate::output::{self, Format};

/// One order in so many comes before the rush, when nobody else orders.
const ALONE_ONE_IN: u32 = 4;

/// What to run.
#[derive(Args, Clone, Debug)]
pub(crate) struct OrderArgs {
    /// How many orders to place in each of the three ways: a quarter one at a time, the others in a rush.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    orders: u32,
    /// Keep the folder with the databases, the journal and the logs.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo, and succeeds only if the books balance in each way.
pub(super) async fn demo(args: OrderArgs, format: Format) -> Result<(), Failure> {
    let place = Place::new()?;
    let played = place.run(args.keep, async |folder| play(args.orders, folder).await);
    let (played, kept) = played.await;
    let report = Report { kept, ..played? };
    match format {
        Format::Json => output::json(&report),
        Format::Text => output::line(&report.text()),
    }
    if report.balances() { Ok(()) } else { Err(Failure::shown()) }
}

async fn play(orders: u32, folder: &Path) -> Result<Report, Failure> {
    let mut ports = Ports::new();
    // Drawn only on a terminal.
    let progress = ProgressBar::new_spinner();
    let mut runs = Vec::new();
    for way in Way::ALL {
        progress.set_message(way.title());
        progress.tick();
        runs.push(run(way, orders, &folder.join(way.folder()), &mut ports).await?);
    }
    progress.finish_and_clear();
    Ok(Report { orders, runs, kept: None })
}

async fn run(way: Way, orders: u32, folder: &Path, ports: &mut Ports) -> Result<Run, Failure> {
    let services = |coordinator: &str| {
        let more = vec!["--coordinator".to_owned(), coordinator.to_owned()];
        ServiceName::ALL.map(|name| (name.as_str(), more.clone())).to_vec()
    };
    let mut stage = Stage::start("__shop", services, folder, ports).await?;
    let client = Client::connect(&stage.url())?;
    let [card, inventory, rows] =
        ServiceName::ALL.map(|name| stage.service(name.as_str()).file.clone());
    let before_the_rush = orders / ALONE_ONE_IN;
    let alone = load::run(&client, way, (0..before_the_rush).map(Order::new), 1).await;
    let settled = settle::to_the_end(&client).await;
    let locked_alone = locked(&inventory, 0)?;
    let rush = load::run(&client, way, (before_the_rush..orders).map(Order::new), RUSH).await;
    let ended = settle::to_the_end(&client).await;
    let locked_in_rush = locked(&inventory, locked_alone.len())?;
    stage.stop().await;
    let ends = alone.ends.iter().chain(&rush.ends);
    let audit = Audit::of(&Books::read(&card, &inventory, &rows)?, ends.clone());
    let left = [settled.unfinished.max(ended.unfinished), settled.stuck.max(ended.stuck)];
    let pace = |load: &Load, locked: &[f64]| Pace::new(load, locked);
    Ok(Run::new(
        way,
        [pace(&alone, &locked_alone), pace(&rush, &locked_in_rush)],
        ends,
        audit,
        left,
    ))
}
