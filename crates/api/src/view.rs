//! What clients are shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::request::{Kind, ResolveOutcome, VoteWord};
use crate::saga::{AttentionView, StepView, StepWord};

/// One transaction in full.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TransactionView {
    /// Its identity, a UUID.
    pub id: String,
    /// Its shape.
    pub kind: Kind,
    /// Where it stands.
    pub status: StatusWord,
    /// How it ended; absent while that is not settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OutcomeWord>,
    /// Why it was aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonView>,
    /// Whether an operator has to look at it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_attention: bool,
    /// Raised by every change.
    #[serde(default)]
    pub version: u32,
    /// For a saga: what a user is shown, such as `PaymentPending`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Who takes part, in the order they were enlisted.
    pub participants: Vec<ParticipantView>,
    /// For a saga that was begun by name: which one, with its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga: Option<String>,
    /// The transaction that tells a service of the end of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// The transaction that tells a service of the last time that this one came to need attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_webhook: Option<String>,
    /// For a saga: its steps, in the order of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepView>,
    /// For a saga: what an operator has to look at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<AttentionView>,
    /// What an operator settled by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<ResolutionView>,
    /// The client's own name of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Milliseconds within which it must be decided; zero for a saga that may take as long as it takes.
    pub timeout_ms: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub initiated_at_ms: u64,
    /// When it last changed.
    pub updated_at_ms: u64,
    /// The coordinator that drives it.
    pub coordinator: String,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StatusWord {
    /// Participants may be added.
    Initiated,
    /// Votes are being collected.
    Preparing,
    /// All votes are yes.
    Prepared,
    /// Commit is decided; the participants are being told.
    Committing,
    /// Every participant has committed.
    Committed,
    /// Abort is decided; the participants are being told.
    Aborting,
    /// Every participant has rolled back.
    Aborted,
    /// The steps of a saga act.
    Running,
    /// The steps of a saga are being undone.
    Compensating,
    /// Every step of a saga has acted.
    Completed,
    /// A saga was undone.
    Compensated,
    /// A step of a saga goes neither on nor back by itself.
    NeedsAttention,
}

impl StatusWord {
    /// Whether it is at its end, or goes no further without an operator.
    pub fn is_final(self) -> bool {
        match self {
            Self::Committed
            | Self::Aborted
            | Self::Completed
            | Self::Compensated
            | Self::NeedsAttention => true,
            Self::Initiated
            | Self::Preparing
            | Self::Prepared
            | Self::Committing
            | Self::Aborting
            | Self::Running
            | Self::Compensating => false,
        }
    }

    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "INITIATED",
            Self::Preparing => "PREPARING",
            Self::Prepared => "PREPARED",
            Self::Committing => "COMMITTING",
            Self::Committed => "COMMITTED",
            Self::Aborting => "ABORTING",
            Self::Aborted => "ABORTED",
            Self::Running => "RUNNING",
            Self::Compensating => "COMPENSATING",
            Self::Completed => "COMPLETED",
            Self::Compensated => "COMPENSATED",
            Self::NeedsAttention => "NEEDS_ATTENTION",
        }
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeWord {
    /// Every effect is in place, or will be.
    Committed,
    /// No effect is left, or will be.
    Aborted,
    /// A participant ended against the decision by itself, or an operator skipped a step.
    Mixed,
    /// Every step of a saga has acted.
    Completed,
    /// A saga was undone.
    Compensated,
    /// A saga goes neither on nor back by itself.
    NeedsAttention,
}

impl OutcomeWord {
    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Mixed => "mixed",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::NeedsAttention => "needs_attention",
        }
    }
}

/// Why a transaction was aborted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ReasonView {
    /// The participant at fault, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participant: Option<String>,
    /// The step at fault, if it is one of a saga.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// A stable word: `refused`, `timeout`, `client`, `restart`, `operator`, `unreachable`, or what
    /// the resource's adapter says.
    pub kind: String,
    /// One sentence with the names and numbers.
    pub detail: String,
}

/// One participant of a transaction.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ParticipantView {
    /// Its name in the transaction.
    pub name: String,
    /// The configured resource.
    pub resource: String,
    /// What kind of resource that is, such as `http`.
    pub resource_type: String,
    /// The identifier the resource knows the branch by.
    pub branch: String,
    /// Its vote; null while it is not known.
    pub vote: Option<VoteWord>,
    /// Whether it needs no more calls.
    pub ack: bool,
    /// How it ended by itself: `commit`, `rollback`, `mixed` or `hazard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heuristic: Option<String>,
    /// Calls in a row that brought no answer.
    pub attempts: u32,
    /// What the last of them came back with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What it returned with its vote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<Value>,
}

/// What an operator settled by hand.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ResolutionView {
    /// How the transaction shall count.
    pub outcome: ResolveOutcome,
    /// Who settled it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Answer to enlisting.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EnlistedView {
    /// The transaction.
    pub id: String,
    /// The participant's name.
    pub participant: String,
    /// The configured resource.
    pub resource: String,
    /// The identifier to prepare under.
    pub branch: String,
}

