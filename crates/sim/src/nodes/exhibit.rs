//! The museum of ownership: deliberate mistakes among several coordinators.

use std::fmt;

/// One deliberate mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NodesExhibit {
    /// The journal takes what a former owner appends.
    EpochNotCompared,
    /// The journal takes an append whatever the transaction holds.
    HoldsNotCompared,
    /// Two claims that saw the same epoch both win the next one.
    ClaimsNotCompared,
    /// A takeover does not raise the epoch.
    ClaimKeepsTheEpoch,
    /// A takeover resumes before its epoch is durable.
    ResumesBeforeClaim,
    /// A takeover starts from what was open before its claim.
    LoadsBeforeClaim,
    /// A takeover goes on although somebody else was seen to claim the part while it was reading.
    OvertakenStays,
    /// A new owner starts from what it remembers of its last time.
    StartsFromCache,
    /// A new owner loads transactions and does not resume them.
    ForgetsToResume,
    /// Nobody claims the parts of a dead node.
    NobodyClaims,
    /// An append without an answer is taken as failed.
    UnknownIsFailed,
    /// An append without an answer is taken as done.
    UnknownIsDone,
    /// An append without an answer is not sent again.
    UnknownIsForgotten,
    /// A refused append lets out the effects that waited for it.
    RefusedLetsOut,
    /// A former owner does not let go of what it has lost.
    LoserHoldsOn,
    /// A node that does not own the part answers abort for what the journal does not have.
    AbsentMeansAbort,
    /// A node that does not own the part answers that there is no such transaction.
    StandbyAnswers,
    /// A node hunts for orphans in parts that it does not own.
    HuntsEverywhere,
    /// A node rolls orphans back without asking whether the part is still its own.
    HuntsUnfenced,
    /// A node that hands a part over closes before what it holds is durable.
    ClosesBeforeDurable,
    /// A begin that is sent again to a new owner begins there under the same identity.
    BegunUnderAnyEpoch,
}

impl NodesExhibit {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::EpochNotCompared,
        Self::HoldsNotCompared,
        Self::ClaimsNotCompared,
        Self::ClaimKeepsTheEpoch,
        Self::ResumesBeforeClaim,
        Self::LoadsBeforeClaim,
        Self::OvertakenStays,
        Self::StartsFromCache,
        Self::ForgetsToResume,
        Self::NobodyClaims,
        Self::UnknownIsFailed,
        Self::UnknownIsDone,
        Self::UnknownIsForgotten,
        Self::RefusedLetsOut,
        Self::LoserHoldsOn,
        Self::AbsentMeansAbort,
        Self::StandbyAnswers,
        Self::HuntsEverywhere,
        Self::HuntsUnfenced,
        Self::ClosesBeforeDurable,
        Self::BegunUnderAnyEpoch,
    ];

    /// The mistake in one line.
    pub fn mistake(self) -> &'static str {
        match self {
            Self::EpochNotCompared => "the journal takes what a former owner appends",
            Self::HoldsNotCompared => "the journal takes an append whatever the transaction holds",
            Self::ClaimsNotCompared => "two claims that saw the same epoch both win the next one",
            Self::ClaimKeepsTheEpoch => "a takeover does not raise the epoch",
            Self::ResumesBeforeClaim => "a takeover resumes before its epoch is durable",
            Self::LoadsBeforeClaim => "a takeover starts from what was open before its claim",
            Self::OvertakenStays => {
                "a takeover goes on although another claim was seen while it was reading"
            }
            Self::StartsFromCache => "a new owner starts from what it remembers of its last time",
            Self::ForgetsToResume => "a new owner loads transactions and does not resume them",
            Self::NobodyClaims => "nobody claims the parts of a dead node",
            Self::UnknownIsFailed => "an append without an answer is taken as failed",
            Self::UnknownIsDone => "an append without an answer is taken as done",
            Self::UnknownIsForgotten => "an append without an answer is not sent again",
            Self::RefusedLetsOut => "a refused append lets out the effects that waited for it",
            Self::LoserHoldsOn => "a former owner does not let go of what it has lost",
            Self::AbsentMeansAbort => {
                "a node that does not own the part answers abort for what the journal does not have"
            }
            Self::StandbyAnswers => {
                "a node that does not own the part answers that there is no such transaction"
            }
            Self::HuntsEverywhere => "a node hunts for orphans in parts that it does not own",
            Self::HuntsUnfenced => {
                "a node rolls orphans back without asking whether the part is still its own"
            }
            Self::ClosesBeforeDurable => {
                "a node that hands a part over closes before what it holds is durable"
            }
            Self::BegunUnderAnyEpoch => {
                "a begin that is sent again to a new owner begins there under the same identity"
            }
        }
    }
}

impl fmt::Display for NodesExhibit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
