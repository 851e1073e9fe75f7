//! Puts the parts together: journal, resources, coordinator, HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use unanimous_core::id::ShardId;
use unanimous_journal::{Journal, JournalError};
use unanimous_participants::{Observer, OpenError};

use crate::config::Config;
use crate::door::Door;
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
    /// A domain cannot be had as it is configured.
    #[error("{0}")]
    Domains(String),
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
#[derive(Clone, Debug, thiserror::Error)]
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
    /// Another node has other domains, so that a key means another shard there.
    #[error("node {0:?} has other [domains]; this one stops: give both the same")]
    Estranged(String),
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

/// What the program around a coordinator gives it besides a configuration.
#[derive(Default)]
pub struct Brought {
    /// Where to listen; nowhere if there is none.
    pub listener: Option<TcpListener>,
    /// Resources that only the program can make.
    pub resources: Resources,
}

impl Brought {
    /// A listener where the configuration says.
    pub(crate) fn listening(config: &Config) -> Result<Self, StartError> {
        let address = config.listen;
        let listener = http::bind(address);
        let listener = listener.map_err(|error| StartError::Listen { address, error })?;
        Ok(Self { listener: Some(listener), ..Self::default() })
    }
}

/// The resources of a configuration and of the program, fit for the sagas that are known by name.
pub(crate) fn resources(
    config: &Config,
    brought: Resources,
    metrics: &Arc<Metrics>,
) -> Result<Resources, StartError> {
    let observer: Arc<dyn Observer> = Arc::clone(metrics) as _;
    let resources = Resources::open(config, &observer)?.and(brought)?;
    http::check_definitions(&resources, &config.sagas).map_err(StartError::Saga)?;
    Ok(resources)
}

/// A coordinator that has taken over its journal.
pub struct Server {
    life: Life,
    listener: Option<TcpListener>,
    metrics: Arc<Metrics>,
    config: Config,
    invariants: Invariants,
    app: Router,
    stopping: watch::Sender<bool>,
}

/// What ends with the server, however that ends: the process may go on.
struct Life {
    coordinator: Coordinator,
    door: Door,
    quit: watch::Sender<bool>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.quit.send_replace(true);
        self.door.shut();
        self.coordinator.stop();
    }
}

impl Server {
    /// Opens the journal, resumes what is open in it, and listens where the configuration says. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`] with one line that names what to change.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let brought = Brought::listening(&config)?;
        Self::start_with(config, brought).await
    }

    /// The same, listening on what is given, if anything is.
    ///
    /// # Errors
    ///
    /// As [`Server::start`].
    pub async fn start_with(config: Config, brought: Brought) -> Result<Self, StartError> {
        let (journal, retention_ms) = (config.journal.clone(), config.retention_ms());
        let open = async move |ears: Arc<Ears>| {
            let open = move || journal.open(retention_ms, None, ears);
            let opened = tokio::task::spawn_blocking(open).await;
            opened.unwrap_or_else(|error| Err(JournalError::Failed(error.to_string())))
        };
        Self::assemble(config, brought, open).await
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
        let brought = Brought::listening(&config)?;
        Self::assemble(config, brought, async |ears| open(ears)).await
    }

    async fn assemble(
        config: Config,
        brought: Brought,
        open: impl AsyncFnOnce(Arc<Ears>) -> Result<Arc<dyn Journal>, JournalError>,
    ) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        let resources = resources(&config, brought.resources, &metrics)?;
        let failed = |error| StartError::Journal { place: config.journal.to_string(), error };
        let ears = Ears::new();
        let journal = open(Arc::clone(&ears)).await.map_err(failed)?;
        let options = CoordinatorOptions {
            cluster: config.cluster.clone().unwrap_or_else(|| journal.instance().to_owned()),
            shards: ShardId::all().collect(),
            drivers: drivers(),
            call_timeout_ms: config.limits.call_timeout_ms,
            branch_order: config.limits.branch_order,
            contention: Arc::default(),
            open_max: config.limits.open_max,
            queue_max: config.limits.queue_max,
            metrics: Arc::clone(&metrics),
            events: driver::events(),
        };
        let coordinator = Coordinator::start(options, journal, ears, resources).map_err(failed)?;
        let (stopping, quit) = (watch::Sender::new(false), watch::Sender::new(false));
        let lights = Lights { stopping: stopping.subscribe(), quitting: quit.subscribe() };
        let invariants = Invariants::new(&coordinator, &config);
        let app = http::router(coordinator.clone(), invariants.clone(), &config, lights);
        let door = Door::new(app.clone(), config.token.as_ref(), Arc::clone(&metrics));
        let life = Life { coordinator, door, quit };
        let listener = brought.listener;
        Ok(Self { life, listener, metrics, config, invariants, app, stopping })
    }

    /// Where it listens: the port is a real one even if the configuration said 0.
    ///
    /// # Errors
    ///
    /// As the system says; [`io::ErrorKind::NotConnected`] if it does not listen.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }

    /// The coordinator, for programs in this process.
    pub fn coordinator(&self) -> &Coordinator {
        &self.life.coordinator
    }

    /// The way in for programs of this process.
    pub fn door(&self) -> Door {
        self.life.door.clone()
    }

    /// Serves until `stop` is set, then lets open transactions come to their decision, and closes
    /// the journal. Dropped before it ends, it stops as a process does that is killed.
    ///
    /// # Errors
    ///
    /// [`StopError`] if the journal failed.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), StopError> {
        let Self { life, listener, metrics, config, invariants, app, stopping } = self;
        let drain = Duration::from_millis(config.limits.drain_ms);
        let quitting = life.quit.subscribe();
        let serving = async move {
            if let Some(listener) = listener {
                http::listen(listener, app, http::Bounds::default(), None, metrics, quitting).await;
            }
        };
        let mut serving = tokio::spawn(serving);
        // Both end with this function.
        let hunting = Hunt::of(&config).start(&life.coordinator);
        let checking = invariants.start();
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => {}
            error = life.coordinator.failed() => return Err(StopError::from(&*error)),
        }
        stopping.send_replace(true);
        tracing::info!("shutting down: no new transactions; open ones are being decided");
        if !life.coordinator.drain(drain).await {
            tracing::warn!(
                "some transactions are still collecting votes; they abort at the next start"
            );
        }
        life.quit.send_replace(true);
        // Requests that are being answered get a moment; event streams end by themselves.
        let answered = async { tokio::join!(&mut serving, life.door.is_left()) };
        drop(tokio::time::timeout(LAST_ANSWERS, answered).await);
        serving.abort();
        let closed = life.coordinator.close().await;
        let journal = Arc::downgrade(life.coordinator.journal());
        drop((life, invariants, hunting, checking));
        given_up(&journal).await;
        closed.map_err(|error| StopError::from(&error))
    }
}

/// Waits until nobody holds the journal any more, so that it can be opened again at once.
async fn given_up(journal: &Weak<dyn Journal>) {
    let gone = async {
        while journal.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // Whoever reads a stream without end of this process may hold it.
    drop(tokio::time::timeout(LAST_ANSWERS, gone).await);
}

fn drivers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}
