//! The card service of the demo with orders: like a payment API, it takes its time, and every request
//! comes with an idempotency key.
//!
//! A request whose key is known is answered as it was before; with another body it is refused. The
//! answer is kept in the same transaction as what was done, so a reply that gets lost, as some here do
//! on purpose, changes nothing. What releases or refunds a payment that was never made bars it.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;
use tokio::time::sleep;
use unanimous_api::header;
use unanimous_client::participant::{BoxError, SqliteStore, StoreError};

use super::load::Order;
use super::service::now_ms;

/// How long a request takes.
const TAKES: Duration = Duration::from_millis(300);

/// One reply in so many gets lost.
const LOST_ONE_IN: i64 = 12;

/// Cards, and what can be paid with each, in rupees. The first is empty.
pub(super) const CARDS: u32 = 20;
const FUNDS: u64 = 1_000_000;

/// What is asked of a payment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Demand {
    /// The words of two-phase commit: the customer sees nothing until the commit.
    Prepare,
    Commit,
    Rollback,
    /// An authorisation sets an amount aside; it is captured or released later.
    Authorise,
    Capture,
    Release,
    /// All at once, and back.
    Charge,
    Refund,
}

impl Demand {
    fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "prepare" => Self::Prepare,
            "commit" => Self::Commit,
            "rollback" => Self::Rollback,
            "try" => Self::Authorise,
            "confirm" => Self::Capture,
            "cancel" => Self::Release,
            "charge" => Self::Charge,
            "refund" => Self::Refund,
            _ => return None,
        })
    }

    /// What is prepared is ended at once: the second phase costs nothing here.
    fn takes(self) -> Duration {
        match self {
            Self::Prepare
            | Self::Authorise
            | Self::Capture
            | Self::Release
            | Self::Charge
            | Self::Refund => TAKES,
            Self::Commit | Self::Rollback => Duration::ZERO,
        }
    }
}

pub(super) fn set_up(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS account (card INTEGER PRIMARY KEY, has INTEGER NOT NULL, opening INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS payment (
             id TEXT PRIMARY KEY, name TEXT NOT NULL, card INTEGER NOT NULL, amount INTEGER NOT NULL,
             state TEXT NOT NULL);       -- held, charged, ended
         CREATE TABLE IF NOT EXISTS statement (name TEXT NOT NULL, what TEXT NOT NULL, at_ms REAL NOT NULL);
         CREATE TABLE IF NOT EXISTS request (
             number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, asked TEXT NOT NULL,
             status INTEGER NOT NULL, reply TEXT NOT NULL, repeats INTEGER NOT NULL DEFAULT 0);",
    )?;
    for card in 0..CARDS {
        let funds = if card == 0 { 0 } else { FUNDS.cast_signed() };
        db.execute("INSERT OR IGNORE INTO account VALUES (?1, ?2, ?2)", params![card, funds])?;
    }
    Ok(())
}

pub(super) fn router(store: SqliteStore) -> Router {
    Router::new().route("/{demand}", post(ask)).with_state(store)
}

/// A request with its key.
#[derive(Clone, Debug)]
struct Request {
    key: String,
    payment: String,
    demand: Demand,
    body: Bytes,
}

/// What a request is answered.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Reply {
    status: u16,
    body: String,
    is_lost: bool,
}

impl Reply {
    fn new(status: StatusCode, body: serde_json::Value) -> Self {
        Self { status: status.as_u16(), body: body.to_string(), is_lost: false }
    }

    fn refused(kind: &str, detail: &str) -> Self {
        Self::new(StatusCode::CONFLICT, json!({"kind": kind, "detail": detail}))
    }
}

