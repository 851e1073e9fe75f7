//! Nodes that share a journal, behind one address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use unanimous_client::api::{NodeWord, NodesView};

use crate::coordinator::{Coordinator, Setup};
use crate::http::Http;
use crate::place::eventually;
use crate::world::World;

/// How often a node is started whose database is away.
const STARTS_MAX: usize = 5;

/// Nodes by their numbers. Clients reach one after the other at the address of the world.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Coordinator>,
    pub(crate) setups: Vec<Setup>,
    _balancing: JoinSet<()>,
}

impl Fleet {
    /// Starts so many, and waits until each has its share.
    pub(crate) async fn start(world: &World, count: usize) -> Self {
        let setups = (0..count).map(|it| world.setup.as_node(&format!("node-{it}"))).collect();
        Self::of(world, setups).await
    }

    /// The same for these nodes, whose names are `node-0`, `node-1` and so on.
    pub(crate) async fn of(world: &World, setups: Vec<Setup>) -> Self {
        let nodes = setups.iter().map(|setup| Coordinator::spawn(setup, None)).collect();
        let addresses = setups.iter().map(|setup| setup.address).collect();
        let listener = TcpListener::bind(world.setup.address).await.expect("nobody listens there");
        let mut balancing = JoinSet::new();
        balancing.spawn(balance(listener, addresses));
        let fleet = Self { nodes, setups, _balancing: balancing };
        fleet.settled().await;
        fleet
    }

    /// Waits until every node is heard by every other, and all is shared evenly.
    pub(crate) async fn settled(&self) {
        for setup in &self.setups {
            let http = Http::new(&setup.server());
            eventually("shared evenly", async || {
                let reply = http.get("/v1/nodes").await?;
                let view: NodesView =
                    serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
                let well = view.nodes.len() == self.setups.len()
                    && view.nodes.iter().all(|it| it.state == NodeWord::Active);
                let counts = view.nodes.iter().map(|it| it.partitions.len());
                let least = counts.clone().min().unwrap_or_default();
                let most = counts.clone().max().unwrap_or_default();
                match well && counts.sum::<usize>() == 8 && most - least <= 1 {
                    true => Ok(()),
                    false => Err(format!("{view:?}")),
                }
            })
            .await;
        }
    }

    /// Waits until every node has found its database.
    pub(crate) async fn up(&mut self) {
        for index in 0..self.nodes.len() {
            self.started(index).await;
        }
    }

    /// Waits until a node has found its database. One that has not is started again, as its supervisor would.
    async fn started(&mut self, index: usize) {
        for _ in 0..STARTS_MAX {
            let Err(ended) = self.nodes[index].alive().await else { return };
            let away = ["does not answer", "is it running"];
            assert!(away.iter().any(|it| ended.stderr.contains(it)), "{}", ended.stderr);
            self.nodes[index] = Coordinator::spawn(&self.setups[index], None);
        }
        self.nodes[index].alive().await.expect("it starts");
    }

    /// Kills a node as a power failure would, and starts its next life.
    pub(crate) async fn kill(&mut self, index: usize) {
        self.nodes[index].kill_and_respawn().await;
    }

    /// Stops a node for a while in which it does nothing at all.
    pub(crate) async fn pause(&mut self, index: usize, time: Duration) {
        self.nodes[index].signal(Signal::STOP);
        sleep(time).await;
        self.nodes[index].signal(Signal::CONT);
    }

    /// Asks a node to stop, and starts its next life.
    pub(crate) async fn restart(&mut self, index: usize) {
        // One that has only just been started is killed by what asks others to stop.
        self.started(index).await;
        let ended = self.nodes[index].stop().await;
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        self.nodes[index] = Coordinator::spawn(&self.setups[index], None);
    }

    /// Stops all of them.
    pub(crate) async fn stop(&mut self) {
        self.up().await;
        for node in &mut self.nodes {
            let ended = node.stop().await;
            assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        }
    }
}

/// Connects each client to the next node that listens.
async fn balance(listener: TcpListener, nodes: Vec<SocketAddr>) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let (nodes, next) = (nodes.clone(), Arc::clone(&next));
        connections.spawn(async move {
            for _ in 0..nodes.len() {
                let index = next.fetch_add(1, Ordering::Relaxed) % nodes.len();
                if let Ok(mut node) = TcpStream::connect(nodes[index]).await {
                    // A connection that breaks is the affair of its ends.
                    drop(copy_bidirectional(&mut client, &mut node).await);
                    return;
                }
            }
        });
    }
}
