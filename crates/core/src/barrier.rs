//! The participant's side: what to do with a call, given what was done before.
//!
//! A participant keeps one [`Mark`] for each branch, written in the same local transaction as the
//! work itself. Then repeats, late calls and calls in the wrong order are harmless: a rollback that
//! comes first bars the prepare behind it, and a call that was carried out is answered from its
//! mark. A participant that is [`Mark::Prepared`] and hears nothing asks the coordinator, and never
//! aborts alone; see [`Doubt`].

use crate::id::Timestamp;
use crate::limits::{RETRY_MS_MAX, RETRY_MS_MIN};
use crate::step::{Decision, HeuristicKind, Verb};

/// What a participant remembers of a branch.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mark {
    /// Nothing: never heard of, or forgotten long after its end.
    #[default]
    Absent,
    /// Voted yes; the work waits for the decision.
    Prepared,
    /// Voted read-only: nothing to keep or to undo.
    ReadOnly,
    /// Voted no; nothing is left of the work.
    Refused,
    /// Committed as told.
    Committed,
    /// Rolled back as told, or barred before it began.
    RolledBack,
    /// Ended by itself while in doubt.
    Heuristic(Decision),
}

/// What to do with a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ruling {
    /// Do the work of the verb and write the mark that it leads to, in one local transaction.
    Perform,
    /// Write this mark; there is no work.
    Bar(Mark),
    /// Answer as before; change nothing.
    Repeat(Reply),
}

/// The answers that follow from a mark alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reply {
    /// Vote yes.
    Yes,
    /// Vote read-only.
    ReadOnly,
    /// Vote no.
    No,
    /// Carried out.
    Done,
    /// Had ended by itself.
    Heuristic(HeuristicKind),
}

/// Rules on one call.
pub fn rule(mark: Mark, verb: Verb) -> Ruling {
    use Ruling::{Bar, Perform, Repeat};
    let by_itself = |decision| match decision {
        Decision::Commit => Reply::Heuristic(HeuristicKind::Commit),
        Decision::Abort => Reply::Heuristic(HeuristicKind::Rollback),
    };
    match (verb, mark) {
        (Verb::Prepare | Verb::CommitOnePhase, Mark::Absent) => Perform,
        (Verb::Prepare, Mark::Prepared | Mark::Committed | Mark::Heuristic(_)) => {
            Repeat(Reply::Yes)
        }
        (Verb::Prepare, Mark::ReadOnly) => Repeat(Reply::ReadOnly),
        (Verb::Prepare | Verb::CommitOnePhase, Mark::Refused | Mark::RolledBack) => {
            Repeat(Reply::No)
        }

        (Verb::Commit | Verb::CommitOnePhase, Mark::Prepared) => Perform,
        (Verb::Commit | Verb::CommitOnePhase, Mark::Committed | Mark::ReadOnly) => {
            Repeat(Reply::Done)
        }
        (Verb::Commit | Verb::Rollback, Mark::Heuristic(decision)) => Repeat(by_itself(decision)),
        // In one phase the branch decides for everybody, so whatever it did is the outcome.
        (Verb::CommitOnePhase, Mark::Heuristic(Decision::Commit)) => Repeat(Reply::Done),
        (Verb::CommitOnePhase, Mark::Heuristic(Decision::Abort)) => Repeat(Reply::No),
        // It voted yes and has lost the work since (restored from an old backup), or it was told
        // to roll back before: either way nothing of the work is there, and the coordinator must
        // hear of it.
        (Verb::Commit, Mark::Absent) => Bar(Mark::Heuristic(Decision::Abort)),
        (Verb::Commit, Mark::Refused | Mark::RolledBack) => Repeat(by_itself(Decision::Abort)),

        (Verb::Rollback, Mark::Prepared) => Perform,
        (Verb::Rollback, Mark::Absent) => Bar(Mark::RolledBack),
        (Verb::Rollback, Mark::Refused | Mark::RolledBack | Mark::ReadOnly) => Repeat(Reply::Done),
        (Verb::Rollback, Mark::Committed) => Repeat(by_itself(Decision::Commit)),

        (Verb::Act, Mark::Absent) => Perform,
        (Verb::Act, Mark::Committed | Mark::ReadOnly) => Repeat(Reply::Done),
        (Verb::Act, Mark::Refused | Mark::RolledBack) => Repeat(Reply::No),

        (Verb::Compensate, Mark::Committed) => Perform,
        (Verb::Compensate, Mark::Absent) => Bar(Mark::RolledBack),
        (Verb::Compensate, Mark::Refused | Mark::RolledBack | Mark::ReadOnly) => {
            Repeat(Reply::Done)
        }
        // A branch is a step or has two phases, never both.
        (Verb::Act | Verb::Compensate, Mark::Prepared | Mark::Heuristic(_)) => Repeat(Reply::No),
    }
}

/// What a participant does that waits for a decision for very long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Policy {
    /// Asks for ever. The only policy under which the outcome is never mixed.
    Ask,
    /// Ends the branch this way once it has been in doubt for so many milliseconds.
    Heuristic(Decision, u64),
}

