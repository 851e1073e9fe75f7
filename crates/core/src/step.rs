//! The language spoken between a machine and its driver.
//!
//! Everything that a machine is told is an [`Input`]; everything it wants is in a [`Step`]. The
//! words are shared by all protocols, so that a driver needs to know none of them.

use std::fmt;
use std::sync::Arc;

use crate::commit::Branch;
use crate::id::{BranchId, Timestamp};
use crate::limits::TEXT_LEN_MAX;

/// Bytes that the core carries and never reads: the work of a branch, the result of a statement.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Opaque(Option<Arc<[u8]>>);

impl Opaque {
    /// Carries `bytes`. No bytes take no memory.
    pub fn new(bytes: &[u8]) -> Self {
        Self((!bytes.is_empty()).then(|| Arc::from(bytes)))
    }

    /// What is carried; empty if nothing is.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether nothing is carried.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}

/// Something that happened, as told by the driver.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// The client adds a participant.
    Enlist(Branch),
    /// The client wants to commit, and brings the votes of the branches that it prepared itself.
    CommitAsked(Vec<(BranchId, Vote)>),
    /// The client wants to abort.
    AbortAsked(Reason),
    /// Somebody sends what a waiting step of a saga waits for.
    Signalled(BranchId, Opaque),
    /// A call ended. Reported exactly once for each [`Effect::Call`].
    Answered(BranchId, Verb, Answer),
    /// A branch that is in doubt asks for the outcome again.
    Inquired(BranchId),
    /// An operator does not want to wait for the next attempt.
    RetryAsked,
    /// An operator settles by hand what the protocol cannot.
    ResolveAsked(Resolution),
    /// Time asked for with [`Effect::WakeAt`] has come.
    Woke,
    /// The machine was just rebuilt from the journal.
    Resumed,
}

/// What an operator settled, and why. Kept for the audit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resolution {
    /// How the transaction shall count.
    pub outcome: Decision,
    /// Whether a decision in the journal may be contradicted.
    pub force: Force,
    /// Who did it.
    pub by: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
}

/// Whether an operator insists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Force {
    /// Refuse if the journal has decided otherwise.
    No,
    /// The branches that are left were ended by hand against the decision.
    Yes,
}

/// What a branch can say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// To [`Verb::Prepare`]: can commit, and keeps that promise across its own crashes.
    Yes(Opaque),
    /// To [`Verb::Prepare`]: changed nothing and needs no second phase.
    ReadOnly(Opaque),
    /// To [`Verb::Prepare`] and [`Verb::CommitOnePhase`]: cannot commit, and has already rolled back.
    /// To [`Verb::Act`] and [`Verb::Compensate`]: refused, and nothing of it was done.
    No(Reason),
    /// To [`Verb::Prepare`]: the vote cannot be had any more. The branch may be prepared.
    Lost(Reason),
    /// To every other verb than [`Verb::Prepare`]: carried out.
    Done(Opaque),
    /// To [`Verb::Commit`] and [`Verb::Rollback`]: the branch had already ended by itself.
    Heuristic(HeuristicKind),
    /// Still at it; ask again.
    Working,
    /// No answer came: refused connection, timeout, lost reply. The branch may or may not have
    /// carried out the call. The text says what was seen.
    Silent(Arc<str>),
}

impl Answer {
    /// Whether it answers a call of `verb`, so that the call need not be repeated.
    pub(crate) fn fits(&self, verb: Verb) -> bool {
        match self {
            Self::Yes(_) | Self::Lost(_) => verb == Verb::Prepare,
            Self::ReadOnly(_) => matches!(verb, Verb::Prepare | Verb::CommitOnePhase),
            Self::No(_) => !matches!(verb, Verb::Commit | Verb::Rollback),
            Self::Done(_) => verb != Verb::Prepare,
            Self::Heuristic(_) => matches!(verb, Verb::Commit | Verb::Rollback),
            Self::Working | Self::Silent(_) => false,
        }
    }

    /// What to show of it if it leaves the call of `verb` to be repeated.
    pub(crate) fn complaint(&self, verb: Verb) -> Option<Arc<str>> {
        match self {
            Self::Working => None,
            Self::Silent(error) => Some(Arc::clone(error)),
            Self::Yes(_)
            | Self::ReadOnly(_)
            | Self::No(_)
            | Self::Lost(_)
            | Self::Done(_)
            | Self::Heuristic(_) => {
                Some(Arc::from(cut(&format!("{self:?} is no answer to {verb:?}"))))
            }
        }
    }
}

/// Answer of a branch in the first phase, as it counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Vote {
    /// Can commit, and will keep that promise across its own crashes.
    Yes,
    /// Changed nothing and needs no second phase.
    ReadOnly,
    /// Cannot commit, and has already rolled back.
    No,
}

