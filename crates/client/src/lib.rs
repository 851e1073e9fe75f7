//! Rust SDK of Unanimous: work that spans several services takes effect everywhere or nowhere.
//!
//! An application asks the coordinator to run a transaction, and learns how it ended:
//!
//! ```no_run
//! use serde_json::json;
//! use unanimous_client::{Client, Error};
//!
//! # async fn example() -> Result<(), Error> {
//! let client = Client::connect("http://127.0.0.1:7070")?;
//! let transfer = client
//!     .transaction()
//!     .key("order-42")
//!     .branch("wallet", json!({"account": "acc-17", "amount": -500}))
//!     .branch("ledger", json!({"entry": "order-42", "amount": 500}));
//! match transfer.run().await {
//!     Ok(committed) => println!("{} committed", committed.id),
//!     Err(Error::Aborted(view)) => println!("nothing happened: {:?}", view.reason),
//!     Err(Error::Unknown { key, .. }) => println!("ask again with the key {key}"),
//!     Err(other) => return Err(other),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What takes longer than locks can be held is a saga: steps, each with what undoes it.
//!
//! ```no_run
//! use serde_json::json;
//! use unanimous_client::{Client, Error, Step};
//!
//! # async fn example() -> Result<(), Error> {
//! let client = Client::connect("http://127.0.0.1:7070")?;
//! let booking = client
//!     .saga()
//!     .key("booking-42")
//!     .input(&json!({"user": "u-204", "seat": "B2-31"}))
//!     .step(Step::new("reserve").calls("seats", "/reserve").undone_by("seats", "/release"))
//!     .step(Step::new("charge").after(["reserve"]).calls("wallet", "/charge").undone_by("wallet", "/refund"))
//!     .step(Step::new("ticket").after(["charge"]).calls("seats", "/emit").pivot())
//!     .step(Step::new("notify").after(["ticket"]).calls("sms", "/send").retriable());
//! match booking.run().await {
//!     Ok(booked) => println!("ticket {}", booked.result::<String>("ticket")?),
//!     Err(Error::Compensated(view)) => println!("all undone: {:?}", view.reason),
//!     Err(Error::NeedsAttention(view)) => println!("stuck: {:?}", view.attention),
//!     Err(other) => return Err(other),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A service takes part by saying what `prepare`, `commit` and `rollback` do in its database. That
//! they are done once, survive crashes and end as decided is up to [`participant`], and a [`Worker`]
//! serves it:
//!
//! ```no_run
//! use rusqlite::{Connection, params};
//! use unanimous_client::participant::{
//!     BoxError, No, Service, SqliteParticipant, SqliteStore, Vote, Work,
//! };
//! use unanimous_client::{Client, Worker};
//!
//! #[derive(serde::Deserialize)]
//! struct Debit {
//!     account: String,
//!     amount: i64,
//! }
//!
//! struct Wallet;
//!
//! impl SqliteParticipant for Wallet {
//!     fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
//!         Ok(db.execute_batch(
//!             "CREATE TABLE IF NOT EXISTS account (id TEXT PRIMARY KEY, balance INT, held INT)",
//!         )?)
//!     }
//!
//!     fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No> {
//!         let Debit { account, amount } = work.json()?;
//!         let hold = "UPDATE account SET held = held + ?2 WHERE id = ?1 AND balance - held >= ?2";
//!         match db.execute(hold, params![account, amount])? {
//!             1 => Ok(Vote::yes()),
//!             _ => Err(No::refused("insufficient_funds", format!("{account} lacks {amount}"))),
//!         }
//!     }
//!
//!     fn commit(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
//!         let Debit { account, amount } = work.json()?;
//!         let debit = "UPDATE account SET balance = balance - ?2, held = held - ?2 WHERE id = ?1";
//!         db.execute(debit, params![account, amount])?;
//!         Ok(())
//!     }
//!
//!     fn rollback(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
//!         let Debit { account, amount } = work.json()?;
//!         let release = "UPDATE account SET held = held - ?2 WHERE id = ?1";
//!         db.execute(release, params![account, amount])?;
//!         Ok(())
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let coordinator = Client::connect("http://127.0.0.1:7070")?;
//! let store = SqliteStore::open("wallet.db", Wallet)?;
//! let service = Service::new(store, coordinator);
//! let worker = Worker::new().participant("/", service).bind("127.0.0.1:9000").await?;
//! worker.run_until(tokio::signal::ctrl_c()).await;
//! # Ok(())
//! # }
//! ```
//!
//! An application may also work on its own connections to databases, and commit what it did there as
//! one: `Txn::enlist_postgres`, `Txn::enlist_mysql`, or with sqlx `Txn::enlist_sqlx_postgres` and
//! `Txn::enlist_sqlx_mysql`; [`Transaction::retrying`]. The page `docs/sdk.md` has an example.
//!
//! A service of one's own that is asked the same thing twice does it once behind
#![cfg_attr(feature = "idempotency", doc = "[`idempotency::IdempotencyLayer`].")]
#![cfg_attr(not(feature = "idempotency"), doc = "`IdempotencyLayer`.")]
//!
//! # Invariants
//!
//! 1. Nothing is reported as done or not done that is not known: see [`Error::Unknown`].
//! 2. A request is repeated only if that is harmless: it reads, or carries an idempotency key.
//! 3. A participant that voted yes ends as the coordinator decides; see [`participant`].
//! 4. A branch on a connection of the application's own votes yes only if its server has prepared it.
//!
//! # Features
//!
//! `sqlite` (default): participants whose work is in SQLite. `tokio-postgres`, `mysql_async`,
//! `sqlx-postgres`, `sqlx-mysql`: branches on the application's own connections. `idempotency`: `Idempotency-Key` for an application's own
//! services. `redis`: steps of sagas whose work is in Redis. `testing`: crashes and repeats for the tests of a participant.

