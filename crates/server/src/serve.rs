//! Puts the parts together: journal, resources, coordinator, HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use unanimous_core::id::ShardId;
use unanimous_journal::{Journal, JournalError};
use unanimous_participants::{Observer, OpenError};

use crate::config::Config;
use crate::driver::{self, Coordinator, CoordinatorOptions, Ears};
use crate::http::{self, Lights};
use crate::invariants::Invariants;
use crate::limits::LAST_ANSWERS;
use crate::metrics::Metrics;
use crate::orphans::Hunt;
use crate::resources::Resources;

/// Why a coordinator did not start: one line that names what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A resource cannot be made from its configuration.
    #[error("{0}")]
    Resource(#[from] OpenError),
    /// A saga that is known by name cannot be carried out.
    #[error("{0}")]
    Saga(String),
    /// The journal cannot be opened.
    #[error("{place}: {error}")]
    Journal {
        /// Where it is.
        place: String,
        /// Why.
        error: JournalError,
    },
    /// Another process is the node of that name.
    #[error("node {name:?} is running at {address}: set another [node] name, or --node")]
    NodeName {
        /// The name.
        name: String,
        /// Where the other answers.
        address: String,
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
    /// Another coordinator owns the journal now. Whatever was not told by then is its business.
    #[error("another coordinator took the journal over ({0}); this one stops")]
    TakenOver(String),
    /// Another process has become the node of that name, because this one did not answer.
    #[error("another process is node {0:?} now; this one stops")]
    Displaced(String),
}

impl From<&JournalError> for StopError {
    fn from(error: &JournalError) -> Self {
        let text = error.to_string();
        match error {
            JournalError::Fenced { .. } | JournalError::Conflict { .. } => Self::TakenOver(text),
            JournalError::Full(_)
            | JournalError::Locked { .. }
            | JournalError::Damaged { .. }
            | JournalError::Unusable(_)
            | JournalError::Unreachable(_)
            | JournalError::Failed(_) => Self::Journal(text),
        }
    }
}

/// A coordinator that has taken over its journal and listens.
pub struct Server {
    coordinator: Coordinator,
    listener: TcpListener,
    metrics: Arc<Metrics>,
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
        let (journal, retention_ms) = (config.journal.clone(), config.retention_ms());
        Self::start_on(config, |ears| journal.open(retention_ms, None, ears)).await
    }

    /// The same on the journal that `open` makes for those who hear of it.
    ///
    /// # Errors
    ///
    /// As [`Server::start`].
    pub async fn start_on(
        config: Config,
        open: impl FnOnce(Arc<Ears>) -> Result<Arc<dyn Journal>, JournalError>,
    ) -> Result<Self, StartError> {
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| StartError::Listen { address, error })?;
        let metrics = Arc::new(Metrics::new());
        let observer: Arc<dyn Observer> = Arc::clone(&metrics) as _;
        let resources = Resources::open(&config, &observer)?;
        http::check_definitions(&resources, &config.sagas).map_err(StartError::Saga)?;
        let failed = |error| StartError::Journal { place: config.journal.to_string(), error };
        let ears = Ears::new();
        let journal = open(Arc::clone(&ears)).map_err(failed)?;
        let options = CoordinatorOptions {
            cluster: config.cluster.clone().unwrap_or_else(|| journal.instance().to_owned()),
            shards: ShardId::all().collect(),
            drivers: drivers(),
            call_timeout_ms: config.limits.call_timeout_ms,
            branch_order: config.limits.branch_order,
            open_max: config.limits.open_max,
            queue_max: config.limits.queue_max,
            metrics: Arc::clone(&metrics),
            events: driver::events(),
        };
        let coordinator = Coordinator::start(options, journal, ears, resources).map_err(failed)?;
        Ok(Self { coordinator, listener, metrics, config })
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
    /// [`StopError`] if the journal failed.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), StopError> {
        let Self { coordinator, listener, metrics, config } = self;
        let drain = Duration::from_millis(config.limits.drain_ms);
        let (quit, quitting) = watch::channel(false);
        let lights = Lights { stopping: stop.clone(), quitting: quitting.clone() };
        let invariants = Invariants::new(&coordinator, &config);
        let app = http::router(coordinator.clone(), invariants.clone(), &config, lights);
        let serving = http::listen(listener, app, http::Bounds::default(), metrics, quitting);
        let mut serving = tokio::spawn(serving);
        // Both end with this function.
        let _hunting = Hunt::of(&config).start(&coordinator);
        let _checking = invariants.start();
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => {}
            error = coordinator.failed() => return Err(StopError::from(&*error)),
        }
        tracing::info!("shutting down: no new transactions; open ones are being decided");
        let drained = tokio::time::timeout(drain, coordinator.drain()).await;
        if drained.is_err() {
            tracing::warn!(
                "some transactions are still collecting votes; they abort at the next start"
            );
        }
        quit.send_replace(true);
        // Requests that are being answered get a moment; event streams end by themselves.
        drop(tokio::time::timeout(LAST_ANSWERS, &mut serving).await);
        serving.abort();
        coordinator.close().await.map_err(|error| StopError::from(&error))
    }
}

fn drivers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}
