//! The transactions that a journal holds in memory: all that are open, and some that ended lately.
//!
//! An ended transaction stays until the projection has it, or until there are too many of them;
//! [`Table::evicted`] tells how far the projection must have come to know the ones that had to go.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use unanimous_core::id::{Lsn, TxnId};

use super::fold::{ByTxn, Fold, Kept};
use super::layout;
use crate::entry::End;
use crate::limits::{POOL_MAX, RECENT_BYTES_MAX, TXN_BYTES};

/// Transactions by identity and by idempotency key.
#[derive(Debug, Default)]
pub(crate) struct Table {
    txns: ByTxn<Slot>,
    keys: HashMap<Arc<str>, TxnId>,
    /// Ended transactions, oldest first.
    ended: VecDeque<(Lsn, TxnId)>,
    ended_bytes: usize,
    open_bytes: usize,
    evicted: Lsn,
    pool: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Slot {
    kept: Kept,
    key: Option<Arc<str>>,
    end: End,
}

/// Transactions that had ended when the journal was opened, as many as are kept.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    txns: VecDeque<(Lsn, TxnId, Kept)>,
    bytes: usize,
    /// Those that ended up to here are not among them.
    dropped: Lsn,
}

impl Recent {
    /// Knows nothing of what ended up to `lsn`.
    pub(crate) fn after(lsn: Lsn) -> Self {
        Self { dropped: lsn, ..Self::default() }
    }

    /// Adds a transaction, and gives back the oldest if there are too many.
    pub(crate) fn push(&mut self, lsn: Lsn, txn: TxnId, kept: Kept) -> Option<Kept> {
        self.bytes += kept.bytes.len() + TXN_BYTES;
        self.txns.push_back((lsn, txn, kept));
        if self.bytes <= RECENT_BYTES_MAX {
            return None;
        }
        let (lsn, _, oldest) = self.txns.pop_front()?;
        self.bytes -= oldest.bytes.len() + TXN_BYTES;
        self.dropped = lsn;
        Some(oldest)
    }
}

/// An entry as [`Table::take`] needs it.
pub(crate) struct Taken<'a> {
    pub(crate) txn: TxnId,
    pub(crate) lsn: Lsn,
    pub(crate) expected: u32,
    pub(crate) count: u32,
    pub(crate) end: End,
    pub(crate) bytes: &'a [u8],
    pub(crate) key: Option<&'a Arc<str>>,
}

impl Table {
    /// The transactions that were open when the journal was opened, and some that had ended. The
    /// keys of the latter come with [`Table::index_ended`].
    pub(crate) fn recovered(
        fold: Fold,
        recent: Recent,
        key: impl Fn(&[u8]) -> Option<Arc<str>>,
    ) -> Self {
        let mut table = Self { evicted: recent.dropped, ..Self::default() };
        for (txn, kept) in fold.txns {
            let key = key(&kept.bytes);
            table.keys.extend(key.clone().map(|key| (key, txn)));
            table.open_bytes += kept.bytes.len();
            table.txns.insert(txn, Slot { kept, key, end: End::Open });
        }
        for (lsn, txn, kept) in recent.txns {
            table.ended_bytes += kept.bytes.len() + TXN_BYTES;
            table.ended.push_back((lsn, txn));
            table.txns.insert(txn, Slot { kept, key: None, end: End::Ended });
        }
        table
    }

    /// Makes the ended transactions known by their keys.
    pub(crate) fn index_ended(&mut self, key: impl Fn(&[u8]) -> Option<Arc<str>>) {
        // The newest transaction under a key is the one it names.
        for (_, txn) in self.ended.iter().rev() {
            let slot = self.txns.get_mut(txn).expect("an ended transaction is listed once");
            slot.key = key(&slot.kept.bytes);
            if let Some(key) = &slot.key {
                self.keys.entry(Arc::clone(key)).or_insert(*txn);
            }
        }
    }

