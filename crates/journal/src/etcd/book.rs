//! What one batch writes: one key for each of its transactions, all in one request.
//!
//! An open transaction has a key for each batch that it was in. The batch that ends it writes all of
//! its entries once more under one key, and removes the others. Each of these keys must not be there
//! before: beside it stands who ought to write it.

use std::collections::BTreeMap;
use std::collections::HashMap;

use unanimous_core::id::{Epoch, Lsn, ShardId, TxnId};

use super::keys::Keys;
use super::limits::{GROUP_OPS_MAX, INLINE_BYTES_MAX, OPS_OF_ONE, REQUEST_BYTES_MAX};
use super::proto::{Compare, Op, Txn};
use super::value::Value;
use crate::entry::{End, Entry, Stored};
use crate::file::layout;
use crate::remote::state::Queued;

/// The entries of open transactions.
pub(super) struct Books {
    keys: Keys,
    open: HashMap<TxnId, Book>,
}

#[derive(Default)]
struct Book {
    /// All entries, in the form of [`layout::put_kept`].
    kept: Vec<u8>,
    records: u32,
    place: Place,
}

/// Whether a transaction has keys that its end removes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Place {
    #[default]
    Nowhere,
    Keys,
}

/// One batch.
#[derive(Default)]
pub(super) struct Page {
    /// Whose shards they are, and under which epochs.
    pub(super) shards: BTreeMap<ShardId, Epoch>,
    /// To be written before, each in a request: long values, which nothing refers to yet.
    pub(super) before: Vec<Vec<Op>>,
    pub(super) groups: Vec<Group>,
    pub(super) bytes: usize,
}

/// Some transactions of a batch.
#[derive(Default)]
pub(super) struct Group {
    pub(super) guards: Vec<Guard>,
    ops: Vec<Op>,
}

/// A key that must not be there before.
pub(super) struct Guard {
    pub(super) txn: TxnId,
    /// Records that the transaction holds before.
    pub(super) expected: u32,
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Group {
    /// The whole group is written, or nothing of it.
    pub(super) fn op(&self) -> Op {
        let compare = self.guards.iter().map(|guard| Compare::Absent(guard.key.clone()));
        let put = |guard: &Guard| Op::Put(guard.key.clone(), guard.value.clone());
        let then = self.guards.iter().map(put).chain(self.ops.iter().cloned());
        Op::Txn(Txn { compare: compare.collect(), then: then.collect(), otherwise: Vec::new() })
    }
}

impl Books {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, open: HashMap::new() }
    }

    /// Takes over a transaction that another life left open.
    pub(super) fn adopt(&mut self, txn: TxnId, stored: &[Stored]) {
        let mut book = Book { place: Place::Keys, ..Book::default() };
        for step in stored.chunk_by(|a, b| a.lsn == b.lsn) {
            let records: Vec<_> = step.iter().map(|it| it.record.clone()).collect();
            let at = step[0].at;
            let (epoch, expected, end) = (Epoch::default(), book.records, End::Open);
            book.put(step[0].lsn, &Entry { txn, epoch, expected, at, records: &records, end });
        }
        self.open.insert(txn, book);
    }

    /// Enters a batch, and says what it writes.
    pub(super) fn enter(&mut self, batch: &mut [Queued]) -> Page {
        batch.sort_by_key(|entry| (entry.txn, entry.expected));
        let mut page = Page::default();
        let mut named = BTreeMap::new();
        for entry in batch.iter().filter(|entry| entry.expected == 0) {
            if let Some(key) = entry.records[0].key() {
                // The newest is the one that it names.
                named.insert(self.keys.idempotency(&key.text), entry.txn);
            }
        }
        let mut inline = named.keys().map(Vec::len).sum();
        for entries in batch.chunk_by(|a, b| a.txn == b.txn) {
            for entry in entries {
                let shard = entry.txn.shard();
                let before = page.shards.insert(shard, entry.epoch);
                assert!(
                    before.is_none_or(|it| it == entry.epoch),
                    "a claim waits for older epochs"
                );
                page.bytes += entry.encoded.iter().map(Vec::len).sum::<usize>();
            }
            self.enter_one(&mut page, entries, &mut inline);
        }
        let named = named.into_iter().map(|(key, txn)| Op::Put(key, txn_value(txn)));
        named.for_each(|op| page.group(1).ops.push(op));
        page
    }

    fn enter_one(&mut self, page: &mut Page, entries: &[Queued], inline: &mut usize) {
        let (txn, lsn) = (entries[0].txn, entries[0].lsn);
        let book = self.open.entry(txn).or_default();
        let (before, expected, place) = (book.kept.len(), book.records, book.place);
        let mut end = End::Open;
        for entry in entries {
            assert_eq!(book.records, entry.expected, "it was compared when appended");
            let Queued { txn, epoch, expected, at, records, .. } = entry;
            let (txn, epoch, expected, at) = (*txn, *epoch, *expected, *at);
            end = entry.end;
            book.put(entry.lsn, &Entry { txn, epoch, expected, at, records, end });
        }
        let (key, entries) = match end {
            End::Open => (self.keys.part(txn, expected), &book.kept[before..]),
            End::Ended => (self.keys.ended(txn), &book.kept[..]),
        };
        let value = match entries.len() {
            len if len <= INLINE_BYTES_MAX && *inline + len <= REQUEST_BYTES_MAX => {
                *inline += len;
                Value::Inline(entries).encode()
            }
            _ => page.set_apart(&self.keys, txn, lsn, entries).encode(),
        };
        let group = page.group(OPS_OF_ONE);
        group.guards.push(Guard { txn, expected, key, value });
        match (end, place) {
            (End::Open, _) => book.place = Place::Keys,
            (End::Ended, Place::Keys) => group.ops.push(Op::Delete(self.keys.open(txn))),
            (End::Ended, Place::Nowhere) => {}
        }
        if end == End::Ended {
            self.open.remove(&txn);
        }
    }
}

