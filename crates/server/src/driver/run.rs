//! The event loop of one driver, which owns some shards.
//!
//! The loop holds no rule of its own: it feeds machines and hands their steps to `take`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::pending;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use unanimous_core::commit::{Branch, CommitTxn, Shape};
use unanimous_core::gate::Gate;
use unanimous_core::id::{BranchId, BranchName, Epoch, Lsn, Timestamp, TxnId};
use unanimous_core::retry::Call;
use unanimous_core::saga;
use unanimous_core::txn::Txn;
use unanimous_core::{Answer, Input, Opaque, Refusal, Verb, Vote};
use unanimous_journal::JournalError;
use unanimous_participants::{Takes, Trace};

use super::coordinator::Shared;
use super::drain::Draining;
use super::event::{AskError, Enlisted, Event, Waiter};
use super::keys::{Keys, Names};
use super::memo::Memo;
use super::order::InOrder;
use super::resume::Later;
use super::take::Out;
use super::timers::Timers;
use super::view;
use crate::limits::EVENTS_PER_ROUND;

/// A transaction that is driven here.
pub(super) struct Live {
    pub(super) machine: Txn,
    /// Records it has in the journal.
    pub(super) records: u32,
    pub(super) begun_at: Timestamp,
    pub(super) updated_at: Timestamp,
    pub(super) wake_at: Option<Timestamp>,
    pub(super) waiters: Vec<Waiter>,
    /// Calls made to each branch, so that a first call is known to be one.
    pub(super) calls: Vec<u32>,
    /// Calls that may have been made before a restart.
    pub(super) calls_before: u32,
    pub(super) trace: Trace,
    /// The order in which its branches work, if they work in one.
    pub(super) order: Option<InOrder>,
    /// Of which of the times that it came to need attention somebody was told, counted from one.
    pub(super) alerted: u32,
    /// Whether several requests may ask for it to begin.
    pub(super) repeats: bool,
}

impl Live {
    /// The machine, if it runs two phases.
    pub(super) fn commit(&self) -> Option<&CommitTxn> {
        match &self.machine {
            Txn::Commit(machine) => Some(machine),
            Txn::Saga(_) => None,
        }
    }

    /// Whether it is still open which way it ends.
    pub(super) fn can_be_undone(&self) -> bool {
        match &self.machine {
            Txn::Commit(machine) => machine.durable().decision().is_none(),
            Txn::Saga(saga) => saga.durable().phase() == saga::Phase::Running,
        }
    }

    /// Whether the next call of a branch or step goes to this resource, and waits for its time.
    fn is_paused(&self, branch: BranchId, resource: &str) -> bool {
        let (call, of) = match &self.machine {
            Txn::Commit(machine) => {
                let of = machine.durable().branch(branch).map(|it| *it.resource == *resource);
                (machine.progress(branch).map(|it| it.call()), of)
            }
            Txn::Saga(saga) => {
                let plan = saga.durable().plan(branch);
                let works = plan.map(|it| [it.action.work(), it.compensation.as_ref()]);
                let of = works.map(|works| {
                    works.into_iter().flatten().any(|work| *work.resource == *resource)
                });
                (saga.progress(branch).map(|it| it.call()), of)
            }
        };
        matches!(call, Some(Call::RetryAt(_))) && of == Some(true)
    }

    /// One that has just begun, and for which nobody waits.
    pub(super) fn new(machine: Txn, now: Timestamp, trace: Trace) -> Self {
        Self {
            records: 0,
            begun_at: now,
            updated_at: now,
            wake_at: None,
            waiters: Vec::new(),
            calls: vec![0; machine.branches()],
            calls_before: 0,
            trace,
            order: None,
            alerted: 0,
            repeats: false,
            machine,
        }
    }

    /// Adds a waiter. Those who have left make room first, so that a transaction that stays open for
    /// long does not collect everybody who ever asked.
    fn wait(&mut self, waiter: Waiter) {
        if self.waiters.len() == self.waiters.capacity() {
            self.waiters.retain(|waiter| !waiter.want.has_left());
        }
        self.waiters.push(waiter);
    }
}

/// The trace a transaction began in, or one of its own.
pub(super) fn trace(txn: TxnId, memo: &Opaque) -> Trace {
    Memo::read(memo).trace.unwrap_or_else(|| Trace::of(txn))
}

