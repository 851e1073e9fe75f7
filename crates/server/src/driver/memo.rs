//! What a driver wants back of a transaction after a restart: its trace, and who is told of its end.

use serde::{Deserialize, Serialize};
use unanimous_core::Opaque;
use unanimous_core::id::TxnId;
use unanimous_participants::Trace;

/// As the journal keeps it: the bytes of the trace alone, or JSON if there is a webhook.
#[derive(Default)]
pub(super) struct Memo {
    pub(super) trace: Option<Trace>,
    pub(super) webhook: Option<Webhook>,
}

/// Who is told of a transaction's end.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Webhook {
    /// The configured resource.
    pub resource: String,
    /// The path below its url.
    pub path: String,
}

#[derive(Deserialize, Serialize)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    webhook: Webhook,
}

impl Memo {
    pub(super) fn write(self) -> Opaque {
        match (self.trace, self.webhook) {
            (None, None) => Opaque::default(),
            (Some(trace), None) => Opaque::new(&trace.to_bytes()),
            (trace, Some(webhook)) => {
                let kept = Kept { trace: trace.map(|trace| trace.to_string()), webhook };
                Opaque::new(&serde_json::to_vec(&kept).expect("it is always JSON"))
            }
        }
    }

    pub(super) fn read(kept: &Opaque) -> Self {
        if let Some(trace) = Trace::from_bytes(kept.bytes()) {
            return Self { trace: Some(trace), webhook: None };
        }
        match serde_json::from_slice::<Kept>(kept.bytes()) {
            Ok(kept) => Self {
                trace: kept.trace.and_then(|trace| trace.parse().ok()),
                webhook: Some(kept.webhook),
            },
            Err(_) => Self::default(),
        }
    }
}

/// The transaction that tells of the end of another. Of a kind that no identity by chance is: it lives in
/// the same shard, and whoever ends a transaction a second time, after a crash, comes to the same.
pub(super) fn notice_of(txn: TxnId) -> TxnId {
    TxnId(txn.0 ^ 1)
}
