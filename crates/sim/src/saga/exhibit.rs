//! The museum of sagas: deliberate mistakes, each of which the oracles must catch.
//!
//! Each is made at a seam of the simulated world, so the machine itself needs no hook.

use std::fmt;

use crate::exhibit::Exhibit;

/// One deliberate mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SagaExhibit {
    /// A compensation that is refused is passed over.
    CompensationSkipped,
    /// All compensations are called at once.
    CompensatesAllAtOnce,
    /// A timeout ends the saga without compensating.
    TimeoutEndsAtOnce,
    /// A call without an answer counts as done.
    SilenceIsDone,
    /// An action without an answer counts as refused.
    SilenceIsRefused,
    /// A service that is still at it counts as done.
    WorkingIsDone,
    /// A step that refused a repeated call is not compensated.
    RefusedIsNothing,
    /// An action under way is not awaited when the saga unwinds.
    InFlightNotAwaited,
    /// Steps go on to act while the saga unwinds.
    ActsWhileUnwinding,
    /// A cancel undoes what is past its pivot.
    PivotCancelled,
    /// A deadline undoes what is past its pivot.
    DeadlineAfterPivot,
    /// A step that is stuck is reported as undone.
    StuckIsDone,
    /// A step that is stuck is settled without an operator.
    AttentionClearsItself,
    /// One signal counts for every step that waits.
    SignalForAll,
    /// A cancel is carried out although the caller was told that something had changed.
    CancelIgnoresVersion,
    /// A repeated request begins another saga.
    KeyBeginsTwice,
    /// The client gets an identity that a crash forgets.
    LazyBegin,
    /// A delayed start is not durable before its first call.
    LazyStart,
    /// The result of a step is not durable before the next acts.
    LazyResult,
    /// The unwinding is not durable before the first compensation.
    LazyUnwinding,
    /// The end is told when the last compensation is not durable.
    LazyUndone,
    /// Effects do not wait for the journal.
    NoGate,
    /// The client hears of the outcome before it is durable.
    ReplyBeforeFlush,
    /// A status query shows what is not durable.
    StatusBeforeFlush,
    /// A refused sync is taken for a success.
    FsyncErrorIgnored,
    /// Wake-up times get lost.
    WakeLost,
    /// A restart loads sagas and does not resume them.
    ForgetResume,
    /// Whoever loses an append goes on as if it had won.
    LoserGoesOn,
    /// An append is taken whatever the saga holds.
    NoExpectedCheck,
    /// An append of a former owner is taken.
    NoEpochCheck,
    /// A takeover does not raise the epoch.
    ClaimKeepsTheEpoch,
    /// A service forgets a compensation that came first.
    NoTombstone,
    /// A service acts again after it was compensated.
    UndoneForgotten,
    /// A service acts again when it is asked again.
    ActRepeats,
    /// A service compensates again when it is asked again.
    CompensationRepeats,
    /// A message is published when it is announced.
    AnnouncedIsPublished,
    /// A message of a saga is sent at its turn.
    SentAtItsTurn,
    /// A message of a saga counts as sent when it is announced.
    AnnouncedIsSent,
    /// A cancel undoes a saga whose messages are on their way.
    SentAndCancelled,
    /// A message of which nothing is heard is dropped without a question.
    UntoldIsDropped,
    /// A source says that nothing has committed, and lets it commit afterwards.
    SettledWithoutMark,
}

impl SagaExhibit {
    /// All of them.
    pub const ALL: [Self; 41] = [
        Self::CompensationSkipped,
        Self::CompensatesAllAtOnce,
        Self::TimeoutEndsAtOnce,
        Self::SilenceIsDone,
        Self::SilenceIsRefused,
        Self::WorkingIsDone,
        Self::RefusedIsNothing,
        Self::InFlightNotAwaited,
        Self::ActsWhileUnwinding,
        Self::PivotCancelled,
        Self::DeadlineAfterPivot,
        Self::StuckIsDone,
        Self::AttentionClearsItself,
        Self::SignalForAll,
        Self::CancelIgnoresVersion,
        Self::KeyBeginsTwice,
        Self::LazyBegin,
        Self::LazyStart,
        Self::LazyResult,
        Self::LazyUnwinding,
        Self::LazyUndone,
        Self::NoGate,
        Self::ReplyBeforeFlush,
        Self::StatusBeforeFlush,
        Self::FsyncErrorIgnored,
        Self::WakeLost,
        Self::ForgetResume,
        Self::LoserGoesOn,
        Self::NoExpectedCheck,
        Self::NoEpochCheck,
        Self::ClaimKeepsTheEpoch,
        Self::NoTombstone,
        Self::UndoneForgotten,
        Self::ActRepeats,
        Self::CompensationRepeats,
        Self::AnnouncedIsPublished,
        Self::SentAtItsTurn,
        Self::AnnouncedIsSent,
        Self::SentAndCancelled,
        Self::UntoldIsDropped,
        Self::SettledWithoutMark,
    ];

