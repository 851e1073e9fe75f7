//! A few connections to PostgreSQL, lent to one call at a time.
//!
//! What always holds: a connection is lent again only if whoever had it said that it is outside of any
//! transaction; any other is closed, and the server takes back what was open on it. A commit on one of
//! them is on disk when it is answered.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Socket};

use crate::error::chain;
use crate::limits::{POOL_CONNECTIONS_MAX, POOL_PATIENCE_MS};

/// Anything less may forget with the power what somebody was told.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') = 'off'";

/// Connections to one PostgreSQL database, made when they are needed. Cheap to clone; clones share them.
///
/// ```no_run
/// use tokio_postgres::NoTls;
/// use unanimous_client::PostgresPool;
///
/// # fn example() -> Result<(), tokio_postgres::Error> {
/// let pool = PostgresPool::new("postgres://app@127.0.0.1/shop".parse()?, NoTls);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresPool {
    shared: Arc<Shared>,
}

type Dialled = BoxFuture<'static, Result<Client, tokio_postgres::Error>>;

struct Shared {
    dial: Box<dyn Fn() -> Dialled + Send + Sync>,
    idle: Mutex<Vec<Client>>,
    places: Arc<Semaphore>,
}

/// A connection for one call. It is closed, unless it is given back.
pub(crate) struct Lent {
    pub(crate) client: Client,
    shared: Arc<Shared>,
    _place: OwnedSemaphorePermit,
}

/// No connection was to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConnection {
    #[error("no connection came free within {POOL_PATIENCE_MS} ms")]
    NoneFree,
    #[error("no connection within {POOL_PATIENCE_MS} ms")]
    Slow,
    #[error("{}", chain(.0))]
    Refused(#[from] tokio_postgres::Error),
}

impl PostgresPool {
    /// Up to [`POOL_CONNECTIONS_MAX`] connections as `config` says, encrypted as `tls` does.
    pub fn new<T>(config: Config, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let config = Arc::new(config);
        let dial = move || {
            let (config, tls) = (Arc::clone(&config), tls.clone());
            async move {
                let (client, connection) = config.connect(tls).await?;
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection to PostgreSQL broke");
                    }
                });
                client.batch_execute(DURABLE).await?;
                Ok(client)
            }
            .boxed()
        };
        Self::dialling(Box::new(dial), POOL_CONNECTIONS_MAX)
    }

    /// The same, with another number of connections at most.
    #[must_use]
    pub fn connections_max(self, connections_max: usize) -> Self {
        match Arc::try_unwrap(self.shared) {
            Ok(shared) => Self::dialling(shared.dial, connections_max),
            Err(shared) => {
                let dial = move || (shared.dial)();
                Self::dialling(Box::new(dial), connections_max)
            }
        }
    }

    fn dialling(dial: Box<dyn Fn() -> Dialled + Send + Sync>, connections_max: usize) -> Self {
        let places = Arc::new(Semaphore::new(connections_max));
        Self { shared: Arc::new(Shared { dial, idle: Mutex::default(), places }) }
    }

    pub(crate) async fn lend(&self) -> Result<Lent, NoConnection> {
        let patience = Duration::from_millis(POOL_PATIENCE_MS);
        let place = Arc::clone(&self.shared.places).acquire_owned();
        let place = timeout(patience, place).await.map_err(|_| NoConnection::NoneFree)?;
        let _place = place.expect("the places are never closed");
        let idle = loop {
            let idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(client) if client.is_closed() => {}
                idle => break idle,
            }
        };
        let client = match idle {
            Some(client) => client,
            None => {
                timeout(patience, (self.shared.dial)()).await.map_err(|_| NoConnection::Slow)??
            }
        };
        Ok(Lent { client, shared: Arc::clone(&self.shared), _place })
    }
}

impl Lent {
    /// Nothing is open on it.
    pub(crate) fn give_back(self) {
        let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(self.client);
    }
}

impl fmt::Debug for PostgresPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresPool").finish_non_exhaustive()
    }
}
