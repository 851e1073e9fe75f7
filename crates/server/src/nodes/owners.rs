//! Wakes whoever waits for somebody else to drive a partition, and nobody else: thousands may wait for one
//! partition while others come and go.

use tokio::sync::watch;
use unanimous_core::id::Epoch;

use super::node::{Node, Owner};
use super::partition::Partition;

/// Who drives a partition: where, if it is another node, and under which epoch.
type Seat = Option<(Epoch, Option<String>)>;

/// Who drives each partition, as told last.
pub(super) struct Owners(Vec<watch::Sender<Seat>>);

impl Owners {
    pub(super) fn new() -> Self {
        Self(Partition::all().map(|_| watch::Sender::default()).collect())
    }

    /// Told when somebody else drives a partition, or nobody does.
    pub(super) fn follow(&self, partition: Partition) -> watch::Receiver<Seat> {
        self.0[usize::from(partition.number())].subscribe()
    }
}

impl Node {
    /// Tells of every change until the task is dropped.
    pub(super) async fn tell_owners(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            for (partition, told) in Partition::all().zip(&self.owners.0) {
                let seat = self.owner(partition).map(|owner| match owner {
                    Owner::Here(held) => (held.epoch(), None),
                    Owner::There { address, epoch } => (epoch, Some(address)),
                });
                told.send_if_modified(|told| std::mem::replace(told, seat.clone()) != seat);
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}
