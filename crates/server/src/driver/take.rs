//! What becomes of a machine's step: append its records, hold its effects, perform them.
//!
//! The order is the whole point: records first, then the gate, then the world. Whatever is shown to
//! somebody is put together when the step is taken and held with its effects, so that a reader never
//! sees a state that a crash could take back. Only rollbacks that a crash could not take back do not wait
//! for the records of their own step.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;
use unanimous_api::{EventView, TransactionView, Wait};
use unanimous_core::commit::{Phase, Shape};
use unanimous_core::id::{BranchId, Timestamp, TxnId};
use unanimous_core::saga;
use unanimous_core::txn::{Record, Txn};
use unanimous_core::{
    Answer, Durability, Effect, Opaque, Outcome, Reason, Refusal, Stage, Step, Verb,
};
use unanimous_journal::{End, Entry, JournalError};
use unanimous_participants::{Call, Calling, Turn};

use super::closing::Closing;
use super::event::{AskError, Enlisted, Event, Waiter, Want};
use super::order::{self, Next, Watch};
use super::run::{Driver, Live};
use super::view::{self, Frame};
use crate::limits::{CALL_TIMEOUT_MS_MIN, JITTER_MS_MAX};
use crate::saga::sent::{Sent, Tried};
use crate::saga::work;

/// What waits at the gate.
pub(super) enum Out {
    /// Call a branch.
    Call(TxnId, BranchId, Verb),
    /// Tell a waiter.
    Tell(Want, Told),
    /// Tell somebody who asked that it cannot be had.
    Refuse(Want, Refusal, Option<Box<TransactionView>>),
    /// Tell somebody who asked of another version that there is this one.
    Changed(Want, u32, Option<Box<TransactionView>>),
    /// Answer an enlistment.
    Enlisted(oneshot::Sender<Result<Enlisted, AskError>>, Box<Result<Enlisted, AskError>>),
    /// Answer somebody who looks.
    Shown(oneshot::Sender<Option<TransactionView>>, Box<TransactionView>),
    /// Tell everybody who watches.
    Publish(Box<EventView>),
    /// Write the closing line.
    Close(Box<Closing>),
}

/// What a waiter hears.
pub(super) enum Told {
    View(Box<TransactionView>),
    Outcome(Option<Outcome>),
}

impl Driver {
    /// Takes one step of a live transaction.
    pub(super) fn take(&mut self, txn: TxnId, now: Timestamp, step: Step<Record>) {
        let Some(live) = self.live.get(&txn) else { return };
        let (ended, attentions) = (live.machine.ended(), live.machine.attentions());
        let alert = ended.is_none() && attentions > live.alerted;
        if ended.is_some() {
            self.announce(txn, now);
        }
        let forced = match self.append(txn, now, &step.records, ended) {
            Ok(forced) => forced,
            Err(error) => return self.lose(txn, error),
        };
        let undone = step.effects.iter().filter_map(|effect| match effect {
            Effect::Undo(branch) => Some(Out::Call(txn, *branch, Verb::Rollback)),
            Effect::Call(..) | Effect::Tell(_) | Effect::WakeAt(_) => None,
        });
        self.admit_all(txn, None, undone);
        let (mut told, mut wake_at) = (None, None);
        let calls = step.effects.into_iter().filter_map(|effect| match effect {
            Effect::Call(branch, verb) => Some(Out::Call(txn, branch, verb)),
            Effect::Undo(_) => None,
            Effect::Tell(stage) => {
                told = Some(stage);
                None
            }
            Effect::WakeAt(at) => {
                wake_at = Some(at);
                None
            }
        });
        self.admit_all(txn, forced, calls);
        if let Some(at) = wake_at {
            self.wake_at(txn, at);
        }
        if alert {
            self.alert(txn, now);
        }
        if let Some(stage) = told {
            self.tell(txn, now, stage);
        }
        if let Some(outcome) = ended {
            self.end(txn, now, outcome);
        }
    }

    /// Appends the records of a step; returns the position effects have to wait for.
    fn append(
        &mut self,
        txn: TxnId,
        now: Timestamp,
        records: &[Record],
        ended: Option<Outcome>,
    ) -> Result<Option<unanimous_core::id::Lsn>, JournalError> {
        let Some(live) = self.live.get_mut(&txn) else { return Ok(None) };
        if records.is_empty() {
            return Ok(None);
        }
        let lsn = self.shared.journal.append(Entry {
            txn,
            epoch: self.epochs[txn.shard().index()],
            expected: live.records,
            at: now,
            records,
            end: if ended.is_some() { End::Ended } else { End::Open },
        })?;
        live.records += u32::try_from(records.len()).expect("a step has few records");
        live.updated_at = now;
        self.shared.appended(lsn);
        let forced = records.iter().any(|record| record.durability() == Durability::Forced);
        Ok((forced && !cfg!(feature = "broken-gate")).then_some(lsn))
    }

