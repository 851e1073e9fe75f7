//! Puts the parts together: journal, resources, coordinator, HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use unanimous_journal::{FileJournal, Journal, JournalError, Options};
use unanimous_participants::{OpenError, Settings};

use crate::config::Config;
use crate::driver::{Coordinator, CoordinatorOptions, Ears};
use crate::metrics::Metrics;
use crate::resources::Resources;

/// Why a coordinator did not start: one line that names what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A resource cannot be made from its configuration.
    #[error("{0}")]
    Resource(#[from] OpenError),
    /// The journal cannot be opened.
    #[error("data folder {folder}: {error}")]
    Journal {
        /// Its folder.
        folder: String,
        /// Why.
        error: JournalError,
    },
    /// The address cannot be listened on.
    #[error(
        "listen = \"{address}\": {error}; stop the process that has it, or use another address"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

/// Why a coordinator stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The journal failed. What is decided is safe on disk; the process must not go on.
    #[error("{0}; nothing more is decided or told: mend the disk and start again")]
    Journal(String),
    /// The socket failed.
    #[error("cannot accept connections: {0}")]
    Socket(io::Error),
}

/// A coordinator that has taken over its journal and listens.
pub struct Server {
    coordinator: Coordinator,
    listener: TcpListener,
    config: Config,
}

impl Server {
    /// Opens the journal, resumes what is open in it, and listens. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`] with one line that names what to change.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| StartError::Listen { address, error })?;
        let metrics = Arc::new(Metrics::new());
        let resources = resources(&config, &metrics)?;
        let ears = Ears::new();
        let retention = Duration::from_secs(config.limits.retention_days * 24 * 60 * 60);
        let options = Options {
            retention_ms: u64::try_from(retention.as_millis()).unwrap_or(u64::MAX),
            ..Options::default()
        };
        let failed =
            |error| StartError::Journal { folder: config.data.display().to_string(), error };
        let journal = FileJournal::open(&config.data, options, ears.clone()).map_err(failed)?;
        let cluster = config.cluster.clone().unwrap_or_else(|| journal.instance().to_owned());
        let options = CoordinatorOptions {
            cluster,
            drivers: drivers(),
            call_timeout_ms: config.limits.call_timeout_ms,
            open_max: config.limits.open_max,
            queue_max: config.limits.queue_max,
            metrics,
        };
        let coordinator =
            Coordinator::start(options, Arc::new(journal), ears, resources).map_err(failed)?;
        Ok(Self { coordinator, listener, config })
    }

    /// Where it listens: the port is a real one even if the configuration said 0.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The coordinator, for programs in this process.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// Serves until `stop` is set, then lets open transactions come to their decision, and closes
    /// the journal.
    ///
    /// # Errors
    ///
    /// [`StopError`] if the journal or the socket failed.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), StopError> {
        let Self { coordinator, listener, config } = self;
        let drain = Duration::from_millis(config.limits.drain_ms);
        let (quit, quitting) = watch::channel(false);
        let app = crate::http::router(coordinator.clone(), &config, quitting);
        let mut closing = quit.subscribe();
        let server = axum::serve(tcp_nodelay(listener), app).with_graceful_shutdown(async move {
            // An error means that the sender is gone: then it is time to stop as well.
            drop(closing.wait_for(|&quit| quit).await);
        });
        let mut serving = tokio::spawn(server.into_future());
        let failure = tokio::select! {
            _ = stop.wait_for(|&stop| stop) => None,
            error = coordinator.failed() => Some(StopError::Journal(error.to_string())),
            served = &mut serving => match served {
                Ok(Err(error)) => Some(StopError::Socket(error)),
                Ok(Ok(())) | Err(_) => None,
            },
        };
        if let Some(failure) = failure {
            return Err(failure);
        }
        tracing::info!("shutting down: no new transactions; open ones are being decided");
        let drained = tokio::time::timeout(drain, coordinator.drain()).await;
        if drained.is_err() {
            tracing::warn!("some transactions are still undecided; they abort at the next start");
        }
        quit.send_replace(true);
        // Requests that are being answered get a moment; event streams end by themselves.
        drop(tokio::time::timeout(Duration::from_secs(2), &mut serving).await);
        coordinator.close().await.map_err(|error| StopError::Journal(error.to_string()))
    }
}

fn tcp_nodelay(
    listener: TcpListener,
) -> axum::serve::TapIo<TcpListener, fn(&mut tokio::net::TcpStream)> {
    use axum::serve::ListenerExt;
    fn nodelay(stream: &mut tokio::net::TcpStream) {
        // Without it answers only wait longer.
        drop(stream.set_nodelay(true));
    }
    listener.tap_io(nodelay as fn(&mut tokio::net::TcpStream))
}

fn drivers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

fn resources(config: &Config, metrics: &Arc<Metrics>) -> Result<Resources, OpenError> {
    let mut resources = Resources::default();
    for (name, resource) in &config.resources {
        let mut settings = Settings { phases: resource.phases, ..Settings::default() };
        if let Some(calls_max) = resource.calls_max {
            settings.first_phase_calls_max = calls_max;
            settings.second_phase_calls_max = calls_max;
        }
        let observer = Arc::clone(metrics) as Arc<dyn unanimous_participants::Observer>;
        let opened = unanimous_participants::open(name, &resource.url, &settings, observer)?;
        resources = resources.with(name, opened);
    }
    Ok(resources)
}
