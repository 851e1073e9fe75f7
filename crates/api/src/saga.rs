//! The steps of a saga, as clients write them and as they are shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::request::StatementRequest;

/// One step of a saga: an `action`, something to be tried by `tcc`, a `message`, a `signal` to wait for, a
/// `pause_ms`, or a `saga` within the saga.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, bound(deserialize = "B: Deserialize<'de>"))]
pub struct StepRequest<B = Value> {
    /// Its name, unique within the saga.
    pub name: String,
    /// The steps that have to have acted before it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<CallRequest<B>>,
    /// Instead of an action: a service sets something aside, and confirms it when the saga can only go
    /// on, or cancels it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcc: Option<TccRequest<B>>,
    /// Instead of an action: a call that is announced at the step's turn, made when the saga can only go
    /// on, until it is done, and dropped if the saga is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<CallRequest<B>>,
    /// Instead of an action: steps of its own, which are steps of this saga.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga: Option<ChildRequest<B>>,
    /// How it is undone. Without it, whatever the step does stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<CallRequest<B>>,
    /// Instead of an action: waits until somebody sends the step a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalRequest>,
    /// Instead of an action: lets so many milliseconds pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// The point of no return: once it has acted, the saga can only go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pivot: bool,
    /// Asked until it is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retriable: bool,
    /// When a call that brought no answer is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryRequest>,
    /// Milliseconds that one call may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What a user is shown from when it acts, such as `PaymentPending`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// A call to a configured resource. Texts may hold templates such as `{{input.user}}`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, bound(deserialize = "B: Deserialize<'de>"))]
pub struct CallRequest<B = Value> {
    /// The configured resource.
    pub resource: String,
    /// For a service: the path below its url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// For a service: the method, `POST` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// For a service: headers besides those of the contract.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// For a service: the JSON body. The saga's input unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<B>,
    /// For a service: a path to ask, by `GET`, what became of a call that brought no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// For a database: what to run in it, in one local transaction.
    #[serde(
        default,
        deserialize_with = "crate::object::optional_list",
        skip_serializing_if = "Option::is_none"
    )]
    pub statements: Option<Vec<StatementRequest<B>>>,
    /// For a compensation: when it is repeated; as the step says unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryRequest>,
    /// For a compensation: milliseconds that one call may take; as the step says unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What a service is asked to try. It is called like a participant of a transaction of kind `tcc`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, bound(deserialize = "B: Deserialize<'de>"))]
pub struct TccRequest<B = Value> {
    /// The configured resource.
    pub resource: String,
    /// The JSON body of its `try` call. The saga's input unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<B>,
}

/// A saga within a saga: its steps act, and are undone, as steps of the saga around it. They are
/// spelled out, or those of a saga that is known by name.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, bound(deserialize = "B: Deserialize<'de>"))]
pub struct ChildRequest<B = Value> {
    /// What its steps are given. The input of the saga around it unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<B>,
    /// Instead of steps: the name of a saga, or a name and a version such as `refunds@2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga: Option<String>,
    /// Its steps, which see each other, and nothing of the saga around them.
    #[serde(default, deserialize_with = "crate::object::list")]
    pub steps: Vec<StepRequest<B>>,
}

/// When a call that brought no answer is repeated.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// Calls without an answer after which the step has failed; for ever unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Milliseconds before the first repetition; doubled each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
    /// The longest pause in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_max_ms: Option<u64>,
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Milliseconds to wait at most; for ever unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// One step of a saga, shown.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// The steps that have to have acted before it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// The configured resource of its action; absent if it only waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The identifier its calls carry.
    pub branch: String,
    /// Where it stands.
    pub status: StepWord,
    /// What a user is shown from when it acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Calls in a row that brought no answer.
    pub attempts: u32,
    /// What the last of them came back with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Why it refused, or is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// What the application has to run within its local transaction, so that the coordinator can find
    /// out by itself whether that has committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    /// Until when it waits, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_until_ms: Option<u64>,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StepWord {
    /// Something before it has not acted yet.
    Waiting,
    /// It is being asked to act, or waits for what it waits for.
    Acting,
    /// A message that is sent when the saga can only go on.
    Announced,
    /// Done.
    Acted,
    /// It refused, and did nothing.
    Refused,
    /// The saga was undone before it was called.
    Unreached,
    /// It is to be compensated.
    Compensating,
    /// Compensated.
    Compensated,
    /// Whatever it did stays: it has no compensation.
    Kept,
    /// It goes neither on nor back by itself: an operator has to look.
    Stuck,
    /// An operator decided to go on without it.
    Skipped,
}

impl StepWord {
    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "WAITING",
            Self::Acting => "ACTING",
            Self::Announced => "ANNOUNCED",
            Self::Acted => "ACTED",
            Self::Refused => "REFUSED",
            Self::Unreached => "UNREACHED",
            Self::Compensating => "COMPENSATING",
            Self::Compensated => "COMPENSATED",
            Self::Kept => "KEPT",
            Self::Stuck => "STUCK",
            Self::Skipped => "SKIPPED",
        }
    }
}

/// What an operator has to look at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AttentionView {
    /// The step that is stuck.
    pub step: String,
    /// Why.
    pub error: String,
    /// What can be done about it.
    pub actions: Vec<String>,
}

/// `GET /v1/sagas`: the sagas that are known by name.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DefinitionsView {
    /// In the order of their names and versions.
    pub sagas: Vec<DefinitionView>,
}

/// A saga that is known by name.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DefinitionView {
    /// Its name.
    pub name: String,
    /// Which of that name.
    pub version: u32,
    /// The names of its steps.
    pub steps: Vec<String>,
}
