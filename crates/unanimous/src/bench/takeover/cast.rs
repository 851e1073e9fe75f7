//! The servers of a measurement and the nodes that are killed in it.

use std::any::Any;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};
use unanimous_api::NodeWord;
use unanimous_client::Client;
use unanimous_participants::testing::PrivatePostgres;

use super::crowd::Crowd;
use super::{PATIENCE, Place};
use crate::demo::child::{Ports, Process};
use crate::exit::Failure;

/// Names of nodes; as many as may be asked for.
const NAMES: [&str; 5] = ["node-1", "node-2", "node-3", "node-4", "node-5"];

/// How long a node is stopped to see whether it has the row: less than the others take for silence.
const LOOK: Duration = Duration::from_millis(20);

const RESOURCES: [&str; 3] = ["wallet", "ledger", "audit"];

/// Everything that runs.
pub(super) struct Cast {
    place: Place,
    books: PrivatePostgres,
    /// The server of the journal, which ends when this is dropped.
    _journal: Option<Box<dyn Any + Send>>,
    nodes: Vec<Process>,
    _ports: Ports,
    _folder: tempfile::TempDir,
}

/// An etcd of one member, killed when it is dropped.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Cast {
    pub(super) async fn start(place: Place, count: usize) -> Result<Self, Failure> {
        let missing = || Failure::not_done("PostgreSQL is not installed");
        let names = NAMES
            .get(..count)
            .ok_or_else(|| Failure::usage(format!("--nodes {count}: at most {}", NAMES.len())))?;
        let folder = tempfile::Builder::new().prefix("unanimous-bench-").tempdir();
        let folder = folder.map_err(|error| Failure::not_done(format!("no folder: {error}")))?;
        let mut ports = Ports::new();
        let books = block_in_place(books).ok_or_else(missing)?;
        let (journal, url) = match place {
            Place::File => (None, format!("file:{}", folder.path().join("data").display())),
            Place::Postgres => {
                let server = block_in_place(|| PrivatePostgres::start(&[])).ok_or_else(missing)?;
                let url = server.url("postgres", "postgres");
                (Some(Box::new(server) as Box<dyn Any + Send>), url)
            }
            Place::Etcd => {
                let (etcd, url) = etcd(folder.path(), &mut ports).await?;
                (Some(Box::new(etcd) as Box<dyn Any + Send>), url)
            }
        };
        let config = folder.path().join("unanimous.toml");
        let sections = RESOURCES
            .map(|name| format!("[resources.{name}]\nurl = {:?}\n", books.url("postgres", name)));
        std::fs::write(&config, sections.concat())
            .map_err(|error| Failure::not_done(format!("{}: {error}", config.display())))?;
        let mut nodes = Vec::new();
        for &name in names {
            let address = ports.take().await?;
            let arguments = vec![
                "serve".to_owned(),
                "--with-parent".to_owned(),
                format!("--config={}", config.display()),
                format!("--journal={url}"),
                format!("--listen={address}"),
                format!("--node={name}"),
            ];
            nodes.push(Process::start(name, address, arguments, folder.path()).await?);
        }
        Ok(Self { place, books, _journal: journal, nodes, _ports: ports, _folder: folder })
    }

    /// The addresses of all nodes.
    pub(super) fn servers(&self) -> String {
        let all = self.nodes.iter().map(|node| format!("http://{}", node.address));
        all.collect::<Vec<_>>().join(",")
    }

    /// Waits until every node is there and has its share.
    pub(super) async fn settled(&self) -> Result<(), Failure> {
        let started = Instant::now();
        for node in &self.nodes {
            let client = Client::connect(&format!("http://{}", node.address))?;
            loop {
                let nodes = client.nodes().await?.nodes;
                let shares = nodes.iter().map(|it| it.partitions.len());
                let even = shares.clone().max().unwrap_or_default()
                    <= shares.clone().min().unwrap_or_default() + 1;
                let all = nodes.iter().filter(|it| it.state == NodeWord::Active).count();
                let whole = all == self.nodes.len() && shares.sum::<usize>() > 0 && even;
                if whole || self.place == Place::File {
                    break;
                }
                if started.elapsed() > PATIENCE {
                    return Err(Failure::not_done("the nodes do not share the work"));
                }
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Kills a node when a transfer of its own has the row and is prepared. Returns since when the node
    /// has done nothing.
    pub(super) async fn kill(&mut self, index: usize, crowd: &Crowd) -> Result<Instant, Failure> {
        let started = Instant::now();
        loop {
            let stopped_at = Instant::now();
            self.signal(index, Signal::STOP);
            sleep(LOOK).await;
            // If others got the row meanwhile, it is not this node that has it.
            let is_blocked = crowd.since(stopped_at + LOOK / 2).is_empty() && self.prepared()? > 0;
            if is_blocked && crowd.since(stopped_at + LOOK / 2).is_empty() {
                match self.place {
                    // Its supervisor starts it again at once.
                    Place::File => self.revive(index).await?,
                    Place::Postgres | Place::Etcd => self.nodes[index].kill().await,
                }
                return Ok(stopped_at);
            }
            self.signal(index, Signal::CONT);
            if started.elapsed() > PATIENCE {
                return Err(Failure::not_done(
                    "no transfer was met between its votes and its commit",
                ));
            }
            sleep(LOOK).await;
        }
    }

    fn signal(&self, index: usize, signal: Signal) {
        let pid = self.nodes[index].pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // One that is dead already is found out when it is waited for.
            let _ = kill_process(pid, signal);
        }
    }

    /// Branches that the wallet holds prepared.
    fn prepared(&self) -> Result<u64, Failure> {
        let sql = "SELECT count(*) FROM pg_prepared_xacts WHERE database = 'wallet'";
        let count = block_in_place(|| self.books.try_sql("wallet", sql));
        let count = count.map_err(Failure::not_done)?;
        count.parse().map_err(|_| Failure::not_done(format!("a number was expected: {count}")))
    }

    /// Starts the next life of a node, whether it is dead or not.
    pub(super) async fn revive(&mut self, index: usize) -> Result<(), Failure> {
        self.nodes[index].kill_and_restart().await.map(drop)
    }

    /// Whether the books agree, and nothing is left prepared.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let sum = |database: &str, sql: &str| {
            block_in_place(|| self.books.try_sql(database, sql)).map_err(Failure::not_done)
        };
        let wallet = sum("wallet", "SELECT balance FROM account WHERE id = 1")?;
        let entries = "SELECT count(*) FROM entry";
        let (ledger, audit) = (sum("ledger", entries)?, sum("audit", entries)?);
        match wallet == ledger && ledger == audit {
            true => Ok(()),
            false => Err(Failure::not_done(format!(
                "the books do not balance: wallet {wallet}, ledger {ledger}, audit {audit}"
            ))),
        }
    }
}

