//! What an input makes true: the rules of the protocol.
//!
//! Nothing here changes durable state; it only says which records follow. A commit is decided in
//! exactly one function, [`CommitTxn::tally`].

use super::record::{Branch, Ending, Mode, Phases, Record, Shape};
use super::{CommitTxn, Phase, Progress};
use crate::id::{BranchId, Timestamp};
use crate::limits::BRANCHES_MAX;
use crate::retry::Call;
use crate::step::{
    Answer, Decision, Force, HeuristicKind, Input, Reason, Refusal, Resolution, Verb, Vote,
};

type Records = Result<Vec<Record>, Refusal>;
const NOTHING: Records = Ok(Vec::new());

impl CommitTxn {
    pub(super) fn decide(&mut self, now: Timestamp, input: Input) -> Records {
        match input {
            Input::Enlist(branch) => self.enlist(branch),
            Input::CommitAsked(votes) => self.commit_asked(now, votes),
            Input::AbortAsked(reason) => self.abort_asked(reason),
            Input::Answered(branch, verb, answer) => self.answered(now, branch, verb, answer),
            Input::Signalled(..) => Err(Refusal::NoSignals),
            Input::Inquired(branch) => {
                self.known(branch)?;
                self.volatile.branches[branch.index()].hurry();
                NOTHING
            }
            Input::RetryAsked => {
                self.volatile.branches.iter_mut().for_each(Progress::hurry);
                NOTHING
            }
            Input::ResolveAsked(resolution) => self.resolve(resolution),
            Input::Woke => self.expire(now),
            Input::Resumed => match self.durable.phase() {
                // The votes are gone with the crash.
                Phase::Preparing => Ok(self.abort(None, restarted())),
                Phase::Active
                | Phase::Delegated(_)
                | Phase::Committing
                | Phase::Aborting
                | Phase::Attention
                | Phase::Ended(_) => self.expire(now),
            },
        }
    }

    fn enlist(&self, branch: Branch) -> Records {
        match self.durable.phase() {
            Phase::Active if self.durable.branches().len() == BRANCHES_MAX => {
                Err(Refusal::TooManyBranches)
            }
            // Asked for once more: the client did not hear the first answer.
            Phase::Active if self.durable.branches().iter().any(|it| it.name == branch.name) => {
                NOTHING
            }
            Phase::Active => Ok(vec![Record::Enlisted(branch)]),
            Phase::Preparing
            | Phase::Delegated(_)
            | Phase::Committing
            | Phase::Aborting
            | Phase::Attention
            | Phase::Ended(_) => Err(Refusal::NotEnlisting),
        }
    }

    fn commit_asked(&mut self, now: Timestamp, votes: Vec<(BranchId, Vote)>) -> Records {
        votes.iter().try_for_each(|&(branch, _)| self.known(branch))?;
        match self.durable.phase() {
            Phase::Active if self.volatile.deadline <= now => self.expire(now),
            Phase::Active | Phase::Preparing => {
                if let Some(branch) = self.take_votes(votes) {
                    let reason = Reason::new(
                        "contradiction",
                        "the client says no to a branch that may be prepared",
                    );
                    return Ok(self.abort(Some(branch), reason));
                }
                let mut records = Vec::new();
                if self.durable.phase() == Phase::Active {
                    records.push(Record::Preparing);
                }
                records.extend(self.tally());
                Ok(records)
            }
            Phase::Delegated(_) | Phase::Committing => NOTHING,
            Phase::Aborting | Phase::Attention | Phase::Ended(_) => match self.durable.decision() {
                Some(Decision::Abort) => Err(Refusal::Decided(Decision::Abort)),
                Some(Decision::Commit) | None => NOTHING,
            },
        }
    }

    /// Notes the votes of branches that the client prepared itself. A no that follows another vote, or
    /// the coordinator's own question, cannot be trusted to mean that nothing is prepared: the branch
    /// is returned, with its vote unknown.
    fn take_votes(&mut self, votes: Vec<(BranchId, Vote)>) -> Option<BranchId> {
        // A branch that the coordinator prepares speaks for itself.
        if self.durable.begun().mode != Mode::Interactive {
            return None;
        }
        for (branch, vote) in votes {
            let progress = &mut self.volatile.branches[branch.index()];
            let may_be_prepared = progress.vote.is_some() || progress.call != Call::Idle;
            if vote == Vote::No && may_be_prepared {
                progress.vote = None;
                return Some(branch);
            }
            progress.vote.get_or_insert(vote);
        }
        None
    }

