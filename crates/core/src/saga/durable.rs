//! What the journal knows of one saga: a fold over its records.
//!
//! The only place where durable state changes. The live machine and recovery both go through
//! [`Durable::apply`], so they cannot disagree.

use std::sync::Arc;

use super::before::Before;
use super::record::{Action, Begun, Plan, Record, Role, Trouble};
use crate::commit::Misfit;
use crate::id::{BranchId, Timestamp};
use crate::limits::BRANCHES_MAX;
use crate::step::{Decision, Opaque, Outcome, Reason, Resolution};

const NO_SUCH_STEP: Misfit = Misfit("the saga has no such step");

/// Which way a saga goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Its steps act, each after those before it.
    Running,
    /// What has been done is undone, in the reverse order.
    Unwinding,
    /// Nothing is left to do.
    Ended(Outcome),
}

/// Where one step stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Not known to have acted. It may have been called, if everything before it has acted.
    Waiting,
    /// A message that has had its turn, and is sent when the saga can only go on.
    Announced,
    /// Done.
    Acted,
    /// It has refused, and did nothing.
    Refused,
    /// The saga was unwound before it was called.
    Unreached,
    /// Compensated.
    Undone,
    /// Whatever it did stays: there is no compensation.
    Kept,
    /// It goes neither on nor back by itself.
    Stuck(Trouble),
    /// An operator decided to go on without it.
    Skipped,
}

/// What the journal knows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Durable {
    begun: Arc<Begun>,
    phase: Phase,
    started: bool,
    standings: Vec<Standing>,
    before: Before,
    until: Vec<Option<Timestamp>>,
    results: Vec<Opaque>,
    troubles: Vec<Option<Reason>>,
    reason: Option<(Option<BranchId>, Reason)>,
    resolution: Option<Resolution>,
    attentions: u32,
}

