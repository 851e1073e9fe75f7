//! What an input makes true: the rules of the protocol.
//!
//! Nothing here changes durable state; it only says which records follow. A saga begins to unwind in
//! exactly one function, [`SagaTxn::unwind`], which refuses once the pivot may have been called.

use std::sync::Arc;

use super::durable::{Phase, Standing};
use super::record::{Action, Record, Role, Trouble};
use super::{CallsBefore, Progress, SagaTxn};
use crate::id::{BranchId, Timestamp};
use crate::limits::{COMPENSATIONS_MAX, STUCK_PAUSE_MS};
use crate::retry::Call;
use crate::step::{
    Answer, Decision, Force, Input, Opaque, Outcome, Reason, Refusal, Resolution, Verb,
};

type Records = Result<Vec<Record>, Refusal>;
const NOTHING: Records = Ok(Vec::new());

impl SagaTxn {
    pub(super) fn decide(&mut self, now: Timestamp, input: Input) -> Records {
        match input {
            Input::Enlist(_) => Err(Refusal::NotEnlisting),
            Input::CommitAsked(_) => self.commit_asked(now),
            Input::AbortAsked(reason) => match self.durable.source() {
                Some(source) => self.taken_back(now, source),
                None => self.abort_asked(reason),
            },
            Input::Answered(step, verb, answer) => self.answered(now, step, verb, answer),
            Input::Signalled(step, payload) => self.signalled(step, payload),
            Input::Inquired(step) => {
                let progress = self.volatile.steps.get_mut(step.index());
                progress.ok_or(Refusal::UnknownBranch(step))?.hurry();
                NOTHING
            }
            Input::RetryAsked => {
                self.volatile.steps.iter_mut().for_each(Progress::turn);
                let stuck =
                    |it: &BranchId| matches!(self.durable.standing(*it), Standing::Stuck(_));
                Ok(self.durable.steps().filter(stuck).map(Record::Unstuck).collect())
            }
            Input::ResolveAsked(resolution) => self.resolve(resolution),
            Input::Woke | Input::Resumed => NOTHING,
        }
    }

    /// Everything that the state calls for without an input, until there is no more.
    pub(super) fn follow(&mut self, now: Timestamp, records: &mut Vec<Record>) {
        loop {
            let more = match self.durable.phase() {
                Phase::Running => self.follow_on(now),
                Phase::Unwinding => self.give_up_kept(),
                Phase::Ended(_) => return,
            };
            if more.is_empty() {
                return;
            }
            self.apply(&more);
            records.extend(more);
        }
    }

    fn follow_on(&self, now: Timestamp) -> Vec<Record> {
        if self.volatile.deadline.is_some_and(|deadline| deadline <= now)
            && let Ok(unwinding) = self.unwind(None, self.late())
        {
            return vec![unwinding];
        }
        if !self.durable.started() {
            let start_at = self.durable.begun().start_at;
            let due = start_at.is_none_or(|start_at| start_at <= now);
            return due.then_some(Record::Started).into_iter().collect();
        }
        self.durable.steps().find_map(|step| self.timer(now, step)).into_iter().collect()
    }

    /// What becomes of a step that only waits.
    fn timer(&self, now: Timestamp, step: BranchId) -> Option<Record> {
        if !self.durable.is_due(step) {
            return None;
        }
        let plan = self.durable.plan(step)?;
        let wait_ms = match plan.action {
            Action::Call(_) | Action::Signal(None) => return None,
            Action::Message(_) => return Some(Record::Announced(step)),
            Action::Signal(Some(wait_ms)) | Action::Pause(wait_ms) | Action::Local(_, wait_ms) => {
                wait_ms
            }
        };
        match (self.durable.until(step), &plan.action) {
            (None, _) => Some(Record::Timed(step, now.after_ms(wait_ms))),
            // No pause is that long: the clock was set back since.
            (Some(until), _) if until.since_ms(now) > wait_ms => {
                Some(Record::Timed(step, now.after_ms(wait_ms)))
            }
            (Some(until), _) if until > now => None,
            (Some(_), Action::Pause(_)) => Some(Record::Acted(step, Opaque::default())),
            (Some(_), Action::Signal(_)) => {
                let detail = format!("no signal within {wait_ms} ms");
                self.unwind(Some(step), Reason::new("timeout", &detail)).ok()
            }
            // Its resource is asked.
            (Some(_), Action::Local(..) | Action::Call(_) | Action::Message(_)) => None,
        }
    }

