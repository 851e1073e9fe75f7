//! What clients are shown of invariants across databases.

use serde::{Deserialize, Serialize};

/// `GET /v1/invariants`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InvariantsView {
    /// In the order of their names.
    pub invariants: Vec<InvariantView>,
}

/// One configured invariant with what was last found of it; `POST /v1/invariants/{name}/check`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InvariantView {
    /// Its name.
    pub name: String,
    /// How the values belong together: `equal`, `sum_zero` or `zero`.
    pub relation: String,
    /// Milliseconds from the end of a check to the next; zero if it is checked on demand only.
    pub every_ms: u64,
    /// What came of the last check.
    pub result: InvariantResult,
    /// Its queries with their values, in the order of the configuration.
    pub queries: Vec<InvariantQuery>,
    /// By how much the values are off, at most; zero if they belong together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<String>,
    /// Whether the coordinator committed nothing across these resources while they were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<bool>,
    /// How often the values were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readings: Option<u64>,
    /// Why nothing can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When the last check ended, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at_ms: Option<u64>,
}

/// One query of an invariant.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InvariantQuery {
    /// The resource that is asked.
    pub resource: String,
    /// What it is asked.
    pub sql: String,
    /// The number it answered with, as it wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What came of checking an invariant.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InvariantResult {
    /// The values belong together.
    Holds,
    /// They do not, and no transaction under way explains it.
    Violated,
    /// Too much was committed meanwhile to tell.
    Busy,
    /// A query did not answer with a number.
    Unknown,
    /// It has not been checked since the start.
    Unchecked,
}

impl InvariantResult {
    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Violated => "violated",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
            Self::Unchecked => "unchecked",
        }
    }
}
