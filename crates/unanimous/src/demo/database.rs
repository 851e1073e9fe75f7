//! A private database server of the demo, and what it is asked without the coordinator.
//!
//! Each run of the demo has a database of its own on it, named after how it makes its transfers. The
//! books are read with the server's own client.

use std::path::Path;

use unanimous_participants::Settings;
use unanimous_participants::alone::CommitAlone;
use unanimous_participants::mysql::MysqlAdapter;
use unanimous_participants::postgres::PostgresAdapter;
use unanimous_participants::redis::RedisAdapter;
use unanimous_participants::testing::{PrivateMariaDb, PrivatePostgres, PrivateRedis};

use super::books::Book;
use super::party::{Engine, Way};
use super::plan::CUSTOMERS;
use super::work::{ACCOUNT, ENTRY};

/// A server that is killed when this goes. Its methods wait for other programs.
pub(super) enum Database {
    Postgres(PrivatePostgres),
    MariaDb(PrivateMariaDb),
    Redis(PrivateRedis),
}

impl Engine {
    /// The package to install if it is missing on this machine.
    pub(super) fn missing(self) -> Option<&'static str> {
        let (is_installed, package) = match self {
            Self::Postgres => (PrivatePostgres::is_installed(), "postgresql"),
            Self::MariaDb => (PrivateMariaDb::is_installed(), "mariadb-server"),
            Self::Redis => (PrivateRedis::is_installed(), "redis-server"),
        };
        (!is_installed).then_some(package)
    }

    /// Starts a server in a folder that is removed by somebody else.
    pub(super) fn start(self, folder: &Path, port: u16) -> Result<Database, String> {
        Ok(match self {
            // It then knows when each row was committed, so how long it was locked.
            Self::Postgres => Database::Postgres(PrivatePostgres::start_in(
                folder,
                port,
                &["track_commit_timestamp=on"],
            )?),
            Self::MariaDb => Database::MariaDb(PrivateMariaDb::start_in(folder, port, &[])?),
            Self::Redis => Database::Redis(PrivateRedis::start_in(folder, port, &[])?),
        })
    }
}

impl Database {
    /// What kind of database it is.
    pub(super) fn engine(&self) -> Engine {
        match self {
            Self::Postgres(_) => Engine::Postgres,
            Self::MariaDb(_) => Engine::MariaDb,
            Self::Redis(_) => Engine::Redis,
        }
    }

    /// As a resource is configured.
    pub(super) fn url(&self, way: Way) -> String {
        match self {
            Self::Postgres(server) => server.url("postgres", way.as_str()),
            Self::MariaDb(server) => server.url("root", way.as_str()),
            Self::Redis(server) => format!("{}/{}", server.url(), number(way)),
        }
    }

    /// For who uses it without a coordinator.
    pub(super) fn alone(&self, way: Way) -> Result<Box<dyn CommitAlone>, String> {
        let (url, settings) = (self.url(way), Settings::default());
        Ok(match self {
            Self::Postgres(_) => Box::new(PostgresAdapter::new(&url, &settings)?),
            Self::MariaDb(_) => Box::new(MysqlAdapter::new(&url, &settings)?),
            Self::Redis(_) => Box::new(RedisAdapter::new(&url, &settings)?),
        })
    }

