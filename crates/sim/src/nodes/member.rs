//! Who owns what: signs of life, claims, hand-overs, and what is dropped with an epoch.
//!
//! Silence is a reason to claim and never a reason to believe: two nodes may well suspect each other.
//! Only the epoch that the store has raised makes an owner, and only what is read after it is what an
//! owner starts from. Each claim by somebody else doubles the patience with that part, so that nodes
//! that suspect each other for ever do not take it from each other for ever.

use std::rc::Rc;

use unanimous_core::commit::CommitTxn;
use unanimous_core::id::{Epoch, Lsn};
use unanimous_core::{Durability, Input};

use super::event::{Ask, Event, Loaded, Part, Party};
use super::exhibit::NodesExhibit;
use super::node::{Asked, Held, Live, Progress, Share};
use super::store::Shard;
use super::world::World;
use crate::event::Slot;

const BEAT_MS: u64 = 100;
const SURVEY_MS: u64 = 150;
/// Nodes take turns to claim what nobody owns.
const TURN_MS: u64 = 40;
const PATIENCE_MS_MIN: u64 = 100;
const PATIENCE_MS_MAX: u64 = 4_000;

impl World {
    pub(super) fn start(&mut self, node: u8) {
        let (now_ms, sweep_ms) = (self.now_ms, self.rng.range(1, super::hunt::SWEEP_MS));
        let known = self.node(node);
        if known.up {
            return;
        }
        known.forget();
        known.up = true;
        known.paused = false;
        known.life += 1;
        known.heard_at_ms.fill(now_ms);
        let life = known.life;
        self.note(|| format!("n{node}      starts"));
        let beat_ms = self.rng.range(0, BEAT_MS);
        self.after(beat_ms, Event::Beat { node, life });
        self.after(0, Event::Survey { node, life });
        self.after(sweep_ms, Event::Sweep { node, life });
    }

    /// A node tells the others that it lives, and looks whom it has not heard of.
    pub(super) fn beat(&mut self, node: u8, life: u32) {
        if self.nodes[usize::from(node)].life != life {
            return;
        }
        self.after(BEAT_MS, Event::Beat { node, life });
        for other in 0..self.nodes.len() as u8 {
            let reaches = !self.is_cut(Party::Node(node), Party::Node(other))
                && !self.strikes(self.faults.drop);
            let now_ms = self.now_ms;
            let known = self.node(other);
            if reaches && known.up && !known.paused {
                known.heard_at_ms[usize::from(node)] = now_ms;
            }
        }
        for part in 0..self.parts() {
            self.claim_if_due(node, part);
        }
        self.stop_if_empty(node);
    }

    fn suspects(&self, node: u8, other: u8) -> bool {
        let heard_at_ms = self.nodes[usize::from(node)].heard_at_ms[usize::from(other)];
        self.now_ms - heard_at_ms > self.faults.suspect_ms
    }

    fn claim_if_due(&mut self, node: u8, part: Part) {
        let known = &self.nodes[usize::from(node)];
        let share = &known.shares[usize::from(part)];
        let busy = share.held.is_some() || share.progress != Progress::Idle;
        if known.leaving || busy {
            return;
        }
        let wait_ms = match share.seen.owner {
            None => {
                let count = self.nodes.len() as u64;
                TURN_MS * ((u64::from(node) + count - u64::from(part) % count) % count)
            }
            // Of a former life, or the answer to the claim was lost: nothing of it is known here.
            Some(owner) if owner.node == node => 0,
            Some(_) if self.exhibit == Some(NodesExhibit::NobodyClaims) => return,
            Some(owner) if self.suspects(node, owner.node) => share.patience_ms,
            Some(_) => return,
        };
        if self.now_ms - share.seen_at_ms >= wait_ms {
            self.claim(node, part);
        }
    }

    fn claim(&mut self, node: u8, part: Part) {
        let seen = self.nodes[usize::from(node)].shares[usize::from(part)].seen.epoch;
        self.note(|| format!("n{node}      p{part} claims, has seen {seen:?}"));
        self.node(node).share(part).progress = Progress::Claiming;
        if self.exhibit == Some(NodesExhibit::LoadsBeforeClaim) {
            let epoch = Epoch(seen.0 + 1);
            self.ask(node, Ask::Load(part), Asked::Load(part, epoch));
        }
        let owner = self.nodes[usize::from(node)].as_owner(node);
        self.ask(node, Ask::Claim(part, seen, owner), Asked::Claim(part));
        if self.exhibit == Some(NodesExhibit::ResumesBeforeClaim) {
            let loaded = self.store.load(part);
            self.take_over(node, part, Epoch(seen.0 + 1), &loaded);
        }
    }

