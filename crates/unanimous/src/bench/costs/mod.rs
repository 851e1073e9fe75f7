//! What each way of coming to one outcome costs: two-phase commit, a saga, commit by consensus.
//!
//! Three participants that agree at once sit behind wires of some milliseconds, so what is measured is
//! the protocol's messages and syncs. Each is measured healthy and with its coordinator killed at the
//! worst moment: when all have prepared, or in the middle of the steps.

mod services;
mod wire;

use std::any::Any;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use unanimous_api::BranchRequest;
use unanimous_client::{Client, Error, Step};

use self::services::{Hold, SERVICES, Services};
use super::etcd::Etcd;
use super::fleet::Fleet;
use super::process::{http_client, send};
use crate::demo::child::Ports;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::stats::percentile;
use crate::table::Table;

/// Nodes on the journal that they share, and members of it.
const NODES: usize = 3;

/// How long a kill may take to be overcome.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls that tell how long the wires are.
const PINGS: usize = 21;

/// Transactions before anything is measured.
const WARM_UP: usize = 10;

/// How long the call takes whose coordinator is killed: long enough that the journal has what happened
/// before, so that whoever takes over knows of it.
const HELD_UP: Duration = Duration::from_millis(50);

/// Arguments of `unanimous bench costs`.
#[derive(Args, Debug)]
pub(super) struct CostsArgs {
    /// What to measure; `consensus` needs etcd.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "two-phase,saga,consensus")]
    protocols: Vec<Protocol>,
    /// Transactions with nobody killed, one after the other.
    #[arg(long, default_value_t = 200)]
    transactions: usize,
    /// Transactions whose coordinator is killed.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Milliseconds from the coordinator to a participant and back.
    #[arg(long, default_value_t = 5)]
    round_trip_ms: u64,
}

/// A way of coming to one outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Protocol {
    /// Two-phase commit by one coordinator, with its journal in a folder; it is started again at once.
    TwoPhase,
    /// A saga of three steps, one after the other, by the same.
    Saga,
    /// Commit whose decision is agreed by a majority: three nodes, and an etcd of three members.
    Consensus,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::TwoPhase => "two-phase commit",
            Self::Saga => "saga",
            Self::Consensus => "commit by consensus",
        }
    }

    /// What is often said of it: healthy, with the coordinator killed, and for how long it locks.
    fn said(self) -> [&'static str; 3] {
        match self {
            Self::TwoPhase => ["10 ms", "30 s", "10 ms, 30 s"],
            Self::Saga => ["3 ms a step", "200 ms", "a step"],
            Self::Consensus => ["12 ms", "12 ms", "12 ms"],
        }
    }

    /// Services that have been called when the coordinator is killed: all that prepare, or the second
    /// step.
    fn killed_at(self) -> usize {
        match self {
            Self::TwoPhase | Self::Consensus => SERVICES.len(),
            Self::Saga => 2,
        }
    }

    fn hold(self) -> Hold {
        match self {
            Self::TwoPhase | Self::Consensus => Hold::UntilTold,
            Self::Saga => Hold::UntilLastStep,
        }
    }
}

/// Milliseconds of one protocol.
#[derive(Default)]
struct Measured {
    healthy: Vec<f64>,
    healthy_held: Vec<f64>,
    killed: Vec<f64>,
    killed_held: Vec<f64>,
}

/// Everything that one protocol needs.
struct Stage {
    protocol: Protocol,
    services: Services,
    fleet: Fleet,
    client: Client,
    /// The journal's server, which ends when this is dropped.
    _journal: Option<Box<dyn Any + Send>>,
    _ports: Ports,
    _folder: tempfile::TempDir,
}

pub(super) async fn run(args: &CostsArgs, format: Format) -> Result<(), Failure> {
    let services = Services::default();
    let one_way = Duration::from_millis(args.round_trip_ms) / 2;
    let address = wire::start(services.start().await?, one_way)
        .map_err(|error| Failure::not_done(format!("cannot listen: {error}")))?;
    let round_trip = ping(address).await?;
    let mut all = Vec::new();
    for &protocol in &args.protocols {
        let stage = Stage::set(protocol, services.clone(), address).await?;
        all.push((protocol, stage.measure(args).await?));
    }
    report(&all, args, round_trip, format);
    Ok(())
}

