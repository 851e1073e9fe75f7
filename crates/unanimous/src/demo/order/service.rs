//! One service of the demo with orders: a process with its own SQLite file, which takes its time.
//!
//! The inventory has one item that everybody wants: whoever works on its row holds a lock. A local
//! transaction holds it for as long as it takes; a branch of two-phase commit from its prepare to its
//! commit or rollback. The lock is in memory only: what was done under it is in the file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use clap::{Args, ValueEnum};
use rusqlite::{Connection, params};
use tokio::sync::OwnedMutexGuard;
use tokio::time::sleep;
use unanimous_api::header;
use unanimous_client::Client;
use unanimous_client::participant::{
    BoxError, No, Service, SqliteParticipant, SqliteStore, StepCall, Steps, Vote, Work,
};

use super::super::bank::listen;
use super::card;
use super::load::{NOWHERE, Order};
use crate::exit::Failure;
use crate::serve::when_parent_ends;

/// How long a transaction in the inventory takes.
const INVENTORY_TAKES: Duration = Duration::from_millis(50);

/// The same for the orders.
const ORDERS_TAKE: Duration = Duration::from_millis(100);

/// Pieces of the item.
const PIECES: u64 = 100_000;

/// Which service.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ServiceName {
    /// Payments.
    Card,
    /// The item.
    Inventory,
    /// What was ordered.
    Orders,
}

impl ServiceName {
    pub(super) const ALL: [Self; 3] = [Self::Card, Self::Inventory, Self::Orders];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Inventory => "inventory",
            Self::Orders => "orders",
        }
    }
}

/// Arguments of a service's process.
#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    /// Which service.
    name: ServiceName,
    /// Where to listen.
    #[arg(long)]
    listen: std::net::SocketAddr,
    /// Where its database is.
    #[arg(long)]
    data: std::path::PathBuf,
    /// The coordinator to ask about branches in doubt.
    #[arg(long)]
    coordinator: String,
}

/// Now, in milliseconds since the Unix epoch and parts of them.
pub(super) fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |it| it.as_secs_f64() * 1e3)
}

/// Serves until the demo ends.
pub(crate) async fn serve(args: ServiceArgs) -> Result<(), Failure> {
    when_parent_ends(|| std::process::exit(0));
    let failed = |error| Failure::usage(format!("{}: {error}", args.data.display()));
    let coordinator = Client::builder(&args.coordinator).build()?;
    let participant = |store: &SqliteStore| Service::new(store.clone(), coordinator).router();
    let app = match args.name {
        ServiceName::Card => {
            card::router(SqliteStore::of_steps(&args.data, card::set_up).map_err(failed)?)
        }
        ServiceName::Inventory => {
            let store = SqliteStore::open(&args.data, Inventory).map_err(failed)?;
            let row = Row::new(store.clone());
            let steps = Steps::new(store.clone())
                .act("/reserve", |db, call| order_of(call).and_then(|it| take(db, &it, "sold")))
                .compensate("/release", |db, call| Ok(free(db, &order_of(call)?)?));
            let all = participant(&store).merge(steps.router());
            all.layer(from_fn_with_state(row, locked))
        }
        ServiceName::Orders => {
            let store = SqliteStore::open(&args.data, Orders).map_err(failed)?;
            let steps = Steps::new(store.clone())
                .act("/place", |db, call| order_of(call).and_then(|it| accept(db, &it, "placed")));
            let all: Router = participant(&store).merge(steps.router());
            all.layer(axum::middleware::from_fn(slowly))
        }
    };
    listen(args.listen, app).await
}

fn order_of(call: &StepCall) -> Result<Order, No> {
    Ok(call.json()?)
}

/// The one item, of which a piece is taken, and sold or freed.
struct Inventory;

impl SqliteParticipant for Inventory {
    fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, has INTEGER NOT NULL, opening INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS deed (name TEXT NOT NULL, what TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS locked (ms REAL NOT NULL);",
        )?;
        db.execute("INSERT OR IGNORE INTO item VALUES (1, ?1, ?1)", [PIECES.cast_signed()])?;
        Ok(())
    }

    fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No> {
        take(db, &work.json()?, "held").map(|()| Vote::yes())
    }

    fn commit(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        let order: Order = work.json()?;
        Ok(write_down(db, &order, "sold")?)
    }

    fn rollback(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        Ok(free(db, &work.json()?)?)
    }
}

fn take(db: &Connection, order: &Order, deed: &str) -> Result<(), No> {
    let take = "UPDATE item SET has = has - 1 WHERE id = 1 AND has >= 1";
    if db.prepare_cached(take)?.execute([])? == 0 {
        return Err(No::refused("sold_out", format!("nothing is left for {}", order.name)));
    }
    Ok(write_down(db, order, deed)?)
}

