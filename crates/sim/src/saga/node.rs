//! A coordinator: the driver of the saga machines, in the same steps as the production one.
//!
//! It holds no rule of the protocol. Whatever leaves it goes through the gate.

use unanimous_core::gate::Gate;
use unanimous_core::id::{BranchId, Epoch, Lsn, Timestamp};
use unanimous_core::retry::Call as Calling;
use unanimous_core::saga::{Action, Phase, Record, SagaTxn, Standing};
use unanimous_core::{
    Answer, Decision, Durability, Effect, Input, Opaque, Outcome, Refusal, Stage, Step, Verb,
};

use super::event::{Call, Event, Message, Party, Reply, STEPS, Says, What};
use super::exhibit::SagaExhibit;
use super::operator::resolution;
use super::world::World;
use crate::event::Slot;
use crate::journal::{Entry, Lost};
use crate::world::START_MS;

/// One coordinator process.
#[derive(Default)]
pub(super) struct Node {
    pub(super) up: bool,
    pub(super) paused: bool,
    /// Grows with each start, so that nothing of a former life is taken for its own.
    pub(super) life: u32,
    /// Whether it believes to own the shard.
    pub(super) owner: bool,
    pub(super) epoch: Epoch,
    pub(super) clock_ms: i64,
    pub(super) live: Vec<Option<Live>>,
    pub(super) gate: Gate<Out>,
    /// Orders that wait for their saga to exist.
    pub(super) waiters: Vec<(Slot, u8)>,
    /// What happened while it was paused.
    pub(super) backlog: Vec<Event>,
}

/// A saga that a coordinator is driving.
pub(super) struct Live {
    pub(super) machine: SagaTxn,
    /// Records in the journal, as far as this coordinator knows.
    pub(super) stored: usize,
    /// The call of each step that is waited for; zero if none is.
    calls: [u32; STEPS],
    wake: u32,
    /// Steps whose last action was refused, for an exhibit.
    refused: u8,
}

/// What became of an input.
#[must_use]
pub(super) enum Fed {
    Taken,
    Refused(Refusal),
    /// The machine is gone, or another coordinator was first: there is nothing to answer.
    Lost,
}

/// Whatever shows a saga to somebody.
#[derive(Debug)]
pub(super) enum Out {
    Call(BranchId, Verb),
    Tell(Stage),
    Wake { in_ms: u64 },
    Reply(u8, Reply),
}

const CALL_PATIENCE_MS: u64 = 200;
/// However long a timer is, the clock is looked at this often: somebody may have set it.
const WAKE_MS_MAX: u64 = 2_000;

impl Node {
    pub(super) fn live(&self, slot: Slot) -> Option<&Live> {
        self.live.get(slot.index())?.as_ref()
    }

    pub(super) fn live_mut(&mut self, slot: Slot) -> Option<&mut Live> {
        self.live.get_mut(slot.index())?.as_mut()
    }

    pub(super) fn insert(&mut self, slot: Slot, live: Live) {
        if slot.index() >= self.live.len() {
            self.live.resize_with(slot.index() + 1, || None);
        }
        self.live[slot.index()] = Some(live);
    }

    /// Forgets all that a crash, or losing the shard, takes.
    pub(super) fn forget(&mut self) {
        self.owner = false;
        self.live.clear();
        self.gate = Gate::default();
        self.waiters.clear();
    }
}

impl Live {
    pub(super) fn new(machine: SagaTxn, stored: usize) -> Self {
        Self { machine, stored, calls: [0; STEPS], wake: 0, refused: 0 }
    }

    pub(super) fn stage(&self) -> Stage {
        stage_of(&self.machine)
    }
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

