//! I5: recovery never ends a branch that is not ours, or whose transaction is live; and an orphan
//! only after two complete listings, a grace period apart, by the owner of the shard.

use std::collections::BTreeSet;

use unanimous_core::id::{BranchName, Timestamp};

use super::Oracle;
use crate::coordinator::{CLUSTER, GRACE_MS};
use crate::event::Slot;
use crate::world::World;

impl Oracle {
    /// A resource gave a complete listing to a coordinator.
    pub(crate) fn listed(
        &mut self,
        node: u8,
        resource: u8,
        at: Timestamp,
        held: &BTreeSet<String>,
    ) {
        self.sightings
            .retain(|(by, of, name), _| (*by, *of) != (node, resource) || held.contains(name));
        for name in held {
            let key = (node, resource, name.clone());
            let (count, last, _) = self.sightings.get(&key).copied().unwrap_or_default();
            self.sightings.insert(key, (count + 1, at, if count == 0 { at } else { last }));
        }
    }

    /// A listing failed, or the coordinator has started anew.
    pub(crate) fn unlisted(&mut self, node: u8, resource: Option<u8>) {
        self.sightings.retain(|(by, of, _), _| *by != node || resource.is_some_and(|it| it != *of));
    }
}

impl World {
    /// A coordinator is about to roll an orphan back.
    pub(crate) fn check_orphan(&mut self, node: u8, resource: u8, name: &str) {
        let Ok(parsed) = name.parse::<BranchName>() else {
            return self.violated("I5", Slot(0), || format!("{name} is not ours"));
        };
        let slot = Slot::of(parsed.txn);
        if parsed.cluster != CLUSTER {
            return self.violated("I5", slot, || format!("{name} is not ours"));
        }
        let open = !self.journal.read(slot).is_empty() && !self.journal.has_ended(slot);
        if open {
            return self.violated("I5", slot, || format!("{name} is live"));
        }
        if self.nodes[usize::from(node)].epoch != self.journal.epoch() {
            return self.violated("I5", slot, || format!("{name} belongs to another coordinator"));
        }
        let seen = self.oracle.sightings.get(&(node, resource, name.to_owned())).copied();
        let patient = seen
            .is_some_and(|(count, last, before)| count >= 2 && last.since_ms(before) >= GRACE_MS);
        if !patient {
            self.violated("I5", slot, || format!("{name} was seen {seen:?}"));
        }
    }
}
