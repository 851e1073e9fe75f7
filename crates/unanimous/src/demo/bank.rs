//! One bank service of the demo: a process with its own SQLite file.
//!
//! The wallet debits customers and refuses who has not enough; the ledger credits shops; the audit
//! keeps a record of everything. The SDK makes their three verbs durable. `/naive` does the same
//! work without a second phase, for the comparison.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::routing::post;
use clap::ValueEnum;
use rusqlite::{Connection, OptionalExtension, params};
use unanimous_client::Client;
use unanimous_client::participant::{
    BoxError, No, Service, SqliteParticipant, SqliteStore, Vote, Work,
};

use super::plan::{CUSTOMERS, Transfer};
use crate::cli::BankArgs;
use crate::exit::Failure;
use crate::output::now_ms;
use crate::serve::when_parent_ends;

/// Milliseconds after its yes at which a branch asks for the outcome. Short, because here the
/// coordinator is killed every second.
const INQUIRE_AFTER_MS: u64 = 500;

/// Why the wallet refuses.
pub(crate) const INSUFFICIENT_BALANCE: &str = "insufficient_balance";

/// Which service.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BankName {
    /// Debits customers.
    Wallet,
    /// Credits shops.
    Ledger,
    /// Keeps records.
    Audit,
}

/// Serves until the demo ends.
pub(crate) async fn run(args: BankArgs) -> Result<(), Failure> {
    when_parent_ends(|| std::process::exit(0));
    let bank = Bank { name: args.name, opening: args.opening };
    let store = SqliteStore::open(&args.data, bank)
        .map_err(|error| Failure::usage(format!("{}: {error}", args.data.display())))?;
    let coordinator = Client::builder(&args.coordinator).build()?;
    let service = Service::new(store.clone(), coordinator).inquire_after_ms(INQUIRE_AFTER_MS);
    let naive = Router::new().route("/naive", post(naive)).with_state((args.name, store));
    listen(args.listen, service.router().merge(naive)).await
}

pub(super) async fn listen(address: SocketAddr, app: Router) -> Result<(), Failure> {
    let failed = |error| Failure::usage(format!("{address}: {error}"));
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    axum::serve(listener, app).await.map_err(failed)
}

struct Bank {
    name: BankName,
    opening: u64,
}

impl SqliteParticipant for Bank {
    fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS hold (branch TEXT PRIMARY KEY, since_ms INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS entry (
                 transfer TEXT NOT NULL, amount INTEGER NOT NULL, held_ms INTEGER NOT NULL);",
        )?;
        let accounts: u32 = db.query_row("SELECT count(*) FROM account", [], |row| row.get(0))?;
        if self.name == BankName::Wallet && accounts == 0 {
            for id in 0..CUSTOMERS {
                let opening = self.opening.cast_signed();
                db.execute("INSERT INTO account VALUES (?, ?)", params![id, opening])?;
            }
        }
        Ok(())
    }

    fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No> {
        let transfer: Transfer = work.json()?;
        if self.name == BankName::Wallet {
            debit(db, &transfer)?;
        }
        let mut insert = db.prepare_cached("INSERT INTO hold VALUES (?, ?)")?;
        insert.execute(params![work.branch().to_string(), now_ms().cast_signed()])?;
        Ok(Vote::yes())
    }

    fn commit(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        let held_ms = release(db, work)?;
        Ok(book(db, &work.json()?, held_ms)?)
    }

    fn rollback(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
        release(db, work)?;
        if self.name == BankName::Wallet {
            credit_back(db, &work.json()?)?;
        }
        Ok(())
    }
}

fn debit(db: &Connection, transfer: &Transfer) -> Result<(), No> {
    let Transfer { customer, amount, .. } = transfer;
    let mut balance = db.prepare_cached("SELECT balance FROM account WHERE id = ?")?;
    let balance: Option<i64> = balance.query_row([customer], |row| row.get(0)).optional()?;
    let balance = balance.unwrap_or(0).cast_unsigned();
    if balance < *amount {
        let detail = format!("customer {customer} has ₹{balance}, ₹{amount} asked for");
        return Err(No::refused(INSUFFICIENT_BALANCE, detail));
    }
    let mut debit = db.prepare_cached("UPDATE account SET balance = balance - ? WHERE id = ?")?;
    debit.execute(params![amount.cast_signed(), customer])?;
    Ok(())
}

fn credit_back(db: &Connection, transfer: &Transfer) -> rusqlite::Result<()> {
    let mut credit = db.prepare_cached("UPDATE account SET balance = balance + ? WHERE id = ?")?;
    credit.execute(params![transfer.amount.cast_signed(), transfer.customer])?;
    Ok(())
}

/// Ends the hold of a branch, and says how many milliseconds it lasted.
fn release(db: &Connection, work: &Work) -> rusqlite::Result<i64> {
    let mut delete = db.prepare_cached("DELETE FROM hold WHERE branch = ? RETURNING since_ms")?;
    let since: i64 = delete.query_row([work.branch().to_string()], |row| row.get(0))?;
    Ok((now_ms().cast_signed() - since).max(0))
}

fn book(db: &Connection, transfer: &Transfer, held_ms: i64) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached("INSERT INTO entry VALUES (?, ?, ?)")?;
    insert.execute(params![transfer.transfer, transfer.amount.cast_signed(), held_ms])?;
    Ok(())
}

/// Commits at once, and asks nobody: how it is done without a coordinator.
async fn naive(
    State((name, store)): State<(BankName, SqliteStore)>,
    Json(transfer): Json<Transfer>,
) -> (StatusCode, String) {
    let done = store.local(move |db| {
        if name == BankName::Wallet
            && let Err(no) = debit(db, &transfer)
        {
            return match no {
                No::Refused { detail, .. } => Ok(Err(detail)),
                No::Failed(error) => Err(error),
            };
        }
        book(db, &transfer, 0)?;
        Ok(Ok(()))
    });
    match done.await {
        Ok(Ok(())) => (StatusCode::OK, String::new()),
        Ok(Err(refused)) => (StatusCode::CONFLICT, refused),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
