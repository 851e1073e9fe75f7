//! A coordinator: the driver of the machines, in the same steps as the production one.
//!
//! It holds no rule of the protocol. What to record and whom to call is decided in `core`; whatever
//! leaves it (calls, replies, events, the answers to status queries) goes through the gate.

mod recover;
mod requests;

use unanimous_core::commit::{CommitTxn, Record};
use unanimous_core::commit::{Mode, Record as CommitRecord};
use unanimous_core::gate::Gate;
use unanimous_core::id::{BranchId, Epoch, Lsn, Timestamp};
use unanimous_core::{
    Answer, Decision, Durability, Effect, Force, Input, Opaque, Outcome, Refusal, Resolution,
    Stage, Step, Verb,
};

pub(crate) use recover::{CLUSTER, GRACE_MS, Watch};

use crate::event::{BRANCHES, Event, Message, Orphan, Party, Reply, Says, Slot, What};
use crate::exhibit::Exhibit;
use crate::journal::{Entry, Lost};
use crate::participant::Cell;
use crate::world::{START_MS, World};

/// One coordinator process.
pub(crate) struct Node {
    pub(crate) up: bool,
    pub(crate) paused: bool,
    /// Grows with each start, so that nothing of a former life is taken for its own.
    pub(crate) life: u32,
    /// Whether it believes to own the shard.
    pub(crate) owner: bool,
    pub(crate) epoch: Epoch,
    pub(crate) clock_ms: i64,
    pub(crate) live: Vec<Option<Live>>,
    pub(crate) gate: Gate<Out>,
    pub(crate) waiters: Vec<Waiter>,
    /// What happened while it was paused.
    pub(crate) backlog: Vec<Event>,
    pub(crate) watches: Vec<Watch>,
}

/// A transaction that a coordinator is driving.
pub(crate) struct Live {
    pub(crate) machine: CommitTxn,
    /// The machine that its records in the journal make.
    pub(crate) replayed: CommitTxn,
    pub(crate) replayed_from: usize,
    /// Records in the journal, as far as this coordinator knows.
    pub(crate) stored: usize,
    /// The call of each branch that is waited for; zero if none is.
    calls: [u32; BRANCHES],
    wake: u32,
}

/// What became of an input.
#[must_use]
pub(crate) enum Fed {
    Taken,
    Refused(Refusal),
    /// The machine is gone, or another coordinator was first: there is nothing to answer.
    Lost,
}

/// Whatever shows a transaction to somebody.
#[derive(Debug)]
pub(crate) enum Out {
    Call(BranchId, Verb),
    Tell(Stage),
    Wake { at: Timestamp, in_ms: u64 },
    Reply(u8, Reply),
    End(u8, Decision),
    Orphan(u8, Orphan),
}

/// A client that waits for a transaction to come so far.
#[derive(Clone, Copy)]
pub(crate) struct Waiter {
    pub(crate) slot: Slot,
    pub(crate) order: u8,
    pub(crate) wait: Wait,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wait {
    Begun,
    Decided,
    Ended,
}

impl Wait {
    pub(crate) fn is_over(self, stage: Stage) -> bool {
        match stage {
            Stage::Begun => self == Self::Begun,
            Stage::Decided(_) => self != Self::Ended,
            Stage::NeedsAttention | Stage::Ended(_) => true,
        }
    }
}

const CALL_PATIENCE_MS: u64 = 200;

impl Node {
    pub(crate) fn new(resources: usize) -> Self {
        Self {
            up: false,
            paused: false,
            life: 0,
            owner: false,
            epoch: Epoch(0),
            clock_ms: 0,
            live: Vec::new(),
            gate: Gate::default(),
            waiters: Vec::new(),
            backlog: Vec::new(),
            watches: (0..resources).map(|_| Watch::default()).collect(),
        }
    }

    pub(crate) fn live(&self, slot: Slot) -> Option<&Live> {
        self.live.get(slot.index())?.as_ref()
    }

    pub(crate) fn live_mut(&mut self, slot: Slot) -> Option<&mut Live> {
        self.live.get_mut(slot.index())?.as_mut()
    }

    fn insert(&mut self, slot: Slot, live: Live) {
        if slot.index() >= self.live.len() {
            self.live.resize_with(slot.index() + 1, || None);
        }
        self.live[slot.index()] = Some(live);
    }

