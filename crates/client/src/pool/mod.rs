//! A few connections to a database, lent to one call at a time.
//!
//! What always holds: a connection is lent again only if whoever had it said that nothing is open on it;
//! any other is closed, and the server takes back what was open.

#[cfg(feature = "tokio-postgres")]
mod postgres;

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

#[cfg(feature = "tokio-postgres")]
pub use self::postgres::PostgresPool;
use crate::limits::POOL_PATIENCE_MS;

/// Connections of one kind that are idle, and how many more there may be.
pub(crate) struct Places<C> {
    idle: Mutex<Vec<C>>,
    free: Arc<Semaphore>,
}

/// A connection for one call. It is closed, unless it is given back.
pub(crate) struct Lent<C> {
    pub(crate) connection: C,
    places: Arc<Places<C>>,
    _place: OwnedSemaphorePermit,
}

/// No connection was to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConnection {
    #[error("no connection came free within {POOL_PATIENCE_MS} ms")]
    NoneFree,
    #[error("no connection within {POOL_PATIENCE_MS} ms")]
    Slow,
    #[error("{0}")]
    Refused(String),
}

impl<C> Places<C> {
    pub(crate) fn new(connections_max: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(connections_max));
        Arc::new(Self { idle: Mutex::default(), free })
    }

    /// An idle connection of which `is_good` holds, or a new one.
    pub(crate) async fn lend<E: Display>(
        self: &Arc<Self>,
        is_good: impl Fn(&C) -> bool,
        dial: impl Future<Output = Result<C, E>>,
    ) -> Result<Lent<C>, NoConnection> {
        let patience = Duration::from_millis(POOL_PATIENCE_MS);
        let place = timeout(patience, Arc::clone(&self.free).acquire_owned()).await;
        let place = place.map_err(|_| NoConnection::NoneFree)?;
        let _place = place.expect("the places are never closed");
        let connection = match self.idle(is_good) {
            Some(connection) => connection,
            None => {
                let dialled = timeout(patience, dial).await.map_err(|_| NoConnection::Slow)?;
                dialled.map_err(|error| NoConnection::Refused(error.to_string()))?
            }
        };
        Ok(Lent { connection, places: Arc::clone(self), _place })
    }

    fn idle(&self, is_good: impl Fn(&C) -> bool) -> Option<C> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if is_good(&connection) {
                return Some(connection);
            }
        }
        None
    }
}

impl<C> Lent<C> {
    /// Nothing is open on it.
    pub(crate) fn give_back(self) {
        let mut idle = self.places.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(self.connection);
    }
}
