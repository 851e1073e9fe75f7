//! The museum: deliberate mistakes, each of which the oracles must catch.
//!
//! A mistake is made at a seam of the simulated world (what is forced, what is told, what a
//! participant remembers), so the protocol itself needs no hook. One exhibit stands for one rule: if
//! it is no longer caught, the simulator has become blind to that rule.

use std::fmt;

/// One deliberate mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exhibit {
    /// Effects do not wait for the journal.
    NoGate,
    /// The client hears of the outcome before it is durable.
    ReplyBeforeFlush,
    /// A status query shows a decision that is not durable.
    StatusBeforeFlush,
    /// A coordinator acts on another one's records before they are durable.
    ReadsOthersEarly,
    /// The commit decision is not forced.
    LazyCommit,
    /// The abort decision is not forced.
    LazyAbort,
    /// What its client may still commit after a crash is rolled back before the abort is durable.
    UndoneEarly,
    /// The branch that decides alone is asked before the journal knows.
    LazyDelegation,
    /// The client gets an identity that a crash forgets.
    LazyBegin,
    /// The client gets a branch that a crash forgets.
    LazyEnlist,
    /// A restart loads transactions and does not resume them.
    ForgetResume,
    /// A vote that did not come counts as yes.
    SilenceIsYes,
    /// An acknowledgement that did not come counts as given.
    SilenceIsDone,
    /// A no counts as having nothing to do.
    NoIsReadOnly,
    /// A branch that ended by itself counts as having obeyed.
    HeuristicIsDone,
    /// A contradiction is settled without an operator.
    AttentionClearsItself,
    /// An append is taken whatever the transaction holds.
    NoExpectedCheck,
    /// An append of a former owner is taken.
    NoEpochCheck,
    /// A takeover does not raise the epoch.
    ClaimKeepsTheEpoch,
    /// Whoever loses an append goes on as if it had won.
    LoserGoesOn,
    /// Whoever loses an append answers its client as if it had won.
    LoserReplies,
    /// A torn last entry is acted on.
    TornEntryReplayed,
    /// A restart acts on a tail that it read from memory only.
    RecoveredTailNotSynced,
    /// The journal reports a flush before the sync.
    FlushReportedEarly,
    /// A refused sync is taken for a success.
    FsyncErrorIgnored,
    /// An orphan is rolled back at first sight.
    SweepAfterOneListing,
    /// Recovery touches branches of other clusters.
    SweepForeign,
    /// Recovery does not ask which transactions are live.
    SweepLive,
    /// Recovery lists the transactions before the branches.
    SweepKnowsEarly,
    /// Nobody looks for orphans.
    NoSweep,
    /// A former owner answers abort for what it does not know.
    AbsentMeansAbort,
    /// A branch that asks before the decision hears abort.
    InquiryMeansAbort,
    /// A branch that asks is not answered.
    InquiryUnanswered,
    /// A deadline aborts what is already decided.
    TimeoutOverridesDecision,
    /// Deadlines are not watched.
    DeadlineLost,
    /// A call without an answer is not repeated.
    RetryLost,
    /// A repeated request begins another transaction.
    KeyBeginsTwice,
    /// A branch that is refused is reported as enlisted.
    RefusalIsSuccess,
    /// An operator's word overrides a decision without force.
    ForceAlways,
    /// The end is reported when only the decision is made.
    EndedAtDecision,
    /// A participant votes before its promise is durable.
    VoteNotDurable,
    /// A participant aborts alone after a yes.
    AbortsAlone,
    /// A participant forgets a rollback that came first.
    NoTombstone,
    /// A participant forgets that it refused.
    RefusalForgotten,
    /// A participant acknowledges the commit of work it has lost.
    LostWorkAcknowledged,
    /// A participant does the work of a repeated prepare again.
    PrepareRepeats,
    /// A participant applies a repeated commit again.
    CommitRepeats,
}