    pub(super) fn admit(&mut self, txn: TxnId, out: Out) {
        self.admit_all(txn, None, [out]);
    }

    fn admit_all(
        &mut self,
        txn: TxnId,
        forced: Option<unanimous_core::id::Lsn>,
        outs: impl IntoIterator<Item = Out>,
    ) {
        let mut free = std::mem::take(&mut self.free);
        self.gate.admit(txn, forced, outs, |out| free.push(out));
        free.drain(..).for_each(|out| self.perform(out));
        self.free = free;
    }

    /// Another coordinator has the transaction, or the journal refused it.
    fn lose(&mut self, txn: TxnId, error: JournalError) {
        self.gate.forget(txn);
        let Some(live) = self.live.remove(&txn) else { return };
        self.shared.closed();
        self.timers.set(txn, live.wake_at, None);
        let refusal = match error {
            JournalError::Full(why) => {
                // Only an entry that begins is refused so: nothing has been promised to anybody.
                if let Some(key) = live.machine.key() {
                    self.keys.forget(key);
                }
                AskError::JournalFull(why)
            }
            JournalError::Conflict { .. } | JournalError::Fenced { .. } => {
                tracing::warn!(%txn, %error, "transaction lost to another coordinator");
                AskError::Lost
            }
            JournalError::Failed(_)
            | JournalError::Locked { .. }
            | JournalError::Damaged { .. }
            | JournalError::Unusable(_)
            | JournalError::Unreachable(_) => AskError::Lost,
        };
        for waiter in live.waiters {
            waiter.want.refuse(refusal.clone());
        }
    }

    fn wake_at(&mut self, txn: TxnId, at: Timestamp) {
        let at = at.after_ms(jitter_ms(txn, at, self.now()));
        let Some(live) = self.live.get_mut(&txn) else { return };
        self.timers.set(txn, live.wake_at.replace(at), Some(at));
    }

    fn tell(&mut self, txn: TxnId, now: Timestamp, stage: Stage) {
        if self.shared.watchers() > 0
            && let Some(live) = self.live.get(&txn)
        {
            let event = view::event(txn, &live.machine, live.records, now);
            self.admit(txn, Out::Publish(Box::new(event)));
        }
        match stage {
            Stage::NeedsAttention => {
                tracing::error!(
                    %txn,
                    "a participant ended against the decision, or a step is stuck: resolve it"
                );
            }
            Stage::Begun | Stage::Decided(_) | Stage::Ended(_) => {}
        }
        self.tell_waiters(txn);
    }

    /// Tells those who wait for no more than the transaction has reached.
    pub(super) fn tell_waiters(&mut self, txn: TxnId) {
        let Some(live) = self.live.get_mut(&txn) else { return };
        let (reached, outcome) = come_to(&live.machine);
        let told = |waiter: &mut Waiter| match waiter.until {
            Wait::None => true,
            Wait::Decided => reached >= Come::Decided,
            Wait::Finished => reached == Come::Finished,
        };
        let told: Vec<Waiter> = live.waiters.extract_if(.., told).collect();
        for waiter in told {
            let told = match &waiter.want {
                Want::Outcome(_) => Told::Outcome(outcome),
                Want::View(_) => Told::View(Box::new(self.view(txn).expect("it is live"))),
            };
            self.admit(txn, Out::Tell(waiter.want, told));
        }
    }

    fn end(&mut self, txn: TxnId, now: Timestamp, outcome: Outcome) {
        let Some(live) = self.live.remove(&txn) else { return };
        if let Some(order) = &live.order {
            order.close();
        }
        self.shared.closed();
        self.timers.set(txn, live.wake_at, None);
        if let Some(key) = live.machine.key() {
            self.keys.ended(key, now);
        }
        if live.repeats {
            self.names.ended(txn, now);
        }
        self.admit(txn, Out::Close(Box::new(Closing::new(txn, outcome, now, live))));
    }

    /// Performs what the gate has let out.
    pub(super) fn perform(&mut self, out: Out) {
        match out {
            Out::Call(txn, branch, verb) => self.call(txn, branch, verb),
            // Whoever asked may have left; the journal has the answer.
            Out::Tell(Want::View(reply), Told::View(view)) => drop(reply.send(Ok(*view))),
            Out::Tell(Want::Outcome(reply), Told::Outcome(outcome)) => {
                drop(reply.send(outcome.ok_or(AskError::NotOpen)));
            }
            Out::Tell(want, Told::View(_) | Told::Outcome(_)) => want.refuse(AskError::Lost),
            Out::Refuse(want, refusal, view) => want.refuse(AskError::Refused(refusal, view)),
            Out::Changed(want, version, view) => want.refuse(AskError::Changed(version, view)),
            Out::Enlisted(reply, answer) => drop(reply.send(*answer)),
            Out::Shown(reply, view) => drop(reply.send(Some(*view))),
            Out::Publish(event) => self.shared.publish(*event),
            Out::Close(closing) => self.shared.metrics.close(&closing),
        }
    }

