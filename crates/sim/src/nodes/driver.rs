//! The driver of the machines, in the same steps as the production one.
//!
//! It holds no rule of the protocol. What it appends is on its way for a while; what rests on it waits
//! in the gate of the part.

use unanimous_core::commit::Record;
use unanimous_core::id::{BranchId, Epoch, Lsn, Timestamp};
use unanimous_core::{
    Answer, Decision, Durability, Effect, Input, Opaque, Refusal, Stage, Step, Verb,
};

use super::event::{Event, Message, Part, Party, Reply, What};
use super::node::{Live, Node, Out, Waiter};
use super::store::Entry;
use super::world::World;
use crate::coordinator::{Wait, stage_of};
use crate::event::{Says, Slot};
use crate::world::START_MS;

const CALL_PATIENCE_MS: u64 = 200;

/// What became of an input.
#[must_use]
pub(super) enum Fed {
    Taken,
    Refused(Refusal),
    /// The node does not drive the transaction.
    Lost,
}

impl World {
    pub(super) fn node(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    /// What a node's own clock shows.
    pub(super) fn time_of(&self, node: u8) -> Timestamp {
        let clock_ms = self.nodes[usize::from(node)].clock_ms;
        Timestamp((START_MS + self.now_ms).saturating_add_signed(clock_ms))
    }

    pub(super) fn epoch_of(&self, node: u8, part: Part) -> Option<Epoch> {
        self.nodes[usize::from(node)].held(part).map(|held| held.epoch)
    }

    /// Gives one input to a machine and sees to what comes of it.
    pub(super) fn feed(&mut self, node: u8, slot: Slot, input: Input) -> Fed {
        let (now, part) = (self.time_of(node), self.part_of(slot));
        self.note(|| format!("n{node}      {slot} > {input:?}"));
        let held = self.node(node).open_share(part);
        let Some(live) = held.and_then(|held| held.live.get_mut(&slot)) else { return Fed::Lost };
        let mut step = live.machine.handle(now, input);
        let refused = step.refused.take();
        self.take(node, slot, step);
        match refused {
            Some(refusal) => Fed::Refused(refusal),
            None => Fed::Taken,
        }
    }

    /// Appends the records of a step, and lets its effects out when the gate allows.
    pub(super) fn take(&mut self, node: u8, slot: Slot, step: Step<Record>) {
        let forced = match step.records.is_empty() {
            true => None,
            false => self.append(node, slot, step.records),
        };
        let now = self.time_of(node);
        // Timers run by a clock that cannot be set, from when they are asked for.
        let out = |effect| match effect {
            Effect::WakeAt(at) => Out::Wake { in_ms: at.since_ms(now) },
            Effect::Call(branch, verb) => Out::Call(branch, verb),
            Effect::Undo(branch) => Out::Call(branch, Verb::Rollback),
            Effect::Tell(stage) => Out::Tell(stage),
        };
        let is_undone = |effect: &Effect| matches!(effect, Effect::Undo(_));
        let (undone, others): (Vec<_>, Vec<_>) = step.effects.into_iter().partition(is_undone);
        self.admit(node, slot, None, undone.into_iter().map(out));
        self.admit(node, slot, forced, others.into_iter().map(out));
        let part = self.part_of(slot);
        let Some(held) = self.node(node).held_mut(part) else { return };
        let ended = |live: &Live| live.machine.durable().phase().ended().is_some();
        if held.live.get(&slot).is_some_and(ended) {
            held.live.remove(&slot);
        }
    }

    /// Queues records for the journal, and returns their position if effects have to wait for it.
    fn append(&mut self, node: u8, slot: Slot, records: Vec<Record>) -> Option<Lsn> {
        let part = self.part_of(slot);
        let is_forced = |it: &Record| it.durability() == Durability::Forced;
        let forced = records.iter().any(is_forced);
        if self.tracing() {
            for record in &records {
                let mark = if is_forced(record) { '!' } else { ' ' };
                self.note(|| format!("n{node}      {slot}  {mark}{record:?}"));
            }
        }
        let held = self.node(node).held_mut(part).expect("it has just taken an input");
        let live = held.live.get_mut(&slot).expect("as above");
        let ends = live.machine.durable().phase().ended().is_some();
        let expected = live.records.len();
        live.records.extend_from_slice(&records);
        held.writer.queue.push(Entry { slot, expected, records, ends });
        held.writer.appended += 1;
        let lsn = Lsn(held.writer.appended);
        self.check_replay(node, slot);
        self.plan_write(node, part, if forced { Durability::Forced } else { Durability::Lazy });
        forced.then_some(lsn)
    }

    pub(super) fn admit(
        &mut self,
        node: u8,
        slot: Slot,
        forced: Option<Lsn>,
        effects: impl Iterator<Item = Out>,
    ) {
        let (part, id) = (self.part_of(slot), self.id_of(slot));
        let Some(held) = self.node(node).held_mut(part) else { return };
        let mut free = Vec::new();
        held.gate.admit(id, forced, effects, |out| free.push((slot, out)));
        self.perform(node, free);
    }

    /// The store has taken everything of a part up to this position.
    pub(super) fn flushed(&mut self, node: u8, part: Part, lsn: Lsn) {
        let Some(held) = self.node(node).held_mut(part) else { return };
        let mut free = Vec::new();
        held.gate.flushed(lsn, |txn, out| free.push((Slot::of(txn), out)));
        self.perform(node, free);
    }

    fn perform(&mut self, node: u8, free: Vec<(Slot, Out)>) {
        for (slot, out) in free {
            self.note(|| format!("n{node}      {slot}   -> {out:?}"));
            match out {
                Out::Call(branch, verb) => self.call(node, slot, branch, verb),
                Out::Tell(stage) => self.tell(node, slot, stage),
                Out::Wake { in_ms } => self.wake(node, slot, in_ms),
                Out::Reply(order, reply) => self.reply(node, order, reply),
            }
        }
    }

    fn call(&mut self, node: u8, slot: Slot, branch: BranchId, verb: Verb) {
        let (part, call) = (self.part_of(slot), self.next_number());
        let held = self.node(node).held_mut(part);
        let Some(live) = held.and_then(|held| held.live.get_mut(&slot)) else { return };
        live.calls[branch.index()] = call;
        let branch = branch.0 as u8;
        self.after(CALL_PATIENCE_MS, Event::Timeout { node, slot, branch, verb, call });
        self.send_call(node, slot, branch, verb, call);
    }

    /// Tells a branch how it ends, without waiting for an answer.
    pub(super) fn end(&mut self, node: u8, slot: Slot, branch: u8, decision: Decision) {
        let verb = match decision {
            Decision::Commit => Verb::Commit,
            Decision::Abort => Verb::Rollback,
        };
        self.send_call(node, slot, branch, verb, 0);
    }

    fn send_call(&mut self, node: u8, slot: Slot, branch: u8, verb: Verb, call: u32) {
        let to = Party::Resource(self.cell(slot, branch).resource);
        let what = What::Call { slot, branch, verb, call };
        self.send(Message { from: Party::Node(node), to, what });
    }

    fn tell(&mut self, node: u8, slot: Slot, stage: Stage) {
        self.check_told(slot, stage);
        let part = self.part_of(slot);
        loop {
            let Some(held) = self.node(node).held_mut(part) else { return };
            let over = |it: &Waiter| it.slot == slot && it.wait.is_over(stage);
            let Some(index) = held.waiters.iter().position(over) else { return };
            let waiter = held.waiters.swap_remove(index);
            let reply = match waiter.wait {
                Wait::Begun => Reply::Begun(slot),
                Wait::Decided | Wait::Ended => Reply::Stage(slot, stage),
            };
            self.reply(node, waiter.order, reply);
        }
    }

    fn wake(&mut self, node: u8, slot: Slot, in_ms: u64) {
        let (part, token) = (self.part_of(slot), self.next_number());
        let held = self.node(node).held_mut(part);
        let Some(live) = held.and_then(|held| held.live.get_mut(&slot)) else { return };
        live.wake = token;
        let jitter_ms = self.rng.below(5);
        self.after(in_ms.saturating_add(jitter_ms), Event::Wake { node, slot, token });
    }

    pub(super) fn woke(&mut self, node: u8, slot: Slot, token: u32) {
        let part = self.part_of(slot);
        let held = self.node(node).held_mut(part);
        let live = held.and_then(|held| held.live.get(&slot));
        if live.is_some_and(|live| live.wake == token) {
            let _ = self.feed(node, slot, Input::Woke);
        }
    }

    /// A call ended: by an answer, or because nobody waits for it any longer.
    pub(super) fn answered(
        &mut self,
        node: u8,
        (slot, branch, verb): (Slot, u8, Verb),
        call: u32,
        says: Option<Says>,
    ) {
        let answer = self.heard(says);
        let part = self.part_of(slot);
        let held = self.node(node).held_mut(part);
        let Some(live) = held.and_then(|held| held.live.get_mut(&slot)) else { return };
        if live.calls[usize::from(branch)] != call {
            return;
        }
        live.calls[usize::from(branch)] = 0;
        let _ = self.feed(node, slot, Input::Answered(BranchId(u16::from(branch)), verb, answer));
    }

    fn heard(&self, says: Option<Says>) -> Answer {
        match says {
            None => Answer::Silent(self.names.silence.clone()),
            Some(Says::Yes) => Answer::Yes(Opaque::default()),
            Some(Says::ReadOnly) => Answer::ReadOnly(Opaque::default()),
            Some(Says::No) => Answer::No(self.names.refusal.clone()),
            Some(Says::Lost) => Answer::Lost(self.names.refusal.clone()),
            Some(Says::Done) => Answer::Done(Opaque::default()),
            Some(Says::Heuristic(kind)) => Answer::Heuristic(kind),
            Some(Says::Working) => Answer::Working,
        }
    }

    /// How far a node that drives a transaction has it; `None` if it does not.
    pub(super) fn live_stage(&self, node: u8, slot: Slot) -> Option<Stage> {
        let held = self.nodes[usize::from(node)].held(self.part_of(slot))?;
        Some(stage_of(&held.live.get(&slot)?.machine))
    }
}