/// A branch that voted yes and has not heard the decision.
#[derive(Clone, Debug)]
pub struct Doubt {
    since: Timestamp,
    asked: Timestamp,
    pause_ms: u64,
    next_pause_ms: u64,
    policy: Policy,
}

/// What a branch in doubt should do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Move {
    /// Ask the coordinator for the outcome.
    Ask,
    /// Nothing before that time.
    WaitUntil(Timestamp),
    /// End by itself, as its policy says, and remember that.
    EndAlone(Decision),
}

impl Doubt {
    /// A branch that has been prepared since `since` and first asks `patience_ms` later.
    pub fn new(since: Timestamp, patience_ms: u64, policy: Policy) -> Self {
        let next_pause_ms = RETRY_MS_MIN;
        Self { since, asked: since, pause_ms: patience_ms, next_pause_ms, policy }
    }

    /// What to do at `now`. Each [`Move::Ask`] counts as asked; the pause before the next doubles.
    pub fn next(&mut self, now: Timestamp) -> Move {
        let ends_at = match self.policy {
            Policy::Ask => None,
            Policy::Heuristic(decision, after_ms) if now.since_ms(self.since) >= after_ms => {
                return Move::EndAlone(decision);
            }
            Policy::Heuristic(_, after_ms) => Some(self.since.after_ms(after_ms)),
        };
        // If the clock was set back, the pause starts anew: no longer wait comes of it.
        self.asked = self.asked.min(now);
        let next_ask = self.asked.after_ms(self.pause_ms);
        if now < next_ask {
            return Move::WaitUntil(ends_at.map_or(next_ask, |at| at.min(next_ask)));
        }
        self.asked = now;
        self.pause_ms = self.next_pause_ms;
        self.next_pause_ms = (self.next_pause_ms * 2).min(RETRY_MS_MAX);
        Move::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: [Mark; 8] = [
        Mark::Absent,
        Mark::Prepared,
        Mark::ReadOnly,
        Mark::Refused,
        Mark::Committed,
        Mark::RolledBack,
        Mark::Heuristic(Decision::Commit),
        Mark::Heuristic(Decision::Abort),
    ];
    const VERBS: [Verb; 4] = [Verb::Prepare, Verb::Commit, Verb::CommitOnePhase, Verb::Rollback];

    #[test]
    fn a_branch_that_has_ended_is_never_worked_on_again() {
        for mark in MARKS.into_iter().filter(|mark| !matches!(mark, Mark::Absent | Mark::Prepared))
        {
            for verb in VERBS {
                assert!(matches!(rule(mark, verb), Ruling::Repeat(_)), "{verb:?} on {mark:?}");
            }
        }
    }

    #[test]
    fn a_rollback_that_comes_first_bars_the_prepare_behind_it() {
        assert_eq!(rule(Mark::Absent, Verb::Rollback), Ruling::Bar(Mark::RolledBack));
        assert_eq!(rule(Mark::RolledBack, Verb::Prepare), Ruling::Repeat(Reply::No));
    }

    #[test]
    fn a_commit_of_lost_work_is_reported_and_not_acknowledged() {
        let lost = Mark::Heuristic(Decision::Abort);
        assert_eq!(rule(Mark::Absent, Verb::Commit), Ruling::Bar(lost));
        let reported = Reply::Heuristic(HeuristicKind::Rollback);
        assert_eq!(rule(lost, Verb::Commit), Ruling::Repeat(reported));
    }

    #[test]
    fn only_its_policy_makes_a_branch_in_doubt_end_alone() {
        let mut patient = Doubt::new(Timestamp(0), 1_000, Policy::Ask);
        assert_eq!(patient.next(Timestamp(999)), Move::WaitUntil(Timestamp(1_000)));
        assert_eq!(patient.next(Timestamp(1_000)), Move::Ask);
        assert_eq!(patient.next(Timestamp(1_000)), Move::WaitUntil(Timestamp(1_050)));
        assert_eq!(patient.next(Timestamp(u64::MAX)), Move::Ask);

        let policy = Policy::Heuristic(Decision::Abort, 60_000);
        let mut hasty = Doubt::new(Timestamp(0), 1_000, policy);
        assert_eq!(hasty.next(Timestamp(59_980)), Move::Ask);
        assert_eq!(hasty.next(Timestamp(59_980)), Move::WaitUntil(Timestamp(60_000)));
        assert_eq!(hasty.next(Timestamp(60_000)), Move::EndAlone(Decision::Abort));
    }

    #[test]
    fn a_clock_set_back_does_not_keep_a_branch_in_doubt_from_asking() {
        let mut doubt = Doubt::new(Timestamp(1_000_000), 1_000, Policy::Ask);
        assert_eq!(doubt.next(Timestamp(5_000)), Move::WaitUntil(Timestamp(6_000)));
        assert_eq!(doubt.next(Timestamp(6_000)), Move::Ask);
    }
}