fn books() -> Option<PrivatePostgres> {
    let settings = ["max_connections=400", "max_prepared_transactions=400"];
    let server = PrivatePostgres::start(&settings)?;
    for name in RESOURCES {
        server.sql("postgres", &format!("CREATE DATABASE {name}"));
        server.sql(name, "CREATE TABLE entry (amount bigint NOT NULL)");
    }
    let account = "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL)";
    server.sql("wallet", &format!("{account}; INSERT INTO account VALUES (1, 0)"));
    Some(server)
}

async fn etcd(folder: &Path, ports: &mut Ports) -> Result<(Etcd, String), Failure> {
    let (clients, peers) = (ports.take().await?, ports.take().await?);
    let log = std::fs::File::create(folder.join("etcd.log"));
    let log = log.map_err(|error| Failure::not_done(error.to_string()))?;
    let (client_url, peer_url) = (format!("http://{clients}"), format!("http://{peers}"));
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--name", "m", "--initial-cluster", &format!("m={peer_url}")])
        .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let child = child.map_err(|_| Failure::not_done("etcd is not installed"))?;
    let etcd = Etcd(child);
    let started = Instant::now();
    while TcpStream::connect(clients).await.is_err() {
        if started.elapsed() > PATIENCE {
            return Err(Failure::not_done("etcd takes no connections"));
        }
        sleep(LOOK).await;
    }
    Ok((etcd, format!("etcd://{clients}")))
}