/// Hashes an identity to itself: its low half is random already.
#[derive(Default)]
pub(super) struct ById(u64);

impl Hasher for ById {
    fn write(&mut self, bytes: &[u8]) {
        // Only identities are hashed, and those come whole, in `write_u128`.
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u128(&mut self, id: u128) {
        self.0 = id as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// One driver.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) epochs: Vec<Epoch>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) gate: Gate<Out>,
    pub(super) live: HashMap<TxnId, Live, BuildHasherDefault<ById>>,
    pub(super) timers: Timers,
    pub(super) keys: Keys,
    pub(super) names: Names,
    /// Answers that came before their call returned.
    pub(super) answers: VecDeque<(TxnId, BranchId, Verb, Answer)>,
    /// Effects that the gate has let out; kept so that no memory is asked for each time.
    pub(super) free: Vec<Out>,
    /// What resources were found to hold when this took over, and have not been asked to end yet.
    pub(super) held: HashSet<BranchName>,
    /// What was open when this took over, and has not been resumed.
    pub(super) later: Later,
    /// Calls that are under way end when it is gone, with the driver.
    pub(super) calls: watch::Sender<()>,
    pub(super) draining: Option<Draining>,
    pub(super) accepting: bool,
    stopped: bool,
    /// When the loop was last woken. A round is short, so its events share one look at the clock.
    now: Timestamp,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        epochs: Vec<Epoch>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            shared,
            epochs,
            events,
            gate: Gate::default(),
            live: HashMap::default(),
            timers: Timers::default(),
            keys: Keys::default(),
            names: Names::default(),
            answers: VecDeque::new(),
            free: Vec::new(),
            held: HashSet::new(),
            later: Later::default(),
            calls: watch::Sender::default(),
            draining: None,
            accepting: true,
            stopped: false,
            now: Timestamp::default(),
        }
    }

    /// Runs until it is told to stop, or the journal has failed: what is held by the gate then is
    /// somebody else's business. Whoever waits for it hears that it is gone.
    pub(super) async fn run(
        self,
        mut inbox: mpsc::UnboundedReceiver<Event>,
        flushed: watch::Receiver<Lsn>,
        failed: watch::Receiver<Option<Arc<JournalError>>>,
    ) {
        self.drive(&mut inbox, flushed, failed).await;
        // Dropped only, the queue would keep what is being sent at this moment, and all behind it, for as
        // long as anybody can send: those who wait for an answer can (tokio-rs/tokio#7714).
        inbox.close();
        while inbox.recv().await.is_some() {}
    }

