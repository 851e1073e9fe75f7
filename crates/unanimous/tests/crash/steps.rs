//! Sagas between two databases, both killed like the coordinator.
//!
//! Each saga leaves its number in both, or in none. A third of them are refused by their last step, when
//! both have acted. The tables would take the same number twice; nobody may put it there.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::task::{JoinSet, block_in_place};
use unanimous_participants::testing::{PrivateMariaDb, PrivatePostgres};

use crate::chance::Chance;
use crate::coordinator::{Coordinator, Setup};
use crate::http::Http;
use crate::place::{Folder, eventually};

/// Kills of each of the three: the step `crash` makes more of them.
const KILLS: &str = "UNANIMOUS_DATABASE_KILLS";

const CLIENTS: u64 = 6;

/// Longest time between two kills.
const LIFE_MS_MAX: u64 = 200;

/// Two databases with the same tables.
pub(crate) struct Databases {
    pub(crate) postgres: PrivatePostgres,
    pub(crate) maria: PrivateMariaDb,
}

/// What the clients were told of sagas by number.
#[derive(Default)]
struct Told {
    next: AtomicU64,
    completed: Mutex<BTreeSet<u64>>,
    compensated: Mutex<BTreeSet<u64>>,
}

impl Databases {
    /// `None` if one of them is not installed.
    pub(crate) fn start() -> Option<Self> {
        let postgres = PrivatePostgres::start(&["synchronous_commit=off"])?;
        let maria = PrivateMariaDb::start(&[])?;
        let rows: Vec<String> = (0..CLIENTS).map(|id| format!("({id}, 0)")).collect();
        let tables = format!(
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL); \
             CREATE TABLE entry (number bigint NOT NULL); INSERT INTO account VALUES {}",
            rows.join(", ")
        );
        postgres.sql("postgres", &tables);
        maria.sql("bank", &tables);
        Some(Self { postgres, maria })
    }

    /// A coordinator that works in both.
    pub(crate) fn setup(&self, folder: &Folder) -> Setup {
        let urls = [
            ("postgres", self.postgres.url("postgres", "postgres")),
            ("maria", self.maria.url("root", "bank")),
        ];
        Setup::with_urls(folder.path(), "[limits]\ncall_timeout_ms = 2000\n", &urls)
    }

    /// The numbers that are in each of them, in order.
    pub(crate) fn entries(&self) -> [Vec<u64>; 2] {
        let list = "SELECT number FROM entry ORDER BY number";
        let lists = [self.postgres.sql("postgres", list), self.maria.sql("bank", list)];
        let number = |line: &str| line.trim().parse().expect("a number");
        lists.map(|list| list.lines().filter(|line| !line.is_empty()).map(number).collect())
    }

    /// Kills each of the three again and again, each time after some more work was counted. Returns how
    /// often.
    pub(crate) async fn storm(
        &mut self,
        coordinator: &mut Coordinator,
        http: &Http,
        more: u64,
        count: impl Fn() -> u64,
    ) -> u64 {
        let kills = std::env::var(KILLS).ok().and_then(|kills| kills.parse().ok()).unwrap_or(3);
        let mut chance = Chance::new();
        let mut victims: Vec<u64> = (0..3 * kills).map(|number| number % 3).collect();
        while !victims.is_empty() {
            let before = count();
            eventually("work goes on", async || match count() {
                now if now > before + more => Ok(()),
                now => Err(format!("{now} so far; {}", open(http).await)),
            })
            .await;
            tokio::time::sleep(chance.pause(LIFE_MS_MAX)).await;
            match victims.swap_remove(chance.below(victims.len() as u64) as usize) {
                0 => coordinator.kill_and_respawn().await,
                1 => block_in_place(|| (self.postgres.kill(), self.postgres.up())).1,
                _ => block_in_place(|| (self.maria.kill(), self.maria.up())).1,
            }
        }
        kills
    }

    fn sums(&self) -> [i64; 2] {
        let sum = "SELECT sum(balance) FROM account";
        let sums = [self.postgres.sql("postgres", sum), self.maria.sql("bank", sum)];
        sums.map(|sum| sum.parse().expect("a number"))
    }
}