    fn abort_asked(&self, reason: Reason) -> Records {
        match self.durable.phase() {
            Phase::Active | Phase::Preparing => Ok(self.abort(None, reason)),
            Phase::Delegated(branch) => Err(Refusal::Delegated(branch)),
            Phase::Committing | Phase::Aborting | Phase::Attention | Phase::Ended(_) => {
                match self.durable.decision() {
                    Some(Decision::Commit) => Err(Refusal::Decided(Decision::Commit)),
                    Some(Decision::Abort) | None => NOTHING,
                }
            }
        }
    }

    fn answered(
        &mut self,
        now: Timestamp,
        branch: BranchId,
        verb: Verb,
        answer: Answer,
    ) -> Records {
        self.known(branch)?;
        let progress = &mut self.volatile.branches[branch.index()];
        if answer.fits(verb) {
            progress.answered();
        } else {
            progress.unanswered(now, answer.complaint(verb));
        }
        match (self.durable.phase(), verb) {
            (Phase::Preparing, Verb::Prepare) => self.voted(branch, answer),
            (Phase::Delegated(to), Verb::CommitOnePhase) if to == branch => self.decided_by(answer),
            (Phase::Aborting, Verb::Prepare) => Ok(self.voted_too_late(branch, &answer)),
            (Phase::Committing, Verb::Commit) | (Phase::Aborting, Verb::Rollback) => {
                Ok(self.finish(branch, &answer))
            }
            // An answer to a question of a phase that is over.
            (
                Phase::Active
                | Phase::Preparing
                | Phase::Delegated(_)
                | Phase::Committing
                | Phase::Aborting
                | Phase::Attention
                | Phase::Ended(_),
                Verb::Prepare
                | Verb::Commit
                | Verb::CommitOnePhase
                | Verb::Rollback
                | Verb::Act
                | Verb::Compensate,
            ) => NOTHING,
        }
    }

    fn voted(&mut self, branch: BranchId, answer: Answer) -> Records {
        let progress = &mut self.volatile.branches[branch.index()];
        match answer {
            Answer::Yes(result) => {
                progress.vote = Some(Vote::Yes);
                progress.result = result;
            }
            Answer::ReadOnly(result) => {
                progress.vote = Some(Vote::ReadOnly);
                progress.result = result;
            }
            Answer::No(reason) => {
                progress.vote = Some(Vote::No);
                return Ok(self.abort(Some(branch), reason));
            }
            Answer::Lost(reason) => return Ok(self.abort(Some(branch), reason)),
            Answer::Done(_) | Answer::Heuristic(_) | Answer::Working | Answer::Silent(_) => {}
        }
        Ok(self.tally().into_iter().collect())
    }

    /// Decides to commit, as soon as the votes allow it, or to abort if one forbids it.
    ///
    /// The only place where a commit of more than one phase is decided. [`Record::Preparing`] has
    /// fixed the participants before.
    pub(super) fn tally(&self) -> Option<Record> {
        let votes = self.votes();
        if let Some(no) = votes.iter().position(|&vote| vote == Some(Vote::No)) {
            let reason = Reason::new("refused", "the participant's own vote was no");
            return self.abort(Some(BranchId(no as u16)), reason).pop();
        }
        if let ([None], [only]) = (&votes[..], self.durable.branches())
            && only.phases == Phases::One
            && self.durable.begun().shape == Shape::Atomic
            && self.volatile.branches[0].call == Call::Idle
        {
            return Some(Record::Delegated(BranchId(0)));
        }
        if votes.contains(&None) {
            return None;
        }
        Some(self.decided(Decision::Commit, votes, None))
    }

    fn decided(
        &self,
        decision: Decision,
        votes: Vec<Option<Vote>>,
        reason: Option<(Option<BranchId>, Reason)>,
    ) -> Record {
        let results = (0_u16..).zip(&self.volatile.branches);
        let results = results
            .filter(|(_, progress)| !progress.result.is_empty())
            .map(|(index, progress)| (BranchId(index), progress.result.clone()))
            .collect();
        Record::Decided { decision, votes, reason, results }
    }

    fn abort(&self, branch: Option<BranchId>, reason: Reason) -> Vec<Record> {
        vec![self.decided(Decision::Abort, self.votes(), Some((branch, reason)))]
    }

    /// The delegated branch has decided for everybody.
    fn decided_by(&mut self, answer: Answer) -> Records {
        match answer {
            Answer::Done(result) => {
                self.volatile.branches[0].result = result;
                Ok(vec![self.decided(Decision::Commit, vec![None], None)])
            }
            Answer::ReadOnly(result) => {
                self.volatile.branches[0].result = result;
                self.volatile.branches[0].vote = Some(Vote::ReadOnly);
                Ok(vec![self.decided(Decision::Commit, self.votes(), None)])
            }
            Answer::No(reason) => {
                self.volatile.branches[0].vote = Some(Vote::No);
                Ok(self.abort(Some(BranchId(0)), reason))
            }
            // It may have committed: asked until it says so.
            Answer::Yes(_)
            | Answer::Lost(_)
            | Answer::Heuristic(_)
            | Answer::Working
            | Answer::Silent(_) => NOTHING,
        }
    }

