//! The rows of a step in `unanimous_barrier`, a table that the coordinator's own steps in the same database
//! share, and what they mean. In Redis they are the fields of a hash.
//!
//! | row of the branch | in `unanimous_barrier` |
//! |---|---|
//! | `act`, with a result | the step was done |
//! | `act`, without | it never was, and will never be |
//! | `refuse` | that is because it was refused, for the reason that is kept as its result |
//! | `compensate` | it was compensated; with a result if there was anything to undo |
//!
//! The row is written before the work. Whoever comes second waits for the first, and is answered what
//! the first did; the row and the work stay or go together.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use unanimous_core::{Answer, Opaque, Reason};

use super::{Half, StepOrder};
use crate::participant::work::No;

/// The verb of a row with the reason of a refusal.
pub(super) const REFUSE: &str = "refuse";

/// All that is kept of one step.
#[derive(Debug, Default)]
pub(super) struct Rows {
    act: Option<Option<String>>,
    refuse: Option<String>,
    compensate: Option<()>,
}

/// A refusal, as it is kept.
#[derive(Serialize, Deserialize)]
struct Refusal {
    kind: String,
    detail: String,
}

/// What there is for a compensation to do.
pub(super) enum ToUndo {
    /// The action never came, and will be refused now.
    Unheard,
    /// It was refused.
    Nothing,
    /// This is what it returned.
    Acted(Value),
}

impl ToUndo {
    /// By the row of the action that is there.
    pub(super) fn of(acted: Option<&str>) -> Self {
        match acted {
            Some(result) => Self::Acted(serde_json::from_str(result).unwrap_or_default()),
            None => Self::Nothing,
        }
    }
}

impl Rows {
    /// Verbs and results.
    pub(super) fn read(rows: impl IntoIterator<Item = (String, Option<String>)>) -> Self {
        let mut read = Self::default();
        for (verb, result) in rows {
            match &*verb {
                "act" => read.act = Some(result),
                "compensate" => read.compensate = Some(()),
                REFUSE => read.refuse = result,
                // Of a later version: what is known of the rows above holds all the same.
                _ => {}
            }
        }
        read
    }

    /// The answer to a call that was carried out before; `None` if it was not.
    pub(super) fn answer(&self, half: Half) -> Option<Answer> {
        match half {
            Half::Act => {
                let acted = self.act.as_ref()?;
                Some(match (&self.refuse, self.compensate, acted) {
                    (Some(refusal), _, _) => Answer::No(reason(refusal)),
                    (None, None, Some(result)) => Answer::Done(opaque(result)),
                    (None, Some(()), _) | (None, None, None) => Answer::No(StepOrder::barred()),
                })
            }
            Half::Compensate => self.compensate.map(|()| Answer::Done(Opaque::default())),
        }
    }

    /// What there is to undo, if it was not undone.
    #[cfg(feature = "redis")]
    pub(super) fn to_undo(&self) -> ToUndo {
        match &self.act {
            Some(acted) => ToUndo::of(acted.as_deref()),
            None => ToUndo::Unheard,
        }
    }
}

/// A result as it is kept. Nothing is kept as `null`, because no result at all says that a step has not
/// acted.
pub(super) fn text(result: &Opaque) -> String {
    match result.is_empty() {
        true => "null".to_owned(),
        false => String::from_utf8_lossy(result.bytes()).into_owned(),
    }
}

fn opaque(result: &str) -> Opaque {
    match result {
        "null" => Opaque::default(),
        result => Opaque::new(result.as_bytes()),
    }
}

/// A refusal as it is kept.
pub(super) fn refusal(reason: &Reason) -> String {
    let refusal = Refusal { kind: reason.kind.to_string(), detail: reason.detail.to_string() };
    serde_json::to_string(&refusal).expect("two texts are always JSON")
}

fn reason(refusal: &str) -> Reason {
    match serde_json::from_str::<Refusal>(refusal) {
        Ok(Refusal { kind, detail }) => Reason::new(&kind, &detail),
        Err(_) => Reason::new("refused", refusal),
    }
}

/// What a deed came to that is not done.
pub(super) enum Undone {
    Refused(Reason),
    Failed(crate::participant::BoxError),
}

impl From<No> for Undone {
    fn from(no: No) -> Self {
        match no {
            No::Refused { kind, detail } => Self::Refused(Reason::new(&kind, &detail)),
            No::Failed(error) => Self::Failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, Option<&str>)]) -> Rows {
        let owned =
            |(verb, result): &(&str, Option<&str>)| ((*verb).to_owned(), result.map(str::to_owned));
        Rows::read(rows.iter().map(owned))
    }

    #[test]
    fn what_is_kept_says_what_a_repeated_call_is_answered() {
        let done = |json: &[u8]| Some(Answer::Done(Opaque::new(json)));
        let acted = rows(&[("act", Some("7"))]);
        assert_eq!((acted.answer(Half::Act), acted.answer(Half::Compensate)), (done(b"7"), None));
        let silent = rows(&[("act", Some("null"))]);
        assert_eq!(silent.answer(Half::Act), done(b""));
        let barred_first = rows(&[("act", None), ("compensate", None)]);
        assert_eq!(barred_first.answer(Half::Act), Some(Answer::No(StepOrder::barred())));
        let undone = rows(&[("act", Some("7")), ("compensate", Some("null"))]);
        assert_eq!(undone.answer(Half::Act), Some(Answer::No(StepOrder::barred())));
        assert_eq!(undone.answer(Half::Compensate), done(b""));
        let no = Reason::new("sold_out", "seat 7 is taken");
        let refused =
            rows(&[("act", None), ("refuse", Some(&*refusal(&no))), ("compensate", None)]);
        assert_eq!(refused.answer(Half::Act), Some(Answer::No(no)));
        assert_eq!(rows(&[]).answer(Half::Act), None);
    }
}
