//! Durable decisions a second on a journal in a database, as one node drives them, against a bare loop
//! that writes rows or keys of about as many bytes into the same server.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::task::block_in_place;
use unanimous_core::Outcome;
use unanimous_core::id::ShardId;
use unanimous_participants::local::{Local, agree};
use unanimous_participants::testing::PrivatePostgres;
use unanimous_server::Resources;
use unanimous_server::driver::Coordinator;
use unanimous_server::journal::JournalConfig;

use super::coordinator::{measure, order};
use super::etcd::Etcd;
use super::{Shape, folder, inside, process};
use crate::demo::child::Ports;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::stats::median;
use crate::table::Table;

const IN_FLIGHT: [usize; 2] = [64, 1_024];

/// Parts that a node divides what it drives into, each with a journal of its own.
const PARTS: usize = 8;

/// What the bare loop writes at once, and how large each is.
const ROWS: usize = 100;
const ROW_BYTES: usize = 300;

/// Clients of the bare loop.
const WRITERS: usize = 4;

/// What to measure.
#[derive(Args, Clone, Debug)]
pub(super) struct JournalsArgs {
    #[command(flatten)]
    shape: Shape,
    /// Where the journal is; several are measured one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "postgres,etcd")]
    journals: Vec<Place>,
    /// Databases: with more than one, the parts of the work are also divided between all of them, as
    /// domains are that have a journal of their own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    databases: u8,
}

/// A database that a journal can be in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Place {
    /// A server of its own.
    Postgres,
    /// One member of its own.
    Etcd,
}

/// What was measured with so many in flight: each of many rounds.
struct Row {
    place: Place,
    in_flight: usize,
    databases: usize,
    ours: Vec<Ours>,
    bare: Vec<f64>,
}

/// What a node did in one round.
#[derive(Clone, Copy)]
struct Ours {
    per_s: f64,
    /// Processor time here, for each transaction.
    cpu_us: f64,
    /// Commits of the busiest database, in a second.
    commits_per_s: f64,
}

/// A server for the journal, and for the bare loop.
struct Server {
    place: Place,
    url: String,
    /// It ends when this is dropped.
    _running: Box<dyn Any + Send + Sync>,
    _ports: Ports,
}

pub(super) async fn run(args: &JournalsArgs, format: Format) -> Result<(), Failure> {
    let JournalsArgs { shape, journals, databases } = args;
    let time = Duration::from_secs(shape.seconds);
    let in_flight = match shape.in_flight.is_empty() {
        true => IN_FLIGHT.to_vec(),
        false => shape.in_flight.clone(),
    };
    let mut rows = Vec::new();
    for &place in journals {
        let (folder, _made) = folder(shape.folder.as_ref())?;
        let mut servers = Vec::new();
        for number in 0..*databases {
            servers.push(Server::start(place, &folder.join(number.to_string())).await?);
        }
        for &in_flight in &in_flight {
            let row = |databases| Row { place, in_flight, databases, ours: vec![], bare: vec![] };
            let mut compared: Vec<Row> = [1, servers.len()].map(row).into();
            compared.dedup_by_key(|row| row.databases);
            for _ in 0..shape.rounds {
                for row in &mut compared {
                    row.ours.push(ours(&servers[..row.databases], in_flight, time).await?);
                    row.bare.push(servers[0].bare(time).await? * ROWS as f64);
                }
            }
            rows.append(&mut compared);
        }
    }
    report(&rows, format);
    Ok(())
}

impl Server {
    async fn start(place: Place, folder: &std::path::Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::not_done(format!("{}: {error}", folder.display())))?;
        let mut ports = Ports::new();
        let (url, running): (_, Box<dyn Any + Send + Sync>) = match place {
            Place::Postgres => {
                let settings = ["shared_buffers=256MB", "max_wal_size=4GB"];
                let server = block_in_place(|| PrivatePostgres::start(&settings));
                let server = server.ok_or(Failure::not_done("PostgreSQL is not installed"))?;
                server.sql("postgres", "CREATE TABLE bare (row bytea NOT NULL)");
                (server.url("postgres", "postgres"), Box::new(server))
            }
            Place::Etcd => {
                let etcd = Etcd::start(folder, &mut ports, 1).await?;
                (etcd.url(), Box::new(etcd))
            }
        };
        Ok(Self { place, url, _running: running, _ports: ports })
    }

    fn journal(&self) -> JournalConfig {
        let url = self.url.clone();
        match self.place {
            Place::Postgres => JournalConfig::Postgres { url, password: None },
            Place::Etcd => JournalConfig::Etcd { url, password: None },
        }
    }

    /// Writes of [`ROWS`] a second by a bare loop.
    async fn bare(&self, time: Duration) -> Result<f64, Failure> {
        match self.place {
            Place::Postgres => rows(&self.url, time).await,
            Place::Etcd => keys(&self.url.replace("etcd://", "http://"), time).await,
        }
    }
}

/// A node whose parts have their journals in these databases, in turn.
async fn ours(servers: &[Server], in_flight: usize, time: Duration) -> Result<Ours, Failure> {
    let shards: Vec<ShardId> = ShardId::all().collect();
    let started: Result<Vec<_>, Failure> = block_in_place(|| {
        let parts = shards.chunks(shards.len().div_ceil(PARTS)).zip(servers.iter().cycle());
        parts.map(|(part, server)| part_of_node(&server.journal(), part)).collect()
    });
    let parts: Arc<[Coordinator]> = started?.into();
    let (next, shared) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&parts));
    let rate = measure(in_flight, time, move || {
        let part = next.fetch_add(1, Ordering::Relaxed) % shared.len();
        let outcome = shared[part].run(order());
        async move {
            let outcome = outcome.await.expect("the coordinator answers");
            assert_eq!(outcome.expect("nothing refuses"), Outcome::Committed);
        }
    });
    let (per_s, cpu_us) = rate.await;
    let mut commits = vec![0; servers.len()];
    for (number, part) in parts.iter().enumerate() {
        commits[number % servers.len()] += part.journal().stats().syncs;
        part.close().await.map_err(|error| Failure::not_done(error.to_string()))?;
    }
    let busiest = commits.into_iter().max().unwrap_or_default();
    Ok(Ours { per_s, cpu_us, commits_per_s: busiest as f64 / time.as_secs_f64() })
}