    async fn drive(
        mut self,
        inbox: &mut mpsc::UnboundedReceiver<Event>,
        mut flushed: watch::Receiver<Lsn>,
        mut failed: watch::Receiver<Option<Arc<JournalError>>>,
    ) {
        self.resume().await;
        // What was appended while it resumed may be durable already; nobody would say so again.
        flushed.mark_changed();
        let mut batch = Vec::with_capacity(EVENTS_PER_ROUND);
        loop {
            let wake = self.timers.next().map(|at| self.shared.clock.instant(at));
            tokio::select! {
                changed = flushed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.look_at_the_clock();
                    self.on_flushed(*flushed.borrow_and_update());
                }
                taken = inbox.recv_many(&mut batch, EVENTS_PER_ROUND) => {
                    if taken == 0 {
                        return;
                    }
                    self.shared.queued.fetch_sub(taken, Ordering::Relaxed);
                    self.look_at_the_clock();
                    for event in batch.drain(..) {
                        self.on(event);
                        self.settle_answers();
                    }
                }
                () = at(wake.map(Into::into)) => self.on_time(),
                () = at(self.later.at()) => self.resume_next(),
                _ = failed.wait_for(Option::is_some) => return,
            }
            self.settle_answers();
            if self.stopped {
                return;
            }
            self.report_drained();
        }
    }

    fn on_flushed(&mut self, lsn: Lsn) {
        let mut free = std::mem::take(&mut self.free);
        self.gate.flushed(lsn, |_, out| free.push(out));
        free.drain(..).for_each(|out| self.perform(out));
        self.free = free;
    }

    fn on_time(&mut self) {
        self.look_at_the_clock();
        let now = self.now();
        while let Some(txn) = self.timers.pop_due(now) {
            if let Some(live) = self.live.get_mut(&txn) {
                live.wake_at = None;
            }
            self.feed(txn, Input::Woke);
        }
    }

    /// Feeds the answers that came while their calls were being made. They may bring more.
    pub(super) fn settle_answers(&mut self) {
        while let Some((txn, branch, verb, answer)) = self.answers.pop_front() {
            self.feed(txn, Input::Answered(branch, verb, answer));
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Begin(order) => self.begin(*order),
            Event::Ask(txn, version, input, waiter) => {
                self.ask_if(txn, version, *input, waiter);
            }
            Event::Signal(txn, step, payload, waiter) => self.signal(txn, &step, payload, waiter),
            Event::Enlist(txn, branch, reply) => self.enlist(txn, *branch, reply),
            Event::Commit(txn, votes, waiter) => self.commit(txn, votes, waiter),
            Event::Join(txn, waiter) => self.join(txn, waiter),
            Event::Show(txn, inquirer, reply) => self.show(txn, inquirer, reply),
            Event::Answered(txn, branch, verb, answer) => {
                self.feed(txn, Input::Answered(branch, verb, answer));
            }
            Event::Census(reply) => drop(reply.send(self.census())),
            Event::InDoubt(resource, reply) => drop(reply.send(self.in_doubt(&resource))),
            Event::Returned(resource) => self.hurry(&resource),
            Event::Drain(reply) => self.drain(reply),
            Event::Hasten => self.hasten(),
            Event::Stop => self.stopped = true,
        }
    }

    pub(super) fn join(&mut self, txn: TxnId, waiter: Waiter) {
        match self.live.get_mut(&txn) {
            Some(live) => {
                live.wait(waiter);
                self.tell_waiters(txn);
            }
            None => waiter.want.refuse(AskError::NotOpen),
        }
    }

    fn ask(&mut self, txn: TxnId, input: Input, waiter: Waiter) {
        let Some(live) = self.live.get_mut(&txn) else {
            return waiter.want.refuse(AskError::NotOpen);
        };
        live.wait(waiter);
        match self.feed(txn, input) {
            Some(refusal) => {
                let view = self.view(txn).map(Box::new);
                let waiter = self.live.get_mut(&txn).and_then(|live| live.waiters.pop());
                let waiter = waiter.expect("a refused input changes nothing");
                self.admit(txn, Out::Refuse(waiter.want, refusal, view));
            }
            None => self.tell_waiters(txn),
        }
    }

    /// Asks, unless the transaction has changed since the client looked at it.
    fn ask_if(&mut self, txn: TxnId, version: Option<u32>, input: Input, waiter: Waiter) {
        let changed = self.live.get(&txn).filter(|live| live.can_be_undone()).and_then(|live| {
            version.filter(|&version| version != live.records).map(|_| live.records)
        });
        match changed {
            Some(records) => {
                let view = self.view(txn).map(Box::new);
                self.admit(txn, Out::Changed(waiter.want, records, view));
            }
            // A repeat of what was followed is followed again, whatever version that made.
            None => self.ask(txn, input, waiter),
        }
    }

    fn signal(&mut self, txn: TxnId, step: &str, payload: Opaque, waiter: Waiter) {
        let Some(live) = self.live.get(&txn) else {
            return waiter.want.refuse(AskError::NotOpen);
        };
        let number =
            match &live.machine {
                Txn::Commit(_) => Some(0),
                Txn::Saga(saga) => saga.durable().begun().steps.iter().position(|it| {
                    *it.name == *step && matches!(it.action, saga::Action::Signal(_))
                }),
            };
        match number {
            Some(number) => {
                self.ask(txn, Input::Signalled(BranchId(number as u16), payload), waiter);
            }
            None => waiter.want.refuse(AskError::UnknownStep(step.to_owned())),
        }
    }

    fn commit(&mut self, txn: TxnId, votes: Vec<(String, Vote)>, waiter: Waiter) {
        let Some(live) = self.live.get(&txn) else {
            return waiter.want.refuse(AskError::NotOpen);
        };
        let branches = live.commit().map_or(&[][..], |machine| machine.durable().branches());
        let mut by_id = Vec::with_capacity(votes.len());
        for (name, vote) in votes {
            match branches.iter().position(|branch| *branch.name == *name) {
                // The database is asked whether it is prepared: its drivers can be wrong.
                Some(index) if vote == Vote::Yes && self.confirms(&branches[index]) => {}
                Some(index) => by_id.push((BranchId(index as u16), vote)),
                None => return waiter.want.refuse(AskError::UnknownParticipant(name)),
            }
        }
        self.ask(txn, Input::CommitAsked(by_id), waiter);
    }

    /// Whether the resource of a branch can say by itself whether it is prepared.
    fn confirms(&self, branch: &Branch) -> bool {
        let resource = self.shared.resources.get(&branch.resource);
        resource.is_some_and(|(_, resource)| match resource.takes() {
            Takes::Statements => true,
            Takes::Body | Takes::Commands => false,
        })
    }

    fn enlist(
        &mut self,
        txn: TxnId,
        branch: Branch,
        reply: oneshot::Sender<Result<Enlisted, AskError>>,
    ) {
        let name = Arc::clone(&branch.name);
        let Some(live) = self.live.get(&txn) else {
            return drop(reply.send(Err(AskError::NotOpen)));
        };
        let takes = self.shared.resources.get(&branch.resource).map(|(_, it)| it.takes());
        let shape = live.commit().map(|machine| machine.durable().begun().shape);
        if shape == Some(Shape::Tcc) && takes != Some(Takes::Body) {
            return drop(reply.send(Err(AskError::NotForTcc(branch.resource.to_string()))));
        }
        let answer = match self.feed(txn, Input::Enlist(branch)) {
            Some(refusal) => Err(AskError::Refused(refusal, None)),
            None => self.enlisted(txn, &name),
        };
        self.admit(txn, Out::Enlisted(reply, Box::new(answer)));
    }

    fn enlisted(&self, txn: TxnId, name: &str) -> Result<Enlisted, AskError> {
        let live = self.live.get(&txn).ok_or(AskError::Lost)?;
        let machine = live.commit().ok_or(AskError::Refused(Refusal::NotEnlisting, None))?;
        let mut branches = (0_u16..).zip(machine.durable().branches());
        let (index, branch) = branches
            .find(|(_, branch)| *branch.name == *name)
            .ok_or(AskError::Refused(Refusal::NotEnlisting, None))?;
        let id = view::branch_name(&self.shared.cluster, txn, BranchId(index));
        Ok(Enlisted {
            name: branch.name.to_string(),
            resource: branch.resource.to_string(),
            branch: id.to_string(),
        })
    }

    fn show(
        &mut self,
        txn: TxnId,
        inquirer: Option<BranchId>,
        reply: oneshot::Sender<Option<unanimous_api::TransactionView>>,
    ) {
        if let Some(branch) = inquirer {
            self.feed(txn, Input::Inquired(branch));
        }
        match self.view(txn) {
            Some(view) => self.admit(txn, Out::Shown(reply, Box::new(view))),
            None => drop(reply.send(None)),
        }
    }

    /// Feeds one input; returns the machine's refusal if it refused.
    pub(super) fn feed(&mut self, txn: TxnId, input: Input) -> Option<Refusal> {
        if self.later.take(txn) {
            self.feed(txn, Input::Resumed);
        }
        let now = self.now();
        let live = self.live.get_mut(&txn)?;
        let step = live.machine.handle(now, input);
        let refused = step.refused.clone();
        self.take(txn, now, step);
        refused
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    pub(super) fn look_at_the_clock(&mut self) {
        self.now = self.shared.clock.now();
    }

    /// A resource answers again: what waits for its next attempt there need not wait any longer.
    fn hurry(&mut self, resource: &str) {
        let mut waiting = Vec::new();
        for (&txn, live) in &self.live {
            let paused = (0..live.machine.branches()).map(|index| BranchId(index as u16));
            waiting.extend(paused.filter(|&it| live.is_paused(it, resource)).map(|it| (txn, it)));
        }
        for (txn, branch) in waiting {
            self.feed(txn, Input::Inquired(branch));
            self.settle_answers();
        }
    }
}

/// Returns at that time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