    /// Records that the transaction holds, if another entry may follow them.
    pub(crate) fn appendable(&self, txn: TxnId, expected: u32) -> Result<(), u32> {
        match self.txns.get(&txn) {
            None if expected == 0 => Ok(()),
            None => Err(0),
            Some(slot) if slot.end == End::Open && slot.kept.count == expected => Ok(()),
            Some(slot) => Err(slot.kept.count),
        }
    }

    /// Takes an entry that [`Table::appendable`] has let through.
    pub(crate) fn take(&mut self, taken: &Taken<'_>) {
        let pool = &mut self.pool;
        let slot = self.txns.entry(taken.txn).or_insert_with(|| Slot {
            kept: Kept { count: 0, bytes: pool.pop().unwrap_or_default() },
            key: None,
            end: End::Open,
        });
        let before = slot.kept.bytes.len();
        slot.kept.count = taken.expected + taken.count;
        layout::put_kept(&mut slot.kept.bytes, taken.lsn, taken.bytes);
        if let Some(key) = taken.key {
            slot.key = Some(Arc::clone(key));
            self.keys.insert(Arc::clone(key), taken.txn);
        }
        match taken.end {
            End::Open => self.open_bytes += slot.kept.bytes.len() - before,
            End::Ended => {
                slot.end = End::Ended;
                self.open_bytes -= before;
                self.ended_bytes += slot.kept.bytes.len() + TXN_BYTES;
                self.ended.push_back((taken.lsn, taken.txn));
            }
        }
    }

    /// Lets go of ended transactions that the projection has, and of the oldest others beyond the
    /// bound; of at most `limit` in all, because appending waits for it. Returns how many.
    pub(crate) fn evict(&mut self, projected: Lsn, limit: usize) -> usize {
        for evicted in 0..limit {
            let Some(&(lsn, txn)) = self.ended.front() else { return evicted };
            if lsn > projected {
                if self.ended_bytes <= RECENT_BYTES_MAX {
                    return evicted;
                }
                self.evicted = lsn;
            }
            self.ended.pop_front();
            self.remove(txn);
        }
        limit
    }

    fn remove(&mut self, txn: TxnId) {
        let slot = self.txns.remove(&txn).expect("an ended transaction is listed once");
        self.ended_bytes -= slot.kept.bytes.len() + TXN_BYTES;
        if let Some(key) = slot.key
            && self.keys.get(&key) == Some(&txn)
        {
            self.keys.remove(&key);
        }
        if self.pool.len() < POOL_MAX {
            let mut bytes = slot.kept.bytes;
            bytes.clear();
            bytes.shrink_to(1_024);
            self.pool.push(bytes);
        }
    }

    /// Every ended transaction up to this position that the table does not hold is in a projection
    /// that has come so far.
    pub(crate) fn evicted(&self) -> Lsn {
        self.evicted
    }

    pub(crate) fn find_key(&self, key: &str) -> Option<TxnId> {
        self.keys.get(key).copied()
    }

    /// All entries of a transaction.
    pub(crate) fn get(&self, txn: TxnId) -> Option<&[u8]> {
        self.txns.get(&txn).map(|slot| slot.kept.bytes.as_slice())
    }

    /// The transactions held, in no order, with whether they have ended.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (TxnId, End)> {
        self.txns.iter().map(|(&txn, slot)| (txn, slot.end))
    }

    /// The open transactions with their entries, in no order.
    pub(crate) fn open(&self) -> impl Iterator<Item = (TxnId, &[u8])> {
        let open = self.txns.iter().filter(|(_, slot)| slot.end == End::Open);
        open.map(|(&txn, slot)| (txn, slot.kept.bytes.as_slice()))
    }

    pub(crate) fn open_count(&self) -> usize {
        self.txns.len() - self.ended.len()
    }

    /// The entries of all open transactions, as a segment begins with.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.open_bytes);
        self.open().for_each(|(_, bytes)| out.extend_from_slice(bytes));
        out
    }
}
