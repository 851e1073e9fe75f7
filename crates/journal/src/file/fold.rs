//! Entries gathered by transaction, as they are read back.
//!
//! Used when a journal is opened and by the projection. Holds the transactions that have not ended
//! as of the last entry taken.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use unanimous_core::id::{Lsn, TxnId};

use super::layout::{self, Records};
use crate::codec::Undecodable;
use crate::entry::End;
use crate::limits::POOL_MAX;

/// All entries of one transaction, in the form of [`layout::put_kept`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// Records in them.
    pub(crate) count: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Whether the entries read before reach back far enough.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Context {
    /// The first frame of a segment. The snapshot before it already has what the frame says of
    /// transactions that stayed open, and lacks those that ended in it.
    FirstFrame,
    /// Every entry follows from the ones before.
    Whole,
}

/// Transactions that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    pub(crate) txns: ByTxn<Kept>,
    pool: Vec<Vec<u8>>,
}

impl Fold {
    /// Takes what a segment's snapshot says.
    pub(crate) fn take_snapshot(&mut self, snapshot: &[u8]) -> Result<(), Undecodable> {
        for entry in layout::kept(snapshot) {
            let (lsn, records, bytes) = entry?;
            let kept = self.txns.entry(records.txn).or_default();
            kept.count = records.expected.saturating_add(records.count);
            layout::put_kept(&mut kept.bytes, lsn, bytes);
        }
        Ok(())
    }

    /// Takes one more entry, and gives back the transaction if it ended with it.
    ///
    /// Fails if the entry does not follow from the ones before.
    pub(crate) fn take(
        &mut self,
        lsn: Lsn,
        records: &Records<'_>,
        bytes: &[u8],
        context: Context,
    ) -> Result<Option<Kept>, &'static str> {
        let held = self.txns.entry(records.txn);
        let count = match &held {
            Entry::Occupied(held) => held.get().count,
            Entry::Vacant(_) => 0,
        };
        let after = records.expected.saturating_add(records.count);
        if records.expected != count {
            let known = count == 0 || after <= count;
            return match (context, known) {
                (Context::FirstFrame, true) => Ok(None),
                (Context::FirstFrame, false) | (Context::Whole, _) => {
                    Err("an entry does not follow from the ones before it")
                }
            };
        }
        let mut held = match held {
            Entry::Occupied(held) => held,
            Entry::Vacant(vacant) => {
                let bytes = self.pool.pop().unwrap_or_default();
                vacant.insert_entry(Kept { count: 0, bytes })
            }
        };
        let kept = held.get_mut();
        kept.count = after;
        layout::put_kept(&mut kept.bytes, lsn, bytes);
        match records.end {
            End::Open => Ok(None),
            End::Ended => Ok(Some(held.remove())),
        }
    }

    /// Takes back what [`Fold::take`] gave, for the next transaction's entries.
    pub(crate) fn recycle(&mut self, mut kept: Kept) {
        if self.pool.len() < POOL_MAX {
            kept.bytes.clear();
            self.pool.push(kept.bytes);
        }
    }
}

/// A map by transaction.
pub(crate) type ByTxn<V> = HashMap<TxnId, V, BuildHasherDefault<TxnHasher>>;

/// Identities hold 68 random bits and are minted by the server, so mixing them is enough.
#[derive(Default)]
pub(crate) struct TxnHasher(u64);

impl Hasher for TxnHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u128(u128::from(byte)));
    }

    fn write_u128(&mut self, value: u128) {
        let folded = (value >> 64) as u64 ^ (value as u64).rotate_left(32) ^ self.0;
        let mixed = folded.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ mixed >> 32;
    }
}
