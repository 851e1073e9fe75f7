//! Three services that agree at once and note the time: since when they hold something for a
//! transaction, and until when.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::Instant;
use unanimous_api::header;
use unanimous_core::id::TxnId;

use crate::exit::Failure;

/// The resources, in the order of a saga's steps.
pub(super) const SERVICES: [&str; 3] = ["wallet", "ledger", "audit"];

/// For how long a service holds something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Hold {
    /// From its prepare until it is told the outcome.
    UntilTold,
    /// Nothing is locked, but others see it half done until the last step has acted.
    UntilLastStep,
}

/// What the services saw of one transaction.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// When each was asked to prepare, or to act, for the first time.
    first: [Option<Instant>; 3],
    /// When each was told how it ended, for the first time.
    told: [Option<Instant>; 3],
}

/// The call that the next kill waits for.
struct Trap {
    /// How many services have been called when it springs.
    calls: usize,
    /// Is told of which transaction.
    tell: oneshot::Sender<TxnId>,
    /// The call is not answered before.
    killed: oneshot::Receiver<()>,
}

/// What all three share.
#[derive(Default)]
struct Book {
    seen: HashMap<TxnId, Seen>,
    trap: Option<Trap>,
}

#[derive(Clone, Default)]
pub(super) struct Services(Arc<Mutex<Book>>);

/// Where a transaction was met, and the word that it may go on.
pub(super) struct Met {
    pub(super) txn: oneshot::Receiver<TxnId>,
    pub(super) killed: oneshot::Sender<()>,
}

impl Services {
    /// Starts them; returns where.
    pub(super) async fn start(&self) -> Result<SocketAddr, Failure> {
        let failed = |error: std::io::Error| Failure::not_done(format!("cannot listen: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let app = Router::new()
            .route("/ping", axum::routing::get(async || StatusCode::OK))
            .route("/{service}/{verb}", post(called))
            .with_state(self.clone());
        // It ends with this process.
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(address)
    }

    /// Holds up the call that makes it so many services that have been called.
    pub(super) fn trap(&self, calls: usize) -> Met {
        let (tell, txn) = oneshot::channel();
        let (killed, go) = oneshot::channel();
        self.lock().trap = Some(Trap { calls, tell, killed: go });
        Met { txn, killed }
    }

    /// Forgets what was seen, and returns how long something of each transaction was held: from the first
    /// service that was asked, or from `since` if it is known, to the last that let go.
    ///
    /// # Errors
    ///
    /// If a service still holds something.
    pub(super) fn take_held(
        &self,
        hold: Hold,
        since: Option<Instant>,
    ) -> Result<Vec<Duration>, Failure> {
        let seen = std::mem::take(&mut self.lock().seen);
        let mut held = Vec::new();
        for (txn, Seen { first, told }) in seen {
            let until = match hold {
                Hold::UntilTold => told,
                Hold::UntilLastStep => first,
            };
            if first.iter().zip(&until).any(|(first, until)| first.is_some() && until.is_none()) {
                return Err(Failure::not_done(format!("{txn} is left in doubt at a service")));
            }
            let since = since.or(first.into_iter().flatten().min());
            if let (Some(since), Some(until)) = (since, until.into_iter().flatten().max()) {
                held.push(until.duration_since(since));
            }
        }
        Ok(held)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call; returns the trap if it springs.
    fn note(&self, txn: TxnId, service: usize, verb: &str) -> Option<Trap> {
        let mut book = self.lock();
        let seen = book.seen.entry(txn).or_default();
        let times = match verb {
            "prepare" | "act" => &mut seen.first,
            _ => &mut seen.told,
        };
        times[service].get_or_insert_with(Instant::now);
        let calls = seen.first.iter().flatten().count();
        book.trap.take_if(|trap| trap.calls == calls)
    }
}

async fn called(
    State(services): State<Services>,
    Path((service, verb)): Path<(String, String)>,
    headers: HeaderMap,
) -> StatusCode {
    let txn = headers.get(header::TRANSACTION).and_then(|it| it.to_str().ok()?.parse().ok());
    let place = SERVICES.iter().position(|it| *it == service);
    let (Some(txn), Some(place)) = (txn, place) else { return StatusCode::BAD_REQUEST };
    if let Some(Trap { tell, killed, .. }) = services.note(txn, place, &verb) {
        // Whoever set it may have given up.
        let _ = tell.send(txn);
        let _ = killed.await;
    }
    StatusCode::OK
}