    /// The mistake in one line.
    pub fn mistake(self) -> &'static str {
        match self {
            Self::CompensationSkipped => "a compensation that is refused is passed over",
            Self::CompensatesAllAtOnce => "all compensations are called at once",
            Self::TimeoutEndsAtOnce => "a timeout ends the saga without compensating",
            Self::SilenceIsDone => "a call without an answer counts as done",
            Self::SilenceIsRefused => "an action without an answer counts as refused",
            Self::WorkingIsDone => "a service that is still at it counts as done",
            Self::RefusedIsNothing => "a step that refused a repeated call is not compensated",
            Self::InFlightNotAwaited => "an action under way is not awaited when the saga unwinds",
            Self::ActsWhileUnwinding => "steps go on to act while the saga unwinds",
            Self::PivotCancelled => "a cancel undoes what is past its pivot",
            Self::DeadlineAfterPivot => "a deadline undoes what is past its pivot",
            Self::StuckIsDone => "a step that is stuck is reported as undone",
            Self::AttentionClearsItself => "a step that is stuck is settled without an operator",
            Self::SignalForAll => "one signal counts for every step that waits",
            Self::CancelIgnoresVersion => {
                "a cancel is carried out although its caller was told that something had changed"
            }
            Self::KeyBeginsTwice => "a repeated request begins another saga",
            Self::LazyBegin => "the client gets an identity that a crash forgets",
            Self::LazyStart => "a delayed start is not durable before its first call",
            Self::LazyResult => "the result of a step is not durable before the next acts",
            Self::LazyUnwinding => "the unwinding is not durable before the first compensation",
            Self::LazyUndone => "the end is told when the last compensation is not durable",
            Self::NoGate => "effects do not wait for the journal",
            Self::ReplyBeforeFlush => "the client hears of the outcome before it is durable",
            Self::StatusBeforeFlush => "a status query shows what is not durable",
            Self::FsyncErrorIgnored => "a refused sync is taken for a success",
            Self::WakeLost => "wake-up times get lost",
            Self::ForgetResume => "a restart loads sagas and does not resume them",
            Self::LoserGoesOn => "whoever loses an append goes on as if it had won",
            Self::NoExpectedCheck => "an append is taken whatever the saga holds",
            Self::NoEpochCheck => "an append of a former owner is taken",
            Self::ClaimKeepsTheEpoch => "a takeover does not raise the epoch",
            Self::NoTombstone => "a service forgets a compensation that came first",
            Self::UndoneForgotten => "a service acts again after it was compensated",
            Self::ActRepeats => "a service acts again when it is asked again",
            Self::CompensationRepeats => "a service compensates again when it is asked again",
            Self::AnnouncedIsPublished => "a message is published when it is announced",
            Self::SentAtItsTurn => "a message of a saga is sent at its turn",
            Self::AnnouncedIsSent => "a message of a saga counts as sent when it is announced",
            Self::SentAndCancelled => "a cancel undoes a saga whose messages are on their way",
            Self::UntoldIsDropped => {
                "a message of which nothing is heard is dropped without a question"
            }
            Self::SettledWithoutMark => {
                "a source says that nothing has committed, and lets it commit afterwards"
            }
        }
    }

    /// The mistake of the journal that it is, if it is one.
    pub(super) fn of_journal(self) -> Option<Exhibit> {
        let both = [
            (Self::NoExpectedCheck, Exhibit::NoExpectedCheck),
            (Self::NoEpochCheck, Exhibit::NoEpochCheck),
            (Self::ClaimKeepsTheEpoch, Exhibit::ClaimKeepsTheEpoch),
        ];
        both.into_iter().find(|(ours, _)| *ours == self).map(|(_, theirs)| theirs)
    }
}

impl fmt::Display for SagaExhibit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
