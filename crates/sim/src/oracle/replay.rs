//! Recovery is the same code: at any moment, replaying the journal gives the live durable state.

use unanimous_core::commit::CommitTxn;

use crate::event::Slot;
use crate::world::World;

impl World {
    /// A machine has taken an input, and its records are in the journal.
    pub(crate) fn check_replay(&mut self, node: u8, slot: Slot) {
        let Some(live) = self.nodes[usize::from(node)].live_mut(slot) else { return };
        if live.replayed_from != live.stored {
            // The same records replay to the same state, so only new ones need it.
            let records = self.journal.read(slot);
            let replayed = match CommitTxn::replay(&records[..live.stored.min(records.len())]) {
                Ok(replayed) => replayed,
                Err(misfit) => return self.violated("replay", slot, || misfit.to_string()),
            };
            live.replayed = replayed;
            live.replayed_from = live.stored;
        }
        if live.machine.durable() != live.replayed.durable() {
            self.violated("replay", slot, || "the journal replays to another state".into());
        }
    }
}