async fn ask(
    State(store): State<SqliteStore>,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name| headers.get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
    let Some(demand) = Demand::parse(&path) else { return StatusCode::NOT_FOUND.into_response() };
    let (Some(key), Some(payment)) = (text(header::IDEMPOTENCY_KEY), text(header::BRANCH)) else {
        return (StatusCode::BAD_REQUEST, "a key and a payment are needed").into_response();
    };
    let request = Request { key, payment, demand, body };
    let done = match known(&store, request.clone()).await {
        Ok(None) => {
            sleep(demand.takes()).await;
            store.local(move |db| answer(db, &request)).await
        }
        Ok(Some(reply)) => Ok(reply),
        Err(error) => Err(error),
    };
    match done {
        Ok(Reply { is_lost: true, .. }) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Ok(Reply { status, body, .. }) => {
            let status = StatusCode::from_u16(status).expect("it was one when it was kept");
            (status, body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn known(store: &SqliteStore, request: Request) -> Result<Option<Reply>, StoreError> {
    store.local(move |db| Ok(kept(db, &request)?)).await
}

/// What the key was answered before.
fn kept(db: &Connection, request: &Request) -> rusqlite::Result<Option<Reply>> {
    let mut query = db.prepare_cached(
        "UPDATE request SET repeats = repeats + 1 WHERE key = ? RETURNING asked, status, reply",
    )?;
    let found = query.query_row([&request.key], |row| {
        let reply = Reply { status: row.get(1)?, body: row.get(2)?, is_lost: false };
        Ok((row.get::<_, String>(0)?, reply))
    });
    Ok(found.optional()?.map(|(before, reply)| match before == asked(request) {
        true => reply,
        false => Reply::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            json!({"kind": "key_reused", "detail": "the key belongs to another request"}),
        ),
    }))
}

/// What a key stands for.
fn asked(Request { payment, demand, body, .. }: &Request) -> String {
    format!("{demand:?} {payment} {}", String::from_utf8_lossy(body))
}

/// Does what is asked and keeps the answer under the key, unless it is known by now.
fn answer(db: &Connection, request: &Request) -> Result<Reply, BoxError> {
    if let Some(reply) = kept(db, request)? {
        return Ok(reply);
    }
    let reply = match request.demand {
        Demand::Prepare | Demand::Authorise | Demand::Charge => take(db, request)?,
        Demand::Commit | Demand::Capture => charge(db, request)?,
        Demand::Rollback | Demand::Release | Demand::Refund => give_back(db, request)?,
    };
    let mut keep =
        db.prepare_cached("INSERT INTO request (key, asked, status, reply) VALUES (?, ?, ?, ?)")?;
    let number = keep.insert(params![request.key, asked(request), reply.status, reply.body])?;
    Ok(Reply { is_lost: number % LOST_ONE_IN == 0, ..reply })
}

fn take(db: &Connection, request: &Request) -> Result<Reply, BoxError> {
    let Order { name, card, amount, .. } = serde_json::from_slice(&request.body)?;
    if state(db, &request.payment)?.is_some() {
        return Ok(Reply::refused("over", "the payment is over, or not in this state"));
    }
    let amount = amount.cast_signed();
    let mut take =
        db.prepare_cached("UPDATE account SET has = has - ?2 WHERE card = ?1 AND has >= ?2")?;
    if take.execute(params![card, amount])? == 0 {
        return Ok(Reply::refused("declined", &format!("card {card} has less than ₹{amount}")));
    }
    let (state, line) = match request.demand {
        Demand::Charge => ("charged", Some("charged")),
        Demand::Authorise => ("held", Some("authorised")),
        Demand::Prepare
        | Demand::Commit
        | Demand::Rollback
        | Demand::Capture
        | Demand::Release
        | Demand::Refund => ("held", None),
    };
    let mut insert = db.prepare_cached("INSERT INTO payment VALUES (?, ?, ?, ?, ?)")?;
    insert.execute(params![request.payment, name, card, amount, state])?;
    write(db, &name, line)?;
    Ok(Reply::new(StatusCode::OK, json!({"result": {"payment": request.payment}})))
}

fn charge(db: &Connection, request: &Request) -> Result<Reply, BoxError> {
    let mut update = db.prepare_cached(
        "UPDATE payment SET state = 'charged' WHERE id = ? AND state = 'held' RETURNING name",
    )?;
    let name: Option<String> = update.query_row([&request.payment], |row| row.get(0)).optional()?;
    let Some(name) = name else {
        return Ok(Reply::refused("unknown", "nothing is held for the payment"));
    };
    let line = if request.demand == Demand::Capture { "captured" } else { "charged" };
    write(db, &name, Some(line))?;
    Ok(Reply::new(StatusCode::OK, json!({})))
}

fn give_back(db: &Connection, request: &Request) -> Result<Reply, BoxError> {
    let done = Reply::new(StatusCode::OK, json!({}));
    let mut update = db.prepare_cached(
        "UPDATE payment SET state = 'ended' WHERE id = ? AND state <> 'ended'
         RETURNING name, card, amount",
    )?;
    let found: Option<(String, u32, i64)> = update
        .query_row([&request.payment], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((name, card, amount)) = found else {
        let bar = "INSERT OR IGNORE INTO payment VALUES (?, '', 0, 0, 'ended')";
        db.prepare_cached(bar)?.execute([&request.payment])?;
        return Ok(done);
    };
    let mut give = db.prepare_cached("UPDATE account SET has = has + ? WHERE card = ?")?;
    give.execute(params![amount, card])?;
    let line = match request.demand {
        Demand::Release => Some("released"),
        Demand::Refund => Some("refunded"),
        Demand::Prepare
        | Demand::Commit
        | Demand::Rollback
        | Demand::Authorise
        | Demand::Capture
        | Demand::Charge => None,
    };
    write(db, &name, line)?;
    Ok(done)
}

fn state(db: &Connection, payment: &str) -> rusqlite::Result<Option<String>> {
    let mut query = db.prepare_cached("SELECT state FROM payment WHERE id = ?")?;
    query.query_row([payment], |row| row.get(0)).optional()
}

/// A line on the customer's statement.
fn write(db: &Connection, name: &str, line: Option<&str>) -> rusqlite::Result<()> {
    if let Some(line) = line {
        let mut insert = db.prepare_cached("INSERT INTO statement VALUES (?, ?, ?)")?;
        insert.execute(params![name, line, now_ms()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: &str, demand: Demand, payment: &str, amount: u64) -> Request {
        let order = json!({"name": "order-1", "card": 1, "amount": amount, "address": "home"});
        Request { key: key.into(), payment: payment.into(), demand, body: order.to_string().into() }
    }

    fn db() -> Connection {
        let db = Connection::open_in_memory().expect("memory");
        set_up(&db).expect("a fresh database");
        db
    }

    fn lines(db: &Connection) -> Vec<String> {
        let mut query = db.prepare("SELECT what FROM statement ORDER BY rowid").expect("good");
        let lines = query.query_map([], |row| row.get(0)).expect("good");
        lines.collect::<Result<_, _>>().expect("texts")
    }

    #[test]
    fn a_key_is_answered_as_before_and_charges_once() {
        let db = db();
        let ask = |request: &Request| answer(&db, request).expect("it is answered");
        let first = ask(&request("k", Demand::Charge, "p", 500));
        let again = ask(&request("k", Demand::Charge, "p", 500));
        assert_eq!((first.status, &first.body), (200, &again.body));
        assert_eq!(ask(&request("k", Demand::Charge, "p", 501)).status, 422, "another body");
        assert_eq!(lines(&db), ["charged"]);
    }

    #[test]
    fn a_release_bars_the_authorisation_that_comes_late() {
        let db = db();
        let ask = |request: &Request| answer(&db, request).expect("it is answered").status;
        assert_eq!(ask(&request("1", Demand::Release, "p", 500)), 200);
        assert_eq!(ask(&request("2", Demand::Authorise, "p", 500)), 409);
        assert_eq!(ask(&request("3", Demand::Authorise, "q", 500)), 200);
        assert_eq!(ask(&request("4", Demand::Capture, "q", 500)), 200);
        assert_eq!(ask(&request("5", Demand::Capture, "p", 500)), 409);
        assert_eq!(lines(&db), ["authorised", "captured"]);
    }
}
