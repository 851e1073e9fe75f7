//! Three kinds of databases under transfers between all of them.
//!
//! Each transfer leaves its number in every database, so that afterwards the books tell for each one
//! where it took effect. Something prepared by somebody else lies in two of them all the time.

mod application;
mod cuts;
mod kills;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::{JoinSet, block_in_place};
use unanimous_participants::testing::{PrivateMariaDb, PrivatePostgres, PrivateRedis};

use crate::coordinator::{Coordinator, Setup};
use crate::http::Http;
use crate::place::{Folder, eventually};
use crate::steps::{open, settled};

/// Each has an account of its own; the next one is the application's.
const CLIENTS: u64 = 6;

struct Databases {
    postgres: PrivatePostgres,
    maria: PrivateMariaDb,
    redis: PrivateRedis,
}

/// A coordinator that reaches each of them at an address.
fn setup(folder: &Folder, [postgres, maria, redis]: [SocketAddr; 3]) -> Setup {
    let urls = [
        ("postgres", format!("postgres://postgres@{postgres}/postgres")),
        ("maria", format!("mysql://root@{maria}/bank")),
        ("redis", format!("redis://{redis}")),
    ];
    let head = "cluster = \"crash\"\n[limits]\norphan_grace_ms = 1000\ncall_timeout_ms = 2000\n";
    Setup::with_urls(folder.path(), head, &urls)
}

/// What the clients were told of transfers by number.
#[derive(Default)]
struct Told {
    next: AtomicU64,
    committed: Mutex<BTreeSet<u64>>,
    aborted: Mutex<BTreeSet<u64>>,
}

impl Databases {
    fn start() -> Option<Self> {
        Self::start_with(&[], &[], &[])
    }

    /// With options of the first, the second and the third.
    fn start_with(postgres: &[&str], maria: &[&str], redis: &[&str]) -> Option<Self> {
        let postgres = PrivatePostgres::start(postgres)?;
        let maria = PrivateMariaDb::start(maria)?;
        let redis = PrivateRedis::start(redis)?;
        let tables = "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL); \
                      CREATE TABLE entry (number bigint PRIMARY KEY)";
        let rows: Vec<String> = (0..=CLIENTS).map(|id| format!("({id}, 0)")).collect();
        let rows = format!("INSERT INTO account VALUES {}", rows.join(", "));
        postgres.sql("postgres", &format!("{tables}; {rows}"));
        maria.sql("bank", &format!("{tables}; {rows}"));
        let foreign = "INSERT INTO account VALUES (1000, 0)";
        postgres.sql("postgres", &format!("BEGIN; {foreign}; PREPARE TRANSACTION 'foreign'"));
        maria.sql(
            "bank",
            &format!("XA START 'foreign'; {foreign}; XA END 'foreign'; XA PREPARE 'foreign'"),
        );
        Some(Self { postgres, maria, redis })
    }

    /// Where each of them listens.
    fn addresses(&self) -> [SocketAddr; 3] {
        [self.postgres.port(), self.maria.port(), self.redis.port()]
            .map(|port| (Ipv4Addr::LOCALHOST, port).into())
    }

    /// What each of them holds prepared, in its own spelling.
    fn held(&self) -> Result<[String; 3], String> {
        let postgres = self.postgres.try_sql("postgres", "SELECT gid FROM pg_prepared_xacts")?;
        let maria = self.maria.try_sql("", "XA RECOVER")?;
        let redis = self.redis.try_ask(&["KEYS", "unanimous:*prepared*"])?;
        let redis = match redis.lines().next() {
            None => String::new(),
            Some(key) => self.redis.try_ask(&["ZRANGE", key, "0", "-1"])?,
        };
        Ok([postgres, maria, redis])
    }

    fn only_foreign_is_held(&self) -> Result<(), String> {
        let [postgres, maria, redis] = self.held()?;
        let maria_is_left = maria.lines().count() == 1 && maria.ends_with("foreign");
        match postgres == "foreign" && maria_is_left && redis.trim().is_empty() {
            true => Ok(()),
            false => Err(format!("held: {postgres:?}, {maria:?}, {redis:?}")),
        }
    }

    /// The transfers that took effect in each of them.
    fn entries(&self) -> [BTreeSet<u64>; 3] {
        let list = "SELECT number FROM entry";
        let lists = [
            self.postgres.sql("postgres", list),
            self.maria.sql("bank", list),
            self.redis.ask(&["SMEMBERS", "entry"]),
        ];
        let number = |line: &str| line.trim().parse().expect("a number");
        lists.map(|list| list.lines().filter(|line| !line.is_empty()).map(number).collect())
    }

