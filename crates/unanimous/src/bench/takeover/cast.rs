//! The servers of a measurement and the nodes that are killed in it.

use std::any::Any;
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};
use unanimous_participants::testing::PrivatePostgres;

use super::crowd::DEADLINE_MS;
use super::eye::{Eye, Seen};
use super::{PATIENCE, Place};
use crate::bench::etcd::Etcd;
use crate::bench::fleet::Fleet;
use crate::demo::child::Ports;
use crate::exit::Failure;

/// How long a node is stopped to see whether it has the row: less than the others take for silence.
const LOOK: Duration = Duration::from_millis(20);

const RESOURCES: [&str; 3] = ["wallet", "ledger", "audit"];

/// A node that was killed.
pub(super) struct Blow {
    pub(super) at: Instant,
    /// When what it had prepared in the wallet was gone, and the row with it to be had.
    pub(super) released: Seen<Instant>,
}

/// Everything that runs.
pub(super) struct Cast {
    pub(super) fleet: Fleet,
    books: PrivatePostgres,
    eye: Eye,
    /// The server of the journal, which ends when this is dropped.
    _journal: Option<Box<dyn Any + Send>>,
    _ports: Ports,
    _folder: tempfile::TempDir,
}

impl Cast {
    pub(super) async fn start(place: Place, count: usize) -> Result<Self, Failure> {
        let missing = || Failure::not_done("PostgreSQL is not installed");
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
                let etcd = Etcd::start(folder.path(), &mut ports, 1).await?;
                let url = etcd.url();
                (Some(Box::new(etcd) as Box<dyn Any + Send>), url)
            }
        };
        let config = folder.path().join("unanimous.toml");
        let sections = RESOURCES
            .map(|name| format!("[resources.{name}]\nurl = {:?}\n", books.url("postgres", name)));
        // Whoever is last in a long line waits longer than calls do by default.
        let limits = format!("[limits]\ncall_timeout_ms = {DEADLINE_MS}\n");
        std::fs::write(&config, sections.concat() + &limits)
            .map_err(|error| Failure::not_done(format!("{}: {error}", config.display())))?;
        let fleet = Fleet::start(&url, &config, count, folder.path(), &mut ports).await?;
        let eye = Eye::open(&books.url("postgres", "wallet")).await?;
        Ok(Self { fleet, books, eye, _journal: journal, _ports: ports, _folder: folder })
    }

    /// Kills a node when a transfer of its own has the row and is prepared.
    pub(super) async fn kill(&mut self, index: usize) -> Result<Blow, Failure> {
        let owners = self.fleet.owners().await?;
        let started = Instant::now();
        loop {
            self.fleet.signal(index, Signal::STOP);
            // What it has said to the wallet is done.
            sleep(LOOK).await;
            let mut prepared = self.eye.prepared().await?;
            prepared.retain(|branch| owners.of(branch.txn) == index);
            if !prepared.is_empty() {
                let blow = Blow { at: Instant::now(), released: self.eye.gone(prepared) };
                self.fleet.kill(index).await?;
                return Ok(blow);
            }
            self.fleet.signal(index, Signal::CONT);
            if started.elapsed() > PATIENCE {
                return Err(Failure::not_done(
                    "no transfer was met between its votes and its commit",
                ));
            }
            sleep(LOOK).await;
        }
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
