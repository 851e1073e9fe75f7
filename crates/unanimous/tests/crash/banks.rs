//! Kills of everybody: the coordinator, and participants that keep their branches in SQLite.
//!
//! The participants are the services of the demo, made with the product's own SDK. Their files are
//! read in the end, without asking them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use unanimous_client::api::Wait;
use unanimous_client::{Client, Error};

use crate::chance::Chance;
use crate::coordinator::{BINARY, Coordinator, Setup};
use crate::crowd::patient;
use crate::place::{Folder, eventually, free_address};
use crate::verdict::nothing_open;
use crate::witness::{Outcome, Witness};

const BANKS: [&str; 3] = ["wallet", "ledger", "audit"];

/// Kills, each of whoever chance picks, and the longest time between two.
const KILLS: usize = 60;
const PAUSE_MS_MAX: u64 = 150;

/// What each account of the wallet starts with: too little for some of the transfers.
const OPENING: i64 = 40_000;
const CUSTOMERS: u32 = 50;

const CLIENTS: u64 = 8;

/// Milliseconds within which a transfer must be decided, and within which its client must know.
const TIMEOUT_MS: u64 = 3_000;
const DEADLINE_MS: u64 = 120_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn participants_and_coordinator_that_are_killed_under_load_agree_in_the_end() {
    let mut chance = Chance::new();
    let folder = Folder::new();
    let addresses = BANKS.map(|name| (name, free_address()));
    let setup = Setup::new(folder.path(), &addresses);
    let mut banks = addresses.map(|(name, address)| Bank::start(name, address, &setup, &folder));
    let mut coordinator = Coordinator::start(&setup).await;
    let witness = Arc::new(Witness::default());
    let payers = Payers::start(&setup, &witness, &mut chance);

    for _ in 0..KILLS {
        tokio::time::sleep(chance.pause(PAUSE_MS_MAX)).await;
        match chance.below(BANKS.len() as u64 + 1) as usize {
            0 => coordinator.kill_and_respawn().await,
            bank => banks[bank - 1].kill_and_respawn().await,
        }
    }
    coordinator.ready().await.expect("it recovers from any kill");
    payers.finish().await;

    let client = patient(&setup.server());
    eventually("over", async || {
        if let Some(doubt) = banks.iter().find_map(|bank| bank.book().in_doubt()) {
            return Err(doubt);
        }
        nothing_open(&client, &BANKS).await
    })
    .await;
    compare(&banks.each_ref().map(Bank::book), &witness, &client).await;
    println!("{KILLS} kills, {} transfers", witness.count());
    assert!(witness.count() > KILLS, "there was load all the time");
    assert_eq!(coordinator.stop().await.status.code(), Some(0));
}

/// Whether the three files agree with each other, and with what was told.
async fn compare(books: &[Book; 3], witness: &Witness, client: &Client) {
    let committed = books.each_ref().map(|book| book.transactions("committed"));
    for other in &committed[1..] {
        let differs: Vec<_> = committed[0].symmetric_difference(other).collect();
        assert!(differs.is_empty(), "committed in one place only: {differs:?}");
    }
    for (txn, outcome) in witness.told() {
        let found = committed[0].contains(&txn);
        assert_eq!(found, outcome == Outcome::Committed, "{txn} was told {outcome:?}");
        match client.show(&txn).await {
            Ok(view) => witness.view("whoever asks", &view),
            Err(error) => witness.wrong(format!("{txn}: {error}")),
        }
    }
    witness.assert_nothing_wrong();
    let entries = books.each_ref().map(Book::entries);
    assert!(entries.iter().all(|entries| *entries == entries_once(entries)), "a transfer twice");
    assert!(entries[1..].iter().all(|other| *other == entries[0]), "books differ");
    let paid: i64 = entries[0].iter().map(|(_, amount)| amount).sum();
    assert_eq!(books[0].balance() + paid, OPENING * i64::from(CUSTOMERS), "money was made or lost");
}

fn entries_once(entries: &[(String, i64)]) -> Vec<(String, i64)> {
    let mut once = entries.to_vec();
    once.dedup_by(|a, b| a.0 == b.0);
    once
}

/// Clients that pay, and repeat their request until they know.
struct Payers {
    payers: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Payers {
    fn start(setup: &Setup, witness: &Arc<Witness>, chance: &mut Chance) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut payers = JoinSet::new();
        for payer in 0..CLIENTS {
            let (client, witness) = (patient(&setup.server()), Arc::clone(witness));
            let (stopped, chance) = (stopped.clone(), chance.fork());
            payers.spawn(pay(payer, client, witness, stopped, chance));
        }
        Self { payers, stop }
    }