    /// Gives one input to a machine and sees to what comes of it.
    pub(super) fn feed(&mut self, node: u8, slot: Slot, input: Input) -> Fed {
        let now = self.time_of(node);
        self.note(|| format!("n{node}      {slot} > {input:?}"));
        let Some(live) = self.node(node).live_mut(slot) else { return Fed::Lost };
        let mut step = live.machine.handle(now, input);
        let refused = step.refused.take();
        match (self.take(node, slot, step, None), refused) {
            (Err(_), _) => Fed::Lost,
            (Ok(()), Some(refusal)) => Fed::Refused(refusal),
            (Ok(()), None) => Fed::Taken,
        }
    }

    /// Appends the records of a step, and lets its effects out when the gate allows.
    ///
    /// # Errors
    ///
    /// Another coordinator has written first. What was asked for has not happened.
    pub(super) fn take(
        &mut self,
        node: u8,
        slot: Slot,
        mut step: Step<Record>,
        rests_on: Option<Lsn>,
    ) -> Result<(), Lost> {
        let mut forced = rests_on;
        if !step.records.is_empty() {
            match self.append(node, slot, &step.records) {
                Ok(lsn) if step.records.iter().any(|it| self.is_forced(it)) => forced = Some(lsn),
                Ok(_) => {}
                Err(lost) if self.exhibit == Some(SagaExhibit::LoserGoesOn) => {
                    self.note(|| format!("n{node}      {slot} lost ({lost:?}), goes on"));
                }
                Err(Lost::Conflict) => {
                    self.reload(node, slot);
                    return Err(Lost::Conflict);
                }
                Err(Lost::Fenced) => {
                    self.depose(node);
                    return Err(Lost::Fenced);
                }
            }
        }
        self.botch(node, slot, &mut step);
        let now = self.time_of(node);
        // Timers run by a clock that cannot be set, from when they are asked for.
        let out = |effect| match effect {
            Effect::WakeAt(at) => Out::Wake { in_ms: at.since_ms(now).min(WAKE_MS_MAX) },
            Effect::Call(step, verb) => Out::Call(step, verb),
            Effect::Undo(_) => unreachable!("of no saga"),
            Effect::Tell(stage) => Out::Tell(stage),
        };
        self.admit(node, slot, forced, step.effects.into_iter().map(out));
        if !step.records.is_empty() {
            self.check_replay(node, slot);
        }
        let known = self.node(node);
        if known.live(slot).is_some_and(|live| matches!(live.stage(), Stage::Ended(_))) {
            known.live[slot.index()] = None;
        }
        Ok(())
    }

    fn append(&mut self, node: u8, slot: Slot, records: &[Record]) -> Result<Lsn, Lost> {
        let known = &self.nodes[usize::from(node)];
        let live = known.live(slot).expect("it has just taken an input");
        let ends = matches!(live.stage(), Stage::Ended(_));
        let entry = Entry { slot, epoch: known.epoch, expected: live.stored, records, ends };
        let taken = self.journal.append(&entry);
        let epoch = entry.epoch;
        if self.tracing() {
            for record in records {
                let mark = if self.is_forced(record) { '!' } else { ' ' };
                self.note(|| format!("n{node}      {slot}  {mark}{record:?}"));
            }
        }
        let lsn = match taken {
            Ok(lsn) => lsn,
            Err(lost) => {
                self.note(|| format!("n{node}      {slot}   append refused: {lost:?}"));
                return Err(lost);
            }
        };
        self.check_append(slot, epoch, records);
        self.totals.records += records.len() as u64;
        if records.iter().any(|it| self.is_forced(it)) {
            self.flush_soon();
        } else {
            self.flush_later();
        }
        if self.strikes(self.faults.retried_append) {
            // The first attempt was taken, its reply lost; the store refuses the second.
            let live = self.nodes[usize::from(node)].live(slot).expect("as above");
            let retry = Entry { slot, epoch, expected: live.stored, records, ends: false };
            self.journal.append(&retry)?;
            self.check_append(slot, epoch, records);
        }
        let live = self.node(node).live_mut(slot).expect("as above");
        live.stored += records.len();
        Ok(lsn)
    }