    fn sums(&self) -> [i64; 3] {
        let sum = "SELECT sum(balance) FROM account";
        let moved: i64 = (0..CLIENTS)
            .map(|id| self.redis.ask(&["GET", &format!("account:{id}")]))
            .map(|balance| balance.trim().parse::<i64>().unwrap_or_default())
            .sum();
        let number = |text: String| text.parse().expect("a number");
        [number(self.postgres.sql("postgres", sum)), number(self.maria.sql("bank", sum)), moved]
    }
}

fn transfer(account: u64, number: u64) -> Value {
    let statements = |mark: [&str; 3], amount: i64| {
        let [one, two, three] = mark;
        json!([
            {"sql": format!("UPDATE account SET balance = balance + {one} WHERE id = {two}"),
             "params": [amount, account], "expect_rows": 1},
            {"sql": format!("INSERT INTO entry VALUES ({three})"), "params": [number]}])
    };
    json!({"kind": "atomic", "timeout_ms": 4_000, "wait": "decided", "branches": [
        {"resource": "postgres", "statements": statements(["$1", "$2", "$1"], -2)},
        {"resource": "maria", "statements": statements(["?", "?", "?"], 1)},
        {"resource": "redis", "body": {"commands": [
            ["INCRBY", format!("account:{account}"), 1], ["SADD", "entry", number.to_string()]]}}]})
}

async fn client(account: u64, http: Http, told: Arc<Told>) {
    loop {
        let number = told.next.fetch_add(1, Ordering::Relaxed);
        let reply = http.post("/v1/transactions", None, &transfer(account, number)).await;
        let outcome = reply.ok().and_then(|reply| reply.view()).and_then(|view| view.outcome);
        match outcome.map(|outcome| outcome.as_str()) {
            Some("committed") => told.committed.lock().expect("nobody panics").insert(number),
            Some("aborted") => told.aborted.lock().expect("nobody panics").insert(number),
            // Nobody knows: it may take effect or not, but everywhere alike.
            Some(_) | None => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                false
            }
        };
    }
}

/// Clients that make transfers until they are told to stop.
struct Load {
    http: Http,
    told: Arc<Told>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(http: &Http) -> Self {
        let told = Arc::new(Told::default());
        let mut clients = JoinSet::new();
        for account in 0..CLIENTS {
            clients.spawn(client(account, http.clone(), Arc::clone(&told)));
        }
        Self { http: http.clone(), told, clients }
    }

    fn committed(&self) -> usize {
        self.told.committed.lock().expect("nobody panics").len()
    }

    /// Waits until there were some transfers more.
    async fn goes_on(&self) {
        let before = self.committed();
        eventually("transfers go on", async || match self.committed() {
            now if now > before + 5 => Ok(()),
            now => Err(format!("{now} committed; {}", open(&self.http).await)),
        })
        .await;
    }

    /// Stops it, waits until everything has ended, and looks into the books. Says how many transfers were
    /// told committed and aborted.
    async fn end(mut self, coordinator: &mut Coordinator, databases: &Databases) -> String {
        self.clients.shutdown().await;
        settled(coordinator, &self.http).await;
        eventually("nothing of ours is prepared", async || {
            block_in_place(|| databases.only_foreign_is_held())
        })
        .await;
        block_in_place(|| verdict(databases, &self.told));
        let aborted = self.told.aborted.lock().expect("nobody panics").len();
        format!("{} transfers told committed, {aborted} aborted", self.committed())
    }
}

fn verdict(databases: &Databases, told: &Told) {
    let [postgres, maria, redis] = databases.entries();
    // The application has nothing in Redis.
    let of_clients: BTreeSet<u64> = postgres.range(..application::FIRST).copied().collect();
    let differ = |one: &BTreeSet<u64>, other: &BTreeSet<u64>| {
        one.symmetric_difference(other).copied().collect::<Vec<_>>()
    };
    let differ = (differ(&postgres, &maria), differ(&of_clients, &redis));
    assert_eq!(differ, (vec![], vec![]), "in some but not in all");
    let committed = told.committed.lock().expect("nobody panics");
    let lost: Vec<_> = committed.difference(&postgres).collect();
    assert!(lost.is_empty(), "told committed, and nowhere: {lost:?}");
    let aborted = told.aborted.lock().expect("nobody panics");
    let undead: Vec<_> = aborted.intersection(&postgres).collect();
    assert!(undead.is_empty(), "told aborted, and everywhere: {undead:?}");
    let count = |set: &BTreeSet<u64>| i64::try_from(set.len()).expect("not that many");
    let (all, of_clients) = (count(&postgres), count(&of_clients));
    assert_eq!(databases.sums(), [-2 * all, all, of_clients]);
}
