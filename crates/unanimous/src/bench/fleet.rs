//! Coordinators that are killed in a measurement: one on a journal in a folder, or several nodes on a
//! journal that they share.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};
use unanimous_api::NodeWord;
use unanimous_client::Client;
use unanimous_core::id::TxnId;
use unanimous_server::Nodes;

use super::process::{http_client, send};
use crate::demo::child::{Ports, Process};
use crate::exit::Failure;

/// Names of nodes; as many as may be asked for.
const NAMES: [&str; 5] = ["node-1", "node-2", "node-3", "node-4", "node-5"];

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Fleet {
    nodes: Vec<Process>,
}

/// The partitions of each node; none of one that has all to itself.
pub(super) struct Owners(Vec<Vec<u8>>);

impl Owners {
    /// The node that drives a transaction.
    pub(super) fn of(&self, txn: TxnId) -> usize {
        let partition = Nodes::partition_of(txn);
        self.0.iter().position(|share| share.contains(&partition)).unwrap_or_default()
    }
}

impl Fleet {
    /// Starts so many on a journal, whose logs go to `folder`.
    pub(super) async fn start(
        journal: &str,
        config: &Path,
        count: usize,
        folder: &Path,
        ports: &mut Ports,
    ) -> Result<Self, Failure> {
        let names = NAMES
            .get(..count)
            .ok_or_else(|| Failure::usage(format!("--nodes {count}: at most {}", NAMES.len())))?;
        let mut nodes = Vec::new();
        for &name in names {
            let address = ports.take().await?;
            let arguments = vec![
                "serve".to_owned(),
                "--with-parent".to_owned(),
                format!("--config={}", config.display()),
                format!("--journal={journal}"),
                format!("--listen={address}"),
                format!("--node={name}"),
            ];
            nodes.push(Process::start(name, address, arguments, folder).await?);
        }
        Ok(Self { nodes })
    }

    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The addresses of all nodes.
    pub(super) fn servers(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("http://{}", node.address)).collect()
    }

    /// Waits until every node is there and has its share.
    pub(super) async fn settled(&self) -> Result<(), Failure> {
        let started = Instant::now();
        for node in self.nodes.iter().filter(|_| self.nodes.len() > 1) {
            let client = Client::connect(&format!("http://{}", node.address))?;
            loop {
                let nodes = client.nodes().await?.nodes;
                let shares = nodes.iter().map(|it| it.partitions.len());
                let even = shares.clone().max().unwrap_or_default()
                    <= shares.clone().min().unwrap_or_default() + 1;
                let all = nodes.iter().filter(|it| it.state == NodeWord::Active).count();
                if all == self.nodes.len() && shares.sum::<usize>() > 0 && even {
                    break;
                }
                if started.elapsed() > PATIENCE {
                    return Err(Failure::not_done("the nodes do not share the work"));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// How many transactions are open at all nodes together.
    pub(super) async fn open(&self) -> Result<f64, Failure> {
        let (client, mut open) = (http_client(), 0.0);
        for server in self.servers() {
            let url = format!("{server}/metrics");
            let told = send(&client, "GET", &url, Bytes::new()).await;
            let (_, told) =
                told.ok_or_else(|| Failure::not_done(format!("{url} does not answer")))?;
            let told = String::from_utf8_lossy(&told);
            let each = told.lines().filter(|it| it.starts_with("unanimous_open_transactions{"));
            open += each.filter_map(|it| it.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(open)
    }

    /// Who drives what, as of now.
    pub(super) async fn owners(&self) -> Result<Owners, Failure> {
        let [first, _, ..] = &*self.nodes else { return Ok(Owners(Vec::new())) };
        let nodes = Client::connect(&format!("http://{}", first.address))?.nodes().await?.nodes;
        let share = |name| nodes.iter().find(|it| it.name == name).map(|it| it.partitions.clone());
        Ok(Owners(self.nodes.iter().map(|it| share(it.name).unwrap_or_default()).collect()))
    }

    pub(super) fn signal(&self, index: usize, signal: Signal) {
        let pid = self.nodes[index].pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // One that is dead already is found out when it is waited for.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills one with -9. One that has its journal to itself is started again at once, as its
    /// supervisor would.
    pub(super) async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        match self.nodes.len() {
            1 => self.revive(index).await,
            _ => {
                self.nodes[index].kill().await;
                Ok(())
            }
        }
    }

    /// Starts the next life of a node, whether it is dead or not.
    pub(super) async fn revive(&mut self, index: usize) -> Result<(), Failure> {
        self.nodes[index].kill_and_restart().await.map(drop)
    }
}