    /// Forgets all that a crash, or losing the shard, takes.
    pub(crate) fn forget(&mut self) {
        self.owner = false;
        self.live.clear();
        self.gate = Gate::default();
        self.waiters.clear();
        self.watches.iter_mut().for_each(|watch| *watch = Watch::default());
    }
}

impl Live {
    fn new(machine: CommitTxn, stored: usize) -> Self {
        Self {
            replayed: machine.clone(),
            replayed_from: stored,
            machine,
            stored,
            calls: [0; BRANCHES],
            wake: 0,
        }
    }
}

impl World {
    pub(crate) fn node(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    /// What a node's own clock shows.
    pub(crate) fn time_of(&self, node: u8) -> Timestamp {
        let clock_ms = self.nodes[usize::from(node)].clock_ms;
        Timestamp((START_MS + self.now_ms).saturating_add_signed(clock_ms))
    }

    /// Gives one input to a machine and sees to what comes of it.
    pub(crate) fn feed(&mut self, node: u8, slot: Slot, input: Input) -> Fed {
        let now = self.time_of(node);
        self.note(|| format!("n{node}      {slot} > {input:?}"));
        let Some(live) = self.node(node).live_mut(slot) else { return Fed::Lost };
        let mut step = live.machine.handle(now, input);
        let refused = step.refused.take();
        match (self.take(node, slot, step, None), refused) {
            (Err(_), _) if self.exhibit != Some(Exhibit::LoserReplies) => Fed::Lost,
            (Ok(()) | Err(_), Some(refusal)) => Fed::Refused(refusal),
            (Ok(()) | Err(_), None) => Fed::Taken,
        }
    }

    /// Appends the records of a step, and lets its effects out when the gate allows.
    ///
    /// # Errors
    ///
    /// Another coordinator has written first. What the transaction is now has been looked up; what
    /// was asked for has not happened.
    pub(crate) fn take(
        &mut self,
        node: u8,
        slot: Slot,
        step: Step<Record>,
        rests_on: Option<Lsn>,
    ) -> Result<(), Lost> {
        let mut forced = rests_on;
        if !step.records.is_empty() {
            match self.append(node, slot, &step.records) {
                Ok(lsn) if step.records.iter().any(|it| self.is_forced(it)) => forced = Some(lsn),
                Ok(_) => {}
                Err(lost) if self.exhibit == Some(Exhibit::LoserGoesOn) => {
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
        let now = self.time_of(node);
        // Timers run by a clock that cannot be set, from when they are asked for.
        let out = |effect| match effect {
            Effect::WakeAt(at) => Out::Wake { at, in_ms: at.since_ms(now) },
            Effect::Call(branch, verb) => Out::Call(branch, verb),
            Effect::Undo(branch) => Out::Call(branch, Verb::Rollback),
            Effect::Tell(stage) => Out::Tell(stage),
        };
        let hasty = self.exhibit == Some(Exhibit::UndoneEarly);
        let is_undone = |effect: &Effect| match effect {
            Effect::Undo(_) => true,
            Effect::Call(_, verb) => hasty && *verb == Verb::Rollback,
            Effect::Tell(_) | Effect::WakeAt(_) => false,
        };
        let (undone, others): (Vec<_>, Vec<_>) = step.effects.into_iter().partition(is_undone);
        self.admit(node, slot, rests_on, undone.into_iter().map(out));
        self.admit(node, slot, forced, others.into_iter().map(out));
        self.check_replay(node, slot);
        let known = self.node(node);
        if known.live(slot).is_some_and(|live| live.machine.durable().phase().ended().is_some()) {
            known.live[slot.index()] = None;
        }
        Ok(())
    }

    fn append(&mut self, node: u8, slot: Slot, records: &[Record]) -> Result<Lsn, Lost> {
        let known = &self.nodes[usize::from(node)];
        let live = known.live(slot).expect("it has just taken an input");
        let entry = Entry {
            slot,
            epoch: known.epoch,
            expected: live.stored,
            records,
            ends: live.machine.durable().phase().ended().is_some(),
        };
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
        self.grow(slot, records);
        self.check_append(slot, epoch, records);
        self.totals.records += records.len() as u64;
        if records.iter().any(|it| self.is_forced(it)) {
            self.flush_soon();
        } else {
            self.flush_later();
        }
        if self.exhibit == Some(Exhibit::FlushReportedEarly) {
            self.flushed(node, lsn);
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

    /// An enlisted branch exists from the moment its record is in the journal.
    fn grow(&mut self, slot: Slot, records: &[Record]) {
        for record in records {
            if let CommitRecord::Enlisted(_) = record {
                let truth = &mut self.txns[slot.index()];
                let share = self.orders[usize::from(truth.order)].shares[truth.cells.len()];
                truth.cells.push(Cell::new(share.resource, share.plan));
            }
        }
    }

    fn is_forced(&self, record: &Record) -> bool {
        let it = record;
        let lazy = match (self.exhibit, it) {
            (Some(Exhibit::LazyCommit), CommitRecord::Decided { decision, .. }) => {
                *decision == Decision::Commit
            }
            (Some(Exhibit::LazyAbort), CommitRecord::Decided { decision, .. }) => {
                *decision == Decision::Abort
            }
            (Some(Exhibit::LazyDelegation), CommitRecord::Delegated(_))
            | (Some(Exhibit::LazyBegin), CommitRecord::Begun(_))
            | (Some(Exhibit::LazyEnlist), CommitRecord::Enlisted(_)) => true,
            _ => false,
        };
        !lazy && record.durability() == Durability::Forced
    }

    pub(crate) fn admit(
        &mut self,
        node: u8,
        slot: Slot,
        forced: Option<Lsn>,
        effects: impl Iterator<Item = Out>,
    ) {
        let forced = forced.filter(|_| self.exhibit != Some(Exhibit::NoGate));
        let mut free = std::mem::take(&mut self.free);
        let mut held = Vec::new();
        for out in effects {
            let hasty = match out {
                Out::Tell(_) => self.exhibit == Some(Exhibit::ReplyBeforeFlush),
                Out::Call(..) | Out::Wake { .. } | Out::End(..) | Out::Orphan(..) => false,
                Out::Reply(..) => self.exhibit == Some(Exhibit::StatusBeforeFlush),
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
    pub(crate) fn flushed(&mut self, node: u8, lsn: Lsn) {
        let mut free = std::mem::take(&mut self.free);
        self.node(node).gate.flushed(lsn, |txn, out| free.push((Slot::of(txn), out)));
        self.perform(node, free);
    }

    fn perform(&mut self, node: u8, mut free: Vec<(Slot, Out)>) {
        for (slot, out) in free.drain(..) {
            self.note(|| format!("n{node}      {slot}   -> {out:?}"));
            match out {
                Out::Call(branch, verb) => self.call(node, slot, branch, verb),
                Out::Tell(stage) => self.tell(node, slot, stage),
                Out::Wake { at, in_ms } => self.wake(node, slot, at, in_ms),
                Out::Reply(order, reply) => self.reply(node, order, reply),
                Out::Orphan(resource, orphan) => {
                    let (from, to) = (Party::Node(node), Party::Resource(resource));
                    self.send(Message { from, to, what: What::Orphan(orphan) });
                }
                Out::End(branch, decision) => {
                    let verb = match decision {
                        Decision::Commit => Verb::Commit,
                        Decision::Abort => Verb::Rollback,
                    };
                    self.send_call(node, slot, branch, verb, 0);
                }
            }
        }
        self.free = free;
    }

    fn call(&mut self, node: u8, slot: Slot, branch: BranchId, verb: Verb) {
        self.next_call += 1;
        let call = self.next_call;
        let Some(live) = self.node(node).live_mut(slot) else { return };
        live.calls[branch.index()] = call;
        let branch = branch.0 as u8;
        self.after(CALL_PATIENCE_MS, Event::Timeout { node, slot, branch, verb, call });
        self.send_call(node, slot, branch, verb, call);
    }

    fn send_call(&mut self, node: u8, slot: Slot, branch: u8, verb: Verb, call: u32) {
        let Some(cell) = self.cell(slot, branch) else { return };
        let to = Party::Resource(cell.resource);
        let what = What::Call { slot, branch, verb, call };
        self.send(Message { from: Party::Node(node), to, what });
    }

    fn tell(&mut self, node: u8, slot: Slot, stage: Stage) {
        let stage = match stage {
            Stage::Decided(outcome) if self.exhibit == Some(Exhibit::EndedAtDecision) => {
                Stage::Ended(outcome)
            }
            Stage::Begun | Stage::Decided(_) | Stage::NeedsAttention | Stage::Ended(_) => stage,
        };
        self.check_told(node, slot, stage);
        let over = |it: &Waiter| it.slot == slot && it.wait.is_over(stage);
        while let Some(index) = self.node(node).waiters.iter().position(over) {
            let waiter = self.node(node).waiters.swap_remove(index);
            let reply = match (waiter.wait, stage) {
                (Wait::Begun, _) => Reply::Begun(slot),
                (Wait::Decided | Wait::Ended, stage) => Reply::Stage(slot, stage),
            };
            self.reply(node, waiter.order, reply);
        }
        let clears_itself = self.exhibit == Some(Exhibit::AttentionClearsItself);
        if stage == Stage::NeedsAttention && clears_itself {
            let resolution = resolution(Decision::Commit, Force::No);
            self.unbidden.push((node, slot, Input::ResolveAsked(resolution)));
        }
    }

    fn wake(&mut self, node: u8, slot: Slot, at: Timestamp, in_ms: u64) {
        self.next_call += 1;
        let token = self.next_call;
        let exhibit = self.exhibit;
        let Some(live) = self.node(node).live_mut(slot) else { return };
        let machine = &live.machine;
        let is_deadline = at == machine.durable().begun().deadline;
        match exhibit {
            Some(Exhibit::DeadlineLost) if is_deadline => return,
            Some(Exhibit::RetryLost) if !is_deadline => return,
            Some(_) | None => {}
        }
        live.wake = token;
        let jitter_ms = self.rng.below(5);
        self.after(in_ms.saturating_add(jitter_ms), Event::Wake { node, slot, token });
    }

    pub(crate) fn woke(&mut self, node: u8, slot: Slot, token: u32) {
        let now = self.time_of(node);
        let exhibit = self.exhibit;
        let Some(live) = self.node(node).live_mut(slot) else { return };
        if live.wake != token {
            return;
        }
        let machine = &live.machine;
        let begun = machine.durable().begun();
        let late = begun.mode == Mode::Run && begun.deadline <= now;
        let branches = machine.durable().branches().len() as u8;
        let decided = machine.durable().decision() == Some(Decision::Commit);
        if exhibit == Some(Exhibit::TimeoutOverridesDecision) && late && decided {
            for branch in 0..branches {
                self.send_call(node, slot, branch, Verb::Rollback, 0);
            }
        }
        let _ = self.feed(node, slot, Input::Woke);
    }

    /// A call ended: by an answer, or because nobody waits for it any longer.
    pub(crate) fn answered(
        &mut self,
        node: u8,
        (slot, branch, verb): (Slot, u8, Verb),
        call: u32,
        says: Option<Says>,
    ) {
        let answer = self.heard(verb, says);
        let Some(live) = self.node(node).live_mut(slot) else { return };
        if live.calls[usize::from(branch)] != call {
            return;
        }
        live.calls[usize::from(branch)] = 0;
        let _ = self.feed(node, slot, Input::Answered(BranchId(u16::from(branch)), verb, answer));
    }

    fn heard(&self, verb: Verb, says: Option<Says>) -> Answer {
        let nothing = Opaque::default;
        match (self.exhibit, verb, says) {
            (Some(Exhibit::SilenceIsYes), Verb::Prepare, None) => return Answer::Yes(nothing()),
            (Some(Exhibit::SilenceIsDone), Verb::Commit | Verb::Rollback, None)
            | (Some(Exhibit::HeuristicIsDone), _, Some(Says::Heuristic(_))) => {
                return Answer::Done(nothing());
            }
            (Some(Exhibit::NoIsReadOnly), Verb::Prepare, Some(Says::No)) => {
                return Answer::ReadOnly(nothing());
            }
            _ => {}
        }
        match says {
            None => Answer::Silent(self.names.silence.clone()),
            Some(Says::Yes) => Answer::Yes(nothing()),
            Some(Says::ReadOnly) => Answer::ReadOnly(nothing()),
            Some(Says::No) => Answer::No(self.names.refusal.clone()),
            Some(Says::Lost) => Answer::Lost(self.names.refusal.clone()),
            Some(Says::Done) => Answer::Done(nothing()),
            Some(Says::Heuristic(kind)) => Answer::Heuristic(kind),
            Some(Says::Working) => Answer::Working,
        }
    }

    /// How far the journal says that a transaction has come; `None` if it knows of none.
    pub(crate) fn stored_stage(&self, slot: Slot) -> Option<Stage> {
        Some(stage_of(&CommitTxn::replay(self.journal.read(slot)).ok()?))
    }

    /// The same as a node sees it.
    fn stage_to(&self, node: u8, slot: Slot) -> Option<Stage> {
        Some(stage_of(&CommitTxn::replay(self.records_to(node, slot)).ok()?))
    }

    /// A node sees its own records at once, and those of others when they are durable.
    fn records_to(&self, node: u8, slot: Slot) -> &[Record] {
        let owns = self.nodes[usize::from(node)].epoch == self.journal.epoch();
        match owns || self.exhibit == Some(Exhibit::ReadsOthersEarly) {
            true => self.journal.read(slot),
            false => self.journal.durable_records(slot),
        }
    }
}

/// How far a machine has come, as its durable state has it.
pub(crate) fn stage_of(machine: &CommitTxn) -> Stage {
    let durable = machine.durable();
    use unanimous_core::commit::Phase;
    match durable.phase() {
        Phase::Active | Phase::Preparing | Phase::Delegated(_) => Stage::Begun,
        Phase::Committing => Stage::Decided(Outcome::Committed),
        Phase::Aborting => Stage::Decided(Outcome::Aborted),
        Phase::Attention => Stage::NeedsAttention,
        Phase::Ended(outcome) => Stage::Ended(outcome),
    }
}

pub(crate) fn resolution(outcome: Decision, force: Force) -> Resolution {
    Resolution { outcome, force, by: "operator".into(), reason: "looked".into() }
}
