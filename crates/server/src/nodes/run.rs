//! Starting a node, and running it to its end.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use unanimous_core::id::TxnId;
use unanimous_journal::{JournalError, Stats};

use super::beat::Beat;
use super::face;
use super::gather::Everywhere;
use super::held::Premises;
use super::homes;
use super::keeper::Keeper;
use super::lookout::Lookout;
use super::node::Node;
use super::owners::Owners;
use super::partition::Partition;
use super::peers::{BEATS, Peers};
use super::spares::Spares;
use super::threads::Threads;
use crate::Metrics;
use crate::config::Config;
use crate::door::Door;
use crate::driver::{Clock, Ids, events};
use crate::http;
use crate::invariants::Invariants;
use crate::limits::LAST_ANSWERS;
use crate::serve::{Brought, StartError, StopError, resources};

/// A node that listens, and is in the directory.
pub struct Nodes {
    life: Life,
    lookout: Lookout,
    listener: TcpListener,
    app: Router,
    stopping: watch::Sender<bool>,
}

/// What ends with the node, however that ends: the process may go on.
struct Life {
    node: Arc<Node>,
    door: Door,
    pulse: Threads,
    doors: Threads,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.node.quitting.send_replace(true);
        self.door.shut();
        self.node.peers.follow(Vec::new());
        for held in self.node.held() {
            self.node.remove(held.partition);
        }
    }
}

impl Nodes {
    /// The partition that a transaction is in: one of those that nodes say they drive.
    pub fn partition_of(txn: TxnId) -> u8 {
        Partition::of(txn.shard()).number()
    }

    /// Listens where the configuration says, and enters the node into the directory of its journal. Must
    /// be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`] with one line that names what to change.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, Brought::default()).await
    }

    /// The same, listening on what is given, if anything is: a node has to be reached by the others.
    ///
    /// # Errors
    ///
    /// As [`Nodes::start`].
    pub async fn start_with(mut config: Config, brought: Brought) -> Result<Self, StartError> {
        let failed = |error| StartError::Listen { address: config.listen, error };
        let listener = match brought.listener {
            Some(listener) => listener,
            None => http::bind(config.listen).map_err(failed)?,
        };
        let listen = listener.local_addr().map_err(failed)?;
        let port = listen.port();
        let metrics = Arc::new(Metrics::new());
        let resources = resources(&config, brought.resources, &metrics)?;
        let journal = config.journal.clone();
        let failed = move |error| StartError::Journal { place: journal.to_string(), error };
        let (config, directory, main) = waiting(move || {
            let directory = config.journal.directory().map_err(failed)?;
            let main = homes::main_journal(&config)?;
            config.cluster = config.cluster.or_else(|| main.clone());
            Ok((config, directory, main))
        })
        .await?;
        let threads = Threads::pulse().and_then(|pulse| Ok((pulse, Threads::doors()?)));
        let failed = |error| StartError::Listen { address: config.listen, error };
        let (pulse, doors) = threads.map_err(failed)?;
        let changed = watch::Sender::new(());
        let ids = Ids::new();
        let name = config.node.name.clone().unwrap_or_else(|| default_name(port));
        let incarnation = ids.next() as u64;
        let node = Arc::new(Node {
            peers: Peers::new(config.token.as_ref(), changed.clone(), pulse.handle()),
            address: config.node.address.clone().unwrap_or_else(|| default_address(listen, port)),
            said: watch::Sender::new(Beat {
                node: name.clone(),
                incarnation,
                layout: config.domains.layout(),
                ..Beat::default()
            }),
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
            owners: Owners::new(),
            quitting: watch::Sender::new(false),
            visited: Notify::new(),
            draining: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            config,
        });
        let stopping = watch::Sender::new(false);
        let app = face::router(&node, stopping.subscribe());
        let door = Door::new(app.clone(), node.config.token.as_ref(), Arc::clone(&node.metrics));
        let lookout = Lookout { node: Arc::clone(&node), directory };
        let life = Life { node, door, pulse, doors };
        lookout.agree().await?;
        let (node, directory) = (Arc::clone(&life.node), Arc::clone(&lookout.directory));
        waiting(move || homes::settle(&node.config, main.as_deref(), &directory)).await?;
        lookout.enter().await?;
        Ok(Self { life, lookout, listener, app, stopping })
    }

    /// Where it listens: the port is a real one even if the configuration said 0.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The way in for programs of this process.
    pub fn door(&self) -> Door {
        self.life.door.clone()
    }

    /// Serves until `stop` is set, then gives away what it drives, and closes what nobody takes. Dropped
    /// before it ends, it stops as a process does that is killed.
    ///
    /// # Errors
    ///
    /// [`StopError`] if a journal failed, or another process took the node's name.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), StopError> {
        let Self { life, lookout, listener, app, stopping } = self;
        let node = Arc::clone(&life.node);
        let quitting = node.quitting.subscribe();
        let bounds = http::Bounds::default();
        let apart = http::Apart { path: BEATS, threads: life.pulse.handle() };
        let metrics = Arc::clone(&node.metrics);
        let serving = http::listen(listener, app, bounds, Some(apart), metrics, quitting);
        let mut serving = life.doors.handle().spawn(serving);
        let (ousted, mut is_ousted) = watch::channel(None);
        // They end with this function.
        let mut tasks = JoinSet::new();
        lookout.meet().await;
        tasks.spawn(lookout.clone().run(ousted));
        let teller = Arc::clone(&node);
        tasks.spawn(async move { teller.tell_owners().await });
        let scope = Arc::new(Everywhere(Arc::clone(&node)));
        let invariants = Invariants::within(scope, &node.config);
        let checking = invariants.start();
        let spares = Spares::new(&node.config, &node.name);
        tasks.spawn(Arc::clone(&spares).keep(Arc::clone(&node)));
        let premises = Premises {
            spares,
            config: node.config.clone(),
            resources: node.resources.clone(),
            metrics: Arc::clone(&node.metrics),
            contention: Arc::default(),
            events: node.events.clone(),
            invariants,
            stopping: stopping.subscribe(),
        };
        let stopped = stopping.subscribe();
        tasks.spawn(async move {
            drop(stop.wait_for(|&stop| stop).await);
            stopping.send_replace(true);
        });
        let drain = Duration::from_millis(node.config.limits.drain_ms);
        let keeper = Keeper::new(Arc::clone(&node), premises, Handle::current());
        let mut keeping = JoinSet::new();
        keeping.spawn_on(keeper.run(stopped, drain), &life.pulse.handle());
        let kept = tokio::select! {
            Some(kept) = keeping.join_next() => {
                kept.unwrap_or_else(|error| Err(StopError::Journal(error.to_string())))
            }
            Ok(why) = is_ousted.wait_for(Option::is_some) => why.clone().map_or(Ok(()), Err),
        };
        drop((keeping, tasks, checking));
        if kept.is_ok() {
            lookout.leave().await;
            node.quitting.send_replace(true);
            // Requests that are being answered get a moment.
            let answered = async { tokio::join!(&mut serving, life.door.is_left()) };
            drop(tokio::time::timeout(LAST_ANSWERS, answered).await);
        }
        serving.abort();
        kept
    }
}

/// Runs what waits for a database.
async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        let error = JournalError::Failed(error.to_string());
        Err(StartError::Journal { place: "journal".to_owned(), error })
    })
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