fn free(db: &Connection, order: &Order) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE item SET has = has + 1 WHERE id = 1")?.execute([])?;
    write_down(db, order, "freed")
}

/// The orders' own rows, which nobody else waits for.
struct Orders;

impl SqliteParticipant for Orders {
    fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
        Ok(db.execute_batch(
            "CREATE TABLE IF NOT EXISTS deed (name TEXT NOT NULL, what TEXT NOT NULL)",
        )?)
    }

    fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No> {
        accept(db, &work.json()?, "pending").map(|()| Vote::yes())
    }

    fn commit(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        Ok(write_down(db, &work.json()?, "placed")?)
    }

    fn rollback(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        Ok(write_down(db, &work.json()?, "dropped")?)
    }
}

fn accept(db: &Connection, order: &Order, deed: &str) -> Result<(), No> {
    if order.address == NOWHERE {
        let detail = format!("nobody delivers {} there", order.name);
        return Err(No::refused("undeliverable", detail));
    }
    Ok(write_down(db, order, deed)?)
}

fn write_down(db: &Connection, order: &Order, what: &str) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached("INSERT INTO deed VALUES (?, ?)")?;
    insert.execute(params![order.name, what])?;
    Ok(())
}

/// What a call does to a row that others want, too.
enum Touch {
    /// Takes the lock, and keeps it.
    Lock,
    /// Ends what the lock was kept for.
    Unlock,
    /// Works on the row in one local transaction.
    Transaction,
    /// Works on a row of its own.
    Elsewhere,
}

impl Touch {
    fn of(path: &str) -> Self {
        match path {
            "/prepare" => Self::Lock,
            "/commit" | "/rollback" => Self::Unlock,
            "/confirm" => Self::Elsewhere,
            _ => Self::Transaction,
        }
    }
}

/// The lock of the item's row.
#[derive(Clone)]
struct Row {
    lock: Arc<tokio::sync::Mutex<()>>,
    /// Who keeps it, by branch.
    kept: Arc<Mutex<HashMap<String, Hold>>>,
    store: SqliteStore,
}

/// The lock, held.
struct Hold {
    since: Instant,
    lock: OwnedMutexGuard<()>,
}

impl Row {
    fn new(store: SqliteStore) -> Self {
        Self { lock: Arc::default(), kept: Arc::default(), store }
    }

    async fn hold(&self) -> Hold {
        let lock = Arc::clone(&self.lock).lock_owned().await;
        Hold { since: Instant::now(), lock }
    }

    /// Keeps the lock for a branch, unless it has it.
    async fn keep(&self, branch: &str) {
        if self.kept.lock().expect("nobody panics").contains_key(branch) {
            return;
        }
        let hold = self.hold().await;
        sleep(INVENTORY_TAKES).await;
        self.kept.lock().expect("nobody panics").insert(branch.to_owned(), hold);
    }

    async fn unlock(&self, hold: Hold) {
        let ms = hold.since.elapsed().as_secs_f64() * 1e3;
        drop(hold.lock);
        let noted = self.store.local(move |db| {
            db.prepare_cached("INSERT INTO locked VALUES (?)")?.execute([ms])?;
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::warn!(%error, "a time was not noted");
        }
    }

    async fn end(&self, branch: &str) {
        let hold = self.kept.lock().expect("nobody panics").remove(branch);
        if let Some(hold) = hold {
            self.unlock(hold).await;
        }
    }
}

async fn locked(State(row): State<Row>, request: Request, next: Next) -> Response {
    let branch = request.headers().get(header::BRANCH).and_then(|it| it.to_str().ok());
    let branch = branch.unwrap_or_default().to_owned();
    match Touch::of(request.uri().path()) {
        Touch::Lock => {
            row.keep(&branch).await;
            let response = next.run(request).await;
            // Who votes no has nothing to keep it for.
            if response.status() == StatusCode::CONFLICT {
                row.end(&branch).await;
            }
            response
        }
        Touch::Unlock => {
            let response = next.run(request).await;
            if response.status() == StatusCode::OK {
                row.end(&branch).await;
            }
            response
        }
        Touch::Transaction => {
            let hold = row.hold().await;
            sleep(INVENTORY_TAKES).await;
            let response = next.run(request).await;
            row.unlock(hold).await;
            response
        }
        Touch::Elsewhere => {
            sleep(INVENTORY_TAKES).await;
            next.run(request).await
        }
    }
}

/// What is prepared is ended at once; everything else takes its time.
async fn slowly(request: Request, next: Next) -> Response {
    match Touch::of(request.uri().path()) {
        Touch::Unlock => {}
        Touch::Lock | Touch::Transaction | Touch::Elsewhere => sleep(ORDERS_TAKE).await,
    }
    next.run(request).await
}
