//! The one task that writes: takes a batch, makes it durable, says so.
//!
//! # Invariants
//!
//! 1. One batch is one transaction of etcd: all of it is there, or nothing.
//! 2. It compares the head, which counts what this opening has written, and the claims of all its
//!    shards. So a request that is delayed, or sent twice, is carried out once, in its turn, and
//!    only as long as the shards are ours.
//! 3. A request whose answer got lost is sent again. If it had been carried out the head says so, and
//!    its keys are read back; else it is carried out now, and the lost one never.
//! 4. A batch that is refused because somebody else has written ends the journal: from then on
//!    nothing is reported durable, and whoever rests on what was not reported does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unanimous_core::id::{Epoch, ShardId, TxnId};

use super::book::{Books, Guard, Page};
use super::claims::{Claim, Claims};
use super::client::{Client, Trouble};
use super::keys::Keys;
use super::limits::GROUP_OPS_MAX;
use super::proto::{Compare, Done, Op, Range, Ranged, Txn, Way};
use super::readers::Readers;
use crate::entry::Stored;
use crate::error::JournalError;
use crate::remote::limits::AGAIN;
use crate::remote::questions::Answers;
use crate::remote::scribe::{Scribe, Stop, bear};
use crate::remote::state::{Queued, Shared};

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Client,
    pub(super) readers: Arc<Readers>,
    pub(super) claims: Arc<Claims>,
    pub(super) books: Books,
    pub(super) keys: Keys,
    pub(super) head: Head,
}

/// How many requests this opening has written.
pub(super) struct Head {
    pub(super) key: Vec<u8>,
    pub(super) count: u64,
}

impl Head {
    /// The value of the head after so many requests.
    pub(super) fn value(count: u64) -> Vec<u8> {
        count.to_string().into_bytes()
    }
}

/// What became of one request.
enum Sent {
    /// It was carried out, and this came of its operations.
    Now(Vec<Done>),
    /// It had been carried out before, and nobody heard of it.
    Before,
}

impl Scribe for Writer {
    fn adopt(&mut self, txn: TxnId, stored: Vec<Stored>) {
        self.books.adopt(txn, &stored);
    }

    async fn write(&mut self, batch: &mut [Queued]) -> Result<usize, Stop> {
        let mut page = self.books.enter(batch);
        let claims = page.shards.iter().map(|(&shard, &epoch)| self.claim(shard, epoch));
        let claims: Vec<_> = claims.collect();
        for ops in std::mem::take(&mut page.before) {
            self.send(&claims, ops).await?;
        }
        let ops = page.groups.iter().map(|group| group.op()).collect();
        let done = self.send(&claims, ops).await?;
        if !is_whole(&done)
            && let Some(guard) = self.foreign(&page).await?
        {
            return Err(Stop::Failed(self.conflict(guard).await?));
        }
        Ok(page.bytes)
    }

    async fn look(&mut self) -> Result<(), Stop> {
        match self.client.range(&Range::all(self.keys.shards())).await {
            Ok(found) => {
                for (shard, claim) in self.read_claims(found) {
                    self.shared.owned(shard, claim.epoch)?;
                }
                self.shared.set_trouble(None);
                Ok(())
            }
            Err(trouble) => self.bear(trouble, &mut { AGAIN[0] }).await,
        }
    }
}

impl Writer {
    fn claim(&self, shard: ShardId, epoch: Epoch) -> (ShardId, Claim) {
        let claim = self.claims.of(shard);
        assert_eq!(claim.epoch, epoch, "a claim waits for what was appended before it");
        (shard, claim)
    }

