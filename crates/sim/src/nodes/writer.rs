//! From an owner to the shared journal: batches, one at a time, each read back if its answer is lost.
//!
//! An append whose result is unknown is neither done nor failed. What the journal holds tells: all of
//! it, and it was taken; none of it, and it is sent again, because the first may still arrive and only
//! one of the two can fit; another epoch, and nothing that was waiting for it is ever let out.

use std::rc::Rc;

use unanimous_core::id::{Epoch, Lsn};
use unanimous_core::{Decision, Durability, Outcome, Stage};

use super::event::{Answer, Ask, Event, Found, Part, Reply};
use super::exhibit::NodesExhibit;
use super::node::Asked;
use super::store::Batch;
use super::world::World;
use crate::event::Slot;

/// Records that nothing is forced with wait this long for company.
const LINGER_MS: u64 = 20;

impl World {
    /// Sees to it that what is queued is sent, soon or with what comes next.
    pub(super) fn plan_write(&mut self, node: u8, part: Part, durability: Durability) {
        let delay_ms = match durability {
            Durability::Forced => self.rng.below(3),
            Durability::Lazy => LINGER_MS,
        };
        let (now_ms, token) = (self.now_ms, self.next_number());
        let Some(held) = self.node(node).held_mut(part) else { return };
        let at_ms = now_ms + delay_ms;
        if held.writer.planned.is_none_or(|(planned_ms, _)| planned_ms > at_ms) {
            held.writer.planned = Some((at_ms, token));
            let epoch = held.epoch;
            self.after(delay_ms, Event::Write { node, part, epoch, token });
        }
    }

    /// Sends what has gathered.
    pub(super) fn write(&mut self, node: u8, part: Part, epoch: Epoch, token: u32) {
        let Some(held) = self.node(node).held_mut(part).filter(|it| it.epoch == epoch) else {
            return;
        };
        let writer = &mut held.writer;
        if writer.planned.is_none_or(|(_, planned)| planned != token) {
            return;
        }
        writer.planned = None;
        // What comes after the batch that is under way is sent after it.
        if writer.under_way.is_some() || writer.queue.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut writer.queue);
        let batch = Rc::new(Batch { part, epoch, entries });
        writer.under_way = Some((Rc::clone(&batch), Lsn(writer.appended)));
        self.send_batch(node, batch);
    }

    fn send_batch(&mut self, node: u8, batch: Rc<Batch>) {
        let (part, epoch) = (batch.part, batch.epoch);
        self.note(|| format!("n{node}      p{part} appends {} entries", batch.entries.len()));
        self.ask(node, Ask::Append(batch), Asked::Append(part, epoch));
    }

    /// The store has answered an append, or has not.
    pub(super) fn appended(&mut self, node: u8, part: Part, epoch: Epoch, answer: Option<&Answer>) {
        if self.epoch_of(node, part) != Some(epoch) {
            return;
        }
        match (answer, self.exhibit) {
            (Some(Answer::Taken), _) | (None, Some(NodesExhibit::UnknownIsDone)) => {
                self.written(node, part);
            }
            (None, Some(NodesExhibit::UnknownIsFailed)) => self.take_as_failed(node, part),
            (None, Some(NodesExhibit::UnknownIsForgotten)) => {
                if let Some(held) = self.node(node).held_mut(part) {
                    held.writer.under_way = None;
                }
            }
            (Some(_), Some(NodesExhibit::RefusedLetsOut)) => {
                self.written(node, part);
                self.read_back(node, part, epoch);
            }
            (Some(_) | None, _) => self.read_back(node, part, epoch),
        }
    }

    fn read_back(&mut self, node: u8, part: Part, epoch: Epoch) {
        let Some(held) = self.nodes[usize::from(node)].held(part) else { return };
        let under_way = held.writer.under_way.iter();
        let slots = under_way.flat_map(|(batch, _)| batch.entries.iter().map(|it| it.slot));
        let slots: Rc<[Slot]> = slots.collect();
        self.ask(node, Ask::Look(part, slots), Asked::ReadBack(part, epoch));
    }

    /// The store has said what it holds of a batch whose fate was unknown.
    pub(super) fn was_read_back(
        &mut self,
        node: u8,
        part: Part,
        epoch: Epoch,
        answer: Option<Found<'_>>,
    ) {
        if self.epoch_of(node, part) != Some(epoch) {
            return;
        }
        let Some((current, found)) = answer else { return self.read_back(node, part, epoch) };
        if current > epoch {
            return self.depose(node, part);
        }
        let held = self.node(node).held_mut(part).expect("it has an epoch");
        let Some((batch, _)) = &held.writer.under_way else { return };
        let batch = Rc::clone(batch);
        let holds = |slot| found.iter().find(|(it, _)| *it == slot).map_or(0, |(_, it)| it.len());
        let is_there = batch
            .entries
            .iter()
            .all(|entry| holds(entry.slot) >= entry.expected + entry.records.len());
        self.note(|| format!("n{node}      p{part} reads back: taken {is_there}"));
        match is_there {
            true => self.written(node, part),
            false => self.send_batch(node, batch),
        }
    }

    /// The batch under way is durable.
    fn written(&mut self, node: u8, part: Part) {
        let Some(held) = self.node(node).held_mut(part) else { return };
        let Some((_, upto)) = held.writer.under_way.take() else { return };
        let more = !held.writer.queue.is_empty();
        self.flushed(node, part, upto);
        if more {
            self.plan_write(node, part, Durability::Forced);
        }
        self.close_if_idle(node, part);
    }

    /// An exhibit: whoever waits hears that it was aborted, and the branches too.
    fn take_as_failed(&mut self, node: u8, part: Part) {
        let Some(held) = self.node(node).held_mut(part) else { return };
        let Some((batch, _)) = held.writer.under_way.take() else { return };
        let mut failed: Vec<_> = batch.entries.iter().map(|entry| entry.slot).collect();
        failed.dedup();
        for slot in failed {
            let Some(held) = self.node(node).held_mut(part) else { return };
            held.live.remove(&slot);
            held.writer.queue.retain(|entry| entry.slot != slot);
            let waiters = held.waiters.extract_if(.., |it| it.slot == slot);
            for waiter in waiters.collect::<Vec<_>>() {
                let stage = Stage::Ended(Outcome::Aborted);
                self.reply(node, waiter.order, Reply::Stage(slot, stage));
            }
            for branch in 0..self.txns[slot.index()].cells.len() as u8 {
                self.end(node, slot, branch, Decision::Abort);
            }
        }
    }
}