    /// The store has answered a claim, or has not. Then it may have been won all the same, or may be
    /// won later: whoever finds itself the owner of what it does not hold claims anew.
    pub(super) fn claimed(&mut self, node: u8, part: Part, won: Option<Epoch>) {
        let me = self.nodes[usize::from(node)].as_owner(node);
        let share = self.node(node).share(part);
        if share.progress != Progress::Claiming {
            return;
        }
        share.progress = Progress::Idle;
        let Some(epoch) = won.filter(|&epoch| epoch >= share.seen.epoch) else {
            return self.survey_now(node);
        };
        share.seen = Shard { epoch, owner: Some(me) };
        if self.nodes[usize::from(node)].leaving {
            return self.ask(node, Ask::Release(part, epoch), Asked::Release);
        }
        self.node(node).share(part).progress = Progress::Loading(epoch);
        self.note(|| format!("n{node}      p{part} is won, {epoch:?}"));
        if self.exhibit == Some(NodesExhibit::LoadsBeforeClaim) {
            let cache = std::mem::take(&mut self.node(node).share(part).cache);
            let loaded = Loaded { open: cache, keys: self.store.load(part).keys };
            return self.take_over(node, part, epoch, &loaded);
        }
        self.ask(node, Ask::Load(part), Asked::Load(part, epoch));
    }

    /// The store has said what is open in a part, or has not.
    pub(super) fn loaded(
        &mut self,
        node: u8,
        part: Part,
        epoch: Epoch,
        answer: Option<(Epoch, Rc<Loaded>)>,
    ) {
        if self.exhibit == Some(NodesExhibit::LoadsBeforeClaim) {
            if let Some((_, loaded)) = answer {
                self.node(node).share(part).cache.clone_from(&loaded.open);
            }
            return;
        }
        let stays = self.exhibit == Some(NodesExhibit::OvertakenStays);
        let share = self.node(node).share(part);
        if share.progress != Progress::Loading(epoch) {
            return;
        }
        // The answer may be older than what is known by now of another claim.
        let overtaken = share.seen.epoch > epoch && !stays;
        match answer {
            None => self.ask(node, Ask::Load(part), Asked::Load(part, epoch)),
            Some((current, loaded)) if current == epoch && !overtaken => {
                self.take_over(node, part, epoch, &loaded);
            }
            // Somebody else was here in the meantime.
            Some(_) => {
                share.progress = Progress::Idle;
                self.survey_now(node);
            }
        }
    }

    /// Owns a part from now on, and resumes what is open in it.
    fn take_over(&mut self, node: u8, part: Part, epoch: Epoch, loaded: &Loaded) {
        self.check_ownership(node, part, epoch);
        let cached = self.exhibit == Some(NodesExhibit::StartsFromCache);
        let cache = std::mem::take(&mut self.node(node).share(part).cache);
        let mut open = loaded.open.clone();
        if cached {
            for (slot, records) in &mut open {
                if let Some((_, known)) = cache.iter().find(|(it, _)| it == slot) {
                    records.clone_from(known);
                }
            }
        }
        self.check_start(part, epoch, &open);
        self.totals.claims += 1;
        self.note(|| format!("n{node}      p{part} is owned, {epoch:?}"));
        let share = self.node(node).share(part);
        share.progress = Progress::Idle;
        let mut held = Held::new(epoch, loaded.keys.clone());
        let mut misfit = None;
        for (slot, records) in open {
            match CommitTxn::replay(&records) {
                Ok(machine) => drop(held.live.insert(slot, Live::new(machine, records))),
                Err(error) => misfit = Some((slot, error)),
            }
        }
        let mut slots: Vec<_> = held.live.keys().copied().collect();
        share.held = Some(held);
        if let Some((slot, error)) = misfit {
            self.violated("replay", Some(slot), || error.to_string());
        }
        if self.exhibit == Some(NodesExhibit::ForgetsToResume) {
            return;
        }
        let turn = self.rng.below(slots.len().max(1) as u64) as usize;
        slots.rotate_left(turn);
        for slot in slots {
            self.check_replay(node, slot);
            let _ = self.feed(node, slot, Input::Resumed);
        }
    }

