//! Two servers with the same accounts, and the transfers between them.
//!
//! A transfer takes one from an account of the left server and adds it to the same account of the right
//! one. Transfers that are in flight together have an account each, so none waits for another's lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use unanimous_participants::Settings;
use unanimous_participants::guard::Adapter;
use unanimous_participants::mysql::MysqlAdapter;
use unanimous_participants::postgres::PostgresAdapter;
use unanimous_participants::testing::{PrivateMariaDb, PrivatePostgres};

use crate::exit::Failure;

const ACCOUNTS: u64 = 10_000;
const BALANCE: u64 = 1_000_000;

/// From one transfer's account to the next one's. It has no divisor in common with [`ACCOUNTS`], so an
/// account comes again only after all the others; and neighbours are on different pages.
const STRIDE: u64 = 7_919;

/// Accounts that one statement makes. A program takes arguments of 128 KiB at most.
const ACCOUNTS_AT_ONCE: u64 = 1_000;

/// Connections to a server: 256 for the first phase by hand, as many of MariaDB's with a prepared branch
/// each, half as many for the second phase, 256 of the application, and some for two coordinators.
const CONNECTIONS_MAX: usize = 1_200;

/// Connections by hand for the first phase. The adapters take no more.
const BY_HAND_MAX: usize = 256;

/// Between which servers money is moved.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Pair {
    /// Two PostgreSQL servers.
    Postgres,
    /// A PostgreSQL and a MariaDB server.
    Mariadb,
}

impl Pair {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadb",
        }
    }

    /// What has to be installed for it, and is not.
    pub(super) fn missing(self) -> Option<&'static str> {
        if !PrivatePostgres::is_installed() {
            return Some("PostgreSQL");
        }
        match self {
            Self::Postgres => None,
            Self::Mariadb => (!PrivateMariaDb::is_installed()).then_some("MariaDB"),
        }
    }
}

/// One transfer's part in one of the servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) sql: &'static str,
    pub(super) amount: i64,
    pub(super) account: i64,
}

impl Entry {
    /// The work of a branch, as a request has it.
    pub(super) fn statements(self) -> Value {
        json!([{"sql": self.sql, "params": [self.amount, self.account]}])
    }
}

/// One of the two servers.
pub(super) enum Server {
    Postgres(PrivatePostgres),
    MariaDb(PrivateMariaDb),
}

impl Server {
    fn postgres() -> Option<Self> {
        let settings = ["max_connections", "max_prepared_transactions"]
            .map(|name| format!("{name}={CONNECTIONS_MAX}"));
        Some(Self::Postgres(PrivatePostgres::start(&settings.each_ref().map(|it| &**it))?))
    }

    fn mariadb() -> Option<Self> {
        let room = format!("--max-connections={CONNECTIONS_MAX}");
        Some(Self::MariaDb(PrivateMariaDb::start(&[&room])?))
    }

