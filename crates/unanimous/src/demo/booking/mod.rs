//! `unanimous demo --bookings`: a flight, a hotel and a payment that are booked as one, by saga.
//!
//! Users book, some of them twice under one key, some of them changing their minds in the middle,
//! while the three services and the coordinator are killed with -9 again and again. Then every booking
//! is counted in the services' own files: it is there as a whole, or nothing of it is.

mod books;
mod load;
mod plan;
mod report;
mod service;

use std::path::Path;

use tokio::time::Instant;
use unanimous_client::Client;

use self::books::Audit;
use self::plan::{Actor, Plan};
use self::report::Report;
pub(crate) use self::service::{ServiceName, serve};
use super::child::{Ports, Process};
use super::stage::Stage;
use super::stock::Book;
use super::{Place, settle};
use crate::exit::Failure;
use crate::output::{self, Format};

/// Runs the demo, and succeeds only if every booking is whole.
pub(super) async fn demo(
    seed: u64,
    bookings: u32,
    keep: bool,
    format: Format,
) -> Result<(), Failure> {
    let plan = Plan::new(seed, bookings);
    let (played, kept) = Place::new()?.run(keep, async |folder| play(&plan, folder).await).await;
    let mut report = played?;
    report.kept = kept;
    match format {
        Format::Json => output::json(&report),
        Format::Text => output::line(&report.text()),
    }
    if report.is_whole() { Ok(()) } else { Err(Failure::shown()) }
}

/// Everybody who can be killed.
struct Cast(Stage);

impl Cast {
    fn process(&mut self, actor: Actor) -> &mut Process {
        match actor {
            Actor::Coordinator => &mut self.0.coordinator,
            Actor::Service(name) => &mut self.0.service(name.as_str()).process,
        }
    }
}

async fn play(plan: &Plan, folder: &Path) -> Result<Report, Failure> {
    let services = ServiceName::ALL.map(|name| {
        let (items, each) = (name.items().to_string(), plan.opening(name).to_string());
        (name.as_str(), vec!["--items".to_owned(), items, "--each".to_owned(), each])
    });
    let mut ports = Ports::new();
    let stage = Stage::start("__travel", |_| services.to_vec(), folder, &mut ports).await?;
    let mut cast = Cast(stage);
    let client = Client::connect(&cast.0.url())?;
    let started = Instant::now();
    let load = load::run(plan, &client, &mut cast).await?;
    let took = started.elapsed();
    let ended = settle::to_the_end(&client).await;
    cast.0.stop().await;
    let books =
        ServiceName::ALL.map(|name| Ok((name, Book::read(&cast.0.service(name.as_str()).file)?)));
    let books = books.into_iter().collect::<Result<Vec<_>, Failure>>()?;
    Ok(Report::new(plan, &load, Audit::of(plan, &books, &load.told), took, ended))
}