    /// Sends one request until it is known to be carried out.
    async fn send(&mut self, claims: &[(ShardId, Claim)], ops: Vec<Op>) -> Result<Sent, Stop> {
        let next = self.head.count + 1;
        let is_now = |count| Compare::Value(self.head.key.clone(), Head::value(count));
        let ours = |(shard, claim): &(ShardId, Claim)| {
            Compare::Value(self.keys.shard(*shard), claim.value.clone())
        };
        let head = Op::Put(self.head.key.clone(), Head::value(next));
        let request = Txn {
            compare: std::iter::once(is_now(self.head.count))
                .chain(claims.iter().map(ours))
                .collect(),
            then: std::iter::once(head).chain(ops).collect(),
            otherwise: vec![
                Op::Range(Range::one(self.head.key.clone())),
                Op::Range(Range::all(self.keys.shards())),
            ],
        };
        let mut pause = AGAIN[0];
        loop {
            let done = match self.client.txn(&request).await {
                Ok(done) => done,
                Err(trouble) => {
                    self.bear(trouble, &mut pause).await?;
                    continue;
                }
            };
            self.head.count = next;
            if done.way == Way::Then {
                return Ok(Sent::Now(done.done));
            }
            let mut found = done.into_ranges().into_iter();
            let head = found.next().and_then(Ranged::into_value).unwrap_or_default();
            let shards = self.read_claims(found.next().unwrap_or_default());
            for (shard, claim) in claims {
                let current = shards.get(shard).cloned().unwrap_or_default();
                if current != *claim {
                    let (ours, current) = (claim.epoch, current.epoch);
                    return Err(Stop::Failed(JournalError::Fenced { ours, current }));
                }
            }
            return match head == Head::value(next) {
                true => Ok(Sent::Before),
                false => Err(Stop::Failed(JournalError::Failed(format!(
                    "somebody else has written {:?} to {:?}",
                    String::from_utf8_lossy(&head),
                    String::from_utf8_lossy(&self.head.key),
                )))),
            };
        }
    }

    fn read_claims(&self, found: Ranged) -> BTreeMap<ShardId, Claim> {
        let claim = |it: super::proto::KeyValue| {
            Some((self.keys.to_shard(&it.key)?, Claim::read(it.value)))
        };
        found.found.into_iter().filter_map(claim).collect()
    }

    /// Reads back what was written, and gives a transaction of which that is not so.
    async fn foreign<'a>(&self, page: &'a Page) -> Result<Option<&'a Guard>, Stop> {
        let guards: Vec<&Guard> = page.groups.iter().flat_map(|group| &group.guards).collect();
        let mut missing = None;
        for some in guards.chunks(GROUP_OPS_MAX) {
            let then = some.iter().map(|guard| Op::Range(Range::one(guard.key.clone()))).collect();
            let read = Txn { then, ..Txn::default() };
            let mut pause = AGAIN[0];
            let found = loop {
                match self.client.txn(&read).await {
                    Ok(done) => break done.into_ranges(),
                    Err(trouble) => self.bear(trouble, &mut pause).await?,
                }
            };
            for (&guard, found) in some.iter().zip(found) {
                match found.into_value() {
                    Some(value) if value == guard.value => {}
                    Some(_) => return Ok(Some(guard)),
                    // Another one of its group may be the reason.
                    None => missing = missing.or(Some(guard)),
                }
            }
        }
        Ok(missing)
    }

    /// A transaction holds what this process does not know of.
    async fn conflict(&self, guard: &Guard) -> Result<JournalError, JournalError> {
        let found = self.readers.records(guard.txn).await?;
        let found = u32::try_from(found.len()).unwrap_or(u32::MAX);
        Ok(JournalError::Conflict { txn: guard.txn, expected: guard.expected, found })
    }

    /// Waits before etcd is tried again, if that can be of use.
    async fn bear(&self, trouble: Trouble, pause: &mut Duration) -> Result<(), Stop> {
        match trouble {
            Trouble::Again(text) => bear(&self.shared, text, pause).await,
            trouble @ (Trouble::Compacted | Trouble::Refused(..)) => {
                Err(Stop::Failed(JournalError::Failed(trouble.text())))
            }
        }
    }
}

/// Whether every transaction of a batch is known to be written.
fn is_whole(sent: &Sent) -> bool {
    match sent {
        Sent::Before => false,
        Sent::Now(done) => done.iter().all(|done| match done {
            Done::Txn(txn) => txn.way == Way::Then,
            Done::Ranged(_) | Done::Written => true,
        }),
    }
}