    /// As a resource is configured.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Postgres(server) => server.url("postgres", "postgres"),
            Self::MariaDb(server) => server.url("root", "bank"),
        }
    }

    /// What carries branches out in it, with connections for so many at once.
    pub(super) fn adapter(&self, in_flight: usize) -> Result<Box<dyn Adapter>, Failure> {
        let url = format!("{}?connections={}", self.url(), in_flight.min(BY_HAND_MAX));
        let settings = Settings::default();
        let adapter: Result<Box<dyn Adapter>, String> = match self {
            Self::Postgres(_) => PostgresAdapter::new(&url, &settings).map(|it| Box::new(it) as _),
            Self::MariaDb(_) => MysqlAdapter::new(&url, &settings).map(|it| Box::new(it) as _),
        };
        adapter.map_err(Failure::not_done)
    }

    fn sql(&self, statements: &str) -> Result<String, String> {
        match self {
            Self::Postgres(server) => server.try_sql("postgres", statements),
            Self::MariaDb(server) => server.try_sql("bank", statements),
        }
    }

    fn number(&self, query: &str) -> Result<u64, Failure> {
        let answer = self.sql(query).map_err(Failure::not_done)?;
        // MariaDB names the figure before it.
        let last = answer.split_whitespace().last().and_then(|it| it.parse().ok());
        last.ok_or_else(|| Failure::not_done(format!("{query}: {answer:?} is no number")))
    }

    fn make_accounts(&self) -> Result<(), String> {
        self.sql("CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL)")?;
        for first in (1..=ACCOUNTS).step_by(ACCOUNTS_AT_ONCE as usize) {
            let ids = first..(first + ACCOUNTS_AT_ONCE).min(ACCOUNTS + 1);
            let rows: Vec<_> = ids.map(|id| format!("({id},{BALANCE})")).collect();
            self.sql(&format!("INSERT INTO account VALUES {}", rows.join(",")))?;
        }
        Ok(())
    }

    /// Changes the balance of an account.
    fn change(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "UPDATE account SET balance = balance + $1 WHERE id = $2",
            Self::MariaDb(_) => "UPDATE account SET balance = balance + ? WHERE id = ?",
        }
    }

    fn cpu(&self) -> Duration {
        match self {
            Self::Postgres(server) => server.cpu(),
            Self::MariaDb(server) => server.cpu(),
        }
    }

    /// Since its start: of the log in PostgreSQL, of everything in MariaDB, which tells no log apart.
    fn flushes(&self) -> Result<u64, Failure> {
        self.number(match self {
            Self::Postgres(_) => "SELECT wal_sync FROM pg_stat_wal",
            Self::MariaDb(_) => "SHOW GLOBAL STATUS LIKE 'Innodb_data_fsyncs'",
        })
    }
}

/// Two servers with the same accounts.
pub(super) struct Banks {
    pub(super) left: Server,
    pub(super) right: Server,
    /// Transfers that were begun.
    begun: AtomicU64,
}

impl Banks {
    /// `None` if one of them is not installed.
    pub(super) fn start(pair: Pair) -> Option<Result<Self, Failure>> {
        let left = Server::postgres()?;
        let right = match pair {
            Pair::Postgres => Server::postgres()?,
            Pair::Mariadb => Server::mariadb()?,
        };
        let made = left.make_accounts().and_then(|()| right.make_accounts());
        Some(match made {
            Ok(()) => Ok(Self { left, right, begun: AtomicU64::new(0) }),
            Err(why) => Err(Failure::not_done(why)),
        })
    }

    /// The next transfer's part in each server.
    pub(super) fn transfer(&self) -> [Entry; 2] {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let account = (1 + number * STRIDE % ACCOUNTS) as i64;
        [(&self.left, -1), (&self.right, 1)].map(|(server, amount)| Entry {
            sql: server.change(),
            amount,
            account,
        })
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Of both servers.
    pub(super) fn cpu(&self) -> Duration {
        self.left.cpu() + self.right.cpu()
    }

    /// Of both servers.
    pub(super) fn flushes(&self) -> Result<u64, Failure> {
        Ok(self.left.flushes()? + self.right.flushes()?)
    }

    /// Whether every transfer that was begun has taken effect in both servers, once.
    ///
    /// # Errors
    ///
    /// What the books of a server are, and what they have to be.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let (whole, begun) = (ACCOUNTS * BALANCE, self.begun());
        for (name, server, due) in
            [("left", &self.left, whole - begun), ("right", &self.right, whole + begun)]
        {
            let sum = server.number("SELECT sum(balance) FROM account")?;
            if sum != due {
                let why = format!("the {name} server has {sum} after {begun} transfers, not {due}");
                return Err(Failure::not_done(why));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{ACCOUNTS, STRIDE};

    #[test]
    fn an_account_comes_again_only_after_all_the_others() {
        let accounts: HashSet<_> = (0..ACCOUNTS).map(|number| number * STRIDE % ACCOUNTS).collect();
        assert_eq!(accounts.len() as u64, ACCOUNTS);
    }
}
