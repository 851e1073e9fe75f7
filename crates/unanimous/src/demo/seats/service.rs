//! One service of the demo with seats: a process with its own SQLite file.
//!
//! The seats' own service also notes how long a seat showed reserved that was set free again: from
//! when the one was durable, so that others could read it, until the other was, by its own clock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use clap::{Args, ValueEnum};
use rusqlite::Connection;
use unanimous_api::header;
use unanimous_client::participant::{BoxError, SqliteStore, StepCall, Steps};

use super::super::bank::listen;
use super::super::stock::{confirm, give_back, set_up, take};
use super::{FUNDS, SEATS, USERS};
use crate::exit::Failure;
use crate::serve::when_parent_ends;

const RESERVE: &str = "/reserve";
const RELEASE: &str = "/release";

/// Which service.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ServiceName {
    /// Seats of trains.
    Seats,
    /// Charges and refunds.
    Wallet,
    /// Tickets.
    Tickets,
    /// Messages to users.
    Sms,
}

impl ServiceName {
    pub(super) const ALL: [Self; 4] = [Self::Seats, Self::Wallet, Self::Tickets, Self::Sms];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Seats => "seats",
            Self::Wallet => "wallet",
            Self::Tickets => "tickets",
            Self::Sms => "sms",
        }
    }

    /// How many seats or accounts there are, and what each starts with.
    pub(super) fn stock(self) -> (u32, u64) {
        match self {
            Self::Seats => (SEATS, 1),
            Self::Wallet => (USERS, FUNDS),
            Self::Tickets | Self::Sms => (0, 0),
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
    /// How many seats or accounts it has.
    #[arg(long)]
    items: u32,
    /// How many places or rupees each of them starts with.
    #[arg(long)]
    each: u64,
}

/// Serves until the demo ends.
pub(crate) async fn serve(args: ServiceArgs) -> Result<(), Failure> {
    when_parent_ends(|| std::process::exit(0));
    let ServiceArgs { name, items, each, .. } = args;
    let prepare = move |db: &Connection| -> Result<(), BoxError> {
        db.execute_batch("CREATE TABLE IF NOT EXISTS shown (ms REAL NOT NULL)")?;
        Ok(set_up(db, items, each)?)
    };
    let store = SqliteStore::of_steps(&args.data, prepare)
        .map_err(|error| Failure::usage(format!("{}: {error}", args.data.display())))?;
    let watch = Watch { store: store.clone(), since: Arc::default() };
    let steps = Steps::new(store);
    let taking = |refusal| move |db: &Connection, call: &StepCall| take(db, call, refusal);
    let app = match name {
        ServiceName::Seats => steps
            .act(RESERVE, taking("taken"))
            .compensate(RELEASE, give_back)
            .router()
            .layer(from_fn_with_state(watch, watched)),
        ServiceName::Wallet => {
            steps.act("/charge", taking("no_funds")).compensate("/refund", give_back).router()
        }
        ServiceName::Tickets => steps.act("/emit", confirm).router(),
        ServiceName::Sms => steps.act("/send", confirm).router(),
    };
    listen(args.listen, app).await
}

/// Since when which branch has shown a seat reserved.
#[derive(Clone)]
struct Watch {
    store: SqliteStore,
    since: Arc<Mutex<HashMap<String, Instant>>>,
}

/// Nothing is answered before it is durable, so an answer tells when others could see it.
async fn watched(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    let branch = request.headers().get(header::BRANCH).and_then(|it| it.to_str().ok());
    let branch = branch.unwrap_or_default().to_owned();
    let is_release = request.uri().path() == RELEASE;
    let response = next.run(request).await;
    let now = Instant::now();
    if response.status() != StatusCode::OK {
        return response;
    }
    let since = {
        let mut since = watch.since.lock().expect("nobody panics");
        match is_release {
            true => since.remove(&branch),
            // A repeated call shows nothing new.
            false => {
                since.entry(branch).or_insert(now);
                None
            }
        }
    };
    if let Some(since) = since {
        let ms = (now - since).as_secs_f64() * 1e3;
        let noted = watch.store.local(move |db| {
            db.prepare_cached("INSERT INTO shown VALUES (?)")?.execute([ms])?;
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::warn!(%error, "a time was not noted");
        }
    }
    response
}