    /// Steps that may have acted, are not being called, and have no compensation.
    fn give_up_kept(&self) -> Vec<Record> {
        let kept = |step: &BranchId| {
            self.durable.standing(*step) == Standing::Waiting
                && self.durable.plan(*step).is_some_and(|plan| plan.compensation.is_none())
                && self.volatile.steps[step.index()].call != Call::InFlight
        };
        self.durable.steps().filter(kept).map(Record::Kept).collect()
    }

    fn late(&self) -> Reason {
        let timeout_ms = self.durable.begun().timeout_ms.unwrap_or_default();
        let mut errors = self.volatile.steps.iter().filter_map(Progress::last_error);
        Reason::new(
            "timeout",
            &match errors.next_back() {
                Some(error) => format!("not done within {timeout_ms} ms; last error: {error}"),
                None => format!("not done within {timeout_ms} ms"),
            },
        )
    }

    /// The only place where a saga begins to unwind.
    fn unwind(&self, step: Option<BranchId>, reason: Reason) -> Result<Record, Refusal> {
        match self.durable.pivoting() {
            Some(pivot) if step != Some(pivot) => Err(Refusal::Pivoting(pivot)),
            None if self.durable.can_only_go_on() => Err(Refusal::Decided(Decision::Commit)),
            Some(_) | None => Ok(Record::Unwinding { step, reason }),
        }
    }

    fn abort_asked(&self, reason: Reason) -> Records {
        match self.durable.phase() {
            Phase::Running => Ok(vec![self.unwind(None, reason)?]),
            Phase::Unwinding | Phase::Ended(Outcome::Aborted | Outcome::Mixed) => NOTHING,
            Phase::Ended(Outcome::Committed) => Err(Refusal::Decided(Decision::Commit)),
        }
    }

    /// The application says that its local transaction has committed.
    fn commit_asked(&self, now: Timestamp) -> Records {
        let source = self.durable.source().ok_or(Refusal::NotForSaga)?;
        match (self.durable.phase(), self.durable.standing(source)) {
            // The resource has been asked, and its answer is more than anybody's word.
            (Phase::Running, Standing::Waiting) if self.is_asked(source, now) => NOTHING,
            (Phase::Running, Standing::Waiting) => {
                Ok(vec![Record::Acted(source, Opaque::default())])
            }
            (Phase::Running | Phase::Ended(Outcome::Committed), _) => NOTHING,
            (Phase::Unwinding | Phase::Ended(Outcome::Aborted | Outcome::Mixed), _) => {
                Err(Refusal::Decided(Decision::Abort))
            }
        }
    }

    /// The application will not commit its local transaction. It may have, so its resource is asked,
    /// which then takes no such commit any more.
    fn taken_back(&self, now: Timestamp, source: BranchId) -> Records {
        match (self.durable.phase(), self.durable.standing(source)) {
            (Phase::Running, Standing::Waiting) if self.is_asked(source, now) => NOTHING,
            (Phase::Running, Standing::Waiting) => Ok(vec![Record::Timed(source, now)]),
            (Phase::Running | Phase::Ended(Outcome::Committed), _) => {
                Err(Refusal::Decided(Decision::Commit))
            }
            (Phase::Unwinding | Phase::Ended(Outcome::Aborted | Outcome::Mixed), _) => NOTHING,
        }
    }

    /// Whether the resource of a local transaction is asked what became of it.
    pub(super) fn is_asked(&self, source: BranchId, now: Timestamp) -> bool {
        self.durable.until(source).is_some_and(|until| until <= now)
    }

