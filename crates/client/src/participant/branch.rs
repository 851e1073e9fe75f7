//! What a participant keeps of one branch, and what follows from it: the barrier with its memory.
//!
//! Pure, and shared by all stores. The rules are [`unanimous_core::barrier::rule`]; what is added
//! here is what a repeated call is answered with.

use bytes::Bytes;
use serde_json::Value;
use unanimous_core::barrier::{Mark, Reply, Ruling, rule};
use unanimous_core::id::Timestamp;
use unanimous_core::{Answer, Decision, Opaque, Reason, Verb};

use super::store::Order;
use super::work::{Promise, Vote};

/// What a store keeps of one branch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Entry {
    /// How far it has come.
    pub mark: Mark,
    /// The body of `prepare`, until the branch ends.
    pub body: Bytes,
    /// What the client is told with the outcome.
    pub result: Opaque,
    /// Why it voted no.
    pub reason: Option<Reason>,
    /// When it voted yes.
    pub prepared_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// What a store does for a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Plan {
    /// Answer; write nothing.
    Answer(Answer),
    /// Write the entry, which has changed, and answer.
    Write,
    /// Do the work of `prepare`; then [`Entry::voted`] or [`Entry::refused`].
    Prepare,
    /// Do the work of `prepare` and, after a yes, that of `commit`; then as these say.
    PrepareAndCommit,
    /// Do the work of `commit`; then [`Entry::ended`].
    Commit,
    /// Do the work of `rollback`; then [`Entry::ended`].
    Rollback,
}

impl Order {
    /// The verb whose rules the order follows.
    fn verb(self) -> Verb {
        match self {
            Self::Told(verb) => verb,
            Self::Alone(Decision::Commit) => Verb::Commit,
            Self::Alone(Decision::Abort) => Verb::Rollback,
        }
    }

    /// The mark of a branch that has carried it out.
    fn mark(self) -> Mark {
        match self {
            Self::Told(Verb::Commit | Verb::CommitOnePhase) => Mark::Committed,
            Self::Told(Verb::Rollback) => Mark::RolledBack,
            Self::Told(Verb::Act | Verb::Compensate) => {
                unreachable!("a branch of two phases has no steps to carry out")
            }
            Self::Told(Verb::Prepare) => Mark::Prepared,
            Self::Alone(decision) => Mark::Heuristic(decision),
        }
    }
}

impl Entry {
    /// What to do for a call at `now`. The entry changes only if that is [`Plan::Write`].
    pub fn plan(&mut self, order: Order, now: Timestamp) -> Plan {
        let verb = order.verb();
        if matches!(verb, Verb::Act | Verb::Compensate) {
            let detail = "steps are served by paths of their own";
            return Plan::Answer(Answer::No(Reason::new("not_a_step", detail)));
        }
        match (rule(self.mark, verb), order) {
            (Ruling::Repeat(reply), _) => Plan::Answer(self.reply(verb, reply)),
            // Only what is in doubt can end by itself; there is nothing here that could.
            (Ruling::Bar(_), Order::Alone(_)) => Plan::Answer(Answer::Done(Opaque::default())),
            (Ruling::Bar(mark), Order::Told(_)) => {
                self.mark = mark;
                self.ended_at = Some(now);
                Plan::Write
            }
            (Ruling::Perform, _) => match verb {
                Verb::Prepare => Plan::Prepare,
                Verb::CommitOnePhase if self.mark == Mark::Absent => Plan::PrepareAndCommit,
                Verb::Commit | Verb::CommitOnePhase => Plan::Commit,
                Verb::Rollback => Plan::Rollback,
                Verb::Act | Verb::Compensate => unreachable!("they are answered above"),
            },
        }
    }

    /// The work of `prepare` is done.
    pub fn voted(&mut self, vote: Vote, body: Bytes, now: Timestamp) {
        if !vote.result.is_null() {
            self.result = Opaque::new(vote.result.to_string().as_bytes());
        }
        match vote.promise {
            Promise::Yes => {
                self.mark = Mark::Prepared;
                self.body = body;
                self.prepared_at = Some(now);
            }
            Promise::ReadOnly => {
                self.mark = Mark::ReadOnly;
                self.ended_at = Some(now);
            }
        }
    }

