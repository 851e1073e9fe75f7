//! Connections to PostgreSQL. A commit on one of them is on disk when it is answered.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Socket};

use super::{Lent, NoConnection, Places};
use crate::error::chain;
use crate::limits::POOL_CONNECTIONS_MAX;

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
    places: Arc<Places<Client>>,
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
        Self { shared: Arc::new(Shared { dial, places: Places::new(connections_max) }) }
    }

    pub(crate) async fn lend(&self) -> Result<Lent<Client>, NoConnection> {
        let dial = async { (self.shared.dial)().await.map_err(|error| chain(&error)) };
        self.shared.places.lend(|client| !client.is_closed(), dial).await
    }
}

impl fmt::Debug for PostgresPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresPool").finish_non_exhaustive()
    }
}
