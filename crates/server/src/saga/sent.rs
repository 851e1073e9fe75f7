//! How the journal keeps what a step's call sends.
//!
//! Most calls are kept as their template alone: the request to a service, or a list of statements. One
//! that belongs to a child saga, or to the three calls of something that is tried, is kept with what has
//! to be known of that besides.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use unanimous_core::id::BranchId;
use unanimous_core::{Answer, HeuristicKind, Opaque, Reason, Verb};

/// What a call sends.
pub(crate) struct Sent<'a> {
    /// The child sagas around the step, the outermost first.
    pub(crate) around: Vec<Around<'a>>,
    /// Set for a resource that tries, confirms and cancels: which of these, and of which step.
    pub(crate) tried: Option<(Tried, BranchId)>,
    pub(crate) template: &'a RawValue,
}

/// A child saga: what its steps see instead of the saga's own input and step names.
#[derive(Deserialize, Serialize)]
pub(crate) struct Around<'a> {
    pub(crate) name: String,
    /// A template in what is around the child; its input unless there is one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<&'a RawValue>,
}

/// The three calls of what is tried.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tried {
    Try,
    Confirm,
    Cancel,
}

impl Tried {
    /// What the resource is asked, which knows nothing of sagas.
    pub(crate) fn verb(self) -> Verb {
        match self {
            Self::Try => Verb::Prepare,
            Self::Confirm => Verb::Commit,
            Self::Cancel => Verb::Rollback,
        }
    }

    /// What its answer is to the step.
    pub(crate) fn heard(self, answer: Answer) -> Answer {
        let by_itself =
            |kind: &str| Reason::new("heuristic", &format!("it ended by itself: {kind}"));
        match (self, answer) {
            (Self::Try, Answer::Yes(results) | Answer::ReadOnly(results)) => {
                Answer::Done(only(&results))
            }
            (Self::Try, Answer::Lost(reason)) => Answer::Silent(reason.detail),
            (Self::Confirm, Answer::Heuristic(HeuristicKind::Commit))
            | (Self::Cancel, Answer::Heuristic(HeuristicKind::Rollback)) => {
                Answer::Done(Opaque::default())
            }
            (_, Answer::Heuristic(kind)) => Answer::No(by_itself(match kind {
                HeuristicKind::Commit => "it is confirmed",
                HeuristicKind::Rollback => "it is cancelled",
                HeuristicKind::Mixed => "in part",
                HeuristicKind::Hazard => "nobody knows how",
            })),
            (_, answer) => answer,
        }
    }
}

/// The result of a participant, which comes as a list of one.
fn only(results: &Opaque) -> Opaque {
    match serde_json::from_slice::<[&RawValue; 1]>(results.bytes()) {
        Ok([result]) => Opaque::new(result.get().as_bytes()),
        Err(_) => Opaque::default(),
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept<'a> {
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    around: Vec<Around<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tried: Option<(Tried, u16)>,
    #[serde(borrow)]
    sent: &'a RawValue,
}

impl<'a> Sent<'a> {
    /// For the journal.
    pub(crate) fn kept(self) -> Opaque {
        if self.around.is_empty() && self.tried.is_none() {
            return Opaque::new(self.template.get().as_bytes());
        }
        let tried = self.tried.map(|(tried, of)| (tried, of.0));
        let kept = Kept { around: self.around, tried, sent: self.template };
        Opaque::new(&serde_json::to_vec(&kept).expect("it is always JSON"))
    }

    /// As the journal has it.
    pub(crate) fn read(kept: &'a Opaque) -> Option<Self> {
        // A request to a service has no such member.
        if let Ok(Kept { around, tried, sent }) = serde_json::from_slice(kept.bytes()) {
            let tried = tried.map(|(tried, of)| (tried, BranchId(of)));
            return Some(Self { around, tried, template: sent });
        }
        let template = serde_json::from_slice(kept.bytes()).ok()?;
        Some(Self { around: Vec::new(), tried: None, template })
    }
}