    fn call(&mut self, txn: TxnId, branch: BranchId, verb: Verb) {
        let now = self.now();
        let Some(live) = self.live.get_mut(&txn) else { return };
        let asked = Asked::of(txn, live, branch, verb);
        let Some((_, resource)) = self.shared.resources.get(&asked.resource) else {
            let why = format!("resource {} is not configured", asked.resource);
            let calls = live.calls_before + live.calls[branch.index()];
            let answer = match verb == Verb::Prepare && calls == 0 {
                true => Answer::No(Reason::new("unreachable", &why)),
                false => Answer::Silent(Arc::from(why)),
            };
            return self.answers.push_back((txn, branch, verb, answer));
        };
        let work = match asked.work {
            Ok(work) => work,
            Err(answer) => return self.answers.push_back((txn, branch, verb, answer)),
        };
        let call_timeout_ms = asked.timeout_ms.unwrap_or(self.shared.call_timeout_ms);
        let timeout_ms = match verb {
            Verb::Prepare => {
                call_timeout_ms.min(asked.deadline.since_ms(now).max(CALL_TIMEOUT_MS_MIN))
            }
            Verb::Commit | Verb::CommitOnePhase | Verb::Rollback | Verb::Act | Verb::Compensate => {
                call_timeout_ms
            }
        };
        let resource = Arc::clone(resource);
        let (turn, entry) = match &live.order {
            Some(order) => order.call(branch, verb),
            None => (Turn::default(), None),
        };
        let branches = live.machine.branches();
        let watched = verb == Verb::Prepare && branches > 1 && resource.takes().locks();
        live.calls.resize(branches, 0);
        live.calls[branch.index()] += 1;
        let attempt = match verb {
            // Nothing is known of a compensation by the calls of its action.
            Verb::Compensate => live.calls_before + asked.attempts + 1,
            Verb::Prepare | Verb::Commit | Verb::CommitOnePhase | Verb::Rollback | Verb::Act => {
                live.calls_before + live.calls[branch.index()]
            }
        };
        let patience = Duration::from_millis(timeout_ms);
        let name = view::branch_name(&self.shared.cluster, txn, asked.branch);
        let call = Call {
            is_listed: self.held.remove(&name),
            name,
            verb: asked.verb,
            shape: asked.shape,
            work,
            returned: asked.returned,
            attempt,
            trace: live.trace.child(branch),
            deadline: asked.deadline,
            patience,
            turn: turn.clone(),
        };
        let mut watch = watched.then(|| Watch {
            contention: Arc::clone(&self.shared.contention),
            clock: self.shared.clock,
            resource: asked.resource,
        });
        let entry = entry.filter(|_| turn.is_awaited());
        let calling = match (entry, asked.tried) {
            (Some(entry), _) => Box::pin(order::in_turn(resource, call, entry, watch.take())),
            (None, None) => resource.call(call),
            (None, Some(tried)) => {
                let calling = resource.call(call);
                Box::pin(async move { tried.heard(calling.await) })
            }
        };
        self.hear((txn, branch, verb), calling, patience, watch, turn);
    }

    /// Waits for the answer of a call, unless it is there at once: then it needs no task of its own.
    fn hear(
        &mut self,
        (txn, branch, verb): (TxnId, BranchId, Verb),
        mut calling: Calling,
        patience: Duration,
        watch: Option<Watch>,
        turn: Turn,
    ) {
        match calling.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => {
                let next = Next::after(&answer);
                self.answers.push_back((txn, branch, verb, answer));
                next.tell(&turn);
            }
            Poll::Pending => {
                let events = self.events.clone();
                // A call that is still under way when the coordinator has stopped holds on to nothing.
                let shared = Arc::downgrade(&self.shared);
                let mut driven = self.calls.subscribe();
                tokio::spawn(async move {
                    let ended = ended(calling, patience);
                    let heard = async {
                        match watch {
                            None => ended.await,
                            Some(watch) => watch.over(ended).await,
                        }
                    };
                    let answer = tokio::select! {
                        answer = heard => answer,
                        // Another may drive the transaction by now, and must not be met by what comes of a
                        // call that still waits for its turn.
                        _ = driven.changed() => return turn.close(),
                    };
                    // Heard first, so that a refusal is the reason and not what follows from it.
                    let next = Next::after(&answer);
                    let Some(shared) = shared.upgrade() else { return turn.close() };
                    shared.queue(&events, Event::Answered(txn, branch, verb, answer));
                    next.tell(&turn);
                });
            }
        }
    }

    /// The transaction as it stands now; `None` if it is not live here. Admit it to the gate.
    pub(super) fn view(&self, txn: TxnId) -> Option<TransactionView> {
        let live: &Live = self.live.get(&txn)?;
        let frame = Frame {
            cluster: &self.shared.cluster,
            resources: &self.shared.resources,
            txn,
            begun_at: live.begun_at,
            updated_at: live.updated_at,
            version: live.records,
        };
        Some(frame.show(&live.machine))
    }
}

