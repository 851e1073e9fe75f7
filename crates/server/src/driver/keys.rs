//! Which keys are taken by transactions that are driven here.

use std::collections::{HashMap, VecDeque};
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
