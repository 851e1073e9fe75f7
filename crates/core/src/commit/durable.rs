//! What the journal knows of one transaction: a fold over its records.
//!
//! The only place where durable state changes. The live machine and recovery both go through
//! [`Durable::apply`], so they cannot disagree.

use std::fmt;
use std::sync::Arc;

use super::record::{Begun, Branch, Ending, Record, Shape};
use crate::id::BranchId;
use crate::limits::BRANCHES_MAX;
use crate::step::{Decision, Opaque, Outcome, Reason, Resolution, Vote};

/// Where the protocol stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Participants may be added.
    Active,
    /// Collecting votes. Nothing is promised yet.
    Preparing,
    /// The only branch was asked to decide; its answer is the outcome.
    Delegated(BranchId),
    /// Commit is decided; telling the branches.
    Committing,
    /// Abort is decided; telling the branches.
    Aborting,
    /// Every branch has ended, one of them against the decision. Waits for an operator.
    Attention,
    /// Nothing is left to do. The transaction can be forgotten.
    Ended(Outcome),
}

impl Phase {
    /// How a transaction in this phase ended; `None` while there is work left.
    pub fn ended(self) -> Option<Outcome> {
        match self {
            Self::Ended(outcome) => Some(outcome),
            Self::Active
            | Self::Preparing
            | Self::Delegated(_)
            | Self::Committing
            | Self::Aborting
            | Self::Attention => None,
        }
    }
}

/// What the journal knows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Durable {
    begun: Arc<Begun>,
    phase: Phase,
    decision: Option<Decision>,
    votes: Vec<Option<Vote>>,
    reason: Option<(Option<BranchId>, Reason)>,
    results: Vec<(BranchId, Opaque)>,
    endings: Vec<Option<Ending>>,
    resolution: Option<Resolution>,
    /// A branch ended against the decision, and no operator has settled it since.
    unsettled: bool,
}

/// A record that does not fit the ones before it: no machine writes such a sequence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Misfit(pub &'static str);

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "records contradict each other: {}", self.0)
    }
}

impl std::error::Error for Misfit {}

