//! Removes what ended long ago, or what is too much, and has etcd give up old revisions.
//!
//! Of all that share a journal the one works that has claimed the first of the shards. Everything here
//! may be left out or done twice: what is removed has ended for good.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use unanimous_core::id::{ShardId, Timestamp, TxnId};

use super::address::Compaction;
use super::book::{removal, txn_value};
use super::claims::{Claim, Claims};
use super::keys::{Room, Span};
use super::limits::{COMPACT_PAUSE, PRUNE, PRUNE_PAUSE, PRUNE_REST};
use super::proto::{Compare, Op, Txn};
use super::readers::{Readers, Scan, Standing};
use crate::error::JournalError;
use crate::file::layout;
use crate::remote::state::Shared;

/// What is removed, and who does it.
pub(super) struct Upkeep {
    pub(super) shared: Arc<Shared>,
    pub(super) readers: Arc<Readers>,
    pub(super) claims: Arc<Claims>,
    /// How long an ended transaction is kept.
    pub(super) retention: Duration,
    /// How many are kept at most.
    pub(super) ended_max: u64,
    pub(super) compaction: Compaction,
}

/// How far old revisions are given up.
struct Progress {
    at: Instant,
    revision: u64,
}

impl Upkeep {
    /// Works as long as the journal is open.
    pub(super) async fn run(self) {
        let mut compaction = Progress { at: Instant::now(), revision: 0 };
        while !self.shared.is_over() {
            tokio::time::sleep(PRUNE_PAUSE).await;
            // What cannot be done now is done the next time.
            if !self.shared.claimed().is_empty()
                && let Ok(standing) = self.readers.standing(self.readers.keys.heads()).await
                && self.is_on_duty(&standing)
            {
                drop(self.sweep(&standing).await);
                drop(self.prune().await);
                self.compact(&mut compaction, standing.revision).await;
            }
        }
    }

    fn is_on_duty(&self, standing: &Standing) -> bool {
        let first = standing.claims.values().next();
        first.and_then(Claim::word) == Some(self.claims.word)
    }

    /// Removes the heads of openings that own nothing any more, if that is still so.
    async fn sweep(&self, standing: &Standing) -> Result<(), JournalError> {
        let keys = &self.readers.keys;
        let owns = |head: &[u8]| {
            let word = keys.to_head(head);
            standing.claims.values().any(|claim| word.is_some() && claim.word() == word)
        };
        let idle = standing.heads.iter().filter(|&head| !owns(head)).take(PRUNE);
        let then: Vec<_> = idle.map(|head| Op::Delete(head.clone().into())).collect();
        if then.is_empty() {
            return Ok(());
        }
        let compare = ShardId::all().map(|shard| match standing.claims.get(&shard) {
            Some(claim) => Compare::Value(keys.shard(shard), claim.value.clone()),
            None => Compare::Absent(keys.shard(shard)),
        });
        let request = Txn { compare: compare.collect(), then, otherwise: Vec::new() };
        self.readers.txn(&request).await.map(drop)
    }

    /// Gives up what was before the revision of the last call, now and then.
    async fn compact(&self, last: &mut Progress, revision: u64) {
        if self.compaction == Compaction::NotOurs || last.at.elapsed() < COMPACT_PAUSE {
            return;
        }
        let before = std::mem::replace(last, Progress { at: Instant::now(), revision }).revision;
        if before > 0 {
            // Somebody else may have done it, or we may not be allowed to.
            drop(self.readers.client.compact(before).await);
        }
    }

    async fn prune(&self) -> Result<(), JournalError> {
        let now = now_ms();
        let retention = u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX);
        let old = now.saturating_sub(retention);
        self.remove(old, Timestamp(old)).await?;
        if self.newer_than(0).await? > self.ended_max {
            let excess = self.excess(old, now).await?;
            self.remove(excess, Timestamp(u64::MAX)).await?;
        }
        Ok(())
    }

    /// The time since when as many have begun as are kept, and some fewer: so that this is not to be
    /// done again at once.
    async fn excess(&self, mut old: u64, mut new: u64) -> Result<u64, JournalError> {
        let kept = self.ended_max - self.ended_max / 10;
        while new.saturating_sub(old) > 1 {
            let middle = old + (new - old) / 2;
            match self.newer_than(middle).await? > kept {
                true => old = middle,
                false => new = middle,
            }
        }
        Ok(new)
    }

    /// How many ended transactions there are that began after this.
    async fn newer_than(&self, ms: u64) -> Result<u64, JournalError> {
        let keys = &self.readers.keys;
        let to = keys.all(Room::Ended, Some(first_at(ms))).from;
        self.readers.count(Span { to, ..keys.all(Room::Ended, None) }).await
    }

    /// Removes what began before `begun_ms` and ended before `ended`.
    async fn remove(&self, begun_ms: u64, ended: Timestamp) -> Result<(), JournalError> {
        let keys = &self.readers.keys;
        let mut scan = Scan::new(keys, Room::Ended, Some(first_at(begun_ms)));
        let mut then = Vec::new();
        while let Some((txn, values)) = self.readers.next(&mut scan).await? {
            let entries = self.readers.entries(txn, values.into_iter()).await?;
            let stored = layout::stored(&entries.unwrap_or_default()).unwrap_or_default();
            if stored.last().is_some_and(|last| last.at >= ended) {
                continue;
            }
            let named = stored.first().and_then(|first| first.record.key());
            let mut ops = removal(keys, txn).to_vec();
            ops.extend(named.map(|key| {
                let key = keys.idempotency(&key.text);
                Op::Txn(Txn {
                    compare: vec![Compare::Value(key.clone(), txn_value(txn))],
                    then: vec![Op::Delete(key.into())],
                    otherwise: Vec::new(),
                })
            }));
            then.push(Op::Txn(Txn { then: ops, ..Txn::default() }));
            if then.len() == PRUNE {
                let then = std::mem::take(&mut then);
                self.readers.txn(&Txn { then, ..Txn::default() }).await?;
                tokio::time::sleep(PRUNE_REST).await;
            }
        }
        match then.is_empty() {
            true => Ok(()),
            false => self.readers.txn(&Txn { then, ..Txn::default() }).await.map(drop),
        }
    }
}

/// The first identity that can have been minted at a time.
fn first_at(ms: u64) -> TxnId {
    TxnId::mint(ms, ShardId::of(0), 0)
}

fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
