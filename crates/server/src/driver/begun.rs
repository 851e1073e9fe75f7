//! What a caller in this process begins transactions with.

use unanimous_api::Wait;
use unanimous_core::Opaque;
use unanimous_core::commit::{Key, Shape};
use unanimous_core::id::TxnId;
use unanimous_core::saga::Plan;
use unanimous_participants::Trace;

use super::event::IfRunning;
use super::memo::Webhook;

/// A transaction to begin.
pub struct BeginOrder {
    /// Its identity, of a shard of this coordinator; a new one if there is none.
    pub txn: Option<TxnId>,
    /// What its two phases are to its participants.
    pub shape: Shape,
    /// Milliseconds within which it must be decided.
    pub timeout_ms: u64,
    /// Name, resource and work of each participant; none if the client enlists them later.
    pub branches: Vec<(String, String, Opaque)>,
    /// The client's own name for it.
    pub key: Option<Key>,
    /// What to do if that name is in use.
    pub running: IfRunning,
    /// When to answer.
    pub wait: Wait,
    /// The trace it is part of; one of its own if there is none.
    pub trace: Option<Trace>,
    /// Who is told of its end.
    pub webhook: Option<Webhook>,
}

/// A saga to begin.
pub struct SagaOrder {
    /// Its identity, of a shard of this coordinator; a new one if there is none.
    pub txn: Option<TxnId>,
    /// Its steps; [`unanimous_core::saga::check`] has nothing against them.
    pub steps: Vec<Plan>,
    /// What they are given, as JSON.
    pub input: Opaque,
    /// Milliseconds within which it must come past its pivot or to its end.
    pub timeout_ms: Option<u64>,
    /// Milliseconds before it starts.
    pub delay_ms: Option<u64>,
    /// The client's own name for it.
    pub key: Option<Key>,
    /// What to do if that name is in use.
    pub running: IfRunning,
    /// When to answer.
    pub wait: Wait,
    /// The trace it is part of; one of its own if there is none.
    pub trace: Option<Trace>,
    /// Who is told of its end.
    pub webhook: Option<Webhook>,
    /// By which name it was begun, if it was.
    pub saga: Option<String>,
}
