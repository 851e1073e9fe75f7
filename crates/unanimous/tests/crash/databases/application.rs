//! An application that works in two of the databases over connections of its own, in a process that can be
//! killed: this one again.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use tokio::time::sleep;
use tokio_postgres::NoTls;
use unanimous_client::api::OutcomeWord;
use unanimous_client::{Client, Txn};

use super::{CLIENTS, Told};
use crate::coordinator::{Setup, TOKEN};

/// Its transfers have numbers from here up; every life of it has so many.
pub(super) const FIRST: u64 = 1 << 40;
const OF_A_LIFE: u64 = 1 << 20;

/// What a process has to know that is one: the coordinator, both databases, the first number.
const WORLD: &str = "UNANIMOUS_APPLICATION_WORLD";

/// What stands before a number on a line of its output when it was told that the transfer is committed.
const COMMITTED: &str = "committed ";

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// One life after the other. Killed when it goes.
pub(super) struct Application {
    world: String,
    told: Arc<Told>,
    lives: u64,
    child: Child,
}

impl Application {
    pub(super) fn start(setup: &Setup, [postgres, maria]: [String; 2], told: &Arc<Told>) -> Self {
        let world = format!("{} {postgres} {maria}", setup.server());
        let child = live(&world, 0, told);
        Self { world, told: Arc::clone(told), lives: 1, child }
    }

    pub(super) fn kill_and_respawn(&mut self) {
        self.kill();
        self.child = live(&self.world, self.lives, &self.told);
        self.lives += 1;
    }

    fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it was killed");
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.kill();
    }
}

fn live(world: &str, life: u64, told: &Arc<Told>) -> Child {
    let mut child = Command::new(env::current_exe().expect("it runs"))
        .args(["--exact", "databases::application::a_child_process_makes_transfers", "--nocapture"])
        .env(WORLD, format!("{world} {}", FIRST + life * OF_A_LIFE))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let told = Arc::clone(told);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let number = line.strip_prefix(COMMITTED);
            let number = number.and_then(|number| number.parse::<u64>().ok());
            told.committed.lock().expect("nobody panics").extend(number);
        }
    });
    child
}

/// Does nothing, unless it is run as a child process: then it makes transfers until it is killed.
#[tokio::test]
async fn a_child_process_makes_transfers() {
    let Ok(world) = env::var(WORLD) else { return };
    let [server, postgres, maria, first] = &*world.split(' ').collect::<Vec<_>>() else {
        panic!("not a world: {world}")
    };
    let client = Client::builder(server).token(TOKEN).build().expect("an address");
    for number in first.parse::<u64>().expect("a number").. {
        match transfer(&client, (postgres, maria), number).await {
            Ok(OutcomeWord::Committed) => println!("\n{COMMITTED}{number}"),
            Ok(_) | Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn transfer(
    client: &Client,
    (postgres, maria): (&str, &str),
    number: u64,
) -> Result<OutcomeWord, Failed> {
    let txn: Txn = client.transaction().timeout_ms(4_000).begin().await?;
    let (mut wallet, connection) = tokio_postgres::connect(postgres, NoTls).await?;
    let connection = tokio::spawn(connection);
    let wallet = txn.enlist_postgres("postgres", &mut wallet).await?;
    let mut ledger = txn.enlist_mysql("maria", Conn::new(Opts::from_url(maria)?).await?).await?;
    let (account, entry) = (i32::try_from(CLIENTS)?, i64::try_from(number)?);
    let take = "UPDATE account SET balance = balance - 2 WHERE id = $1";
    wallet.execute(take, &[&account]).await?;
    wallet.execute("INSERT INTO entry VALUES ($1)", &[&entry]).await?;
    ledger.exec_drop("UPDATE account SET balance = balance + 1 WHERE id = ?", (account,)).await?;
    ledger.exec_drop("INSERT INTO entry VALUES (?)", (entry,)).await?;
    let view = txn.commit_branches([wallet.into(), ledger.into()]).await?;
    connection.abort();
    view.outcome.ok_or_else(|| "it is not told".into())
}
