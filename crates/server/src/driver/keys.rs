//! Which keys and which given identities are taken by transactions that are driven here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use unanimous_core::commit::Key;
use unanimous_core::id::{Timestamp, TxnId};

use crate::limits::KEY_MEMORY_MS;

/// Idempotency keys of transactions that are open or have ended just now.
#[derive(Default)]
pub(super) struct Keys {
    pub(super) by_text: HashMap<Arc<str>, (TxnId, [u8; 16])>,
    ended: VecDeque<(Timestamp, Arc<str>)>,
}

impl Keys {
    pub(super) fn insert(&mut self, key: &Key, txn: TxnId) {
        self.by_text.insert(Arc::clone(&key.text), (txn, key.fingerprint));
    }

    /// The transaction was refused: nobody has begun under the key.
    pub(super) fn forget(&mut self, key: &Key) {
        self.by_text.remove(&key.text);
    }

    /// Remembers the key of an ended transaction for a while: a repeat may have looked into the
    /// journal before the transaction began.
    pub(super) fn ended(&mut self, key: &Key, now: Timestamp) {
        self.ended.push_back((now, Arc::clone(&key.text)));
        while let Some((at, text)) = self.ended.front()
            && now.since_ms(*at) > KEY_MEMORY_MS
        {
            self.by_text.remove(text);
            self.ended.pop_front();
        }
    }
}

/// Identities that several requests may ask for, of transactions that have ended just now.
#[derive(Default)]
pub(super) struct Names {
    ended: HashSet<TxnId>,
    oldest_first: VecDeque<(Timestamp, TxnId)>,
}

impl Names {
    pub(super) fn contains(&self, txn: TxnId) -> bool {
        self.ended.contains(&txn)
    }

    /// Remembers an ended transaction for a while: a repeat may have looked into the journal before
    /// the transaction began.
    pub(super) fn ended(&mut self, txn: TxnId, now: Timestamp) {
        self.ended.insert(txn);
        self.oldest_first.push_back((now, txn));
        while let Some((at, txn)) = self.oldest_first.front()
            && now.since_ms(*at) > KEY_MEMORY_MS
        {
            self.ended.remove(txn);
            self.oldest_first.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use unanimous_core::id::ShardId;

    use super::*;

    #[test]
    fn who_has_ended_is_known_for_a_while() {
        let txn = |number| TxnId::mint(1, ShardId::of(1), number);
        let mut names = Names::default();
        names.ended(txn(1), Timestamp(1_000));
        names.ended(txn(2), Timestamp(1_000 + KEY_MEMORY_MS));
        assert!(names.contains(txn(1)) && names.contains(txn(2)) && !names.contains(txn(3)));
        names.ended(txn(3), Timestamp(1_001 + KEY_MEMORY_MS));
        assert!(!names.contains(txn(1)) && names.contains(txn(2)));
    }
}
