//! What clients ask for.
//!
//! The work of a branch is JSON of which only the participant knows the meaning. Its type is a
//! parameter, so that a server can pass it on as the text that it got: read as a [`Value`], numbers
//! that no machine type holds would change.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::saga::StepRequest;

/// `POST /v1/transactions`: begin, or begin and run to the end if there are branches.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, bound(deserialize = "B: Deserialize<'de>"))]
pub struct BeginRequest<B = Value> {
    /// The shape of the transaction.
    pub kind: Kind,
    /// The domain of the business that it is of, by its configured name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Milliseconds within which it must be decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// When to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// The shares of the participants; none if the application drives the transaction itself.
    #[serde(
        default,
        deserialize_with = "crate::object::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub branches: Vec<BranchRequest<B>>,
    /// For a saga or a message: what its steps are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<B>,
    /// For a saga, instead of steps: one that the coordinator knows by name, such as `booking`, or
    /// `booking@3` for that version only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga: Option<String>,
    /// For a saga or a message: its steps. Those that are not after one another act side by side.
    #[serde(
        default,
        deserialize_with = "crate::object::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub steps: Vec<StepRequest<B>>,
    /// For a message: the database in which the application's local transaction commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Who is told how it ends, and when it needs attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookRequest>,
    /// For a saga: milliseconds before it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
}

/// A service that is told how a transaction has ended, and each time that it needs attention.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookRequest {
    /// The configured resource, which has a signing secret.
    pub resource: String,
    /// The path below its url.
    pub path: String,
}

/// The shape of a transaction.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// All branches or none, by two-phase commit.
    Atomic,
    /// All branches or none, by try, confirm and cancel.
    Tcc,
    /// Steps with compensations.
    Saga,
    /// Steps that act once a local transaction of the application has committed, and never if not.
    Message,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Atomic, Self::Tcc, Self::Saga, Self::Message];

    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Atomic => "atomic",
            Self::Tcc => "tcc",
            Self::Saga => "saga",
            Self::Message => "message",
        }
    }
}

/// When to answer a request that starts or ends work.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Every participant has acknowledged the outcome.
    #[default]
    Finished,
    /// The decision is durable.
    Decided,
    /// At once, as soon as the transaction will not be forgotten.
    None,
}

/// One participant's share of a transaction that the coordinator runs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, bound(deserialize = "B: Deserialize<'de>"))]
pub struct BranchRequest<B = Value> {
    /// The configured resource.
    pub resource: String,
    /// The participant's name in this transaction; the resource's name if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participant: Option<String>,
    /// For a service: the JSON body of its `prepare` call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<B>,
    /// For a database: what to run in it, in this order.
    #[serde(
        default,
        deserialize_with = "crate::object::optional_list",
        skip_serializing_if = "Option::is_none"
    )]
    pub statements: Option<Vec<StatementRequest<B>>>,
}

/// One statement of a branch in a database.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, bound(deserialize = "B: Deserialize<'de>"))]
pub struct StatementRequest<B = Value> {
    /// A single statement in the database's own language, with its own placeholders.
    pub sql: String,
    /// The values of the placeholders, in their order.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<B>,
    /// How many rows it must change or return. Any other number is a vote against the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_rows: Option<u64>,
}

/// `POST /v1/transactions/{id}/participants`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, bound(deserialize = "B: Deserialize<'de>"))]
pub struct EnlistRequest<B = Value> {
    /// The participant's name in this transaction.
    pub participant: String,
    /// The configured resource.
    pub resource: String,
    /// For a service: the JSON body of its `prepare` call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<B>,
}

/// `POST /v1/transactions/{id}/commit`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRequest {
    /// Votes of the participants that the application has prepared itself, by name.
    #[serde(default, deserialize_with = "votes", skip_serializing_if = "BTreeMap::is_empty")]
    pub votes: BTreeMap<String, VoteWord>,
    /// When to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
}

/// A vote, as the wire spells it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VoteWord {
    /// Prepared: can commit, whatever happens.
    Yes,
    /// Cannot commit, and has rolled back.
    No,
    /// Changed nothing.
    ReadOnly,
}

/// `POST /v1/transactions/{id}/abort`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AbortRequest {
    /// Why, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only if the transaction has still this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<u32>,
    /// When to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
}

/// `POST /v1/transactions/{id}/resolve`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// How the transaction shall count.
    pub outcome: ResolveOutcome,
    /// Why. Kept for the audit.
    pub reason: String,
    /// Whether the decision in the journal may be contradicted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Who settles it. Kept for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What an operator settles on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolveOutcome {
    /// The branches that are left have committed.
    Commit,
    /// The branches that are left have rolled back.
    Rollback,
}

/// Two votes of one participant contradict each other, or somebody's program is wrong: the last one
/// must not win in silence.
fn votes<'de, D: Deserializer<'de>>(json: D) -> Result<BTreeMap<String, VoteWord>, D::Error> {
    struct Votes;
    impl<'de> Visitor<'de> for Votes {
        type Value = BTreeMap<String, VoteWord>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("votes by participant")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut votes = BTreeMap::new();
            while let Some((name, vote)) = map.next_entry::<String, VoteWord>()? {
                if votes.contains_key(&name) {
                    return Err(A::Error::custom(format_args!("{name:?} votes twice")));
                }
                votes.insert(name, vote);
            }
            Ok(votes)
        }
    }
    json.deserialize_map(Votes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_participant_votes_once() {
        let read = serde_json::from_str::<CommitRequest>;
        assert!(read(r#"{"votes":{"wallet":"YES","ledger":"READ_ONLY"}}"#).is_ok());
        let error = read(r#"{"votes":{"wallet":"NO","wallet":"YES"}}"#).expect_err("twice");
        assert!(error.to_string().contains("\"wallet\" votes twice"), "{error}");
    }
}