/// Why something was refused or undone, for people and for programs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reason {
    /// A stable word, such as `expectation` or `timeout`.
    pub kind: Arc<str>,
    /// One sentence with the names and numbers.
    pub detail: Arc<str>,
}

impl Reason {
    /// Makes a reason; a longer `detail` than [`TEXT_LEN_MAX`] bytes is cut.
    pub fn new(kind: &str, detail: &str) -> Self {
        Self { kind: Arc::from(kind), detail: Arc::from(cut(detail)) }
    }
}

/// The longest beginning of `text` that is within [`TEXT_LEN_MAX`] bytes.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_LEN_MAX)]
}

/// What the coordinator settled on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Every branch commits.
    Commit,
    /// Every branch rolls back.
    Abort,
}

/// How a branch ended by itself (X/Open XA: the heuristic outcomes).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeuristicKind {
    /// Committed.
    Commit,
    /// Rolled back.
    Rollback,
    /// Committed in part.
    Mixed,
    /// Cannot be known.
    Hazard,
}

impl HeuristicKind {
    /// Whether a branch that ended so did not do what was decided, or may not have.
    pub fn contradicts(self, decision: Decision) -> bool {
        match self {
            Self::Commit => decision == Decision::Abort,
            Self::Rollback => decision == Decision::Commit,
            Self::Mixed | Self::Hazard => true,
        }
    }
}

/// How a transaction ended, as the client and the operator see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// All effects are in place.
    Committed,
    /// No effect is left.
    Aborted,
    /// Some branch ended against the decision by itself. An operator has to reconcile it.
    Mixed,
}

/// What a branch is asked to do.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verb {
    /// First phase. TCC calls it try.
    Prepare,
    /// Second phase, commit. TCC calls it confirm.
    Commit,
    /// Both phases at once: the branch decides for the whole transaction.
    CommitOnePhase,
    /// Second phase, abort. TCC calls it cancel.
    Rollback,
    /// A step of a saga does its work, for all to see.
    Act,
    /// A step of a saga undoes its work. It may never have been done: then nothing is to be undone,
    /// and the work is barred from then on.
    Compensate,
}

/// Something for the driver to perform, after the step's forced records are durable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Call a branch, and report exactly one [`Input::Answered`] for it.
    Call(BranchId, Verb),
    /// The same with [`Verb::Rollback`], without waiting for the records of this step: if a crash
    /// takes them back, recovery aborts too. It waits for those of earlier steps.
    Undo(BranchId),
    /// Tell whoever waits for it, or watches, that the transaction came so far.
    Tell(Stage),
    /// Feed [`Input::Woke`] at this time or later. A newer request replaces an older one.
    WakeAt(Timestamp),
}

/// How far a transaction has come, for those who wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// It exists. A crash may still forget it if the client waits for its outcome. Of a saga that is
    /// told anew whenever one of its steps comes further.
    Begun,
    /// The outcome is settled. [`Outcome::Mixed`] is never decided, it only turns out.
    Decided(Outcome),
    /// A branch ended against the decision, or a step is stuck: an operator has to look.
    NeedsAttention,
    /// Nothing is left to do.
    Ended(Outcome),
}

/// Why an input that asked for something was not followed. The machine did not change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The participants are fixed once commit or abort was asked for.
    NotEnlisting,
    /// There are [`crate::limits::BRANCHES_MAX`] branches already.
    TooManyBranches,
    /// The transaction has no such branch.
    UnknownBranch(BranchId),
    /// The outcome is already settled the other way.
    Decided(Decision),
    /// One branch was asked to decide, and its answer is not here yet.
    Delegated(BranchId),
    /// The saga cannot be undone any more, or not before this step has answered: it is the pivot.
    Pivoting(BranchId),
    /// A saga goes on by itself, and nobody commits it.
    NotForSaga,
    /// A transaction of two phases has no waiting steps.
    NoSignals,
    /// An operator cannot commit what nobody has decided to commit.
    Undecided,
    /// Nothing is left to resolve.
    NothingToResolve,
}

/// Whether a record must reach stable storage before the effects of its step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// A wrong outcome is possible if a crash loses this record after its effects were seen.
    Forced,
    /// Losing this record costs repeated work, never a wrong outcome.
    Lazy,
}

/// What one input did: facts to append to the journal, then effects to perform.
#[derive(Debug)]
#[must_use]
pub struct Step<R> {
    /// In the order they became true.
    pub records: Vec<R>,
    /// In no particular order.
    pub effects: Vec<Effect>,
    /// Set if the input asked for something that cannot be had.
    pub refused: Option<Refusal>,
}

impl<R> Step<R> {
    pub(crate) fn map<S>(self, wrap: impl FnMut(R) -> S) -> Step<S> {
        let records = self.records.into_iter().map(wrap).collect();
        Step { records, effects: self.effects, refused: self.refused }
    }
}