impl Book {
    fn put(&mut self, lsn: Lsn, entry: &Entry<'_>) {
        let mut bytes = Vec::with_capacity(128);
        layout::put_entry(&mut bytes, entry);
        layout::put_kept(&mut self.kept, lsn, &bytes);
        self.records += u32::try_from(entry.records.len()).expect("a step writes a few records");
    }
}

impl Page {
    /// A group with room for so many operations.
    fn group(&mut self, ops: usize) -> &mut Group {
        let has_room = |group: &Group| group.guards.len() + group.ops.len() + ops <= GROUP_OPS_MAX;
        if !self.groups.last().is_some_and(has_room) {
            self.groups.push(Group::default());
        }
        self.groups.last_mut().expect("made just now")
    }

    /// Writes a long value in parts, before the batch.
    fn set_apart(&mut self, keys: &Keys, txn: TxnId, lsn: Lsn, entries: &[u8]) -> Value<'static> {
        let parts = entries.chunks(REQUEST_BYTES_MAX);
        let count = parts.len();
        for (number, part) in parts.enumerate() {
            let fits = |ops: &Vec<Op>| {
                ops.len() < GROUP_OPS_MAX && bytes(ops) + part.len() <= REQUEST_BYTES_MAX
            };
            if !self.before.last().is_some_and(fits) {
                self.before.push(Vec::new());
            }
            let ops = self.before.last_mut().expect("made just now");
            ops.push(Op::Put(keys.blob(txn, lsn, number), part.to_vec()));
        }
        Value::Apart(lsn, count)
    }
}

fn bytes(ops: &[Op]) -> usize {
    let bytes = |op: &Op| match op {
        Op::Put(_, value) => value.len(),
        Op::Range(_) | Op::Delete(_) | Op::Txn(_) => 0,
    };
    ops.iter().map(bytes).sum()
}

/// A transaction as the value of an idempotency key.
pub(super) fn txn_value(txn: TxnId) -> Vec<u8> {
    txn.to_string().into_bytes()
}

/// What goes when an ended transaction does, but for its idempotency key.
pub(super) fn removal(keys: &Keys, txn: TxnId) -> [Op; 2] {
    [Op::Delete(keys.ended(txn).into()), Op::Delete(keys.blobs(txn))]
}