    fn is_forced(&self, record: &Record) -> bool {
        let lazy = match (self.exhibit, record) {
            (Some(SagaExhibit::LazyBegin), Record::Begun(_))
            | (Some(SagaExhibit::LazyStart), Record::Started)
            | (Some(SagaExhibit::LazyResult), Record::Acted(..))
            | (Some(SagaExhibit::LazyUnwinding), Record::Unwinding { .. })
            | (Some(SagaExhibit::LazyUndone), Record::Undone(_)) => true,
            (Some(_) | None, _) => false,
        };
        !lazy && record.durability() == Durability::Forced
    }

    /// Mistakes of a driver that sees what a step says.
    fn botch(&mut self, node: u8, slot: Slot, step: &mut Step<Record>) {
        let unwinding = step.records.iter().find_map(|record| match record {
            Record::Unwinding { reason, .. } => Some(reason),
            Record::Begun(_)
            | Record::Started
            | Record::Timed(..)
            | Record::Acted(..)
            | Record::Announced(_)
            | Record::Refused(..)
            | Record::Undone(_)
            | Record::Kept(_)
            | Record::Stuck(..)
            | Record::Unstuck(_)
            | Record::Resolved(_) => None,
        });
        if self.exhibit == Some(SagaExhibit::SentAtItsTurn) {
            for record in &step.records {
                if let Record::Announced(step) = record {
                    self.send_call(node, slot, *step, Verb::Act, 0);
                }
            }
        }
        let Some(reason) = unwinding else { return };
        if self.exhibit == Some(SagaExhibit::TimeoutEndsAtOnce) && &*reason.kind == "timeout" {
            step.effects = vec![Effect::Tell(Stage::Ended(Outcome::Aborted))];
        }
        let Some(live) = self.nodes[usize::from(node)].live(slot) else { return };
        let durable = live.machine.durable();
        if self.exhibit == Some(SagaExhibit::InFlightNotAwaited) {
            let in_flight = |it: &BranchId| {
                let progress = live.machine.progress(*it);
                progress.is_some_and(|it| it.call() == Calling::InFlight)
                    && durable.standing(*it) == Standing::Waiting
            };
            for step in durable.steps().filter(in_flight).collect::<Vec<_>>() {
                self.stop_waiting(node, slot, step);
            }
        } else if self.exhibit == Some(SagaExhibit::ActsWhileUnwinding) {
            let unreached = |it: &BranchId| {
                let plan = durable.plan(*it).expect("one of the steps");
                durable.standing(*it) == Standing::Unreached
                    && matches!(plan.action, Action::Call(_))
            };
            for step in durable.steps().filter(unreached).collect::<Vec<_>>() {
                self.send_call(node, slot, step, Verb::Act, 0);
            }
        }
    }

    fn stop_waiting(&mut self, node: u8, slot: Slot, step: BranchId) {
        if let Some(live) = self.node(node).live_mut(slot) {
            live.calls[step.index()] = 0;
        }
        let answer = Answer::No(self.names.refusal.clone());
        self.unbidden.push((node, slot, Input::Answered(step, Verb::Act, answer)));
    }

    pub(super) fn admit(
        &mut self,
        node: u8,
        slot: Slot,
        forced: Option<Lsn>,
        effects: impl Iterator<Item = Out>,
    ) {
        let forced = forced.filter(|_| self.exhibit != Some(SagaExhibit::NoGate));
        let mut free = std::mem::take(&mut self.free);
        let mut held = Vec::new();
        for out in effects {
            let hasty = match out {
                Out::Tell(_) => self.exhibit == Some(SagaExhibit::ReplyBeforeFlush),
                Out::Call(..) | Out::Wake { .. } => false,
                Out::Reply(..) => self.exhibit == Some(SagaExhibit::StatusBeforeFlush),
            };
            if hasty {
                free.push((slot, out));
            } else {
                held.push(out);
            }
        }
        self.node(node).gate.admit(slot.id(), forced, held, |out| free.push((slot, out)));
        self.perform(node, free);
    }