/// What a call is about, whatever the protocol.
struct Asked {
    resource: Arc<str>,
    /// What to send, or what to answer without sending anything.
    work: Result<Opaque, Answer>,
    returned: Opaque,
    /// Under whose identifier the resource is asked.
    branch: BranchId,
    /// What the resource is asked.
    verb: Verb,
    /// Whether it has to be told from its answer what the step's is.
    tried: Option<Tried>,
    shape: Shape,
    deadline: Timestamp,
    /// The step's own bound.
    timeout_ms: Option<u64>,
    /// Calls of a step in a row that brought no answer.
    attempts: u32,
}

impl Asked {
    fn of(txn: TxnId, live: &Live, branch: BranchId, verb: Verb) -> Self {
        match &live.machine {
            Txn::Commit(machine) => {
                let durable = machine.durable();
                let about = durable.branch(branch).expect("machines call their own branches");
                Self {
                    resource: Arc::clone(&about.resource),
                    work: Ok(about.work.clone()),
                    returned: durable.result(branch).cloned().unwrap_or_default(),
                    branch,
                    verb,
                    tried: None,
                    shape: durable.begun().shape,
                    deadline: durable.begun().deadline,
                    timeout_ms: None,
                    attempts: 0,
                }
            }
            Txn::Saga(saga) => {
                let durable = saga.durable();
                let work = work::of(durable, branch, verb);
                let sent = Sent::read(&work.work);
                let tried = sent.as_ref().and_then(|sent| sent.tried);
                Self {
                    resource: Arc::clone(&work.resource),
                    work: work::rendered(txn, durable, sent),
                    returned: Opaque::default(),
                    branch: tried.map_or(branch, |(_, of)| of),
                    verb: tried.map_or(verb, |(tried, _)| tried.verb()),
                    tried: tried.map(|(tried, _)| tried),
                    shape: match tried {
                        Some(_) => Shape::Tcc,
                        None => Shape::Atomic,
                    },
                    deadline: durable.begun().deadline.unwrap_or_default(),
                    timeout_ms: work.timeout_ms,
                    attempts: saga.progress(branch).map_or(0, |progress| progress.attempts()),
                }
            }
        }
    }
}

/// How far a transaction has come, for those who wait.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Come {
    NotYet,
    Decided,
    /// Nothing more happens by itself.
    Finished,
}

fn come_to(machine: &Txn) -> (Come, Option<Outcome>) {
    match machine {
        Txn::Commit(machine) => {
            let durable = machine.durable();
            let come = match durable.phase() {
                Phase::Active | Phase::Preparing | Phase::Delegated(_) => Come::NotYet,
                Phase::Committing | Phase::Aborting => Come::Decided,
                Phase::Attention | Phase::Ended(_) => Come::Finished,
            };
            (come, durable.outcome())
        }
        Txn::Saga(saga) => {
            let durable = saga.durable();
            match durable.phase() {
                saga::Phase::Ended(outcome) => (Come::Finished, Some(outcome)),
                saga::Phase::Running | saga::Phase::Unwinding if durable.needs_attention() => {
                    (Come::Finished, None)
                }
                saga::Phase::Unwinding => (Come::Decided, None),
                saga::Phase::Running if durable.can_only_go_on() => (Come::Decided, None),
                saga::Phase::Running => (Come::NotYet, None),
            }
        }
    }
}

/// The answer, within a second after the call's own end.
async fn ended(calling: Calling, patience: Duration) -> Answer {
    match tokio::time::timeout(patience + Duration::from_secs(1), calling).await {
        Ok(answer) => answer,
        Err(_) => Answer::Silent(Arc::from("the call did not end in time")),
    }
}

/// Up to a quarter of the pause more, within [`JITTER_MS_MAX`], so that many branches of a resource
/// that comes back are not called in the same millisecond.
fn jitter_ms(txn: TxnId, at: Timestamp, now: Timestamp) -> u64 {
    let spread_ms = (at.since_ms(now) / 4).min(JITTER_MS_MAX);
    ((txn.0 as u64) ^ at.0) % (spread_ms + 1)
}
