//! Starting, and losing the shard.

use unanimous_core::Input;
use unanimous_core::id::Lsn;
use unanimous_core::saga::SagaTxn;

use super::exhibit::SagaExhibit;
use super::node::Live;
use super::world::World;
use crate::event::Slot;

impl World {
    /// Starts a node, which takes the shard from whoever has it.
    pub(super) fn start(&mut self, node: u8) {
        let known = self.node(node);
        if known.up {
            return;
        }
        known.up = true;
        known.paused = false;
        known.life += 1;
        self.claim(node);
    }

    /// Takes the shard and resumes what is open in the journal.
    pub(super) fn claim(&mut self, node: u8) {
        let epoch = self.journal.claim();
        self.totals.claims += 1;
        self.note(|| format!("n{node}      owns the shard, epoch {}", epoch.0));
        let known = self.node(node);
        known.forget();
        known.owner = true;
        known.epoch = epoch;
        self.check_claim(node, epoch);
        let mut open: Vec<_> = self.journal.open().collect();
        for &slot in &open {
            self.load(node, slot);
        }
        if self.exhibit == Some(SagaExhibit::ForgetResume) {
            open.clear();
        }
        let turn = self.rng.below(open.len().max(1) as u64) as usize;
        open.rotate_left(turn);
        for slot in open {
            self.resume(node, slot, None);
        }
    }

    /// Rebuilds a machine from the journal; false if the journal has nothing of it.
    fn load(&mut self, node: u8, slot: Slot) -> bool {
        let records = self.journal.read(slot);
        if records.is_empty() {
            return false;
        }
        let stored = records.len();
        match SagaTxn::replay(records) {
            Ok(machine) => self.node(node).insert(slot, Live::new(machine, stored)),
            Err(misfit) => self.violated("replay", slot, || misfit.to_string()),
        }
        self.violation.is_none()
    }

    fn resume(&mut self, node: u8, slot: Slot, rests_on: Option<Lsn>) {
        let now = self.time_of(node);
        self.note(|| format!("n{node}      {slot} > Resumed"));
        let Some(live) = self.node(node).live_mut(slot) else { return };
        let step = live.machine.handle(now, Input::Resumed);
        let _ = self.take(node, slot, step, rests_on);
    }

    /// Somebody else has written to the saga: start again from what is there.
    pub(super) fn reload(&mut self, node: u8, slot: Slot) {
        let known = self.node(node);
        known.gate.forget(slot.id());
        known.live[slot.index()] = None;
        if self.load(node, slot) {
            // What was read may not be durable yet.
            let rests_on = self.journal.last(slot);
            self.resume(node, slot, rests_on);
        }
    }

    /// Another coordinator owns the shard: drop it.
    pub(super) fn depose(&mut self, node: u8) {
        self.note(|| format!("n{node}      has lost the shard"));
        self.node(node).forget();
    }
}
