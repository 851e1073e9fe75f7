//! What one batch writes: rows in columns, as arrays.
//!
//! The writer keeps the records of every open transaction, so that each row says how its transaction
//! stands at the end of the batch, and no further: what is shown is as durable as what it rests on.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use tokio_postgres::types::ToSql;
use unanimous_core::id::TxnId;

use super::id::Id;
use super::words::{self, Part, Particulars};
use crate::entry::{End, Stored};
use crate::remote::state::Queued;
use crate::summary::summarize;

/// The records of open transactions.
#[derive(Default)]
pub(super) struct Books {
    open: HashMap<TxnId, Book>,
    coordinator: String,
}

#[derive(Default)]
struct Book {
    stored: Vec<Stored>,
    /// Its participants as they were last written.
    parts: Vec<Part>,
}

/// One batch.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) shards: Vec<i32>,
    pub(super) epochs: Vec<i64>,
    begun: Columns,
    moved: Columns,
    /// Of those that move: records that they hold before.
    before: Vec<i32>,
    parts: Parts,
    pub(super) log: Log,
}

/// Of table `distributed_txn`.
#[derive(Default)]
struct Columns {
    txn: Vec<Id>,
    kind: Vec<Option<&'static str>>,
    status: Vec<Option<&'static str>>,
    outcome: Vec<Option<&'static str>>,
    shard: Vec<i32>,
    initiated_at: Vec<SystemTime>,
    updated_at: Vec<SystemTime>,
    ended_at: Vec<Option<SystemTime>>,
    timeout_ms: Vec<Option<i64>>,
    coordinator: Vec<String>,
    key: Vec<Option<String>>,
    fingerprint: Vec<Option<Vec<u8>>>,
    records: Vec<i32>,
}

/// Of table `txn_participant`.
#[derive(Default)]
struct Parts {
    txn: Vec<Id>,
    branch: Vec<i32>,
    participant: Vec<String>,
    resource: Vec<Option<String>>,
    compensation_resource: Vec<Option<String>>,
    vote: Vec<Option<&'static str>>,
    standing: Vec<Option<&'static str>>,
    ack: Vec<bool>,
}

/// Of table `txn_log`.
#[derive(Default)]
pub(super) struct Log {
    pub(super) txn: Vec<Id>,
    pub(super) seq: Vec<i32>,
    pub(super) lsn: Vec<i64>,
    at: Vec<SystemTime>,
    event: Vec<&'static str>,
    detail: Vec<String>,
    record: Vec<Vec<u8>>,
}

/// All that a batch writes in one statement, or none of it. A count that is wrong divides by zero.
///
/// The epochs are read `FOR SHARE`: a claim waits for the batch, or the batch sees the claim.
///
/// Transactions are looked for one by one. Were their conditions written as usual, a planner that thinks
/// few are open, as it does of every new table, would read all that are open for each that it looks for.
pub(super) const WRITE: &str = "
WITH owned AS (
    SELECT shard.shard FROM shard
    JOIN unnest($1::int[], $2::bigint[]) AS mine (shard, epoch)
        ON shard.shard = mine.shard AND shard.epoch = mine.epoch
    ORDER BY shard.shard FOR SHARE OF shard
), begun AS (
    INSERT INTO distributed_txn (txn_id, kind, status, outcome, shard, initiated_at, updated_at,
        ended_at, timeout_ms, coordinator, idempotency_key, fingerprint, records)
    SELECT * FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::int[],
        $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::bigint[], $12::text[],
        $13::text[], $14::bytea[], $15::int[])
), moved AS (
    UPDATE distributed_txn SET status = new.status, outcome = new.outcome,
        updated_at = new.updated_at, ended_at = new.ended_at, records = new.records
    FROM unnest($16::uuid[], $17::text[], $18::text[], $19::timestamptz[], $20::timestamptz[],
        $21::int[], $22::int[])
        AS new (txn_id, status, outcome, updated_at, ended_at, records, before)
    WHERE distributed_txn.txn_id = ANY (ARRAY[new.txn_id])
        AND distributed_txn.records = new.before
        AND coalesce(distributed_txn.ended_at, 'infinity') = 'infinity'
    RETURNING 1
), parts AS (
    INSERT INTO txn_participant (txn_id, branch, participant, resource, compensation_resource,
        vote, standing, ack)
    SELECT * FROM unnest($23::uuid[], $24::int[], $25::text[], $26::text[], $27::text[],
        $28::text[], $29::text[], $30::boolean[])
    ON CONFLICT (txn_id, branch) DO UPDATE SET
        vote = excluded.vote, standing = excluded.standing, ack = excluded.ack
), log AS (
    INSERT INTO txn_log (txn_id, seq, lsn, at, event, detail, record)
    SELECT * FROM unnest($31::uuid[], $32::int[], $33::bigint[], $34::timestamptz[], $35::text[],
        $36::text[], $37::bytea[])
)
SELECT 1 / ((SELECT count(*) FROM owned) = cardinality($1::int[])
    AND (SELECT count(*) FROM moved) = cardinality($16::uuid[]))::int";

