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

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use unanimous_api::{Kind, StatusWord};
use unanimous_client::{Client, Filter};

use self::books::{Audit, Book};
use self::plan::{Actor, Plan};
use self::report::Report;
pub(crate) use self::service::{ServiceName, serve};
use super::child::{Ports, Process};
use super::{Place, coordinator_arguments, unwritable};
use crate::exit::Failure;
use crate::output::{self, Format};

/// How long sagas may take to end, once nothing is killed any more.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

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
struct Cast {
    coordinator: Process,
    services: Vec<Service>,
}

/// One service, and the file with what it has done.
struct Service {
    name: ServiceName,
    process: Process,
    file: PathBuf,
}

impl Cast {
    fn process(&mut self, actor: Actor) -> &mut Process {
        match actor {
            Actor::Coordinator => &mut self.coordinator,
            Actor::Service(name) => {
                let found = self.services.iter_mut().find(|it| it.name == name);
                &mut found.expect("there is one of each").process
            }
        }
    }
}

async fn play(plan: &Plan, folder: &Path) -> Result<Report, Failure> {
    let mut ports = Ports::new();
    let mut cast = start(plan, folder, &mut ports).await?;
    let client = Client::connect(&format!("http://{}", cast.coordinator.address))?;
    let started = Instant::now();
    let load = load::run(plan, &client, &mut cast).await?;
    let took = started.elapsed();
    let settled = settle(&client).await;
    cast.coordinator.kill().await;
    let mut books = Vec::new();
    for service in &mut cast.services {
        service.process.kill().await;
        books.push((service.name, Book::read(&service.file)?));
    }
    Ok(Report::new(plan, &load, Audit::of(plan, &books, &load.told), took, settled))
}

async fn start(plan: &Plan, folder: &Path, ports: &mut Ports) -> Result<Cast, Failure> {
    let mut services = Vec::new();
    let mut resources = String::new();
    for name in ServiceName::ALL {
        let address = ports.take().await?;
        let file = folder.join(format!("{}.sqlite", name.as_str()));
        let arguments = [
            "__travel",
            name.as_str(),
            "--listen",
            &address.to_string(),
            "--data",
            &file.display().to_string(),
            "--items",
            &name.items().to_string(),
            "--each",
            &plan.opening(name).to_string(),
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        let process = Process::start(name.as_str(), address, arguments, folder).await?;
        resources += &format!("[resources.{}]\nurl = \"http://{address}\"\n", name.as_str());
        services.push(Service { name, process, file });
    }
    let config = folder.join("unanimous.toml");
    std::fs::write(&config, resources).map_err(unwritable(folder))?;
    let address = ports.take().await?;
    let arguments = coordinator_arguments(address, &config, folder);
    let name = Actor::Coordinator.as_str();
    let coordinator = Process::start(name, address, arguments, folder).await?;
    Ok(Cast { coordinator, services })
}

/// How it stood when nothing was left to do, or the patience was at its end.
struct Settled {
    took: Duration,
    unfinished: u64,
    stuck: u64,
}

async fn settle(client: &Client) -> Settled {
    let started = Instant::now();
    loop {
        let running = standing(client, StatusWord::Running).await;
        let unfinished = running + standing(client, StatusWord::Compensating).await;
        let took = started.elapsed();
        if unfinished == 0 || took > PATIENCE {
            let stuck = standing(client, StatusWord::NeedsAttention).await;
            return Settled { took, unfinished, stuck };
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Sagas that stand there. A coordinator that does not answer has something left to do.
async fn standing(client: &Client, status: StatusWord) -> u64 {
    let filter = Filter { kind: Some(Kind::Saga), status: Some(status), ..Filter::default() };
    client.list(&filter).await.map_or(1, |page| page.transactions.len() as u64)
}
