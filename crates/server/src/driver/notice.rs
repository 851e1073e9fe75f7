//! Webhooks: telling a service how a transaction has ended, and each time that it needs attention.
//!
//! Each is a transaction of its own, a saga of one step, so no crash loses it and a service that is away
//! is asked again for days. What tells of an end is in the journal before that end, because afterwards
//! nobody would think of it any more. What tells that attention is needed comes right after the record
//! which says so: nobody is told of what a crash may still take back, and a crash between the two is
//! made up for by whoever resumes the transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;
use unanimous_core::Opaque;
use unanimous_core::id::{Timestamp, TxnId};
use unanimous_core::saga::{Action, Begun, Plan, Retry, Role, Work};
use unanimous_core::txn::{Begun as AnyBegun, Txn};
use unanimous_journal::JournalError;

use super::memo::{About, Memo, Webhook, alert_of, notice_of};
use super::run::{Driver, Live};
use crate::limits::{ALERT_PAUSE_MS, WEBHOOK_MS_MAX, WEBHOOK_PAUSE_MS};

impl Driver {
    /// Begins the transaction that tells of the end of another, unless a former life did.
    pub(super) fn announce(&mut self, txn: TxnId, now: Timestamp) {
        let Some(webhook) = self.webhook(txn) else { return };
        self.begin_notice(txn, &webhook, About::End, now);
    }

    /// Begins the transaction that tells that another needs attention. If there is no room for it,
    /// this is tried again.
    pub(super) fn alert(&mut self, txn: TxnId, now: Timestamp) {
        let webhook = self.webhook(txn);
        let Some(live) = self.live.get_mut(&txn) else { return };
        let attentions = live.machine.attentions();
        let before = std::mem::replace(&mut live.alerted, attentions);
        let Some(webhook) = webhook else { return };
        let about = About::Attention(attentions);
        self.begin_notice(txn, &webhook, about, now);
        if self.live.contains_key(&notice_of(txn, about)) {
            return;
        }
        let Some(live) = self.live.get_mut(&txn) else { return };
        live.alerted = before;
        let again_at = now.after_ms(ALERT_PAUSE_MS);
        if live.wake_at.is_none_or(|wake_at| wake_at > again_at) {
            self.timers.set(txn, live.wake_at.replace(again_at), Some(again_at));
        }
    }

    /// Finds out whether a former life has told of the last time that a transaction came to need
    /// attention. Times before that are over, and were told of before they were.
    pub(super) fn remember_alert(&mut self, txn: TxnId) -> Result<(), JournalError> {
        let attentions = self.live.get(&txn).map_or(0, |live| live.machine.attentions());
        let Some(alert) = alert_of(txn, attentions).filter(|_| self.webhook(txn).is_some()) else {
            return Ok(());
        };
        let is_told =
            self.live.contains_key(&alert) || !self.shared.journal.read(alert)?.is_empty();
        if let Some(live) = self.live.get_mut(&txn) {
            live.alerted = if is_told { attentions } else { attentions - 1 };
        }
        Ok(())
    }

    fn webhook(&self, txn: TxnId) -> Option<Webhook> {
        Memo::read(self.live.get(&txn)?.machine.memo()).webhook
    }

    fn begin_notice(&mut self, txn: TxnId, webhook: &Webhook, about: About, now: Timestamp) {
        let Some(live) = self.live.get(&txn) else { return };
        let notice = notice_of(txn, about);
        if self.live.contains_key(&notice) {
            return;
        }
        let trace = live.trace;
        let memo = Memo { trace: Some(trace), ..Memo::default() };
        let begun = self.notice(txn, webhook, about, now, memo);
        let (machine, step) = Txn::begin(AnyBegun::Saga(begun), now);
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        self.live.insert(notice, Live::new(machine, now, trace));
        self.take(notice, now, step);
    }

    /// What is sent, as JSON.
    fn told(&self, txn: TxnId, webhook: &Webhook, about: About, now: Timestamp) -> String {
        let view = self.view(txn).expect("it is live");
        let what = match about {
            About::End => view.outcome.map_or("ended", |outcome| outcome.as_str()),
            About::Attention(_) => "needs_attention",
        };
        let mut body = json!({
            "type": format!("transaction.{what}"),
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
        if let About::Attention(_) = about {
            body["data"]["attention"] = json!(view.attention);
        }
        let sent = json!({"path": webhook.path, "body": body}).to_string();
        // Nothing in it is a placeholder.
        sent.replace("{{", "{{{{")
    }

    fn notice(
        &self,
        txn: TxnId,
        webhook: &Webhook,
        about: About,
        now: Timestamp,
        memo: Memo,
    ) -> Begun {
        let [backoff_ms, backoff_max_ms] = WEBHOOK_PAUSE_MS;
        let work = Work {
            resource: Arc::from(&*webhook.resource),
            work: Opaque::new(self.told(txn, webhook, about, now).as_bytes()),
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