    /// The abort was decided while the vote was under way; it may spare the branch the rollback.
    fn voted_too_late(&self, branch: BranchId, answer: &Answer) -> Vec<Record> {
        match answer {
            Answer::No(_) | Answer::ReadOnly(_) => self.ended(branch, Ending::Done),
            Answer::Yes(_)
            | Answer::Lost(_)
            | Answer::Done(_)
            | Answer::Heuristic(_)
            | Answer::Working
            | Answer::Silent(_) => Vec::new(),
        }
    }

    fn finish(&self, branch: BranchId, answer: &Answer) -> Vec<Record> {
        match answer {
            Answer::Done(_) => self.ended(branch, Ending::Done),
            Answer::Heuristic(kind) => self.ended(branch, Ending::Heuristic(*kind)),
            // Not among the answers to a decision: asked again.
            Answer::Yes(_)
            | Answer::ReadOnly(_)
            | Answer::No(_)
            | Answer::Lost(_)
            | Answer::Working
            | Answer::Silent(_) => Vec::new(),
        }
    }

    fn ended(&self, branch: BranchId, ending: Ending) -> Vec<Record> {
        match self.durable.pending().any(|pending| pending == branch) {
            true => vec![Record::Finished(branch, ending)],
            false => Vec::new(),
        }
    }

    /// The sweeper: undecided past its deadline, a transaction aborts.
    fn expire(&self, now: Timestamp) -> Records {
        let undecided = matches!(self.durable.phase(), Phase::Active | Phase::Preparing);
        if !undecided || now < self.volatile.deadline {
            return NOTHING;
        }
        let silent = self.votes().iter().position(Option::is_none);
        let branch = silent.and_then(|index| {
            (self.durable.phase() == Phase::Preparing).then_some(BranchId(index as u16))
        });
        let timeout_ms = self.durable.begun().timeout_ms;
        let waited = match branch.and_then(|branch| self.progress(branch)?.last_error()) {
            Some(error) => format!("not decided within {timeout_ms} ms; last error: {error}"),
            None => format!("not decided within {timeout_ms} ms"),
        };
        Ok(self.abort(branch, Reason::new("timeout", &waited)))
    }

    fn resolve(&self, resolution: Resolution) -> Records {
        let resolved = || Record::Resolved(resolution.clone());
        let endings = |ending: Ending| {
            self.durable.pending().map(move |branch| Record::Finished(branch, ending))
        };
        let by_hand = || Reason::new("operator", &resolution.reason);
        match (self.durable.phase(), self.durable.decision()) {
            (Phase::Ended(_), _) => Err(Refusal::NothingToResolve),
            (Phase::Active | Phase::Preparing, _) => match resolution.outcome {
                Decision::Commit => Err(Refusal::Undecided),
                Decision::Abort => Ok([vec![resolved()], self.abort(None, by_hand())].concat()),
            },
            (Phase::Delegated(branch), _) => match resolution.force {
                Force::No => Err(Refusal::Delegated(branch)),
                Force::Yes => {
                    let reason = match resolution.outcome {
                        Decision::Commit => None,
                        Decision::Abort => Some((Some(branch), by_hand())),
                    };
                    let decided = self.decided(resolution.outcome, self.votes(), reason);
                    Ok(vec![resolved(), decided])
                }
            },
            (Phase::Committing | Phase::Aborting, Some(decision)) => {
                match (resolution.outcome == decision, resolution.force) {
                    (true, _) => {
                        Ok(std::iter::once(resolved()).chain(endings(Ending::Settled)).collect())
                    }
                    (false, Force::No) => Err(Refusal::Decided(decision)),
                    (false, Force::Yes) => {
                        let kind = match resolution.outcome {
                            Decision::Commit => HeuristicKind::Commit,
                            Decision::Abort => HeuristicKind::Rollback,
                        };
                        // Resolved comes last: it settles the contradiction just recorded.
                        Ok(endings(Ending::Heuristic(kind)).chain([resolved()]).collect())
                    }
                }
            }
            (Phase::Committing | Phase::Aborting, None) => unreachable!("decided without decision"),
            (Phase::Attention, _) => Ok(vec![resolved()]),
        }
    }

    fn votes(&self) -> Vec<Option<Vote>> {
        self.volatile.branches.iter().map(|progress| progress.vote).collect()
    }
}

fn restarted() -> Reason {
    Reason::new("restart", "the coordinator restarted before the outcome was decided")
}
