//! What a coordinator does with the requests of clients and operators.

use unanimous_core::commit::Key;
use unanimous_core::id::{BranchId, Timestamp};
use unanimous_core::saga::{Action, Begun, Phase, Plan, Record, SagaTxn};
use unanimous_core::{Decision, Input, Opaque, Outcome, Reason, Refusal, Stage};

use super::event::{Message, Party, Reply, Request, Verdict, Want, What, Wished};
use super::exhibit::SagaExhibit;
use super::node::{Fed, Live, Out, stage_of};
use super::operator::resolution;
use super::oracle::Told;
use super::service::Cell;
use super::world::{Truth, World};
use crate::event::Slot;
use crate::world::START_MS;

impl World {
    pub(super) fn requested(&mut self, node: u8, order: u8, request: Request) {
        let known = &self.nodes[usize::from(node)];
        if !known.up || !known.owner {
            return;
        }
        self.note(|| format!("n{node}      o{order} asks {request:?}"));
        match request {
            Request::Begin => self.begin(node, order),
            Request::Status(slot) => self.status(node, order, slot),
            Request::Wish(slot, wished) => self.wished(node, order, slot, wished),
            Request::Retry(slot) => {
                let _ = self.feed(node, slot, Input::RetryAsked);
            }
            Request::Resolve(slot, decision) => self.resolve(node, slot, decision),
        }
    }

    /// Begins a saga, or finds the one that was begun under the same key.
    fn begin(&mut self, node: u8, order: u8) {
        let key = self.names.keys[usize::from(order)].clone();
        let named = |begun: &Begun| begun.key.as_ref().is_some_and(|it| it.text == key);
        let has_key = |record: &Record| matches!(record, Record::Begun(begun) if named(begun));
        let found = self.journal.find_first(has_key);
        if let Some(slot) = found.filter(|_| self.exhibit != Some(SagaExhibit::KeyBeginsTwice)) {
            // A former owner sees the records of the new one once they are durable.
            let owns = self.nodes[usize::from(node)].epoch == self.journal.epoch();
            if owns || !self.journal.durable_records(slot).is_empty() {
                self.reply_gated(node, slot, order, Reply::Begun(slot));
            }
            return;
        }
        if self.strikes(self.faults.full) || self.txns.len() >= 60 {
            return self.reply(node, order, Reply::Busy);
        }
        let slot = Slot(self.txns.len() as u8);
        let now = self.time_of(node);
        let wanted = &self.orders[usize::from(order)];
        // A client names a time, by a clock that is right.
        let start_at = wanted.start_in_ms.map(|ms| Timestamp(START_MS + self.now_ms + ms));
        let begun = Begun {
            start_at,
            timeout_ms: wanted.timeout_ms,
            deadline: wanted.timeout_ms.map(|ms| start_at.unwrap_or(now).after_ms(ms)),
            steps: wanted.steps.clone(),
            input: Opaque::default(),
            key: Some(Key { text: key, fingerprint: [0; 16] }),
            memo: Opaque::default(),
        };
        let cells = wanted.shares.iter().map(|share| Cell::new(*share)).collect();
        self.txns.push(Truth { order, cells, told: Told::default() });
        self.totals.txns += 1;
        self.note(|| format!("n{node}      {slot} begins for o{order}"));
        let is_message = self.orders[usize::from(order)].is_local(0);
        let (machine, step) = SagaTxn::begin(begun, now);
        let known = self.node(node);
        known.insert(slot, Live::new(machine, 0));
        known.waiters.push((slot, order));
        let _ = self.take(node, slot, step, None);
        if is_message && self.exhibit == Some(SagaExhibit::AnnouncedIsPublished) {
            self.unbidden.push((node, slot, Input::CommitAsked(Vec::new())));
        }
    }

    /// Answers with how far the saga has come.
    fn status(&mut self, node: u8, order: u8, slot: Slot) {
        let known = &self.nodes[usize::from(node)];
        if !known.owner {
            return;
        }
        let owns = known.epoch == self.journal.epoch();
        let found = match known.live(slot) {
            Some(live) => Some((live.stage(), live.stored)),
            None => {
                let records = match owns {
                    true => self.journal.read(slot),
                    false => self.journal.durable_records(slot),
                };
                let replayed = SagaTxn::replay(records).ok();
                replayed.map(|machine| (stage_of(&machine), records.len()))
            }
        };
        match found {
            Some((stage, version)) => {
                let reply = Reply::Stage(slot, stage, version as u8);
                self.reply_gated(node, slot, order, reply);
            }
            // Only the owner can tell that there is nothing.
            None if owns => self.reply_gated(node, slot, order, Reply::Unknown(slot)),
            None => {}
        }
    }

