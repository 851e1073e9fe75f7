//! `unanimous demo`: the product's main job before the reader's eyes, with nothing installed.
//!
//! Three bank services and a coordinator, each a process with its own disk file, carry out transfers
//! while each of them is killed with -9 again and again. Then the books are compared. The same load
//! runs once more the naive way, each service committing by itself, under the same kills.

pub(crate) mod bank;
mod books;
pub(crate) mod child;
mod load;
mod pay;
mod plan;
mod report;
mod settle;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use unanimous_client::Client;

use self::books::{Audit, Book};
use self::child::{Ports, Process};
use self::load::Pay;
use self::pay::{Naively, Unanimously};
use self::plan::{Plan, Role};
use self::report::{Report, Run};
use self::settle::Settling;
use crate::cli::DemoArgs;
use crate::exit::Failure;
use crate::output::{self, Format};

/// Runs the demo, and succeeds only if the books balance.
pub(crate) async fn demo(args: DemoArgs, format: Format) -> Result<(), Failure> {
    let seed = args.seed.unwrap_or_else(|| output::now_ms() % 1_000_000);
    let plan = Plan::new(seed, args.transfers);
    let place = Place::new()?;
    let played = tokio::select! {
        played = play(&plan, &place.folder) => played,
        () = interrupted() => Err(Failure::not_done("interrupted")),
    };
    let kept = args.keep.then(|| place.folder.display().to_string());
    place.leave(args.keep).await;
    let report = Report { kept, ..played? };
    match format {
        Format::Json => output::json(&report),
        Format::Text => output::line(&report.text()),
    }
    if report.balances() { Ok(()) } else { Err(Failure::shown()) }
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

async fn play(plan: &Plan, folder: &Path) -> Result<Report, Failure> {
    let mut ports = Ports::new();
    let unanimously = unanimously(plan, &folder.join("unanimous"), &mut ports).await?;
    let naively = naively(plan, &folder.join("naive"), &mut ports).await?;
    Ok(Report {
        seed: plan.seed,
        transfers: plan.transfers.len() as u64,
        unanimously,
        naively,
        kept: None,
    })
}

async fn unanimously(plan: &Plan, folder: &Path, ports: &mut Ports) -> Result<Run, Failure> {
    let coordinator = ports.take().await?;
    let server = format!("http://{coordinator}");
    let mut processes = banks(plan, folder, &server, ports).await?;
    let config = folder.join("unanimous.toml");
    let resources = processes.iter().map(|bank| {
        format!("[resources.{}]\nurl = \"http://{}\"\n", bank.role.as_str(), bank.address)
    });
    std::fs::write(&config, resources.collect::<String>()).map_err(unwritable(folder))?;
    let arguments = [
        "serve",
        "--with-parent",
        "--listen",
        &coordinator.to_string(),
        "--config",
        &config.display().to_string(),
        "--data",
        &folder.join("journal").display().to_string(),
    ];
    let arguments = arguments.map(str::to_owned).to_vec();
    processes.push(Process::start(Role::Coordinator, coordinator, arguments, folder).await?);
    let client = Client::connect(&server)?;
    let settling = Settling { client: Some(client.clone()), folder };
    run(plan, Unanimously(client), processes, settling, "with Unanimous").await
}

async fn naively(plan: &Plan, folder: &Path, ports: &mut Ports) -> Result<Run, Failure> {
    let nobody = "http://127.0.0.1:9";
    let processes = banks(plan, folder, nobody, ports).await?;
    let pay = Naively::new(processes.iter().map(|bank| (bank.role, bank.address)));
    run(plan, pay, processes, Settling { client: None, folder }, "without").await
}

async fn run(
    plan: &Plan,
    pay: impl Pay,
    mut processes: Vec<Process>,
    settling: Settling<'_>,
    title: &'static str,
) -> Result<Run, Failure> {
    let started = Instant::now();
    let load = load::run(plan, Arc::new(pay), &mut processes, title).await?;
    let took = started.elapsed();
    let settled = settling.wait().await;
    for process in &mut processes {
        process.kill().await;
    }
    let books = read(settling.folder)?;
    let audit = Audit::of(plan, &books, &load.told);
    Ok(Run::new(&load, audit, took, settled))
}

async fn banks(
    plan: &Plan,
    folder: &Path,
    coordinator: &str,
    ports: &mut Ports,
) -> Result<Vec<Process>, Failure> {
    std::fs::create_dir_all(folder).map_err(unwritable(folder))?;
    let mut banks = Vec::new();
    for role in Role::BANKS {
        let address = ports.take().await?;
        let arguments = bank_arguments(plan, role, address, &book_path(folder, role), coordinator);
        banks.push(Process::start(role, address, arguments, folder).await?);
    }
    Ok(banks)
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

fn book_path(folder: &Path, role: Role) -> PathBuf {
    folder.join(format!("{}.sqlite", role.as_str()))
}

fn read(folder: &Path) -> Result<BTreeMap<Role, Book>, Failure> {
    let books = Role::BANKS.map(|role| Ok((role, Book::read(&book_path(folder, role))?)));
    books.into_iter().collect()
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
