//! A coordinator within a process, from its start to its end.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use unanimous_client::Client;
use unanimous_server::config::ConfigError;
use unanimous_server::{Nodes, Server, StartError, StopError};

use super::Config;

/// Why a coordinator was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration cannot be followed: change what the line names.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It did not start: a journal that is in use or away, an address that is taken, a resource that
    /// cannot be made.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A coordinator within this process. It can be asked whatever a [`Client`] can, which it is to whoever
/// uses it; clones of that client can be kept wherever they are needed.
///
/// Dropped without [`Coordinator::close`] it stops at once, as if the process had died: what was told
/// holds, and whoever opens its journal next finishes what was decided and rolls back the rest.
pub struct Coordinator {
    client: Client,
    address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<Option<Result<(), StopError>>>,
    running: AbortHandle,
}

impl Coordinator {
    /// Opens its journal, resumes what is open in it, and takes requests. With a journal in PostgreSQL or
    /// etcd the process is a node among those that share it, and listens for them.
    ///
    /// It runs in tasks of the runtime that this is called in, and ends with that.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with one line that names what to change.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let (config, brought) = config.resolve().await?;
        match config.journal.is_shared() {
            true => {
                let nodes = Nodes::start_with(config, brought).await?;
                let (door, address) = (nodes.door(), nodes.address().ok());
                let client = Client::within(move |request| door.clone().ask(request));
                Ok(Self::run(client, address, |stop| nodes.run(stop)))
            }
            false => {
                let server = Server::start_with(config, brought).await?;
                let (door, address) = (server.door(), server.address().ok());
                let client = Client::within(move |request| door.clone().ask(request));
                Ok(Self::run(client, address, |stop| server.run(stop)))
            }
        }
    }

    fn run<F>(
        client: Client,
        address: Option<SocketAddr>,
        run: impl FnOnce(watch::Receiver<bool>) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), StopError>> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(None);
        let running = run(stopped);
        let running = tokio::spawn(async move {
            let result = running.await;
            end.send_replace(Some(result));
        });
        Self { client, address, stop, ended, running: running.abort_handle() }
    }

    /// It as a client, to be cloned and handed on. Once the coordinator has ended, calls fail with
    /// [`unanimous_client::Error::Busy`] and the code for a coordinator that shuts down.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where it listens, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Returns when it has ended: closed, or by itself because its journal failed. Then close what needs
    /// it, and open another one.
    ///
    /// # Errors
    ///
    /// [`StopError`] says why it stopped by itself.
    pub async fn ended(&self) -> Result<(), StopError> {
        let mut ended = self.ended.clone();
        let ended = ended.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|ended| ended.clone());
        ended.unwrap_or_else(|| Err(StopError::Journal("its runtime has ended".to_owned())))
    }

    /// Takes nothing more on, waits until what is open is decided and told, or given to another node, and
    /// closes the journal. For how long is `drain_ms` in the configuration. Then the journal can be opened again.
    ///
    /// # Errors
    ///
    /// [`StopError`] if the journal failed, now or before.
    pub async fn close(self) -> Result<(), StopError> {
        self.stop.send_replace(true);
        self.ended().await
    }
}

impl Deref for Coordinator {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("address", &self.address).finish_non_exhaustive()
    }
}
