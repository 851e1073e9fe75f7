//! A few connections, shared by many calls.
//!
//! A connection is lent to one call and comes back only when that says so: a call that is dropped in
//! the middle takes its connection with it.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::IDLE_CONNECTION_KEPT;

/// A connection to one kind of server.
pub(crate) trait Lendable: Send + Sized {
    /// Where the server is, and as whom to connect.
    type Address: Send + Sync;
    /// Why there is no connection.
    type NoConnection;

    /// Makes one.
    fn connect(
        address: &Self::Address,
    ) -> impl Future<Output = Result<Self, Self::NoConnection>> + Send;

    /// Whether it is between two questions, and good for another.
    fn is_free(&self) -> bool;

    /// Whether nothing has come over it unasked: not even its end.
    fn is_quiet(&mut self) -> bool;
}

/// The connections of one phase.
pub(crate) struct Pool<C: Lendable> {
    address: Arc<C::Address>,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<(Instant, C)>>,
}

/// A connection that is lent, with its place.
pub(crate) struct Lent<C> {
    pub(crate) connection: C,
    _place: OwnedSemaphorePermit,
}

impl<C: Lendable> Pool<C> {
    pub(crate) fn new(address: Arc<C::Address>, connections_max: usize) -> Self {
        let free = Arc::new(Semaphore::new(connections_max));
        Self { address, free, idle: Mutex::default() }
    }

    /// Waits for a place, and makes a connection if none is idle.
    pub(crate) async fn lend(&self) -> Result<Lent<C>, C::NoConnection> {
        let place = Arc::clone(&self.free).acquire_owned().await.expect("it is never closed");
        let connection = match self.quiet() {
            Some(connection) => connection,
            None => C::connect(&self.address).await?,
        };
        Ok(Lent { connection, _place: place })
    }

    /// Takes a connection back that is free; any other is closed.
    pub(crate) fn give_back(&self, lent: Lent<C>) {
        if lent.connection.is_free() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((Instant::now(), lent.connection));
        }
    }

    /// The connection that was used last, so that the others grow old and go.
    fn quiet(&self) -> Option<C> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < IDLE_CONNECTION_KEPT);
        while let Some((_, mut connection)) = idle.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }
}
