//! Transfers as an application makes them with the SDK: over connections of its own.
//!
//! As `docs/sdk.md` shows it: begin, enlist and work in one database after the other, commit. The
//! connections are lent by pools, one for each transfer in flight, with each driver's usual settings.

use std::sync::{Arc, Mutex};

use mysql_async::prelude::Queryable;
use tokio_postgres::NoTls;
use unanimous_client::{Branch, Client, Txn};

use super::banks::{Banks, Entry, Server};
use crate::exit::Failure;

/// A coordinator, and the pools of an application that works with it.
pub(super) struct Application {
    coordinator: Client,
    left: Pool,
    right: Pool,
}

impl Application {
    /// An application at the coordinator at `url`, which connects to the servers when it needs to.
    pub(super) fn new(url: &str, banks: &Banks, in_flight: usize) -> Result<Self, Failure> {
        Ok(Self {
            coordinator: Client::connect(url)?,
            left: Pool::new(&banks.left, in_flight),
            right: Pool::new(&banks.right, in_flight),
        })
    }

    pub(super) async fn transfer(self: Arc<Self>, entries: [Entry; 2]) -> Result<(), Failure> {
        let txn = self.coordinator.transaction().begin().await?;
        let [left_entry, right_entry] = entries;
        let (mut left_conn, mut right_conn) = (None, None);
        let left = self.left.work(&txn, "left", &mut left_conn, left_entry).await?;
        let right = self.right.work(&txn, "right", &mut right_conn, right_entry).await?;
        txn.commit_branches([left, right]).await?;
        self.left.take_back(left_conn);
        self.right.take_back(right_conn);
        Ok(())
    }
}

/// Connections to one server.
enum Pool {
    Postgres(PostgresPool),
    MariaDb(mysql_async::Pool),
}

/// The plainest there can be: as many connections as were ever needed at once.
struct PostgresPool {
    url: String,
    idle: Mutex<Vec<tokio_postgres::Client>>,
}

impl Pool {
    fn new(server: &Server, in_flight: usize) -> Self {
        let url = server.url();
        match server {
            Server::Postgres(_) => Self::Postgres(PostgresPool { url, idle: Mutex::default() }),
            Server::MariaDb(_) => {
                // One that has fewer at least than it has at most closes what is idle above that at once.
                let url = format!("{url}?pool_min={in_flight}&pool_max={in_flight}");
                Self::MariaDb(mysql_async::Pool::new(&*url))
            }
        }
    }

    /// Enlists a branch and works in it. A connection that the branch borrows is put into `conn`.
    async fn work<'c>(
        &self,
        txn: &Txn,
        resource: &str,
        conn: &'c mut Option<tokio_postgres::Client>,
        entry: Entry,
    ) -> Result<Branch<'c>, Failure> {
        let Entry { sql, amount, account } = entry;
        match self {
            Self::Postgres(pool) => {
                let conn = conn.insert(pool.lend().await?);
                let branch = txn.enlist_postgres(resource, conn).await?;
                let changed = branch.execute(sql, &[&amount, &account]).await;
                changed.map_err(failed)?;
                Ok(branch.into())
            }
            Self::MariaDb(pool) => {
                let conn = pool.get_conn().await.map_err(failed)?;
                let mut branch = txn.enlist_mysql(resource, conn).await?;
                let changed = branch.exec_drop(sql, (amount, account)).await;
                changed.map_err(failed)?;
                Ok(branch.into())
            }
        }
    }

    /// Takes a connection back that a branch has borrowed; that of MariaDB comes back by itself.
    fn take_back(&self, conn: Option<tokio_postgres::Client>) {
        match self {
            Self::Postgres(pool) => pool.idle.lock().expect("nobody panics").extend(conn),
            Self::MariaDb(_) => {}
        }
    }
}

impl PostgresPool {
    async fn lend(&self) -> Result<tokio_postgres::Client, Failure> {
        let idle = self.idle.lock().expect("nobody panics").pop();
        if let Some(client) = idle {
            return Ok(client);
        }
        let connected = tokio_postgres::connect(&self.url, NoTls).await;
        let (client, connection) = connected.map_err(failed)?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// With all that the driver knows: in a sentence it leaves out what the server said.
fn failed(error: impl std::fmt::Debug) -> Failure {
    Failure::not_done(format!("a connection of the application: {error:?}"))
}