impl Rows {
    /// What [`WRITE`] takes.
    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 37] {
        let Self { shards, epochs, begun, moved, before, parts, log } = self;
        [
            shards,
            epochs,
            &begun.txn,
            &begun.kind,
            &begun.status,
            &begun.outcome,
            &begun.shard,
            &begun.initiated_at,
            &begun.updated_at,
            &begun.ended_at,
            &begun.timeout_ms,
            &begun.coordinator,
            &begun.key,
            &begun.fingerprint,
            &begun.records,
            &moved.txn,
            &moved.status,
            &moved.outcome,
            &moved.updated_at,
            &moved.ended_at,
            &moved.records,
            before,
            &parts.txn,
            &parts.branch,
            &parts.participant,
            &parts.resource,
            &parts.compensation_resource,
            &parts.vote,
            &parts.standing,
            &parts.ack,
            &log.txn,
            &log.seq,
            &log.lsn,
            &log.at,
            &log.event,
            &log.detail,
            &log.record,
        ]
    }

    /// Transactions that the batch goes on with or begins, and records that each holds before.
    pub(super) fn held_before(&self) -> impl Iterator<Item = (TxnId, i32)> {
        let begun = self.begun.txn.iter().map(|id| (id.0, 0));
        begun.chain(self.moved.txn.iter().map(|id| id.0).zip(self.before.iter().copied()))
    }

    /// Bytes of the records.
    pub(super) fn bytes(&self) -> usize {
        self.log.record.iter().map(Vec::len).sum()
    }
}

impl Books {
    pub(super) fn new(coordinator: String) -> Self {
        Self { open: HashMap::new(), coordinator }
    }

    /// Takes over a transaction that another life left open.
    pub(super) fn adopt(&mut self, txn: TxnId, stored: Vec<Stored>) {
        self.open.insert(txn, Book { stored, parts: Vec::new() });
    }

    /// Enters a batch, and says what it writes. Keys are in order, so that batches never wait for
    /// each other in a circle.
    pub(super) fn enter(&mut self, batch: &mut [Queued]) -> Rows {
        batch.sort_by_key(|entry| (entry.txn, entry.expected));
        let mut rows = Rows::default();
        let mut epochs = BTreeMap::new();
        for entry in batch.iter() {
            let shard = index(entry.txn.shard().index());
            let before = epochs.insert(shard, entry.epoch);
            assert!(before.is_none_or(|it| it == entry.epoch), "a claim waits for older epochs");
        }
        for (shard, epoch) in epochs {
            rows.shards.push(shard);
            rows.epochs.push(number(epoch.0));
        }
        for entries in batch.chunk_by_mut(|a, b| a.txn == b.txn) {
            self.enter_one(&mut rows, entries);
        }
        rows
    }