    /// Makes the database of a run, with so many rupees for each customer.
    pub(super) fn set_up(&self, way: Way, opening: u64) -> Result<(), String> {
        let name = way.as_str();
        let create = format!("CREATE DATABASE {name}");
        let accounts = "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL)";
        let rows: Vec<_> = (0..CUSTOMERS).map(|id| format!("({id}, {opening})")).collect();
        let rows = format!("INSERT INTO account VALUES {}", rows.join(", "));
        let said = match self {
            Self::Postgres(server) => {
                server.try_sql("postgres", &create)?;
                let entries = "CREATE TABLE entry (transfer text NOT NULL, amount bigint NOT NULL, \
                               since timestamptz NOT NULL DEFAULT clock_timestamp())";
                server.try_sql(name, &format!("{accounts}; {entries}; {rows}"))
            }
            Self::MariaDb(server) => {
                let entries =
                    "CREATE TABLE entry (transfer varchar(32) NOT NULL, amount bigint NOT NULL)";
                server.try_sql("", &create)?;
                server.try_sql(name, &format!("{accounts}; {entries}; {rows}"))
            }
            Self::Redis(server) => {
                let (number, opening) = (number(way), opening.to_string());
                let accounts: Vec<_> = (0..CUSTOMERS).map(|id| format!("{ACCOUNT}{id}")).collect();
                let pairs = accounts.iter().flat_map(|account| [account.as_str(), &opening]);
                let words: Vec<_> = ["-n", number, "MSET"].into_iter().chain(pairs).collect();
                server.try_ask(&words)
            }
        };
        said.map(drop)
    }

    /// Kills it as a power failure would, starts it again, and waits until it answers.
    pub(super) fn kill_and_restart(&mut self) -> Result<(), String> {
        match self {
            Self::Postgres(server) => (server.kill(), server.try_up()).1,
            Self::MariaDb(server) => (server.kill(), server.try_up()).1,
            Self::Redis(server) => (server.kill(), server.try_up()).1,
        }
    }

    /// Branches that it holds prepared, anybody's.
    pub(super) fn prepared(&self, way: Way) -> Result<u64, String> {
        match self {
            Self::Postgres(server) => {
                parsed(&server.try_sql(way.as_str(), "SELECT count(*) FROM pg_prepared_xacts")?)
            }
            Self::MariaDb(server) => Ok(server.try_sql("", "XA RECOVER")?.lines().count() as u64),
            Self::Redis(server) => parsed(&server.try_ask(&[
                "-n",
                number(way),
                "ZCARD",
                "unanimous:{una}:prepared",
            ])?),
        }
    }

    /// Everything that it has booked in a run.
    pub(super) fn book(&self, way: Way) -> Result<Book, String> {
        let sum = "SELECT sum(balance) FROM account";
        let (balance, entries) = match self {
            Self::Postgres(server) => {
                let held = "extract(epoch FROM pg_xact_commit_timestamp(xmin) - since) * 1000";
                let entries = format!(
                    "SELECT concat_ws(E'\\t', transfer, amount, greatest({held}, 0)::bigint) FROM entry"
                );
                let sql = |text: &str| server.try_sql(way.as_str(), text);
                (sql(sum)?, sql(&entries)?)
            }
            Self::MariaDb(server) => {
                let sql = |text| server.try_sql(way.as_str(), text);
                (sql(sum)?, sql("SELECT transfer, amount FROM entry")?)
            }
            Self::Redis(server) => {
                let list =
                    |prefix: &str| server.try_ask(&["-n", number(way), "EVAL", LIST, "0", prefix]);
                let accounts = list(ACCOUNT)?;
                let balances =
                    accounts.lines().map(|line| fields(line).nth(1).map_or(Ok(0), parsed));
                (balances.sum::<Result<u64, _>>()?.to_string(), list(ENTRY)?)
            }
        };
        let mut book = Book::new(self.prepared(way)?, parsed(&balance)?);
        for line in entries.lines() {
            let mut fields = fields(line);
            let (Some(transfer), Some(amount)) = (fields.next(), fields.next()) else {
                return Err(format!("an entry that is none: {line}"));
            };
            let held_ms = fields.next().map(parsed).transpose()?;
            book.enter(transfer.to_owned(), parsed(amount)?, held_ms);
        }
        Ok(book)
    }
}

/// What Redis keeps under keys that begin alike: a line for each, with a tab in it.
const LIST: &str = "local list = {} \
    for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do \
    list[#list + 1] = string.sub(key, #ARGV[1] + 1) .. '\\t' .. redis.call('GET', key) end \
    return list";

/// Databases of Redis have numbers.
fn number(way: Way) -> &'static str {
    match way {
        Way::Unanimously => "0",
        Way::Naively => "1",
    }
}

fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split('\t')
}

fn parsed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("a number was expected: {text}"))
}
