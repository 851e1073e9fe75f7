//! Whom to call, tell and wait for next: a function of the state.
//!
//! Recovery relies on this: with the volatile state gone, everything the durable state calls for is
//! due again.

use super::durable::{Phase, Standing};
use super::record::{Action, Trouble};
use super::{Changed, SagaTxn};
use crate::id::{BranchId, Timestamp};
use crate::limits::STUCK_PAUSE_MS;
use crate::retry::Call;
use crate::step::{Effect, Outcome, Stage, Verb};

impl SagaTxn {
    /// Everything the current state calls for and that is not under way yet.
    pub(super) fn outstanding(&mut self, now: Timestamp, changed: Changed) -> Vec<Effect> {
        let mut effects = Vec::new();
        for step in self.durable.steps() {
            if let Some((verb, pause_max_ms)) = self.wanted(now, step) {
                let progress = &mut self.volatile.steps[step.index()];
                if progress.call.is_due(now, pause_max_ms) {
                    progress.call = Call::InFlight;
                    progress.calls = progress.calls.saturating_add(1);
                    effects.push(Effect::Call(step, verb));
                }
            }
        }
        self.tell(changed, &mut effects);
        let wake_at = self.wake_at(now);
        if wake_at != self.volatile.wake_at {
            self.volatile.wake_at = wake_at;
            effects.extend(wake_at.map(Effect::WakeAt));
        }
        effects
    }

    /// What a step is to be called for, if it is, and the longest pause between two such calls.
    fn wanted(&self, now: Timestamp, step: BranchId) -> Option<(Verb, u64)> {
        let plan = self.durable.plan(step)?;
        match self.durable.phase() {
            Phase::Running => {
                let (work, is_due) = match &plan.action {
                    Action::Call(work) => (work, self.durable.is_due(step)),
                    Action::Local(work, _) if self.is_asked(step, now) => {
                        (work, self.durable.is_due(step))
                    }
                    Action::Message(work) => (work, self.durable.is_sending(step)),
                    Action::Local(..) | Action::Signal(_) | Action::Pause(_) => return None,
                };
                is_due.then_some((Verb::Act, work.retry.backoff_max_ms))
            }
            Phase::Unwinding => {
                let owed = match self.durable.standing(step) {
                    Standing::Stuck(Trouble::Refused) => false,
                    Standing::Waiting
                    | Standing::Acted
                    | Standing::Stuck(Trouble::Silent)
                    | Standing::Announced
                    | Standing::Refused
                    | Standing::Unreached
                    | Standing::Undone
                    | Standing::Kept
                    | Standing::Skipped => self.durable.is_owed(step),
                };
                let work = plan.compensation.as_ref()?;
                (owed && self.durable.is_bare(step))
                    .then_some((Verb::Compensate, work.retry.backoff_max_ms.max(STUCK_PAUSE_MS)))
            }
            Phase::Ended(_) => None,
        }
    }

    fn tell(&mut self, changed: Changed, effects: &mut Vec<Effect>) {
        let stage = match self.durable.phase() {
            Phase::Ended(outcome) => Stage::Ended(outcome),
            Phase::Running | Phase::Unwinding if self.durable.needs_attention() => {
                Stage::NeedsAttention
            }
            Phase::Running if self.durable.is_published() => Stage::Decided(Outcome::Committed),
            Phase::Running | Phase::Unwinding => Stage::Begun,
        };
        if changed == Changed::Yes || self.volatile.told.is_none() {
            self.volatile.told = Some(stage);
            effects.push(Effect::Tell(stage));
        }
    }

    fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let waiting = |step: BranchId| {
            let progress = &self.volatile.steps[step.index()];
            self.wanted(now, step).and_then(|_| progress.call.wake_at())
        };
        let retries = self.durable.steps().filter_map(waiting);
        match self.durable.phase() {
            Phase::Running => {
                let timers = self.durable.steps().filter_map(|step| {
                    let plan = self.durable.plan(step)?;
                    match plan.action {
                        Action::Call(_) | Action::Message(_) => None,
                        Action::Local(..) if self.is_asked(step, now) => None,
                        Action::Signal(_) | Action::Pause(_) | Action::Local(..) => {
                            self.durable.until(step).filter(|_| self.durable.is_due(step))
                        }
                    }
                });
                let start = self.durable.begun().start_at.filter(|_| !self.durable.started());
                let is_undoable =
                    || self.durable.pivoting().is_none() && !self.durable.can_only_go_on();
                let deadline = self.volatile.deadline.filter(|_| is_undoable());
                retries.chain(timers).chain(start).chain(deadline).min()
            }
            Phase::Unwinding => retries.min(),
            Phase::Ended(_) => None,
        }
    }
}