    fn enter_one(&mut self, rows: &mut Rows, entries: &mut [Queued]) {
        let txn = entries[0].txn;
        let book = self.open.entry(txn).or_default();
        let before = book.stored.len();
        for entry in &mut *entries {
            assert_eq!(book.stored.len(), entry.expected as usize, "it was compared when appended");
            let encoded = std::mem::take(&mut entry.encoded);
            for (record, bytes) in entry.records.iter().zip(encoded) {
                let stored = Stored { lsn: entry.lsn, at: entry.at, record: record.clone() };
                rows.log.push(txn, book.stored.len(), &stored, bytes);
                book.stored.push(stored);
            }
        }
        let particulars = words::particulars(&book.stored);
        let last = &entries[entries.len() - 1];
        let columns = if before == 0 { &mut rows.begun } else { &mut rows.moved };
        columns.push(txn, &book.stored, last.end, particulars.as_ref());
        columns.coordinator.push(self.coordinator.clone());
        rows.put_parts(txn, book, particulars.map(|it| it.parts).unwrap_or_default());
        if before > 0 {
            rows.before.push(index(before));
        }
        match last.end {
            End::Open => {}
            End::Ended => drop(self.open.remove(&txn)),
        }
    }
}

impl Rows {
    /// Writes the participants that are not as they were last written.
    fn put_parts(&mut self, txn: TxnId, book: &mut Book, parts: Vec<Part>) {
        for (branch, part) in parts.iter().enumerate() {
            if book.parts.get(branch) == Some(part) {
                continue;
            }
            self.parts.txn.push(Id(txn));
            self.parts.branch.push(index(branch));
            self.parts.participant.push(part.name.clone());
            self.parts.resource.push(part.resource.clone());
            self.parts.compensation_resource.push(part.compensation_resource.clone());
            self.parts.vote.push(part.vote);
            self.parts.standing.push(part.standing);
            self.parts.ack.push(part.ack);
        }
        book.parts = parts;
    }
}

impl Columns {
    fn push(&mut self, txn: TxnId, stored: &[Stored], end: End, particulars: Option<&Particulars>) {
        let summary = summarize(txn, stored);
        let (first, last) = (&stored[0], &stored[stored.len() - 1]);
        let updated_at = words::time(last.at);
        self.txn.push(Id(txn));
        self.status.push(summary.as_ref().map(|it| words::status(it.status)));
        let outcome = summary.as_ref().and_then(|it| Some(words::outcome(it.kind, it.outcome?)));
        self.outcome.push(outcome);
        self.updated_at.push(updated_at);
        self.ended_at.push(match end {
            End::Open => None,
            End::Ended => Some(updated_at),
        });
        self.records.push(index(stored.len()));
        self.kind.push(summary.as_ref().map(|it| words::kind(it.kind)));
        self.shard.push(index(txn.shard().index()));
        self.initiated_at.push(words::time(first.at));
        self.timeout_ms.push(particulars.and_then(|it| it.timeout_ms).map(number));
        self.fingerprint.push(particulars.and_then(|it| it.fingerprint).map(Vec::from));
        self.key.push(summary.and_then(|it| it.key).map(|key| words::storable(&key)));
    }
}

impl Log {
    fn push(&mut self, txn: TxnId, seq: usize, stored: &Stored, bytes: Vec<u8>) {
        let (event, detail) = words::line(&stored.record);
        self.txn.push(Id(txn));
        self.seq.push(index(seq));
        self.lsn.push(number(stored.lsn.0));
        self.at.push(words::time(stored.at));
        self.event.push(event);
        self.detail.push(detail);
        self.record.push(bytes);
    }
}

/// A count as a column takes it.
pub(super) fn index(number: usize) -> i32 {
    i32::try_from(number).expect("records, branches and shards are few")
}

/// A number as a column takes it; what is beyond any use becomes the largest.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
