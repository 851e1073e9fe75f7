//! Who takes part in the demo: three parties of every transfer, and perhaps a coordinator.
//!
//! A party is a service of the demo's own, or a database that has taken a service's place. All of
//! them can be killed with -9 and come back, and have a book that is read without asking anybody else.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::books::{self, Book};
use super::child::Process;
use super::database::Database;
use super::plan::Role;
use crate::exit::Failure;

/// A kind of database that can take part.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    /// PostgreSQL
    #[value(name = "postgres")]
    Postgres,
    /// MariaDB
    #[value(name = "mariadb")]
    MariaDb,
    /// Redis
    #[value(name = "redis")]
    Redis,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::MariaDb => "MariaDB",
            Self::Redis => "Redis",
        })
    }
}

/// What a party is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A process with an SQLite file, which prepares by itself.
    Service,
    /// A database that is told what to do.
    Database(Engine),
}

/// How a run makes its transfers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    Unanimously,
    Naively,
}

impl Way {
    /// The name of its folder, and of its databases.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unanimously => "unanimous",
            Self::Naively => "naive",
        }
    }
}

/// One party of every transfer.
pub(super) enum Party<'a> {
    Service { role: Role, process: Box<Process>, book: PathBuf },
    Database { role: Role, database: &'a mut Database, way: Way },
}

impl Party<'_> {
    pub(super) fn role(&self) -> Role {
        match self {
            Self::Service { role, .. } | Self::Database { role, .. } => *role,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Service { .. } => Kind::Service,
            Self::Database { database, .. } => Kind::Database(database.engine()),
        }
    }

    /// As a resource is configured.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Service { process, .. } => format!("http://{}", process.address),
            Self::Database { database, way, .. } => database.url(*way),
        }
    }

    async fn kill_and_restart(&mut self) -> Result<Duration, Failure> {
        match self {
            Self::Service { process, .. } => process.kill_and_restart().await,
            Self::Database { role, database, .. } => {
                let dead_since = Instant::now();
                let back = block_in_place(|| database.kill_and_restart());
                back.map_err(|why| failed(*role, database, &why))?;
                Ok(dead_since.elapsed())
            }
        }
    }

    /// Whether it holds no branch prepared.
    fn is_clear(&self) -> bool {
        match self {
            Self::Service { book, .. } => matches!(books::prepared(book), Ok(0)),
            Self::Database { database, way, .. } => {
                matches!(block_in_place(|| database.prepared(*way)), Ok(0))
            }
        }
    }

    /// What it has booked. A service is stopped for that.
    async fn book(&mut self) -> Result<Book, Failure> {
        match self {
            Self::Service { process, book, .. } => {
                process.kill().await;
                Book::read(book)
            }
            Self::Database { role, database, way } => {
                block_in_place(|| database.book(*way)).map_err(|why| failed(*role, database, &why))
            }
        }
    }
}

fn failed(role: Role, database: &Database, why: &str) -> Failure {
    Failure::not_done(format!("{} ({}): {why}", role.as_str(), database.engine()))
}

/// Everybody in one run.
pub(super) struct Cast<'a> {
    pub(super) parties: Vec<Party<'a>>,
    pub(super) coordinator: Option<Process>,
}

impl Cast<'_> {
    pub(super) fn has(&self, role: Role) -> bool {
        match role {
            Role::Coordinator => self.coordinator.is_some(),
            Role::Wallet | Role::Ledger | Role::Audit => true,
        }
    }

    /// Kills the one who is there in that role with -9, starts it again, and says how long it was away.
    pub(super) async fn kill_and_restart(&mut self, role: Role) -> Result<Duration, Failure> {
        match self.parties.iter_mut().find(|party| party.role() == role) {
            Some(party) => party.kill_and_restart().await,
            None => self.coordinator.as_mut().expect("it is there").kill_and_restart().await,
        }
    }

    /// Whether no party holds a branch prepared.
    pub(super) fn is_clear(&self) -> bool {
        self.parties.iter().all(Party::is_clear)
    }

    /// What each party has booked, when the coordinator has stopped.
    pub(super) async fn books(&mut self) -> Result<BTreeMap<Role, Book>, Failure> {
        if let Some(process) = &mut self.coordinator {
            process.kill().await;
        }
        let mut books = BTreeMap::new();
        for party in &mut self.parties {
            books.insert(party.role(), party.book().await?);
        }
        Ok(books)
    }
}
