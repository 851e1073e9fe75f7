//! `unanimous demo`: the product's main job before the reader's eyes, with nothing installed.
//!
//! Three parties and a coordinator carry out transfers while each of them is killed with -9 again and
//! again. Then the books are compared. The same load runs once more the naive way, each party
//! committing by itself, under the same kills. The parties are bank services, each a process with its
//! own disk file; databases of this machine take their places if they are asked for.
//!
//! Other scenarios are subcommands: [`booking`], [`order`] and [`seats`].

pub(crate) mod bank;
pub(crate) mod booking;
mod books;
pub(crate) mod child;
mod database;
mod load;
pub(crate) mod order;
pub(crate) mod party;
mod pay;
mod plan;
mod report;
pub(crate) mod seats;
mod settle;
mod stage;
mod stock;
mod work;

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::ProgressBar;
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::block_in_place;
use tokio::time::Instant;
use unanimous_client::Client;

use self::books::Audit;
use self::child::{Ports, Process};
use self::database::Database;
use self::load::Pay;
use self::party::{Cast, Engine, Party, Way};
use self::pay::{Naively, Unanimously};
use self::plan::{Plan, Role};
use self::report::{Report, Run};
use crate::cli::{BookingArgs, DemoArgs, Scenario};
use crate::exit::Failure;
use crate::output::{self, Format};

/// Transfers, unless another number is asked for.
const TRANSFERS: u32 = 1_000;

/// The same with databases, which take longer to come back from a kill.
const DATABASE_TRANSFERS: u32 = 600;

/// Runs the demo, and succeeds only if the books balance.
pub(crate) async fn demo(args: DemoArgs, format: Format) -> Result<(), Failure> {
    check(&args)?;
    let random = |seed: Option<u64>| seed.unwrap_or_else(|| output::now_ms() % 1_000_000);
    match args.scenario {
        Some(Scenario::Booking(BookingArgs { bookings, seed, keep })) => {
            return booking::demo(random(seed), bookings, keep, format).await;
        }
        Some(Scenario::Order(args)) => return order::demo(args, format).await,
        Some(Scenario::Seats(args)) => return seats::demo(args, format).await,
        None => {}
    }
    let seed = random(args.seed);
    if let Some(bookings) = args.bookings {
        return booking::demo(seed, bookings, args.keep, format).await;
    }
    let engines = installed(args.resources)?;
    let usual = if engines.is_empty() { TRANSFERS } else { DATABASE_TRANSFERS };
    let plan = Plan::new(seed, args.transfers.unwrap_or(usual));
    let place = Place::new()?;
    let (played, kept) =
        place.run(args.keep, async |folder| play(&plan, &engines, folder).await).await;
    let report = Report { kept, ..played? };
    match format {
        Format::Json => output::json(&report),
        Format::Text => output::line(&report.text()),
    }
    if report.balances() { Ok(()) } else { Err(Failure::shown()) }
}

/// Options of transfers say nothing to another scenario.
fn check(args: &DemoArgs) -> Result<(), Failure> {
    let DemoArgs { scenario, transfers, bookings, seed, resources, keep } = args;
    let is_plain = transfers.is_none() && bookings.is_none() && seed.is_none();
    match scenario {
        Some(_) if !is_plain || !resources.is_empty() || *keep => Err(Failure::usage(
            "options of a scenario come behind its name, as in unanimous demo order --keep",
        )),
        Some(_) | None => Ok(()),
    }
}

/// The databases that were asked for, if they can all be started.
fn installed(engines: Vec<Engine>) -> Result<Vec<Engine>, Failure> {
    for (index, engine) in engines.iter().enumerate() {
        if engines[..index].contains(engine) {
            return Err(Failure::usage(format!("--resources names {engine} twice")));
        }
    }
    match engines.iter().find_map(|engine| Some((engine, engine.missing()?))) {
        Some((engine, package)) => Err(Failure::usage(format!(
            "{engine} is not installed; on Debian and Ubuntu: apt-get install {package}"
        ))),
        None => Ok(engines),
    }
}