    /// The node hears how much of the journal is durable.
    pub(super) fn flushed(&mut self, node: u8, lsn: Lsn) {
        let mut free = std::mem::take(&mut self.free);
        self.node(node).gate.flushed(lsn, |txn, out| free.push((Slot::of(txn), out)));
        self.perform(node, free);
    }

    fn perform(&mut self, node: u8, mut free: Vec<(Slot, Out)>) {
        for (slot, out) in free.drain(..) {
            self.note(|| format!("n{node}      {slot}   -> {out:?}"));
            match out {
                Out::Call(step, verb) => self.call(node, slot, step, verb),
                Out::Tell(stage) => self.tell(node, slot, stage),
                Out::Wake { in_ms } => self.wake(node, slot, in_ms),
                Out::Reply(order, reply) => self.reply(node, order, reply),
            }
        }
        self.free = free;
    }

    fn call(&mut self, node: u8, slot: Slot, step: BranchId, verb: Verb) {
        self.next_call += 1;
        let number = self.next_call;
        let exhibit = self.exhibit;
        let Some(live) = self.node(node).live_mut(slot) else { return };
        live.calls[step.index()] = number;
        if verb == Verb::Compensate {
            if exhibit == Some(SagaExhibit::RefusedIsNothing) && live.refused >> step.0 & 1 == 1 {
                live.calls[step.index()] = 0;
                let answer = Answer::Done(Opaque::default());
                return self.unbidden.push((node, slot, Input::Answered(step, verb, answer)));
            }
            if exhibit == Some(SagaExhibit::CompensatesAllAtOnce) {
                let steps = live.machine.durable().steps();
                for other in steps.filter(|it| *it != step) {
                    self.send_call(node, slot, other, verb, 0);
                }
            }
        }
        if exhibit == Some(SagaExhibit::UntoldIsDropped)
            && self.order_of(slot).is_local(step.index())
        {
            return self.stop_waiting(node, slot, step);
        }
        if exhibit == Some(SagaExhibit::AnnouncedIsSent)
            && self.order_of(slot).is_message(step.index())
        {
            let answer = Answer::Done(Opaque::default());
            return self.unbidden.push((node, slot, Input::Answered(step, verb, answer)));
        }
        let call = Call { slot, step: step.0 as u8, verb, number };
        self.after(CALL_PATIENCE_MS, Event::Timeout(node, call));
        self.send_call(node, slot, step, verb, number);
    }

    fn send_call(&mut self, node: u8, slot: Slot, step: BranchId, verb: Verb, number: u32) {
        let service = self.txns[slot.index()].cells[step.index()].service;
        let call = Call { slot, step: step.0 as u8, verb, number };
        let (from, to) = (Party::Node(node), Party::Service(service));
        self.send(Message { from, to, what: What::Call(call) });
    }

    /// A call was answered, or has been waited for long enough.
    pub(super) fn answered(&mut self, node: u8, call: Call, says: Option<Says>) {
        let Some(live) = self.nodes[usize::from(node)].live_mut(call.slot) else { return };
        let waited_for = &mut live.calls[usize::from(call.step)];
        if call.number == 0 || *waited_for != call.number {
            return;
        }
        *waited_for = 0;
        let bit = 1 << call.step;
        match (says, call.verb) {
            (Some(Says::No), Verb::Act) => live.refused |= bit,
            _ => live.refused &= !bit,
        }
        let done = Answer::Done(Opaque::new(&[call.step]));
        let no = Answer::No(self.names.refusal.clone());
        let answer = match (self.exhibit, says, call.verb) {
            (Some(SagaExhibit::CompensationSkipped), Some(Says::No), Verb::Compensate)
            | (Some(SagaExhibit::SilenceIsDone), None, _)
            | (Some(SagaExhibit::WorkingIsDone), Some(Says::Working), _) => done,
            (Some(SagaExhibit::SilenceIsRefused), None, Verb::Act) => no,
            (_, Some(Says::Done), _) => done,
            (_, Some(Says::No), _) => no,
            (_, Some(Says::Working), _) => Answer::Working,
            (_, None, _) => Answer::Silent(self.names.silence.clone()),
        };
        let step = BranchId(u16::from(call.step));
        let _ = self.feed(node, call.slot, Input::Answered(step, call.verb, answer));
        if self.exhibit == Some(SagaExhibit::DeadlineAfterPivot) {
            self.overrun(node, call.slot);
        }
    }