impl Durable {
    /// Folds records. They may be an unflushed prefix of what was decided, never a suffix.
    ///
    /// # Errors
    ///
    /// [`Misfit`] if no machine can have written these records in this order.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self, Misfit> {
        let mut records = records.into_iter();
        let mut durable = match records.next() {
            Some(Record::Begun(begun)) if is_sound(&begun.steps) => Self::new(Arc::clone(begun)),
            Some(_) | None => return Err(Misfit("a saga begins with its steps")),
        };
        records.try_for_each(|record| durable.apply(record))?;
        Ok(durable)
    }

    fn new(begun: Arc<Begun>) -> Self {
        let count = begun.steps.len();
        Self {
            phase: Phase::Running,
            started: begun.start_at.is_none(),
            standings: vec![Standing::Waiting; count],
            before: Before::of(begun.steps.iter().map(|step| &*step.after)),
            until: vec![None; count],
            results: vec![Opaque::default(); count],
            troubles: vec![None; count],
            reason: None,
            resolution: None,
            attentions: 0,
            begun,
        }
    }

    /// Applies one record.
    pub(super) fn apply(&mut self, record: &Record) -> Result<(), Misfit> {
        if let Phase::Ended(_) = self.phase {
            return Err(Misfit("a saga that has ended has no more records"));
        }
        let needed_attention = self.needs_attention();
        match record {
            Record::Begun(_) => return Err(Misfit("a saga begins once")),
            Record::Started => self.started = true,
            Record::Timed(step, until) => {
                *self.until.get_mut(step.index()).ok_or(NO_SUCH_STEP)? = Some(*until)
            }
            Record::Acted(step, result) => {
                self.expect(*step, |it| it == self.uncalled(*step))?;
                let undone_later = self.phase == Phase::Running || self.is_compensable(*step);
                self.set(*step, if undone_later { Standing::Acted } else { Standing::Kept });
                self.results[step.index()] = result.clone();
            }
            Record::Announced(step) => {
                self.expect(*step, |it| it == Standing::Waiting && self.is_message(*step))?;
                self.set(*step, Standing::Announced);
            }
            Record::Refused(step, reason) => {
                self.expect(*step, |it| it == Standing::Waiting)?;
                self.set(*step, Standing::Refused);
                self.troubles[step.index()] = Some(reason.clone());
            }
            Record::Unwinding { step, reason } => self.unwind(*step, reason)?,
            Record::Undone(step) => {
                self.expect(*step, is_owed)?;
                self.set(*step, Standing::Undone);
            }
            Record::Kept(step) => {
                self.expect(*step, |it| it == Standing::Waiting)?;
                self.set(*step, Standing::Kept);
            }
            Record::Stuck(step, trouble, reason) => {
                self.expect(*step, |it| is_owed(it) || it == Standing::Announced)?;
                self.set(*step, Standing::Stuck(*trouble));
                self.troubles[step.index()] = Some(reason.clone());
            }
            Record::Unstuck(step) => {
                self.expect(*step, |it| matches!(it, Standing::Stuck(_)))?;
                self.set(
                    *step,
                    match self.phase {
                        Phase::Running => self.uncalled(*step),
                        Phase::Unwinding | Phase::Ended(_) => Standing::Acted,
                    },
                );
            }
            Record::Resolved(resolution) => self.resolve(resolution),
        }
        self.attentions += u32::from(self.needs_attention() && !needed_attention);
        self.end_if_done();
        Ok(())
    }

    fn expect(&self, step: BranchId, fits: impl Fn(Standing) -> bool) -> Result<(), Misfit> {
        match self.standings.get(step.index()) {
            Some(&standing) if fits(standing) => Ok(()),
            Some(_) => Err(Misfit("a step is not where the record has it")),
            None => Err(NO_SUCH_STEP),
        }
    }

    fn set(&mut self, step: BranchId, standing: Standing) {
        self.standings[step.index()] = standing;
    }

    fn unwind(&mut self, step: Option<BranchId>, reason: &Reason) -> Result<(), Misfit> {
        if self.phase != Phase::Running || step.is_some_and(|it| self.plan(it).is_none()) {
            return Err(Misfit("only a running saga unwinds"));
        }
        let called: Vec<bool> = self.steps().map(|step| self.is_due(step)).collect();
        self.phase = Phase::Unwinding;
        self.reason = Some((step, reason.clone()));
        for (index, called) in called.into_iter().enumerate() {
            let step = BranchId(index as u16);
            let is_call = matches!(self.begun.steps[index].action, Action::Call(_));
            self.standings[index] = match self.standings[index] {
                Standing::Waiting if called && is_call => Standing::Waiting,
                Standing::Waiting | Standing::Announced => Standing::Unreached,
                Standing::Acted if self.is_compensable(step) => Standing::Acted,
                Standing::Acted => Standing::Kept,
                // It was called more than once, or may have been: a call may still be carried out.
                Standing::Stuck(_) => Standing::Waiting,
                settled @ (Standing::Refused
                | Standing::Unreached
                | Standing::Undone
                | Standing::Kept
                | Standing::Skipped) => settled,
            };
        }
        Ok(())
    }

    /// Which way an operator settles what is stuck depends on where the saga was going.
    fn resolve(&mut self, resolution: &Resolution) {
        let settled = match (self.phase, resolution.outcome) {
            (Phase::Running, Decision::Commit) => Standing::Acted,
            (Phase::Unwinding, Decision::Abort) => Standing::Undone,
            (Phase::Running, Decision::Abort)
            | (Phase::Unwinding, Decision::Commit)
            | (Phase::Ended(_), _) => Standing::Skipped,
        };
        for standing in &mut self.standings {
            if let Standing::Stuck(_) = standing {
                *standing = settled;
            }
        }
        self.resolution = Some(resolution.clone());
    }

    fn end_if_done(&mut self) {
        let over = |standing: &Standing| match (self.phase, standing) {
            (Phase::Running, Standing::Acted | Standing::Skipped) => true,
            (Phase::Running, _) => false,
            (Phase::Unwinding | Phase::Ended(_), standing) => !is_owed(*standing),
        };
        if !self.standings.iter().all(over) {
            return;
        }
        let skipped = self.standings.contains(&Standing::Skipped);
        self.phase = Phase::Ended(match (self.phase, skipped) {
            (_, true) => Outcome::Mixed,
            (Phase::Running, false) => Outcome::Committed,
            (Phase::Unwinding | Phase::Ended(_), false) => Outcome::Aborted,
        });
    }

    fn is_message(&self, step: BranchId) -> bool {
        matches!(self.plan(step).map(|plan| &plan.action), Some(Action::Message(_)))
    }

    /// How a step stands before it is known to have been called.
    fn uncalled(&self, step: BranchId) -> Standing {
        if self.is_message(step) { Standing::Announced } else { Standing::Waiting }
    }

    fn is_compensable(&self, step: BranchId) -> bool {
        self.begun.steps[step.index()].compensation.is_some()
    }

    /// Whether a step has not acted and everything before it has: it may have been called.
    pub fn is_due(&self, step: BranchId) -> bool {
        self.started
            && self.phase == Phase::Running
            && self.standing(step) == Standing::Waiting
            && self.may_follow(step)
    }

    /// Whether everything before a step has acted. A signal may act before its turn, so looking at
    /// the steps directly before it is not enough.
    fn may_follow(&self, step: BranchId) -> bool {
        self.steps().all(|it| !self.before.is(it, step) || self.has_had_its_turn(it))
    }

    /// Whether a step holds up those after it no more. Nobody waits for the sending of a message.
    fn has_had_its_turn(&self, step: BranchId) -> bool {
        match self.standing(step) {
            Standing::Acted | Standing::Announced | Standing::Skipped => true,
            Standing::Stuck(_) => self.is_message(step),
            Standing::Waiting
            | Standing::Refused
            | Standing::Unreached
            | Standing::Undone
            | Standing::Kept => false,
        }
    }

    /// Whether a step may have acted and is to be compensated, or to be heard of, before the steps
    /// that come before it are.
    pub fn is_owed(&self, step: BranchId) -> bool {
        self.phase == Phase::Unwinding && is_owed(self.standing(step))
    }

    /// Whether everything that rests on a step is undone, also by way of steps that stay.
    pub fn is_bare(&self, step: BranchId) -> bool {
        self.steps().all(|it| !self.before.is(step, it) || !self.is_owed(it))
    }

    /// The local transaction on which everything rests: the first step, if it is one.
    pub fn source(&self) -> Option<BranchId> {
        let first = self.begun.steps.first()?;
        matches!(first.action, Action::Local(..)).then_some(BranchId(0))
    }

    /// Whether everything rests on a local transaction that has committed.
    pub fn is_published(&self) -> bool {
        self.source().is_some_and(|source| self.standing(source) == Standing::Acted)
    }

    /// The pivot, once it may have been called. From then on only it, or what follows, decides.
    pub fn pivoting(&self) -> Option<BranchId> {
        let pivot = self.begun.steps.iter().position(|step| step.role == Role::Pivot)?;
        let pivot = BranchId(pivot as u16);
        // A signal that came before its turn decides nothing yet.
        let has_turn = self.started && self.may_follow(pivot);
        match self.standing(pivot) {
            Standing::Waiting | Standing::Acted | Standing::Skipped if has_turn => Some(pivot),
            Standing::Waiting
            | Standing::Announced
            | Standing::Acted
            | Standing::Skipped
            | Standing::Refused
            | Standing::Unreached
            | Standing::Undone
            | Standing::Kept
            | Standing::Stuck(_) => None,
        }
    }

    /// Whether it can only go on: the pivot has acted, or without one every step has. From then on its
    /// messages are sent, so this stays true whatever becomes of them.
    pub fn can_only_go_on(&self) -> bool {
        let pivot = self.steps().find(|it| self.begun.steps[it.index()].role == Role::Pivot);
        self.phase == Phase::Running
            && match pivot {
                // A signal that came before its turn decides nothing yet.
                Some(pivot) => self.standing(pivot) == Standing::Acted && self.may_follow(pivot),
                None => self.steps().all(|step| self.has_had_its_turn(step)),
            }
    }

    /// Whether a message has had its turn, and is to be sent now.
    pub fn is_sending(&self, step: BranchId) -> bool {
        self.standing(step) == Standing::Announced && self.can_only_go_on()
    }

    /// Where the saga stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the time for its start has come.
    pub fn started(&self) -> bool {
        self.started
    }

    /// How it began.
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// Its steps, in the order of the request.
    pub fn steps(&self) -> impl Iterator<Item = BranchId> + use<> {
        (0..self.begun.steps.len() as u16).map(BranchId)
    }

    /// A step as it was asked for; `None` if there is no such step.
    pub fn plan(&self, step: BranchId) -> Option<&Plan> {
        self.begun.steps.get(step.index())
    }

    /// Where a step stands.
    ///
    /// # Panics
    ///
    /// If there is no such step.
    pub fn standing(&self, step: BranchId) -> Standing {
        self.standings[step.index()]
    }

    /// What a step returned; empty if it has not acted.
    pub fn result(&self, step: BranchId) -> Option<&Opaque> {
        self.results.get(step.index())
    }

    /// Why a step refused or is stuck.
    pub fn trouble(&self, step: BranchId) -> Option<&Reason> {
        self.troubles.get(step.index())?.as_ref()
    }

    /// How long a step waits.
    pub fn until(&self, step: BranchId) -> Option<Timestamp> {
        self.until.get(step.index()).copied().flatten()
    }

    /// Why it was unwound, and the step at fault if there is one.
    pub fn reason(&self) -> Option<&(Option<BranchId>, Reason)> {
        self.reason.as_ref()
    }

    /// What an operator settled last.
    pub fn resolution(&self) -> Option<&Resolution> {
        self.resolution.as_ref()
    }

    /// Whether a step goes neither on nor back by itself.
    pub fn needs_attention(&self) -> bool {
        self.standings.iter().any(|it| matches!(it, Standing::Stuck(_)))
    }

    /// How many times it came to need attention.
    pub fn attentions(&self) -> u32 {
        self.attentions
    }
}

/// Whether a step that stands so keeps an unwinding saga from its end.
fn is_owed(standing: Standing) -> bool {
    match standing {
        Standing::Waiting | Standing::Acted | Standing::Stuck(_) => true,
        Standing::Announced
        | Standing::Refused
        | Standing::Unreached
        | Standing::Undone
        | Standing::Kept
        | Standing::Skipped => false,
    }
}

/// Whether a journal can hold these steps: what the fold indexes is there.
fn is_sound(steps: &[Plan]) -> bool {
    let known = |step: &Plan| step.after.iter().all(|before| before.index() < steps.len());
    let first = |step: &Plan| !matches!(step.action, Action::Local(..));
    (1..=BRANCHES_MAX).contains(&steps.len())
        && steps.iter().all(known)
        && steps.iter().skip(1).all(first)
}
