//! A few connections, shared by many calls.
//!
//! A connection is lent to one call and comes back only when that says so: a call that is dropped in
//! the middle takes its connection with it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address::Address;
use super::login::{self, NoConnection};
use super::resp::Connection;
use crate::limits::IDLE_CONNECTION_KEPT;

/// The connections of one phase.
pub(super) struct Pool {
    address: Arc<Address>,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

/// A connection that is lent, with its place.
pub(super) struct Lent {
    pub(super) connection: Connection,
    _place: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(address: Arc<Address>, connections_max: usize) -> Self {
        let free = Arc::new(Semaphore::new(connections_max));
        Self { address, free, idle: Mutex::default() }
    }

    /// Waits for a place, and makes a connection if none is idle.
    pub(super) async fn lend(&self) -> Result<Lent, NoConnection> {
        let place = Arc::clone(&self.free).acquire_owned().await.expect("it is never closed");
        let connection = match self.quiet() {
            Some(connection) => connection,
            None => login::connect(&self.address).await?,
        };
        Ok(Lent { connection, _place: place })
    }

    /// Takes a connection back that is between two questions; any other is closed. So is one to a
    /// server with settings that will not do: they may have been changed.
    pub(super) fn give_back(&self, mut lent: Lent) {
        if lent.connection.is_between() && lent.connection.unfit.is_none() {
            lent.connection.idle_since = Instant::now();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(lent.connection);
        }
    }

    /// The connection that was used last, so that the others grow old and go.
    fn quiet(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| connection.idle_since.elapsed() < IDLE_CONNECTION_KEPT);
        while let Some(mut connection) = idle.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }
}
