//! What a driver wants back of a transaction after a restart: its trace, who is told of it, and the
//! name that it was begun by.

use serde::{Deserialize, Serialize};
use unanimous_core::Opaque;
use unanimous_core::id::TxnId;
use unanimous_participants::Trace;

/// As the journal keeps it: the bytes of the trace alone, or JSON if there is more.
#[derive(Default)]
pub(super) struct Memo {
    pub(super) trace: Option<Trace>,
    pub(super) webhook: Option<Webhook>,
    /// The saga it is, with its version.
    pub(super) saga: Option<String>,
}

/// Who is told how a transaction ends, and when it needs attention.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    webhook: Option<Webhook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    saga: Option<String>,
}

impl Memo {
    pub(super) fn write(self) -> Opaque {
        let Self { trace, webhook, saga } = self;
        match (trace, &webhook, &saga) {
            (None, None, None) => Opaque::default(),
            (Some(trace), None, None) => Opaque::new(&trace.to_bytes()),
            (trace, ..) => {
                let kept = Kept { trace: trace.map(|trace| trace.to_string()), webhook, saga };
                Opaque::new(&serde_json::to_vec(&kept).expect("it is always JSON"))
            }
        }
    }

    pub(super) fn read(kept: &Opaque) -> Self {
        if let Some(trace) = Trace::from_bytes(kept.bytes()) {
            return Self { trace: Some(trace), ..Self::default() };
        }
        match serde_json::from_slice::<Kept>(kept.bytes()) {
            Ok(kept) => Self {
                trace: kept.trace.and_then(|trace| trace.parse().ok()),
                webhook: kept.webhook,
                saga: kept.saga,
            },
            Err(_) => Self::default(),
        }
    }
}

/// What a service is told of a transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum About {
    /// How it has ended.
    End,
    /// That it needs an operator's attention, for the so-manieth time, counted from one.
    Attention(u32),
}

/// The transaction that tells of another. Its identity follows from that one's: it lives in the same
/// shard, and whoever has to tell the same a second time, after a crash, comes to the same.
pub(super) fn notice_of(txn: TxnId, about: About) -> TxnId {
    let number = match about {
        About::End => 0,
        About::Attention(number) => number,
    };
    TxnId(txn.0 ^ (u128::from(number) << 1 | 1))
}

/// The transaction that tells of the last time that a transaction came to need attention.
pub(super) fn alert_of(txn: TxnId, attentions: u32) -> Option<TxnId> {
    (attentions > 0).then(|| notice_of(txn, About::Attention(attentions)))
}