    /// The first signal counts; it may come before the step is due.
    fn signalled(&self, step: BranchId, payload: Opaque) -> Records {
        let plan = self.durable.plan(step).ok_or(Refusal::UnknownBranch(step))?;
        match (&plan.action, self.durable.phase(), self.durable.standing(step)) {
            (Action::Call(_) | Action::Pause(_) | Action::Local(..) | Action::Message(_), ..) => {
                Err(Refusal::UnknownBranch(step))
            }
            (Action::Signal(_), Phase::Running, Standing::Waiting) => {
                Ok(vec![Record::Acted(step, payload)])
            }
            (Action::Signal(_), Phase::Running, _) => NOTHING,
            (Action::Signal(_), Phase::Unwinding, _) => Err(Refusal::Decided(Decision::Abort)),
            (Action::Signal(_), Phase::Ended(outcome), _) => Err(Refusal::Decided(match outcome {
                Outcome::Committed => Decision::Commit,
                Outcome::Aborted | Outcome::Mixed => Decision::Abort,
            })),
        }
    }

    fn answered(&mut self, now: Timestamp, step: BranchId, verb: Verb, answer: Answer) -> Records {
        let progress = self.volatile.steps.get_mut(step.index());
        let progress = progress.ok_or(Refusal::UnknownBranch(step))?;
        progress.call = Call::Idle;
        if answer.fits(verb) {
            progress.attempts = 0;
            progress.last_error = None;
        } else {
            self.pause(now, step, verb, answer.complaint(verb));
        }
        match (self.durable.phase(), verb, self.durable.standing(step)) {
            (Phase::Running, Verb::Act, Standing::Waiting | Standing::Announced) => {
                self.acted(step, answer)
            }
            (Phase::Unwinding, Verb::Act, Standing::Waiting) => Ok(self.acted_late(step, answer)),
            (
                Phase::Unwinding,
                Verb::Compensate,
                standing @ (Standing::Waiting | Standing::Acted | Standing::Stuck(_)),
            ) => Ok(self.compensated(step, standing, answer)),
            // An answer to a question that is over.
            _ => NOTHING,
        }
    }

    /// The call is to be repeated after a pause. Being still at it is no failed attempt.
    fn pause(&mut self, now: Timestamp, step: BranchId, verb: Verb, error: Option<Arc<str>>) {
        let progress = &mut self.volatile.steps[step.index()];
        if let Some(error) = error {
            progress.attempts = progress.attempts.saturating_add(1);
            progress.last_error = Some(error);
        }
        let plan = self.durable.plan(step).expect("it is one of the steps");
        let work = match verb {
            Verb::Compensate => plan.compensation.as_ref(),
            Verb::Act | Verb::Prepare | Verb::Commit | Verb::CommitOnePhase | Verb::Rollback => {
                plan.action.work()
            }
        };
        let pause_ms = match (self.durable.standing(step), work) {
            (Standing::Stuck(_), _) => STUCK_PAUSE_MS,
            (_, Some(work)) => work.retry.pause_ms(progress.attempts),
            (_, None) => 0,
        };
        progress.call = Call::RetryAt(now.after_ms(pause_ms));
    }

    fn acted(&self, step: BranchId, answer: Answer) -> Records {
        match answer {
            Answer::Done(result) => Ok(vec![Record::Acted(step, result)]),
            Answer::No(reason) => Ok(self.refused(step, reason)),
            Answer::Yes(_)
            | Answer::ReadOnly(_)
            | Answer::Lost(_)
            | Answer::Heuristic(_)
            | Answer::Working
            | Answer::Silent(_) => Ok(self.exhausted(step)),
        }
    }

    /// Whether no call to the step is left that may still be carried out after its refusal.
    fn is_certain(&self, step: BranchId) -> bool {
        // A resource that says no for a local transaction has seen to it that it stays so.
        self.durable.source() == Some(step)
            || self.volatile.calls_before == CallsBefore::No
                && self.volatile.steps[step.index()].calls == 1
    }