fn part_of_node(journal: &JournalConfig, shards: &[ShardId]) -> Result<Coordinator, Failure> {
    const RETENTION_MS: u64 = 3_600_000;
    let resources = Resources::default()
        .with("left", Arc::new(Local::new(agree)))
        .with("right", Arc::new(Local::new(agree)));
    let open = |ears| journal.open(RETENTION_MS, None, ears);
    let started = inside::start_on(open, shards.to_vec(), resources);
    let (coordinator, _) = started.map_err(|error| Failure::not_done(error.to_string()))?;
    Ok(coordinator)
}

async fn rows(url: &str, time: Duration) -> Result<f64, Failure> {
    let failed = |error: tokio_postgres::Error| Failure::not_done(error.to_string());
    const INSERT: &str = "INSERT INTO bare SELECT unnest($1::bytea[])";
    let mut clients = Vec::new();
    for _ in 0..WRITERS {
        let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
        let (client, connection) = connected.map_err(failed)?;
        // It ends with its client, which hears of its errors.
        tokio::spawn(connection);
        let insert = client.prepare(INSERT).await.map_err(failed)?;
        clients.push((client, insert));
    }
    let clients: Arc<[_]> = clients.into();
    let (next, rows) = (Arc::new(AtomicUsize::new(0)), Arc::new(vec![[0xA5_u8; ROW_BYTES]; ROWS]));
    let (per_s, _) = measure(WRITERS, time, move || {
        let (clients, rows) = (Arc::clone(&clients), Arc::clone(&rows));
        let client = next.fetch_add(1, Ordering::Relaxed) % clients.len();
        async move {
            let (client, insert) = &clients[client];
            let rows: Vec<&[u8]> = rows.iter().map(<[u8; ROW_BYTES]>::as_slice).collect();
            let written = client.execute(insert, &[&rows]).await;
            assert_eq!(written.expect("it takes rows"), ROWS as u64);
        }
    })
    .await;
    Ok(per_s)
}

/// By etcd's gateway for JSON, whose coding costs it more than ours does.
async fn keys(url: &str, time: Duration) -> Result<f64, Failure> {
    let (client, target) = (process::http_client(), Arc::<str>::from(format!("{url}/v3/kv/txn")));
    // These letters are base64 of something, which is all that matters.
    let value = "A5".repeat(ROW_BYTES / 3 * 2);
    let next = Arc::new(AtomicUsize::new(0));
    let (per_s, _) = measure(WRITERS, time, move || {
        let first = next.fetch_add(ROWS, Ordering::Relaxed);
        let puts = (first..first + ROWS).map(
            |number| json!({"requestPut": {"key": format!("ba4e{number:012x}"), "value": value}}),
        );
        let body = json!({"success": puts.collect::<Vec<_>>()}).to_string();
        let (client, target) = (client.clone(), Arc::clone(&target));
        async move {
            let reply = process::send(&client, "POST", &target, Bytes::from(body)).await;
            let status = reply.map(|(status, _)| status);
            assert_eq!(status, Some(StatusCode::OK), "etcd takes keys");
        }
    })
    .await;
    Ok(per_s)
}

fn report(rows: &[Row], format: Format) {
    let mut lines = Vec::new();
    let mut table = Table::new([
        "JOURNAL",
        "databases",
        "in flight",
        "transactions/s",
        "CPU µs",
        "commits/s in each",
        "bare rows/s",
        "transactions to rows",
    ]);
    for Row { place, in_flight, databases, ours, bare } in rows {
        let name = match place {
            Place::Postgres => "PostgreSQL",
            Place::Etcd => "etcd, one member",
        };
        let of = |figure: fn(&Ours) -> f64| ours.iter().map(figure).collect::<Vec<_>>();
        let all = [of(|it| it.per_s), of(|it| it.cpu_us), of(|it| it.commits_per_s)];
        let [per_s, cpu_us, commits_per_s] = all.each_ref().map(|all| median(all));
        let bare_per_s = median(bare);
        lines.push(json!({
            "journal": name, "databases": databases, "in_flight": in_flight,
            "transactions_per_s": all[0], "cpu_us": all[1], "commits_per_s_of_each": all[2],
            "bare_rows_per_s": bare, "ratio": per_s / bare_per_s,
        }));
        table.row([
            name.to_owned(),
            databases.to_string(),
            in_flight.to_string(),
            output::count(per_s as u64),
            format!("{cpu_us:.0}"),
            output::count(commits_per_s as u64),
            output::count(bare_per_s as u64),
            format!("{:.2}x", per_s / bare_per_s),
        ]);
    }
    match format {
        Format::Json => output::json(&lines),
        Format::Text => {
            output::line(&format!(
                "Transactions of two branches that agree at once, by one node whose journal is in a \
                 database on this machine,\nagainst a bare loop: {WRITERS} clients that write \
                 {ROWS} rows or keys of {ROW_BYTES} bytes at once.\n"
            ));
            output::line(&table.text());
        }
    }
}