async fn interrupted() {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn play(plan: &Plan, engines: &[Engine], folder: &Path) -> Result<Report, Failure> {
    let mut ports = Ports::new();
    let mut databases = start(engines, folder, &mut ports).await?;
    let unanimously = unanimously(plan, &mut databases, folder, &mut ports).await?;
    let naively = naively(plan, &mut databases, folder, &mut ports).await?;
    Ok(Report {
        seed: plan.seed,
        transfers: plan.transfers.len() as u64,
        databases: Role::BANKS.into_iter().zip(engines.iter().copied()).collect(),
        unanimously,
        naively,
        kept: None,
    })
}

/// Starts a server of each kind.
async fn start(
    engines: &[Engine],
    folder: &Path,
    ports: &mut Ports,
) -> Result<Vec<Database>, Failure> {
    if !engines.is_empty() {
        // Databases do not run as root: let others through to their own folders.
        let through = Permissions::from_mode(0o711);
        std::fs::set_permissions(folder, through).map_err(unwritable(folder))?;
    }
    // Drawn only on a terminal.
    let progress = ProgressBar::new_spinner();
    let mut databases = Vec::new();
    for engine in engines {
        progress.set_message(format!("starting {engine}"));
        progress.tick();
        let place = folder.join(engine.to_string().to_lowercase());
        let port = ports.take().await?.port();
        let started = block_in_place(|| engine.start(&place, port));
        databases.push(started.map_err(|why| Failure::not_done(format!("{engine}: {why}")))?);
    }
    progress.finish_and_clear();
    Ok(databases)
}

async fn unanimously(
    plan: &Plan,
    databases: &mut [Database],
    folder: &Path,
    ports: &mut Ports,
) -> Result<Run, Failure> {
    let folder = &folder.join(Way::Unanimously.as_str());
    let coordinator = ports.take().await?;
    let server = format!("http://{coordinator}");
    let parties = parties(plan, Way::Unanimously, databases, folder, &server, ports).await?;
    let config = folder.join("unanimous.toml");
    let resources = parties
        .iter()
        .map(|party| format!("[resources.{}]\nurl = \"{}\"\n", party.role().as_str(), party.url()));
    std::fs::write(&config, resources.collect::<String>()).map_err(unwritable(folder))?;
    let arguments = coordinator_arguments(coordinator, &config, folder);
    let name = Role::Coordinator.as_str();
    let process = Process::start(name, coordinator, arguments, folder).await?;
    let client = Client::connect(&server)?;
    let pay = Unanimously::new(client.clone(), &parties);
    let cast = Cast { parties, coordinator: Some(process) };
    run(plan, pay, cast, Some(client), "with Unanimous").await
}

async fn naively(
    plan: &Plan,
    databases: &mut [Database],
    folder: &Path,
    ports: &mut Ports,
) -> Result<Run, Failure> {
    let folder = &folder.join(Way::Naively.as_str());
    let nobody = "http://127.0.0.1:9";
    let parties = parties(plan, Way::Naively, databases, folder, nobody, ports).await?;
    let pay = Naively::new(&parties).map_err(Failure::not_done)?;
    run(plan, pay, Cast { parties, coordinator: None }, None, "without").await
}

async fn run(
    plan: &Plan,
    pay: impl Pay,
    mut cast: Cast<'_>,
    client: Option<Client>,
    title: &'static str,
) -> Result<Run, Failure> {
    let started = Instant::now();
    let load = load::run(plan, Arc::new(pay), &mut cast, title).await?;
    let took = started.elapsed();
    let settled = settle::settle(&cast, client.as_ref()).await;
    let audit = Audit::of(plan, &cast.books().await?, &load.told);
    Ok(Run::new(&load, audit, took, settled))
}

/// The databases take the first roles, in their order; services the others.
async fn parties<'a>(
    plan: &Plan,
    way: Way,
    databases: &'a mut [Database],
    folder: &Path,
    coordinator: &str,
    ports: &mut Ports,
) -> Result<Vec<Party<'a>>, Failure> {
    std::fs::create_dir_all(folder).map_err(unwritable(folder))?;
    let mut databases = databases.iter_mut();
    let mut parties = Vec::new();
    for role in Role::BANKS {
        if let Some(database) = databases.next() {
            let set_up = block_in_place(|| database.set_up(way, plan.opening));
            set_up.map_err(|why| Failure::not_done(format!("{}: {why}", database.engine())))?;
            parties.push(Party::Database { role, database, way });
            continue;
        }
        let address = ports.take().await?;
        let book = folder.join(format!("{}.sqlite", role.as_str()));
        let arguments = bank_arguments(plan, role, address, &book, coordinator);
        let process = Process::start(role.as_str(), address, arguments, folder).await?;
        parties.push(Party::Service { role, process: Box::new(process), book });
    }
    Ok(parties)
}

fn coordinator_arguments(address: SocketAddr, config: &Path, folder: &Path) -> Vec<String> {
    let arguments = [
        "serve",
        "--with-parent",
        "--listen",
        &address.to_string(),
        "--config",
        &config.display().to_string(),
        "--data",
        &folder.join("journal").display().to_string(),
    ];
    arguments.map(str::to_owned).to_vec()
}

fn bank_arguments(
    plan: &Plan,
    role: Role,
    address: SocketAddr,
    data: &Path,
    coordinator: &str,
) -> Vec<String> {
    let arguments = [
        "__bank",
        role.as_str(),
        "--listen",
        &address.to_string(),
        "--data",
        &data.display().to_string(),
        "--coordinator",
        coordinator,
        "--opening",
        &plan.opening.to_string(),
    ];
    arguments.map(str::to_owned).to_vec()
}

fn unwritable(folder: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    move |error| Failure::not_done(format!("{}: {error}", folder.display()))
}

/// The folder of one demo, and the process that removes it if the demo is killed.
struct Place {
    folder: PathBuf,
    janitor: Child,
}

impl Place {
    fn new() -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("unanimous-demo-")
            .tempdir()
            .map_err(|error| Failure::not_done(format!("no temporary folder: {error}")))?
            .keep();
        let janitor = child::hire_janitor(&folder)?;
        Ok(Self { folder, janitor })
    }

    /// Runs a demo in the folder until it ends or is interrupted, leaves the place, and says what came of
    /// it and where the folder is if it is kept.
    async fn run<T>(
        self,
        keep: bool,
        play: impl AsyncFnOnce(&Path) -> Result<T, Failure>,
    ) -> (Result<T, Failure>, Option<String>) {
        let played = tokio::select! {
            played = play(&self.folder) => played,
            () = interrupted() => Err(Failure::not_done("interrupted")),
        };
        let kept = keep.then(|| self.folder.display().to_string());
        self.leave(keep).await;
        (played, kept)
    }

    /// The janitor removes the folder now; or is sent away, to keep it.
    async fn leave(mut self, keep: bool) {
        if keep {
            // It fails only if the janitor is gone already.
            drop(self.janitor.kill().await);
            return;
        }
        drop(self.janitor.stdin.take());
        drop(self.janitor.wait().await);
    }
}