fn saga(account: u64, number: u64) -> Value {
    let change = |[one, two]: [&str; 2], amount: i64, entry: String| {
        json!([
            {"sql": format!("UPDATE account SET balance = balance + {one} WHERE id = {two}"),
             "params": [amount, "{{input.account}}"], "expect_rows": 1},
            {"sql": entry, "params": ["{{input.number}}"], "expect_rows": 1}])
    };
    let step = |resource: &str, marks: [&str; 2], amount: i64| {
        let insert = format!("INSERT INTO entry VALUES ({})", marks[0]);
        let delete = format!("DELETE FROM entry WHERE number = {}", marks[0]);
        json!({"name": resource,
            "action": {"resource": resource, "statements": change(marks, amount, insert)},
            "compensation": {"resource": resource, "statements": change(marks, -amount, delete)}})
    };
    let nobody = -1;
    let last = if number.is_multiple_of(3) { json!(nobody) } else { json!(account) };
    json!({"kind": "saga", "input": {"account": account, "number": number, "last": last}, "steps": [
        step("postgres", ["$1", "$2"], -1),
        step("maria", ["?", "?"], 1),
        {"name": "last", "after": ["postgres", "maria"], "action": {"resource": "postgres", "statements":
            [{"sql": "SELECT id FROM account WHERE id = $1", "params": ["{{input.last}}"], "expect_rows": 1}]}}]})
}

async fn client(account: u64, http: Http, told: Arc<Told>) {
    loop {
        let number = told.next.fetch_add(1, Ordering::Relaxed);
        let reply = http.post("/v1/transactions", None, &saga(account, number)).await;
        let outcome = reply.ok().and_then(|reply| reply.view()).and_then(|view| view.outcome);
        match outcome.map(|outcome| outcome.as_str()) {
            Some("completed") => told.completed.lock().expect("nobody panics").insert(number),
            Some("compensated") => told.compensated.lock().expect("nobody panics").insert(number),
            // Nobody knows: it may take effect or not, but in both alike.
            Some(_) | None => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                false
            }
        };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sagas_in_two_databases_take_effect_once_or_are_undone_whatever_is_killed() {
    let Some(mut databases) = block_in_place(Databases::start) else { return };
    let folder = Folder::new();
    let setup = databases.setup(&folder);
    let mut coordinator = Coordinator::start(&setup).await;
    let http = Http::new(&setup.server());
    let told = Arc::new(Told::default());
    let mut clients = JoinSet::new();
    for account in 0..CLIENTS {
        clients.spawn(client(account, http.clone(), Arc::clone(&told)));
    }
    let completed = || told.completed.lock().expect("nobody panics").len();
    let count = || completed() as u64;
    let kills = databases.storm(&mut coordinator, &http, 5, count).await;
    clients.shutdown().await;
    settled(&mut coordinator, &http).await;
    block_in_place(|| verdict(&databases, &told));
    println!(
        "{kills} kills of each of 3; {} sagas told completed, {} compensated",
        completed(),
        told.compensated.lock().expect("nobody panics").len(),
    );
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}

/// Waits until nothing is open any more.
pub(crate) async fn settled(coordinator: &mut Coordinator, http: &Http) {
    coordinator.ready().await.expect("it recovers from any kill");
    eventually("everything has ended", async || {
        let metrics = http.get("/metrics").await?;
        match String::from_utf8_lossy(&metrics.body).contains("\nunanimous_in_flight 0\n") {
            true => Ok(()),
            false => Err(open(http).await),
        }
    })
    .await;
}

fn verdict(databases: &Databases, told: &Told) {
    let [postgres, maria] = databases.entries();
    assert_eq!(postgres, maria, "in one and not in the other, or more than once");
    let there: BTreeSet<u64> = postgres.iter().copied().collect();
    assert_eq!(there.len(), postgres.len(), "more than once");
    let completed = told.completed.lock().expect("nobody panics");
    let lost: Vec<_> = completed.difference(&there).collect();
    assert!(lost.is_empty(), "told completed, and nowhere: {lost:?}");
    let compensated = told.compensated.lock().expect("nobody panics");
    let left: Vec<_> = compensated.intersection(&there).collect();
    assert!(left.is_empty(), "told compensated, and still there: {left:?}");
    assert!(!compensated.is_empty(), "some were undone");
    let count = i64::try_from(postgres.len()).expect("not that many");
    assert_eq!(databases.sums(), [-count, count]);
}

/// The open transactions, for whoever wonders why something does not happen.
pub(crate) async fn open(http: &Http) -> String {
    match http.get("/v1/transactions?limit=5").await {
        Ok(reply) => String::from_utf8_lossy(&reply.body).into_owned(),
        Err(error) => error,
    }
}