impl Durable {
    /// Folds the records of one transaction, oldest first.
    ///
    /// # Errors
    ///
    /// [`Misfit`] if no machine can have written them in this order.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self, Misfit> {
        let mut records = records.into_iter();
        let Some(Record::Begun(begun)) = records.next() else {
            return Err(Misfit("the first record does not begin the transaction"));
        };
        let mut durable = Self::begin(Arc::clone(begun))?;
        records.try_for_each(|record| durable.apply(record))?;
        Ok(durable)
    }

    fn begin(begun: Arc<Begun>) -> Result<Self, Misfit> {
        if begun.branches.len() > BRANCHES_MAX {
            return Err(Misfit("more branches than allowed"));
        }
        let phase = match begun.mode {
            super::Mode::Run | super::Mode::RunLater => Phase::Preparing,
            super::Mode::Interactive => Phase::Active,
        };
        let endings = vec![None; begun.branches.len()];
        Ok(Self {
            begun,
            phase,
            decision: None,
            votes: Vec::new(),
            reason: None,
            results: Vec::new(),
            endings,
            resolution: None,
            unsettled: false,
        })
    }

    /// Takes one more record.
    ///
    /// # Errors
    ///
    /// [`Misfit`] if the record does not fit; the state is then unchanged.
    pub fn apply(&mut self, record: &Record) -> Result<(), Misfit> {
        match (self.phase, record) {
            (Phase::Active, Record::Enlisted(branch)) => self.enlist(branch),
            (Phase::Active, Record::Preparing) => {
                self.phase = Phase::Preparing;
                Ok(())
            }
            (Phase::Preparing, Record::Delegated(_)) if self.begun.shape == Shape::Tcc => {
                Err(Misfit("delegated what has to be tried first"))
            }
            (Phase::Preparing, &Record::Delegated(branch)) => {
                if branch.index() >= self.endings.len() {
                    return Err(Misfit("delegated to a branch that does not exist"));
                }
                self.phase = Phase::Delegated(branch);
                Ok(())
            }
            (
                Phase::Active | Phase::Preparing | Phase::Delegated(_),
                Record::Decided { decision, votes, reason, results },
            ) => {
                if votes.len() != self.endings.len() {
                    return Err(Misfit("decided with the votes of other branches"));
                }
                if *decision == Decision::Commit && !self.may_commit(votes) {
                    return Err(Misfit("committed without the votes"));
                }
                self.votes.clone_from(votes);
                self.reason.clone_from(reason);
                self.results.clone_from(results);
                self.decide(*decision);
                Ok(())
            }
            (Phase::Committing | Phase::Aborting, &Record::Finished(branch, ending)) => {
                if !self.pending().any(|pending| pending == branch) {
                    return Err(Misfit("a branch finished that had nothing left to do"));
                }
                self.endings[branch.index()] = Some(ending);
                self.unsettled |= self.contradicts(ending);
                self.end_if_done();
                Ok(())
            }
            (Phase::Ended(_), Record::Resolved(_)) => Err(Misfit("resolved after the end")),
            (_, Record::Resolved(resolution)) => {
                self.resolution = Some(resolution.clone());
                self.unsettled = false;
                self.end_if_done();
                Ok(())
            }
            (_, Record::Begun(_)) => Err(Misfit("begun twice")),
            (_, Record::Enlisted(_)) => Err(Misfit("enlisted after the participants were fixed")),
            (_, Record::Preparing) => Err(Misfit("prepared twice")),
            (_, Record::Delegated(_)) => Err(Misfit("delegated outside the first phase")),
            (_, Record::Decided { .. }) => Err(Misfit("decided twice")),
            (_, Record::Finished(..)) => Err(Misfit("a branch finished before the decision")),
        }
    }

    fn may_commit(&self, votes: &[Option<Vote>]) -> bool {
        match self.phase {
            Phase::Preparing => {
                votes.iter().all(|vote| matches!(vote, Some(Vote::Yes | Vote::ReadOnly)))
            }
            Phase::Delegated(_) => true,
            Phase::Active
            | Phase::Committing
            | Phase::Aborting
            | Phase::Attention
            | Phase::Ended(_) => false,
        }
    }

    fn enlist(&mut self, branch: &Branch) -> Result<(), Misfit> {
        if self.endings.len() == BRANCHES_MAX {
            return Err(Misfit("more branches than allowed"));
        }
        Arc::make_mut(&mut self.begun).branches.push(branch.clone());
        self.endings.push(None);
        Ok(())
    }

    fn decide(&mut self, decision: Decision) {
        self.decision = Some(decision);
        let delegated = match self.phase {
            Phase::Delegated(branch) => Some(branch),
            Phase::Active | Phase::Preparing | Phase::Committing | Phase::Aborting => None,
            Phase::Attention | Phase::Ended(_) => None,
        };
        for (index, ending) in self.endings.iter_mut().enumerate() {
            // The delegated branch ended with its answer; a read-only one has nothing to keep, and
            // one that voted no has nothing left to undo.
            let over = matches!(self.votes[index], Some(Vote::ReadOnly | Vote::No))
                || delegated.is_some_and(|branch| branch.index() == index);
            *ending = over.then_some(Ending::Done);
        }
        self.phase = match decision {
            Decision::Commit => Phase::Committing,
            Decision::Abort => Phase::Aborting,
        };
        self.end_if_done();
    }

    fn end_if_done(&mut self) {
        let (Phase::Committing | Phase::Aborting | Phase::Attention, Some(decision)) =
            (self.phase, self.decision)
        else {
            return;
        };
        if self.pending().next().is_some() {
            return;
        }
        self.phase = match (self.unsettled, self.contradicted(), decision) {
            (true, ..) => Phase::Attention,
            (false, true, _) => Phase::Ended(Outcome::Mixed),
            (false, false, Decision::Commit) => Phase::Ended(Outcome::Committed),
            (false, false, Decision::Abort) => Phase::Ended(Outcome::Aborted),
        };
    }

    /// Where the protocol stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How it began.
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// The participants, in the order of their [`BranchId`]s.
    pub fn branches(&self) -> &[Branch] {
        &self.begun.branches
    }

    /// The branch's participant; `None` if there is no such branch.
    pub fn branch(&self, branch: BranchId) -> Option<&Branch> {
        self.begun.branches.get(branch.index())
    }

    /// What was decided; `None` while everything may still be forgotten.
    pub fn decision(&self) -> Option<Decision> {
        self.decision
    }

    /// The vote of a branch as it counted for the decision.
    pub fn vote(&self, branch: BranchId) -> Option<Vote> {
        self.votes.get(branch.index()).copied().flatten()
    }

    /// How a branch ended; `None` while it has something left to do.
    pub fn ending(&self, branch: BranchId) -> Option<Ending> {
        self.endings.get(branch.index()).copied().flatten()
    }

    /// Why it was aborted, and the branch at fault if there is one.
    pub fn reason(&self) -> Option<&(Option<BranchId>, Reason)> {
        self.reason.as_ref()
    }

    /// What a branch returned with its vote.
    pub fn result(&self, branch: BranchId) -> Option<&Opaque> {
        self.results.iter().find(|(id, _)| *id == branch).map(|(_, result)| result)
    }

    /// What an operator settled.
    pub fn resolution(&self) -> Option<&Resolution> {
        self.resolution.as_ref()
    }

    /// Branches that have to be told the decision, or that it has to be heard from again.
    pub fn pending(&self) -> impl Iterator<Item = BranchId> {
        (0_u16..)
            .zip(&self.endings)
            .filter(|(_, ending)| ending.is_none())
            .map(|(index, _)| BranchId(index))
    }

    /// Whether a branch ended against the decision, or may have.
    pub fn contradicted(&self) -> bool {
        self.endings.iter().flatten().any(|&ending| self.contradicts(ending))
    }

    fn contradicts(&self, ending: Ending) -> bool {
        match ending {
            Ending::Heuristic(kind) => self.decision.is_some_and(|it| kind.contradicts(it)),
            Ending::Done | Ending::Settled => false,
        }
    }

    /// What may be told as the outcome, once it is settled.
    pub fn outcome(&self) -> Option<Outcome> {
        match (self.contradicted(), self.decision) {
            (true, _) => Some(Outcome::Mixed),
            (false, Some(Decision::Commit)) => Some(Outcome::Committed),
            (false, Some(Decision::Abort)) => Some(Outcome::Aborted),
            (false, None) => None,
        }
    }
}