    /// The deadline undoes a saga whatever became of its pivot.
    fn overrun(&mut self, node: u8, slot: Slot) {
        let now = self.time_of(node);
        let Some(live) = self.nodes[usize::from(node)].live(slot) else { return };
        let durable = live.machine.durable();
        let is_late = durable.begun().deadline.is_some_and(|deadline| deadline <= now);
        if is_late && durable.phase() == Phase::Running {
            self.force_unwinding(node, slot);
        }
    }

    /// Writes what the machine refuses to.
    pub(super) fn force_unwinding(&mut self, node: u8, slot: Slot) {
        let reason = self.names.refusal.clone();
        let records = [Record::Unwinding { step: None, reason }];
        let known = &self.nodes[usize::from(node)];
        let Some(live) = known.live(slot) else { return };
        let entry = Entry {
            slot,
            epoch: known.epoch,
            expected: live.stored,
            records: &records,
            ends: false,
        };
        if self.journal.append(&entry).is_ok() {
            self.flush_soon();
            self.reload(node, slot);
        }
    }

    fn tell(&mut self, node: u8, slot: Slot, stage: Stage) {
        let stage = match (stage, self.exhibit) {
            (Stage::NeedsAttention, Some(SagaExhibit::StuckIsDone)) => {
                Stage::Ended(Outcome::Aborted)
            }
            (stage, Some(_) | None) => stage,
        };
        self.check_told(node, slot, stage);
        let waiting = |it: &(Slot, u8)| it.0 == slot;
        while let Some(index) = self.node(node).waiters.iter().position(waiting) {
            let (_, order) = self.node(node).waiters.swap_remove(index);
            self.reply(node, order, Reply::Begun(slot));
        }
        let clears_itself = self.exhibit == Some(SagaExhibit::AttentionClearsItself);
        if stage == Stage::NeedsAttention && clears_itself {
            let input = Input::ResolveAsked(resolution(Decision::Abort));
            self.unbidden.push((node, slot, input));
        }
    }

    fn wake(&mut self, node: u8, slot: Slot, in_ms: u64) {
        self.next_call += 1;
        let token = self.next_call;
        if self.exhibit == Some(SagaExhibit::WakeLost) && self.rng.chance(300) {
            return;
        }
        let Some(live) = self.node(node).live_mut(slot) else { return };
        live.wake = token;
        let jitter_ms = self.rng.below(5);
        self.after(in_ms + jitter_ms, Event::Wake { node, slot, token });
    }

    pub(super) fn woke(&mut self, node: u8, slot: Slot, token: u32) {
        let live = self.nodes[usize::from(node)].live(slot);
        if live.is_some_and(|live| live.wake == token) {
            let _ = self.feed(node, slot, Input::Woke);
        }
    }
}

pub(super) fn stage_of(machine: &SagaTxn) -> Stage {
    match machine.durable().phase() {
        Phase::Ended(outcome) => Stage::Ended(outcome),
        Phase::Running | Phase::Unwinding if machine.durable().needs_attention() => {
            Stage::NeedsAttention
        }
        Phase::Running | Phase::Unwinding => Stage::Begun,
    }
}