    /// The work of `prepare` was refused, and nothing of it is left.
    pub fn refused(&mut self, kind: &str, detail: &str, now: Timestamp) {
        self.mark = Mark::Refused;
        self.reason = Some(Reason::new(kind, detail));
        self.ended_at = Some(now);
    }

    /// The work of `commit` or `rollback` is done.
    pub fn ended(&mut self, order: Order, now: Timestamp) {
        self.mark = order.mark();
        self.body = Bytes::new();
        self.ended_at = Some(now);
    }

    /// The answer to an order that was just carried out.
    pub fn answer(&self, order: Order) -> Answer {
        let verb = order.verb();
        match rule(self.mark, verb) {
            Ruling::Repeat(reply) => self.reply(verb, reply),
            Ruling::Perform | Ruling::Bar(_) => {
                unreachable!("{:?} does not follow from {verb:?}", self.mark)
            }
        }
    }

    fn reply(&self, verb: Verb, reply: Reply) -> Answer {
        match (reply, verb) {
            (Reply::Yes, _) => Answer::Yes(self.result.clone()),
            (Reply::ReadOnly, _) => Answer::ReadOnly(self.result.clone()),
            (Reply::Done, Verb::CommitOnePhase) => Answer::Done(self.result.clone()),
            (
                Reply::Done,
                Verb::Prepare | Verb::Commit | Verb::Rollback | Verb::Act | Verb::Compensate,
            ) => Answer::Done(Opaque::default()),
            (Reply::Heuristic(kind), _) => Answer::Heuristic(kind),
            (Reply::No, _) => Answer::No(self.reason.clone().unwrap_or_else(|| {
                Reason::new("rolled_back", "the branch has rolled back and takes no more work")
            })),
        }
    }
}

/// What is kept of a result, as JSON.
pub(crate) fn json(result: &Opaque) -> Option<Value> {
    serde_json::from_slice(result.bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(7);

    fn prepared() -> Entry {
        let mut entry = Entry::default();
        assert_eq!(entry.plan(Order::Told(Verb::Prepare), NOW), Plan::Prepare);
        let vote = Vote::yes().with_result(Value::from(5));
        entry.voted(vote, Bytes::from_static(b"{}"), NOW);
        entry
    }

    #[test]
    fn a_repeated_yes_and_a_repeated_no_are_the_same_as_the_first() {
        let mut yes = prepared();
        let answer = Answer::Yes(Opaque::new(b"5"));
        assert_eq!(yes.answer(Order::Told(Verb::Prepare)), answer);
        assert_eq!(yes.plan(Order::Told(Verb::Prepare), NOW), Plan::Answer(answer));

        let mut no = Entry::default();
        no.refused("insufficient_funds", "7 of 9 left", NOW);
        let answer = Answer::No(Reason::new("insufficient_funds", "7 of 9 left"));
        assert_eq!(no.plan(Order::Told(Verb::Prepare), NOW), Plan::Answer(answer));
    }

    #[test]
    fn a_branch_that_ended_alone_says_so_to_whoever_asks() {
        let mut entry = prepared();
        let alone = Order::Alone(Decision::Abort);
        assert_eq!(entry.plan(alone, NOW), Plan::Rollback);
        entry.ended(alone, NOW);
        assert_eq!(entry.mark, Mark::Heuristic(Decision::Abort));
        let Plan::Answer(Answer::Heuristic(kind)) = entry.plan(Order::Told(Verb::Commit), NOW)
        else {
            panic!("a commit must hear of the rollback");
        };
        assert!(kind.contradicts(Decision::Commit));
    }

    #[test]
    fn a_policy_ends_nothing_that_is_not_in_doubt() {
        for decision in [Decision::Commit, Decision::Abort] {
            let mut absent = Entry::default();
            assert!(matches!(absent.plan(Order::Alone(decision), NOW), Plan::Answer(_)));
            assert_eq!(absent, Entry::default());
        }
        let mut committed = prepared();
        committed.ended(Order::Told(Verb::Commit), NOW);
        let before = committed.clone();
        committed.plan(Order::Alone(Decision::Commit), NOW);
        assert_eq!(committed, before);
    }
}