    fn wished(&mut self, node: u8, order: u8, slot: Slot, wished: Wished) {
        let Some(live) = self.nodes[usize::from(node)].live(slot) else {
            return self.wished_too_late(node, order, slot, wished);
        };
        let running = live.machine.durable().phase() == Phase::Running;
        let (conditional, input) = match wished.what {
            Want::Cancel => (None, self.cancel(wished.number)),
            Want::CancelIf(version) => (Some(version), self.cancel(wished.number)),
            Want::Signal(step) => (None, signal(step, wished.number)),
            Want::Commit => (None, Input::CommitAsked(Vec::new())),
        };
        let changed = conditional.is_some_and(|seen| usize::from(seen) != live.stored);
        if running && changed && self.exhibit != Some(SagaExhibit::CancelIgnoresVersion) {
            let reply = Reply::Granted(slot, wished, Verdict::Changed);
            return self.reply_gated(node, slot, order, reply);
        }
        if let (Want::Signal(step), Some(SagaExhibit::SignalForAll)) = (wished.what, self.exhibit) {
            self.signal_all(node, slot, step, wished.number);
        }
        let fed = self.feed(node, slot, input);
        let verdict = match (fed, wished.what) {
            (Fed::Lost, _) => return,
            (Fed::Taken, Want::Signal(_)) => Verdict::Signalled,
            (Fed::Taken, Want::Commit) => match self.is_published(node, slot) {
                true => Verdict::Published,
                // The source is being asked.
                false => Verdict::Other,
            },
            (Fed::Taken, Want::Cancel | Want::CancelIf(_)) => {
                match (running && changed, self.phase_seen(node, slot)) {
                    (true, _) => Verdict::Changed,
                    (false, Some(Phase::Unwinding | Phase::Ended(Outcome::Aborted))) => {
                        Verdict::Cancelled
                    }
                    (
                        false,
                        Some(Phase::Running | Phase::Ended(Outcome::Committed | Outcome::Mixed))
                        | None,
                    ) => Verdict::Other,
                }
            }
            (Fed::Refused(Refusal::Pivoting(_)), Want::Cancel | Want::CancelIf(_)) => {
                if self.exhibit == Some(SagaExhibit::PivotCancelled) {
                    self.force_unwinding(node, slot);
                }
                Verdict::TooLate
            }
            (
                Fed::Refused(Refusal::Decided(_)),
                Want::Cancel | Want::CancelIf(_) | Want::Commit,
            ) => {
                if self.exhibit == Some(SagaExhibit::SentAndCancelled) {
                    self.force_unwinding(node, slot);
                }
                Verdict::TooLate
            }
            (Fed::Refused(_), _) => Verdict::Other,
        };
        self.reply_gated(node, slot, order, Reply::Granted(slot, wished, verdict));
    }

    /// The machine is gone, with its saga at its end.
    fn wished_too_late(&mut self, node: u8, order: u8, slot: Slot, wished: Wished) {
        let owns = self.nodes[usize::from(node)].epoch == self.journal.epoch();
        if !owns {
            return;
        }
        let verdict = match (self.stored_phase(slot), wished.what) {
            (None, _) => return self.reply_gated(node, slot, order, Reply::Unknown(slot)),
            (Some(Phase::Ended(Outcome::Committed)), Want::Cancel | Want::CancelIf(_)) => {
                Verdict::TooLate
            }
            (Some(Phase::Ended(Outcome::Aborted)), Want::Cancel | Want::CancelIf(_)) => {
                Verdict::Cancelled
            }
            (Some(Phase::Ended(Outcome::Committed)), Want::Commit) => Verdict::Published,
            (Some(Phase::Ended(Outcome::Aborted)), Want::Commit) => Verdict::TooLate,
            (Some(_), _) => Verdict::Other,
        };
        self.reply_gated(node, slot, order, Reply::Granted(slot, wished, verdict));
    }

    fn cancel(&self, number: u16) -> Input {
        Input::AbortAsked(Reason::new("cancel", &number.to_string()))
    }

    /// Takes a signal for every step that waits for one.
    fn signal_all(&mut self, node: u8, slot: Slot, but: u8, number: u16) {
        let waits = |plan: &Plan| matches!(plan.action, Action::Signal(_));
        let plans = (0_u8..).zip(&self.order_of(slot).steps);
        let others = plans.filter(|(step, plan)| waits(plan) && *step != but);
        let others: Vec<_> = others.map(|(step, _)| step).collect();
        for step in others {
            self.unbidden.push((node, slot, signal(step, number)));
        }
    }

    /// What the machine, or the journal if it is gone, has the saga at.
    fn phase_seen(&self, node: u8, slot: Slot) -> Option<Phase> {
        match self.nodes[usize::from(node)].live(slot) {
            Some(live) => Some(live.machine.durable().phase()),
            None => self.stored_phase(slot),
        }
    }

    fn is_published(&self, node: u8, slot: Slot) -> bool {
        match self.nodes[usize::from(node)].live(slot) {
            Some(live) => live.machine.durable().is_published(),
            None => self.stored_phase(slot) == Some(Phase::Ended(Outcome::Committed)),
        }
    }

    /// An operator settles what is stuck: sees to it that it is so, then says so.
    fn resolve(&mut self, node: u8, slot: Slot, decision: Decision) {
        let Some(live) = self.nodes[usize::from(node)].live(slot) else { return };
        if live.stage() != Stage::NeedsAttention {
            return;
        }
        let durable = live.machine.durable().clone();
        self.settle(slot, &durable, decision);
        let _ = self.feed(node, slot, Input::ResolveAsked(resolution(decision)));
    }

    fn reply_gated(&mut self, node: u8, slot: Slot, order: u8, reply: Reply) {
        self.admit(node, slot, None, std::iter::once(Out::Reply(order, reply)));
    }

    /// A reply leaves the coordinator.
    pub(super) fn reply(&mut self, node: u8, order: u8, reply: Reply) {
        self.check_reply(node, order, reply);
        let what = What::Reply(order, reply);
        self.send(Message { from: Party::Node(node), to: Party::Client, what });
    }
}

fn signal(step: u8, number: u16) -> Input {
    Input::Signalled(BranchId(u16::from(step)), Opaque::new(&number.to_be_bytes()))
}
