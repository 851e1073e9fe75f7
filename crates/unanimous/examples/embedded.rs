//! A shop with the coordinator within: `cargo run --example embedded`.
//!
//! The stock is a participant in SQLite that this program serves, the audit one that forgets. Orders run
//! until the shelf is empty; one that is made again under its key is the same order.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, params};
use serde_json::json;
use unanimous::client::Worker;
use unanimous::client::participant::{
    BoxError, No, Service, SqliteParticipant, SqliteStore, Vote, Work,
};
use unanimous::resource::{Local, agree};
use unanimous::{Config, Coordinator, Error};

/// What is on the shelf.
struct Stock;

impl SqliteParticipant for Stock {
    fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
        let shelf = "CREATE TABLE IF NOT EXISTS shelf (item TEXT PRIMARY KEY, left INT, held INT);
                     INSERT OR IGNORE INTO shelf VALUES ('lamp', 3, 0)";
        Ok(db.execute_batch(shelf)?)
    }

    fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No> {
        let item: String = work.json()?;
        let hold = "UPDATE shelf SET held = held + 1 WHERE item = ?1 AND left - held >= 1";
        match db.execute(hold, params![item])? {
            1 => Ok(Vote::yes()),
            _ => Err(No::refused("sold_out", format!("no {item} is left"))),
        }
    }

    fn commit(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        let item: String = work.json()?;
        let take = "UPDATE shelf SET left = left - 1, held = held - 1 WHERE item = ?1";
        db.execute(take, params![item])?;
        Ok(())
    }

    fn rollback(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        let item: String = work.json()?;
        db.execute("UPDATE shelf SET held = held - 1 WHERE item = ?1", params![item])?;
        Ok(())
    }
}

fn config(folder: &Path, stock: &str) -> Config {
    Config::new()
        .journal(format!("file:{}", folder.join("journal").display()))
        .resource("stock", stock)
        .own_resource("audit", Arc::new(Local::new(agree)))
}

async fn order(coordinator: &Coordinator, number: u32) -> Result<(), Error> {
    let order = coordinator.transaction().key(format!("order-{number}"));
    match order.branch("stock", json!("lamp")).branch("audit", json!(number)).run().await {
        Ok(committed) => println!("order {number}: {} is committed", committed.id),
        Err(Error::Aborted(view)) => {
            let why = view.reason.map(|it| it.detail).unwrap_or_default();
            println!("order {number}: nothing happened: {why}");
        }
        Err(other) => return Err(other),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let folder = tempfile::tempdir()?;
    // The stock asks the coordinator for outcomes that it has not heard, and is asked by it.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let stock = format!("http://{}", listener.local_addr()?);
    drop(listener);
    let coordinator = Coordinator::open(config(folder.path(), &stock)).await?;
    let store = SqliteStore::open(folder.path().join("stock.db"), Stock)?;
    let service = Service::new(store, coordinator.client().clone());
    let address = stock.trim_start_matches("http://").to_owned();
    let worker = Worker::new().participant("/", service).bind(address).await?;
    let worker = tokio::spawn(worker.run_until(std::future::pending::<()>()));

    for number in [1, 2, 2, 3, 4] {
        order(&coordinator, number).await?;
    }
    coordinator.close().await?;
    worker.abort();
    Ok(())
}