    /// Another node owns the part: everything that rests on the epoch goes, and nothing of it is let out.
    pub(super) fn depose(&mut self, node: u8, part: Part) {
        if self.exhibit == Some(NodesExhibit::LoserHoldsOn) {
            return;
        }
        self.note(|| format!("n{node}      p{part} is lost"));
        let now_ms = self.now_ms;
        let share = self.node(node).share(part);
        let Some(held) = share.held.take() else { return };
        share.seen_at_ms = now_ms;
        let live = held.live.iter();
        share.cache = live.map(|(slot, live)| (*slot, live.records.clone())).collect();
        let under_way = held.writer.under_way.iter().flat_map(|(batch, _)| &batch.entries);
        let dropped = held.writer.queue.iter().chain(under_way).map(|it| it.records.len());
        self.totals.lost_records += dropped.sum::<usize>() as u64;
        self.survey_now(node);
    }

    pub(super) fn survey(&mut self, node: u8, life: u32) {
        if self.nodes[usize::from(node)].life != life {
            return;
        }
        self.after(SURVEY_MS, Event::Survey { node, life });
        self.survey_now(node);
    }

    fn survey_now(&mut self, node: u8) {
        self.ask(node, Ask::Directory, Asked::Directory);
    }

    /// The store has said who owns what. The answer may be old.
    pub(super) fn surveyed(&mut self, node: u8, shards: &[Shard]) {
        let now_ms = self.now_ms;
        for (part, &shard) in (0..).zip(shards) {
            let growth_ms = self.rng.range(1, PATIENCE_MS_MIN);
            let share = self.node(node).share(part);
            if shard.epoch < share.seen.epoch || shard == share.seen {
                continue;
            }
            if shard.epoch > share.seen.epoch {
                let doubled_ms = 2 * share.patience_ms + growth_ms;
                share.patience_ms = doubled_ms.clamp(PATIENCE_MS_MIN, PATIENCE_MS_MAX);
            }
            share.seen = shard;
            share.seen_at_ms = now_ms;
            if share.held.as_ref().is_some_and(|held| held.epoch < shard.epoch) {
                self.depose(node, part);
            }
        }
    }

    /// A node is asked to stop: it hands over everything first.
    pub(super) fn leave(&mut self, node: u8) {
        self.note(|| format!("n{node}      is to leave"));
        self.node(node).leaving = true;
        for part in 0..self.parts() {
            let share = self.node(node).share(part);
            if let Progress::Loading(epoch) = share.progress {
                share.progress = Progress::Idle;
                self.ask(node, Ask::Release(part, epoch), Asked::Release);
            }
            let Some(held) = self.node(node).held_mut(part) else { continue };
            held.closing = true;
            if self.exhibit == Some(NodesExhibit::ClosesBeforeDurable) {
                self.flushed(node, part, Lsn(u64::MAX));
                self.hand_over(node, part);
            } else {
                self.plan_write(node, part, Durability::Forced);
                self.close_if_idle(node, part);
            }
        }
    }

    /// Hands a part over once everything that was taken is durable.
    pub(super) fn close_if_idle(&mut self, node: u8, part: Part) {
        let held = self.nodes[usize::from(node)].held(part);
        if held.is_some_and(|held| held.closing && held.writer.is_idle()) {
            self.hand_over(node, part);
        }
    }

    fn hand_over(&mut self, node: u8, part: Part) {
        let Some(held) = self.node(node).share(part).held.take() else { return };
        self.note(|| format!("n{node}      p{part} is handed over"));
        self.ask(node, Ask::Release(part, held.epoch), Asked::Release);
    }

    fn stop_if_empty(&mut self, node: u8) {
        let known = &self.nodes[usize::from(node)];
        let busy = |share: &Share| share.held.is_some() || share.progress != Progress::Idle;
        if known.leaving && !known.shares.iter().any(busy) {
            self.note(|| format!("n{node}      has left"));
            self.stop(node);
        }
    }

    pub(super) fn drives(&self, node: u8, slot: Slot) -> bool {
        self.nodes[usize::from(node)]
            .held(self.part_of(slot))
            .is_some_and(|it| it.is_busy_with(slot))
    }
}
