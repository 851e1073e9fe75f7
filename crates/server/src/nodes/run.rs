//! Starting a node, and running it to its end.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use unanimous_journal::{JournalError, Stats};
use unanimous_participants::Observer;

use super::beat::Beat;
use super::face;
use super::gather::Everywhere;
use super::held::Premises;
use super::keeper::Keeper;
use super::lookout::Lookout;
use super::node::Node;
use super::peers::Peers;
use crate::Metrics;
use crate::config::Config;
use crate::driver::{Clock, Ids, events};
use crate::http;
use crate::invariants::Invariants;
use crate::limits::LAST_ANSWERS;
use crate::resources::Resources;
use crate::serve::{StartError, StopError};

/// A node that listens, and is in the directory.
pub struct Nodes {
    node: Arc<Node>,
    lookout: Lookout,
    listener: TcpListener,
}

impl Nodes {
    /// Listens, and enters the node into the directory of its journal. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`] with one line that names what to change.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let listen = config.listen;
        let failed = |error| StartError::Listen { address: listen, error };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let metrics = Arc::new(Metrics::new());
        let observer: Arc<dyn Observer> = Arc::clone(&metrics) as _;
        let resources = Resources::open(&config, &observer)?;
        http::check_definitions(&resources, &config.sagas).map_err(StartError::Saga)?;
        let journal = config.journal.clone();
        let opened = tokio::task::spawn_blocking(move || journal.directory()).await;
        let opened = opened.unwrap_or_else(|error| Err(JournalError::Failed(error.to_string())));
        let failed = |error| StartError::Journal { place: config.journal.to_string(), error };
        let directory = opened.map_err(failed)?;
        let changed = watch::Sender::new(());
        let ids = Ids::new();
        let name = config.node.name.clone().unwrap_or_else(|| default_name(port));
        let incarnation = ids.next() as u64;
        let node = Arc::new(Node {
            peers: Peers::new(config.token.as_ref(), changed.clone()),
            address: config.node.address.clone().unwrap_or_else(|| default_address(listen, port)),
            said: watch::Sender::new(Beat { node: name.clone(), incarnation, ..Beat::default() }),
            name,
            incarnation,
            resources,
            metrics,
            clock: Clock::start(),
            ids,
            events: events(),
            held: RwLock::new(BTreeMap::new()),
            retired: RwLock::new(Stats::default()),
            changed,
            quitting: watch::Sender::new(false),
            visited: Notify::new(),
            draining: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            config,
        });
        let lookout = Lookout { node: Arc::clone(&node), directory };
        lookout.enter().await?;
        Ok(Self { node, lookout, listener })
    }

    /// Where it listens: the port is a real one even if the configuration said 0.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is set, then gives away what it drives, and closes what nobody takes.
    ///
    /// # Errors
    ///
    /// [`StopError`] if a journal failed, or another process took the node's name.
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<(), StopError> {
        let Self { node, lookout, listener } = self;
        let quitting = node.quitting.subscribe();
        let app = face::router(&node, stop.clone());
        let bounds = http::Bounds::default();
        let serving = http::listen(listener, app, bounds, Arc::clone(&node.metrics), quitting);
        let mut serving = tokio::spawn(serving);
        lookout.meet().await;
        let (displaced, mut is_displaced) = watch::channel(false);
        let looking = tokio::spawn(lookout.clone().run(displaced));
        let scope = Arc::new(Everywhere(Arc::clone(&node)));
        let invariants = Invariants::within(scope, &node.config);
        let checking = invariants.start();
        let premises = Premises {
            node: node.name.clone(),
            config: node.config.clone(),
            resources: node.resources.clone(),
            metrics: Arc::clone(&node.metrics),
            events: node.events.clone(),
            invariants,
            stopping: stop.clone(),
        };
        let drain = Duration::from_millis(node.config.limits.drain_ms);
        let keeper = Keeper::new(Arc::clone(&node), premises).run(stop, drain);
        let kept = tokio::select! {
            kept = keeper => kept,
            _ = is_displaced.wait_for(|&it| it) => Err(StopError::Displaced(node.name.clone())),
        };
        looking.abort();
        drop(checking);
        if kept.is_ok() {
            lookout.leave().await;
            node.quitting.send_replace(true);
            // Requests that are being answered get a moment.
            drop(tokio::time::timeout(LAST_ANSWERS, &mut serving).await);
        }
        serving.abort();
        kept
    }
}

/// Another for each process of a machine, and the same after its restart.
fn default_name(port: u16) -> String {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{machine}:{port}")
}

fn default_address(listen: SocketAddr, port: u16) -> String {
    match listen.ip().is_unspecified() {
        true => {
            let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
            format!("http://{machine}:{port}")
        }
        false => format!("http://{}", SocketAddr::from((listen.ip(), port))),
    }
}