mod again;
mod chance;
mod client;
mod error;
mod events;
#[cfg(feature = "idempotency")]
pub mod idempotency;
pub mod limits;
mod message;
#[cfg(any(
    feature = "mysql_async",
    feature = "sqlx-mysql",
    feature = "sqlx-postgres",
    feature = "tokio-postgres"
))]
mod own;
pub mod participant;
#[cfg(any(feature = "redis", feature = "tokio-postgres"))]
mod pool;
mod repeat;
mod saga;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod transaction;
mod transport;
mod worker;

/// The page's example compiles.
#[cfg(all(
    doctest,
    feature = "idempotency",
    feature = "mysql_async",
    feature = "redis",
    feature = "testing",
    feature = "tokio-postgres"
))]
#[doc = include_str!("../../../docs/sdk.md")]
mod page {}

pub use client::{Client, ClientBuilder, Filter};
pub use error::Error;
pub use events::Events;
pub use message::{Announced, Message};
#[cfg(any(
    feature = "mysql_async",
    feature = "sqlx-mysql",
    feature = "sqlx-postgres",
    feature = "tokio-postgres"
))]
pub use own::Branch;
#[cfg(feature = "mysql_async")]
pub use own::mysql::conn::MysqlBranch;
#[cfg(feature = "sqlx-mysql")]
pub use own::mysql::sqlx::SqlxMysqlBranch;
#[cfg(feature = "tokio-postgres")]
pub use own::postgres::client::PostgresBranch;
#[cfg(feature = "sqlx-postgres")]
pub use own::postgres::sqlx::SqlxPostgresBranch;
#[cfg(feature = "tokio-postgres")]
pub use pool::PostgresPool;
pub use saga::{BegunSaga, Completed, Saga, Step};
pub use transaction::{Run, Transaction, Txn};
pub use unanimous_api as api;
pub use worker::{BindError, BoundWorker, Ending, HEALTH_PATH, Worker};