    async fn finish(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.payers.join_next().await {
            ended.expect("no client panics");
        }
    }
}

async fn pay(
    payer: u64,
    client: Client,
    witness: Arc<Witness>,
    stopped: watch::Receiver<bool>,
    mut chance: Chance,
) {
    for number in 0.. {
        if *stopped.borrow() {
            return;
        }
        let transfer = format!("transfer-{payer}-{number}");
        let body = json!({
            "transfer": transfer, "customer": chance.below(CUSTOMERS.into()), "shop": chance.below(12),
            "amount": 1 + chance.below(2_000),
        });
        let transaction = client.transaction().key(&*transfer).timeout_ms(TIMEOUT_MS);
        let transaction = transaction.wait(Wait::Decided).deadline_ms(DEADLINE_MS);
        let run =
            BANKS[1..].iter().fold(transaction.branch(BANKS[0], body.clone()), |run, bank| {
                run.branch(*bank, body.clone())
            });
        match run.run().await {
            Ok(view) => witness.view("a payer", &view),
            Err(Error::Aborted(view)) => witness.view("a payer", &view),
            Err(
                error @ (Error::Usage(_)
                | Error::NotPrepared { .. }
                | Error::Compensated(_)
                | Error::NeedsAttention(_)
                | Error::Mixed(_)
                | Error::Refused(_)
                | Error::NotFound(_)
                | Error::Busy(_)
                | Error::Unreachable { .. }
                | Error::NotACoordinator { .. }
                | Error::Unknown { .. }),
            ) => witness.wrong(format!("{transfer}: {error}")),
        }
        tokio::time::sleep(Duration::from_millis(chance.below(4))).await;
    }
}

/// One service as a process.
struct Bank {
    arguments: Vec<String>,
    data: PathBuf,
    child: Child,
}

impl Bank {
    fn start(name: &str, address: SocketAddr, setup: &Setup, folder: &Folder) -> Self {
        let data = folder.path().join(format!("{name}.sqlite"));
        let arguments = [
            "__bank",
            name,
            "--listen",
            &address.to_string(),
            "--data",
            &data.display().to_string(),
            "--coordinator",
            &setup.server(),
            "--opening",
            &OPENING.to_string(),
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        let child = spawn(&arguments);
        Self { arguments, data, child }
    }

    async fn kill_and_respawn(&mut self) {
        self.child.kill().await.expect("it is our child and can be killed");
        self.child = spawn(&self.arguments);
    }

    fn book(&self) -> Book {
        Book::open(&self.data)
    }
}

fn spawn(arguments: &[String]) -> Child {
    let mut command = Command::new(BINARY);
    command.args(arguments).env("UNANIMOUS_LOG", "off").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the binary can be started")
}

/// What a service has on disk.
struct Book(Connection);

impl Book {
    fn open(path: &Path) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        Self(Connection::open_with_flags(path, flags).expect("the service has made its file"))
    }

    /// One of the branches that have heard no outcome.
    fn in_doubt(&self) -> Option<String> {
        self.transactions("prepared").into_iter().next().map(|txn| format!("{txn} is prepared"))
    }

    /// Transactions whose branch stands there.
    fn transactions(&self, mark: &str) -> HashSet<String> {
        let query = "SELECT branch FROM unanimous_branch WHERE mark = ?";
        let mut query = self.0.prepare(query).expect("the SDK has made its table");
        let rows = query.query_map([mark], |row| row.get::<_, String>(0)).expect("it can be read");
        let branches = rows.map(|row| row.expect("branches are text"));
        branches.filter_map(|branch| branch.split(':').nth(2).map(str::to_owned)).collect()
    }

    /// Transfers that were carried out, with their amounts, by name.
    fn entries(&self) -> Vec<(String, i64)> {
        let query = "SELECT transfer, amount FROM entry ORDER BY transfer";
        let mut query = self.0.prepare(query).expect("the service has made its table");
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.expect("it can be read").map(|row| row.expect("names and amounts")).collect()
    }

    /// What is left in all accounts.
    fn balance(&self) -> i64 {
        let query = "SELECT sum(balance) FROM account";
        self.0.query_row(query, [], |row| row.get(0)).expect("the wallet has accounts")
    }
}
