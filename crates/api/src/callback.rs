//! What service participants answer.
//!
//! A participant gets `POST {url}/prepare|commit|rollback`. 200 is yes or done, 409 is no, 425 is
//! "still working, ask again"; anything else, or silence, is unknown and asked again.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Body of a 200 reply to `prepare`. An empty body is a plain yes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PrepareReply {
    /// The vote, if it is not a plain yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vote: Option<ReplyVote>,
    /// Handed to the client with the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// A vote in a 200 reply.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyVote {
    /// Prepared.
    Yes,
    /// Changed nothing and needs no second phase.
    ReadOnly,
}

/// Body of a 200 reply to `commit` or `rollback`. An empty body is a plain done.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct FinishReply {
    /// Set if the participant had already ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heuristic: Option<HeuristicWord>,
    /// To a commit in one phase: handed to the client with the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// How a participant ended by itself.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeuristicWord {
    /// Committed.
    Commit,
    /// Rolled back.
    Rollback,
    /// Committed in part.
    Mixed,
    /// Cannot say.
    Hazard,
}

/// Body of a 409 reply: why not.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// A stable word, such as `insufficient_funds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// One sentence with the names and numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
