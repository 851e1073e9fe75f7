//! What a node has and knows, as all its parts see it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::HeaderValue;
use tokio::sync::{Notify, broadcast, watch};
use unanimous_api::{EventView, NodeView, NodeWord, NodesView};
use unanimous_core::id::{Epoch, ShardId, TxnId};
use unanimous_journal::Stats;

use super::beat::Beat;
use super::held::Held;
use super::owners::Owners;
use super::partition::Partition;
use super::peers::Peers;
use crate::Metrics;
use crate::config::Config;
use crate::driver::{Clock, Ids};
use crate::resources::Resources;

/// One node.
pub(crate) struct Node {
    pub(super) name: String,
    pub(super) incarnation: u64,
    /// Where the others find it: `http://host:port`.
    pub(super) address: String,
    pub(super) config: Config,
    pub(super) resources: Resources,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) ids: Ids,
    pub(super) events: broadcast::Sender<EventView>,
    pub(super) peers: Arc<Peers>,
    pub(super) held: RwLock<BTreeMap<Partition, Arc<Held>>>,
    /// What the journals of partitions had done that are not held any more.
    pub(super) retired: RwLock<Stats>,
    /// What it tells the others.
    pub(super) said: watch::Sender<Beat>,
    /// Told whenever somebody may own something else than before.
    pub(super) changed: watch::Sender<()>,
    /// The same for whoever waits for one partition.
    pub(super) owners: Owners,
    /// Set when the process ends: streams end, too.
    pub(super) quitting: watch::Sender<bool>,
    /// Told when another node has come to listen.
    pub(super) visited: Notify,
    pub(super) draining: AtomicBool,
    pub(super) cut_off: AtomicBool,
    /// Requests that wait for somebody to drive what they are about.
    pub(super) waiting: AtomicUsize,
}

/// Who owns a partition.
pub(crate) enum Owner {
    /// This node.
    Here(Arc<Held>),
    /// Another one.
    There {
        /// `http://host:port`
        address: String,
        epoch: Epoch,
    },
}

impl Node {
    /// An identity for a transaction that begins now.
    pub(super) fn mint(&self, shard: ShardId) -> TxnId {
        TxnId::mint(self.clock.now().0, shard, self.ids.next())
    }

    pub(super) fn some_shard(&self, partition: Partition) -> ShardId {
        let shards: Vec<ShardId> = partition.shards().collect();
        shards[self.ids.next() as usize % shards.len()]
    }

    /// One of these partitions, of those that are driven here if any is.
    pub(super) fn some_of(&self, partitions: &[Partition]) -> Partition {
        let held = self.held();
        let here = held.iter().filter(|held| !held.is_over()).map(|held| held.partition);
        let here: Vec<Partition> = here.filter(|it| partitions.contains(it)).collect();
        let among = if here.is_empty() { partitions } else { &here };
        among[self.ids.next() as usize % among.len()]
    }

    /// Its name, as a header has it.
    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::try_from(&self.name).expect("a name is printable")
    }

    /// The partitions that are driven here.
    pub(super) fn held(&self) -> Vec<Arc<Held>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.values().cloned().collect()
    }

    pub(super) fn add(&self, held: Arc<Held>) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).insert(held.partition, held);
        self.changed.send_replace(());
    }

    pub(super) fn remove(&self, partition: Partition) {
        let held = self.held.write().unwrap_or_else(PoisonError::into_inner).remove(&partition);
        if let Some(held) = held {
            let mut retired = self.retired.write().unwrap_or_else(PoisonError::into_inner);
            *retired = plus(*retired, Stats { open: 0, ..held.stats() });
            held.stop();
        }
        self.changed.send_replace(());
    }

    /// What the journals of all partitions have done.
    pub(super) fn stats(&self) -> Stats {
        let retired = *self.retired.read().unwrap_or_else(PoisonError::into_inner);
        self.held().iter().map(|held| held.stats()).fold(retired, plus)
    }

    /// Who drives a partition, as far as is known. Of two who say so, the later one.
    pub(super) fn owner(&self, partition: Partition) -> Option<Owner> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let held = held.get(&partition).filter(|held| !held.is_over()).cloned();
        let ours = held.as_ref().map_or(Epoch::default(), |held| held.epoch());
        let theirs = self.peers.owner(partition);
        match (theirs.filter(|(epoch, _)| *epoch > ours), held) {
            (Some((epoch, address)), _) => Some(Owner::There { address, epoch }),
            (None, Some(held)) => Some(Owner::Here(held)),
            (None, None) => None,
        }
    }

    /// Whether this node is about to give a partition away, or has lost it and not dropped it yet.
    pub(super) fn is_leaving(&self, partition: Partition) -> bool {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.get(&partition).is_some_and(|held| held.is_over())
    }

    /// Whether another node says that it has claimed a partition later than this one did.
    pub(super) fn is_outbid(&self, held: &Held) -> bool {
        self.peers.owner(held.partition).is_some_and(|(epoch, _)| epoch > held.epoch())
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    /// All nodes by name, this one among them.
    pub(super) fn views(&self) -> NodesView {
        let me = NodeView {
            name: self.name.clone(),
            address: self.address.clone(),
            state: match (self.is_cut_off(), self.is_draining()) {
                (true, _) => NodeWord::CutOff,
                (false, true) => NodeWord::Draining,
                (false, false) => NodeWord::Active,
            },
            partitions: self.held().iter().map(|held| held.partition.number()).collect(),
            heard_ms_ago: None,
        };
        let mut nodes = self.peers.views();
        nodes.push(me);
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        NodesView { nodes }
    }
}

fn plus(a: Stats, b: Stats) -> Stats {
    Stats {
        syncs: a.syncs + b.syncs,
        sync_nanos: a.sync_nanos + b.sync_nanos,
        entries: a.entries + b.entries,
        bytes: a.bytes + b.bytes,
        open: a.open + b.open,
        projection_lag_bytes: a.projection_lag_bytes + b.projection_lag_bytes,
    }
}