impl Exhibit {
    /// All of them.
    pub const ALL: [Self; 47] = [
        Self::NoGate,
        Self::ReplyBeforeFlush,
        Self::StatusBeforeFlush,
        Self::ReadsOthersEarly,
        Self::LazyCommit,
        Self::LazyAbort,
        Self::UndoneEarly,
        Self::LazyDelegation,
        Self::LazyBegin,
        Self::LazyEnlist,
        Self::ForgetResume,
        Self::SilenceIsYes,
        Self::SilenceIsDone,
        Self::NoIsReadOnly,
        Self::HeuristicIsDone,
        Self::AttentionClearsItself,
        Self::NoExpectedCheck,
        Self::NoEpochCheck,
        Self::ClaimKeepsTheEpoch,
        Self::LoserGoesOn,
        Self::LoserReplies,
        Self::TornEntryReplayed,
        Self::RecoveredTailNotSynced,
        Self::FlushReportedEarly,
        Self::FsyncErrorIgnored,
        Self::SweepAfterOneListing,
        Self::SweepForeign,
        Self::SweepLive,
        Self::SweepKnowsEarly,
        Self::NoSweep,
        Self::AbsentMeansAbort,
        Self::InquiryMeansAbort,
        Self::InquiryUnanswered,
        Self::TimeoutOverridesDecision,
        Self::DeadlineLost,
        Self::RetryLost,
        Self::KeyBeginsTwice,
        Self::RefusalIsSuccess,
        Self::ForceAlways,
        Self::EndedAtDecision,
        Self::VoteNotDurable,
        Self::AbortsAlone,
        Self::NoTombstone,
        Self::RefusalForgotten,
        Self::LostWorkAcknowledged,
        Self::PrepareRepeats,
        Self::CommitRepeats,
    ];

    /// The mistake in one line.
    pub fn mistake(self) -> &'static str {
        match self {
            Self::NoGate => "effects do not wait for the journal",
            Self::ReplyBeforeFlush => "the client hears of the outcome before it is durable",
            Self::ReadsOthersEarly => {
                "a coordinator acts on another one's records before they are durable"
            }
            Self::StatusBeforeFlush => "a status query shows a decision that is not durable",
            Self::LazyCommit => "the commit decision is not forced",
            Self::LazyAbort => "the abort decision is not forced",
            Self::UndoneEarly => "an active transaction is rolled back before its abort is durable",
            Self::LazyDelegation => {
                "the branch that decides alone is asked before the journal knows"
            }
            Self::LazyBegin => "the client gets an identity that a crash forgets",
            Self::LazyEnlist => "the client gets a branch that a crash forgets",
            Self::ForgetResume => "a restart loads transactions and does not resume them",
            Self::SilenceIsYes => "a vote that did not come counts as yes",
            Self::SilenceIsDone => "an acknowledgement that did not come counts as given",
            Self::NoIsReadOnly => "a no counts as having nothing to do",
            Self::HeuristicIsDone => "a branch that ended by itself counts as having obeyed",
            Self::AttentionClearsItself => "a contradiction is settled without an operator",
            Self::NoExpectedCheck => "an append is taken whatever the transaction holds",
            Self::NoEpochCheck => "an append of a former owner is taken",
            Self::ClaimKeepsTheEpoch => "a takeover does not raise the epoch",
            Self::LoserReplies => "whoever loses an append answers its client as if it had won",
            Self::LoserGoesOn => "whoever loses an append goes on as if it had won",
            Self::TornEntryReplayed => "a torn last entry is acted on",
            Self::RecoveredTailNotSynced => {
                "a restart acts on a tail that it read from memory only"
            }
            Self::FlushReportedEarly => "the journal reports a flush before the sync",
            Self::FsyncErrorIgnored => "a refused sync is taken for a success",
            Self::SweepAfterOneListing => "an orphan is rolled back at first sight",
            Self::SweepForeign => "recovery touches branches of other clusters",
            Self::SweepLive => "recovery does not ask which transactions are live",
            Self::SweepKnowsEarly => "recovery lists the transactions before the branches",
            Self::NoSweep => "nobody looks for orphans",
            Self::AbsentMeansAbort => "a former owner answers abort for what it does not know",
            Self::InquiryMeansAbort => "a branch that asks before the decision hears abort",
            Self::InquiryUnanswered => "a branch that asks is not answered",
            Self::TimeoutOverridesDecision => "a deadline aborts what is already decided",
            Self::DeadlineLost => "deadlines are not watched",
            Self::RetryLost => "a call without an answer is not repeated",
            Self::KeyBeginsTwice => "a repeated request begins another transaction",
            Self::RefusalIsSuccess => "a branch that is refused is reported as enlisted",
            Self::ForceAlways => "an operator's word overrides a decision without force",
            Self::EndedAtDecision => "the end is reported when only the decision is made",
            Self::VoteNotDurable => "a participant votes before its promise is durable",
            Self::AbortsAlone => "a participant aborts alone after a yes",
            Self::NoTombstone => "a participant forgets a rollback that came first",
            Self::RefusalForgotten => "a participant forgets that it refused",
            Self::LostWorkAcknowledged => {
                "a participant acknowledges the commit of work it has lost"
            }
            Self::PrepareRepeats => "a participant does the work of a repeated prepare again",
            Self::CommitRepeats => "a participant applies a repeated commit again",
        }
    }
}

impl fmt::Display for Exhibit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
