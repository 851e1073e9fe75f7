//! Webhooks: telling a service how a transaction has ended.
//!
//! That is a transaction of its own, a saga of one step. It is in the journal before the end that it
//! tells of, so no crash loses it, and a service that is away is asked again for days.

use std::sync::Arc;

use serde_json::json;
use unanimous_core::Opaque;
use unanimous_core::id::{Timestamp, TxnId};
use unanimous_core::saga::{Action, Begun, Plan, Retry, Role, Work};
use unanimous_core::txn::{Begun as AnyBegun, Txn};

use super::memo::{Memo, Webhook, notice_of};
use super::run::{Driver, Live};
use crate::limits::{WEBHOOK_MS_MAX, WEBHOOK_PAUSE_MS};

impl Driver {
    /// Begins the transaction that tells of the end of another, unless a former life did.
    pub(super) fn announce(&mut self, txn: TxnId, now: Timestamp) {
        let Some(live) = self.live.get(&txn) else { return };
        let memo = Memo::read(live.machine.memo());
        let Some(webhook) = memo.webhook else { return };
        let notice = notice_of(txn);
        if self.live.contains_key(&notice) {
            return;
        }
        let trace = live.trace;
        let begun = self.notice(txn, &webhook, now, Memo { trace: Some(trace), ..Memo::default() });
        let (machine, step) = Txn::begin(AnyBegun::Saga(begun), now);
        self.shared.open.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.live.insert(notice, Live::new(machine, now, trace));
        self.take(notice, now, step);
    }

    fn notice(&self, txn: TxnId, webhook: &Webhook, now: Timestamp, memo: Memo) -> Begun {
        let view = self.view(txn).expect("it is live");
        let outcome = view.outcome.map_or("ended", |outcome| outcome.as_str());
        let body = json!({
            "type": format!("transaction.{outcome}"),
            "timestamp_ms": now.0,
            "data": {
                "id": view.id,
                "kind": view.kind,
                "status": view.status,
                "outcome": view.outcome,
                "reason": view.reason,
                "idempotency_key": view.idempotency_key,
                "state": view.state,
            },
        });
        let sent = json!({"path": webhook.path, "body": body}).to_string();
        // Nothing in it is a placeholder.
        let sent = sent.replace("{{", "{{{{");
        let [backoff_ms, backoff_max_ms] = WEBHOOK_PAUSE_MS;
        let work = Work {
            resource: Arc::from(&*webhook.resource),
            work: Opaque::new(sent.as_bytes()),
            retry: Retry { attempts_max: None, backoff_ms, backoff_max_ms },
            timeout_ms: None,
        };
        let step = Plan {
            name: Arc::from("webhook"),
            after: Vec::new(),
            action: Action::Call(work),
            compensation: None,
            role: Role::Compensable,
            state: None,
        };
        Begun {
            start_at: None,
            timeout_ms: Some(WEBHOOK_MS_MAX),
            deadline: Some(now.after_ms(WEBHOOK_MS_MAX)),
            steps: vec![step],
            input: Opaque::default(),
            key: None,
            memo: memo.write(),
        }
    }
}