    fn refused(&self, step: BranchId, reason: Reason) -> Vec<Record> {
        match self.unwind(Some(step), reason.clone()) {
            // A call that was thought lost may be carried out after the one that was refused.
            Ok(unwinding) if !self.is_certain(step) => vec![unwinding],
            Ok(unwinding) => vec![Record::Refused(step, reason), unwinding],
            Err(_) => vec![Record::Stuck(step, Trouble::Refused, reason)],
        }
    }

    /// Gives up on a step that has been asked often enough, if its saga can still be undone.
    fn exhausted(&self, step: BranchId) -> Vec<Record> {
        let plan = self.durable.plan(step).expect("it is one of the steps");
        let progress = &self.volatile.steps[step.index()];
        let attempts_max = match plan.role {
            Role::Compensable => plan.action.work().and_then(|work| work.retry.attempts_max),
            // Whether it has acted must be known.
            Role::Pivot | Role::Retriable => None,
        };
        if attempts_max.is_none_or(|max| progress.attempts < max) {
            return Vec::new();
        }
        let detail = format!(
            "{} calls brought no answer; last error: {}",
            progress.attempts,
            progress.last_error().unwrap_or("none"),
        );
        self.unwind(Some(step), Reason::new("exhausted", &detail)).into_iter().collect()
    }

    /// The saga began to unwind while the step was being called.
    fn acted_late(&self, step: BranchId, answer: Answer) -> Vec<Record> {
        match answer {
            Answer::Done(result) => vec![Record::Acted(step, result)],
            Answer::No(reason) if self.is_certain(step) => vec![Record::Refused(step, reason)],
            Answer::No(_)
            | Answer::Yes(_)
            | Answer::ReadOnly(_)
            | Answer::Lost(_)
            | Answer::Heuristic(_)
            | Answer::Working
            | Answer::Silent(_) => Vec::new(),
        }
    }

    fn compensated(&self, step: BranchId, standing: Standing, answer: Answer) -> Vec<Record> {
        let progress = &self.volatile.steps[step.index()];
        match answer {
            Answer::Done(_) => vec![Record::Undone(step)],
            Answer::No(reason) if standing != Standing::Stuck(Trouble::Refused) => {
                vec![Record::Stuck(step, Trouble::Refused, reason)]
            }
            Answer::No(_) | Answer::Working => Vec::new(),
            Answer::Yes(_)
            | Answer::ReadOnly(_)
            | Answer::Lost(_)
            | Answer::Heuristic(_)
            | Answer::Silent(_) => {
                let plan = self.durable.plan(step).expect("it is one of the steps");
                let retry = plan.compensation.as_ref().map(|work| work.retry);
                let max = retry.and_then(|it| it.attempts_max).unwrap_or(COMPENSATIONS_MAX);
                if matches!(standing, Standing::Stuck(_)) || progress.attempts < max {
                    return Vec::new();
                }
                let detail = format!(
                    "{} calls brought no answer; last error: {}",
                    progress.attempts,
                    progress.last_error().unwrap_or("none"),
                );
                vec![Record::Stuck(step, Trouble::Silent, Reason::new("exhausted", &detail))]
            }
        }
    }

    fn resolve(&self, resolution: Resolution) -> Records {
        if self.durable.needs_attention() {
            return Ok(vec![Record::Resolved(resolution)]);
        }
        let unheard = |it: &BranchId| {
            self.durable.phase() == Phase::Running
                && self.durable.standing(*it) == Standing::Waiting
        };
        let Some(source) = self.durable.source().filter(unheard) else {
            return Err(Refusal::NothingToResolve);
        };
        let reason = Reason::new("operator", &resolution.reason);
        match (resolution.force, resolution.outcome) {
            (Force::No, _) => Err(Refusal::Delegated(source)),
            (Force::Yes, Decision::Commit) => {
                let acted = Record::Acted(source, Opaque::default());
                Ok(vec![Record::Resolved(resolution), acted])
            }
            (Force::Yes, Decision::Abort) => Ok(vec![
                Record::Resolved(resolution),
                Record::Refused(source, reason.clone()),
                Record::Unwinding { step: Some(source), reason },
            ]),
        }
    }
}