/// Milliseconds to the services and back.
async fn ping(address: SocketAddr) -> Result<f64, Failure> {
    let (client, url) = (http_client(), format!("http://{address}/ping"));
    let mut took = Vec::new();
    for _ in 0..PINGS {
        let begun = Instant::now();
        let reply = send(&client, "GET", &url, Bytes::new()).await;
        if reply.is_none_or(|(status, _)| status != StatusCode::OK) {
            return Err(Failure::not_done("the services do not answer"));
        }
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(percentile(&took, 50.0))
}

impl Stage {
    async fn set(
        protocol: Protocol,
        services: Services,
        address: SocketAddr,
    ) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("unanimous-bench-").tempdir();
        let folder = folder.map_err(|error| Failure::not_done(format!("no folder: {error}")))?;
        let mut ports = Ports::new();
        let config = folder.path().join("unanimous.toml");
        let sections =
            SERVICES.map(|name| format!("[resources.{name}]\nurl = \"http://{address}/{name}\"\n"));
        std::fs::write(&config, sections.concat())
            .map_err(|error| Failure::not_done(format!("{}: {error}", config.display())))?;
        let (journal, url, count) = journal(protocol, folder.path(), &mut ports).await?;
        let fleet = Fleet::start(&url, &config, count, folder.path(), &mut ports).await?;
        fleet.settled().await?;
        let client = Client::builder(&fleet.servers().join(",")).pauses_ms(2, 20).build()?;
        let stage = Self {
            protocol,
            services,
            fleet,
            client,
            _journal: journal,
            _ports: ports,
            _folder: folder,
        };
        for _ in 0..WARM_UP {
            once(protocol, stage.client.clone()).await?;
        }
        stage.held(None)?;
        Ok(stage)
    }

    async fn measure(mut self, args: &CostsArgs) -> Result<Measured, Failure> {
        let mut measured = Measured::default();
        for _ in 0..args.transactions {
            let begun = Instant::now();
            once(self.protocol, self.client.clone()).await?;
            measured.healthy.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        measured.healthy_held = self.held(None)?;
        for _ in 0..args.kills {
            let (killed_at, told_after) = self.killed().await?;
            measured.killed.push(told_after.as_secs_f64() * 1e3);
            measured.killed_held.extend(self.held(Some(killed_at))?);
        }
        Ok(measured)
    }

    /// Milliseconds that something of each transaction was held, or how long it still was from then on.
    fn held(&self, since: Option<Instant>) -> Result<Vec<f64>, Failure> {
        let held = self.services.take_held(self.protocol.hold(), since)?;
        Ok(held.into_iter().map(|it| it.as_secs_f64() * 1e3).collect())
    }

    /// One transaction whose coordinator is killed in the middle: when, and how much later its outcome was
    /// told.
    async fn killed(&mut self) -> Result<(Instant, Duration), Failure> {
        let owners = self.fleet.owners().await?;
        let met = self.services.trap(self.protocol.killed_at());
        let (protocol, client) = (self.protocol, self.client.clone());
        let ended =
            tokio::spawn(async move { once(protocol, client).await.map(|()| Instant::now()) });
        let late = || Failure::not_done("a transaction has not come to its end within a minute");
        let txn = timeout(PATIENCE, met.txn).await.map_err(|_| late())?;
        let txn = txn.map_err(|_| Failure::not_done("the services are gone"))?;
        sleep(HELD_UP).await;
        let (owner, killed_at) = (owners.of(txn), Instant::now());
        self.fleet.kill(owner).await?;
        // The call may be gone together with whoever made it.
        let _ = met.killed.send(());
        let ended = timeout(PATIENCE, ended).await.map_err(|_| late())?;
        let ended = ended.map_err(|error| Failure::not_done(error.to_string()))??;
        if self.fleet.count() > 1 {
            self.fleet.revive(owner).await?;
        }
        self.fleet.settled().await?;
        Ok((killed_at, ended.saturating_duration_since(killed_at)))
    }
}

/// Where the journal of a protocol is, and how many share it.
async fn journal(
    protocol: Protocol,
    folder: &Path,
    ports: &mut Ports,
) -> Result<(Option<Box<dyn Any + Send>>, String, usize), Failure> {
    match protocol {
        Protocol::TwoPhase | Protocol::Saga => {
            Ok((None, format!("file:{}", folder.join("data").display()), 1))
        }
        Protocol::Consensus => {
            let etcd = Etcd::start(folder, ports, NODES).await?;
            let url = etcd.url();
            Ok((Some(Box::new(etcd)), url, NODES))
        }
    }
}

/// One transaction, until its outcome is told, whichever it is.
async fn once(protocol: Protocol, client: Client) -> Result<(), Failure> {
    let ended = match protocol {
        Protocol::TwoPhase | Protocol::Consensus => {
            let branches = SERVICES.map(|name| BranchRequest {
                resource: name.to_owned(),
                participant: None,
                body: None,
                statements: None,
            });
            client.transaction().branches(branches).run().await.map(drop)
        }
        Protocol::Saga => {
            let mut saga = client.saga();
            let mut before = None;
            for name in SERVICES {
                let step =
                    Step::new(name).after(before).calls(name, "/act").undone_by(name, "/undo");
                saga = saga.step(step);
                before = Some(name);
            }
            saga.run().await.map(drop)
        }
    };
    match ended {
        Ok(()) | Err(Error::Aborted(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn report(all: &[(Protocol, Measured)], args: &CostsArgs, round_trip: f64, format: Format) {
    let mut lines = Vec::new();
    let mut table = Table::new([
        "PROTOCOL",
        "HEALTHY p50",
        "p99 ms",
        "SAID",
        "KILLED p50",
        "max ms",
        "SAID",
        "HELD p50",
        "killed p50",
        "max ms",
        "SAID",
    ]);
    for (protocol, it) in all {
        let of = |all: &[f64]| [50.0, 99.0, 100.0].map(|it| percentile(all, it));
        let [healthy, killed] = [&it.healthy, &it.killed].map(|all| of(all));
        let [held, killed_held] = [&it.healthy_held, &it.killed_held].map(|all| of(all));
        let figures = |all: [f64; 3]| json!({"p50": all[0], "p99": all[1], "max": all[2]});
        lines.push(json!({
            "protocol": protocol.name(), "round_trip_ms": round_trip,
            "transactions": it.healthy.len(), "kills": it.killed.len(),
            "healthy_ms": figures(healthy), "killed_ms": figures(killed),
            "held_ms": figures(held), "killed_held_ms": figures(killed_held),
            "said": protocol.said(),
        }));
        let figure = |ms: f64| format!("{ms:.1}");
        let [said, said_killed, said_held] = protocol.said().map(str::to_owned);
        table.row([
            protocol.name().to_owned(),
            figure(healthy[0]),
            figure(healthy[1]),
            said,
            figure(killed[0]),
            figure(killed[2]),
            said_killed,
            figure(held[0]),
            figure(killed_held[0]),
            figure(killed_held[2]),
            said_held,
        ]);
    }
    match format {
        Format::Json => output::json(&lines),
        Format::Text => {
            output::line(&format!(
                "Three participants {round_trip:.1} ms away and back; {} transactions healthy, {} with their \
                 coordinator killed\nwith -9 when all had prepared, or in the middle of the steps. \
                 KILLED: from then until the outcome was told.\nHELD: from the first prepare, or from the \
                 kill, until the last commit; of a saga, which locks nothing,\nuntil its last step, while \
                 others see it half done. SAID: what such comparisons usually give.\n",
                args.transactions, args.kills
            ));
            output::line(&table.text());
        }
    }
}