/// One line of a list.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SummaryView {
    /// The transaction.
    pub id: String,
    /// Its shape.
    pub kind: Kind,
    /// Where it stands.
    pub status: StatusWord,
    /// How it ended; absent while that is not settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OutcomeWord>,
    /// Its resources.
    pub resources: Vec<String>,
    /// The client's own name of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// When it began, in milliseconds since the Unix epoch.
    pub initiated_at_ms: u64,
    /// When it last changed.
    pub updated_at_ms: u64,
}

/// `GET /v1/transactions`, newest first.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TransactionList {
    /// One page.
    pub transactions: Vec<SummaryView>,
    /// What to ask the next page with; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// `GET /v1/transactions/{id}/log`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogView {
    /// The transaction.
    pub id: String,
    /// Oldest first.
    pub events: Vec<LogEvent>,
}

/// One line of a transaction's log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogEvent {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What: `begun`, `enlisted`, `preparing`, `delegated`, `decided`, `finished`, `resolved`; of a saga
    /// `begun`, `started`, `waiting`, `acted`, `refused`, `compensating`, `compensated`, `kept`, `stuck`,
    /// `retried`, `resolved`.
    pub event: String,
    /// The names and numbers.
    pub detail: String,
    /// The participant or step it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participant: Option<String>,
}

/// Data of one server-sent event: a change of state.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EventView {
    /// The transaction.
    pub id: String,
    /// Its shape.
    pub kind: Kind,
    /// Where it stands now.
    pub status: StatusWord,
    /// How it ended; absent while that is not settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OutcomeWord>,
    /// When it changed, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Raised by every change.
    #[serde(default)]
    pub version: u32,
    /// For a saga: what a user is shown, such as `PaymentPending`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// For a saga: where each step stands, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, StepWord>,
}

/// `GET /v1/resources`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ResourcesView {
    /// In the order of their names.
    pub resources: Vec<ResourceView>,
}

/// One configured resource.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ResourceView {
    /// Its name.
    pub name: String,
    /// What kind it is, such as `http`.
    pub resource_type: String,
    /// Where it is, without any secret.
    pub url: String,
    /// `closed` (calls go out), `open` (it does not answer; calls wait) or `probing`.
    pub circuit: String,
    /// Calls under way.
    pub calls: u64,
    /// Calls waiting for one of those to end.
    pub waiting: u64,
    /// Calls of the first phase that are let out at once: the number with which it gets most done.
    pub places: u64,
    /// What the last failed call came back with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// `GET /v1/resources/{name}/check`: the journal and the resource, compared.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ResourceCheck {
    /// The resource.
    pub name: String,
    /// What came of asking it.
    pub answer: CheckAnswer,
    /// Branches of this cluster that it holds prepared.
    pub held: u64,
    /// What does not fit, and did not half a second later.
    pub findings: Vec<CheckFinding>,
    /// What was seen instead of its list, if it was not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What came of asking a resource what it holds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckAnswer {
    /// Its list was compared with the journal.
    Compared,
    /// It has no list: it asks the coordinator by itself when it is in doubt.
    AsksItself,
    /// It did not give its list: nothing is known.
    Unanswered,
}

impl CheckAnswer {
    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compared => "compared",
            Self::AsksItself => "asks_itself",
            Self::Unanswered => "unanswered",
        }
    }
}

/// A branch about which the journal and a resource disagree.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CheckFinding {
    /// The identifier the resource knows it by.
    pub branch: String,
    /// The transaction.
    pub transaction: String,
    /// Which way they disagree.
    pub finding: Disagreement,
    /// The same for people, with what becomes of it.
    pub detail: String,
}

/// Which way a journal and a resource disagree.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Disagreement {
    /// It has voted yes and is not rolled back, and the resource does not hold it.
    Missing,
    /// The resource holds it, and the journal does not know its transaction.
    Unknown,
    /// The resource holds it, and its transaction has ended.
    Ended,
}

impl Disagreement {
    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Ended => "ended",
        }
    }
}

/// One line of `GET /v1/resources/{name}/in-doubt`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BranchInDoubt {
    /// The identifier the resource knows it by.
    pub branch: String,
    /// The transaction.
    pub transaction: String,
    /// Where that stands.
    pub status: StatusWord,
    /// Calls in a row that brought no answer.
    pub attempts: u32,
    /// What the last of them came back with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// `GET /v1/nodes`: who shares the work, as the node that was asked sees it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodesView {
    /// The nodes by name.
    pub nodes: Vec<NodeView>,
}

/// One node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Where it is reached by the others.
    pub address: String,
    /// How it is.
    pub state: NodeWord,
    /// The parts of the transactions that it drives.
    pub partitions: Vec<u8>,
    /// Milliseconds since it was last heard; absent for the node that was asked, and for one that
    /// it never heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ms_ago: Option<u64>,
}

/// How a node is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeWord {
    /// It takes its share.
    Active,
    /// It gives away what it drives.
    Draining,
    /// It does not reach the journal; the others take over what it drove.
    CutOff,
    /// It is not heard; the others take over what it drove.
    Silent,
}
