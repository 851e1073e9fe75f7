//! The keys of a journal, all under one prefix.
//!
//! | key | value |
//! |---|---|
//! | `meta` | version of this layout, name of the journal, how often it was opened |
//! | `shard/NN` | its epoch, a random word of whoever claimed it, and who that was; or `moved`, and the journal that has it |
//! | `node/NAME` | a node that takes part: its incarnation, state and address |
//! | `head/WORD` | how many requests the opening that claims with this word has written |
//! | `open/NN/ID/SEQ` | entries of an open transaction of that shard, behind so many records |
//! | `ended/ID` | all entries of an ended one |
//! | `key/TEXT` | the transaction that was begun under an idempotency key |
//! | `blob/ID/LSN/PART` | part of a value too long for its place |
//!
//! `ID` is the complement of the transaction's identity in hexadecimal, because etcd lists keys
//! upwards only: so the newest come first. What is open stands by shard: whoever takes a few over from a
//! node that died does not read what all the others have.

use unanimous_core::id::{Lsn, ShardId, TxnId};

/// Keys from the first to before the last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Span {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
}

impl From<Vec<u8>> for Span {
    /// One key.
    fn from(key: Vec<u8>) -> Self {
        Self { from: key, to: Vec::new() }
    }
}

/// What a key under the prefix can hold, that is listed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Room {
    Open(ShardId),
    Ended,
}

impl Room {
    fn name(self) -> String {
        match self {
            Self::Open(shard) => format!("open/{:02}", shard.index()),
            Self::Ended => "ended".to_owned(),
        }
    }
}

/// Makes keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn key(&self, rest: &str) -> Vec<u8> {
        format!("{}/{rest}", self.prefix).into_bytes()
    }

    pub(super) fn meta(&self) -> Vec<u8> {
        self.key("meta")
    }

    pub(super) fn head(&self, word: u64) -> Vec<u8> {
        self.key(&format!("head/{word:016x}"))
    }

    pub(super) fn heads(&self) -> Span {
        below(self.key("head/"))
    }

    /// The word in a key of [`Keys::heads`].
    pub(super) fn to_head(&self, key: &[u8]) -> Option<u64> {
        u64::from_str_radix(self.rest(key, "head")?, 16).ok()
    }

    pub(super) fn shard(&self, shard: ShardId) -> Vec<u8> {
        self.key(&format!("shard/{:02}", shard.index()))
    }

    pub(super) fn shards(&self) -> Span {
        below(self.key("shard/"))
    }

    /// The shard that a key of [`Keys::shards`] names.
    pub(super) fn to_shard(&self, key: &[u8]) -> Option<ShardId> {
        let number: u64 = self.rest(key, "shard")?.parse().ok()?;
        Some(ShardId::of(number))
    }

    pub(super) fn node(&self, name: &str) -> Vec<u8> {
        self.key(&format!("node/{name}"))
    }

    pub(super) fn nodes(&self) -> Span {
        below(self.key("node/"))
    }

    /// The name in a key of [`Keys::nodes`].
    pub(super) fn to_node<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        self.rest(key, "node")
    }

    /// All transactions of a room, from the newest on; only those older than `after`, if it is set.
    pub(super) fn all(&self, room: Room, after: Option<TxnId>) -> Span {
        let whole = below(self.key(&format!("{}/", room.name())));
        match after {
            None => whole,
            // Behind every key of that transaction.
            Some(txn) => {
                Span { from: self.key(&format!("{}/{}0", room.name(), id(txn))), to: whole.to }
            }
        }
    }

    /// What an open transaction has.
    pub(super) fn open(&self, txn: TxnId) -> Span {
        below(self.key(&format!("{}/{}/", Room::Open(txn.shard()).name(), id(txn))))
    }

    /// One batch's entries of an open transaction that held so many records before. Whoever wrote
    /// them, they are listed in the order of the records.
    pub(super) fn part(&self, txn: TxnId, before: u32) -> Vec<u8> {
        self.key(&format!("{}/{}/{before:08x}", Room::Open(txn.shard()).name(), id(txn)))
    }

    pub(super) fn ended(&self, txn: TxnId) -> Vec<u8> {
        self.key(&format!("ended/{}", id(txn)))
    }

    /// The transaction whose key this is.
    pub(super) fn to_txn(&self, room: Room, key: &[u8]) -> Option<TxnId> {
        let rest = self.rest(key, &room.name())?;
        let digits = rest.get(..32)?;
        u128::from_str_radix(digits, 16).ok().map(|inverted| TxnId(!inverted))
    }

    pub(super) fn idempotency(&self, text: &str) -> Vec<u8> {
        self.key(&format!("key/{text}"))
    }

    pub(super) fn blob(&self, txn: TxnId, lsn: Lsn, part: usize) -> Vec<u8> {
        self.key(&format!("blob/{}/{:016x}/{part:04}", id(txn), lsn.0))
    }

    /// The parts of one long value.
    pub(super) fn blob_of(&self, txn: TxnId, lsn: Lsn) -> Span {
        below(self.key(&format!("blob/{}/{:016x}/", id(txn), lsn.0)))
    }

    /// The parts of all long values of a transaction.
    pub(super) fn blobs(&self, txn: TxnId) -> Span {
        below(self.key(&format!("blob/{}/", id(txn))))
    }

    fn rest<'a>(&self, key: &'a [u8], room: &str) -> Option<&'a str> {
        let key = std::str::from_utf8(key).ok()?;
        key.strip_prefix(&self.prefix)?.strip_prefix('/')?.strip_prefix(room)?.strip_prefix('/')
    }
}

fn id(txn: TxnId) -> String {
    format!("{:032x}", !txn.0)
}

/// Every key that begins so. The last byte is a slash, which has one after it.
fn below(prefix: Vec<u8>) -> Span {
    let mut to = prefix.clone();
    *to.last_mut().expect("a prefix has a slash") += 1;
    Span { from: prefix, to }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_transactions_come_first_and_a_list_goes_on_behind_the_last() {
        let keys = Keys::new("una/test");
        let open = Room::Open(ShardId::of(3));
        let [older, newer] = [1_000, 2_000].map(|ms| TxnId::mint(ms, ShardId::of(3), 7));
        for room in [open, Room::Ended] {
            let key = |txn| match room {
                Room::Open(_) => keys.part(txn, 9),
                Room::Ended => keys.ended(txn),
            };
            assert!(key(newer) < key(older));
            assert_eq!(keys.to_txn(room, &key(older)), Some(older));
            let all = keys.all(room, None);
            let rest = keys.all(room, Some(newer));
            assert!(all.from < key(newer) && key(older) < all.to);
            assert!(key(newer) < rest.from && rest.from < key(older));
            assert_eq!(rest.to, all.to);
        }
        assert_eq!(keys.to_shard(&keys.shard(ShardId::of(63))), Some(ShardId::of(63)));
        assert_eq!(keys.to_head(&keys.head(u64::MAX)), Some(u64::MAX));
        assert_eq!(keys.to_txn(open, b"una/test/open/03/short"), None);
        let others = TxnId::mint(1_000, ShardId::of(4), 7);
        assert!(keys.part(others, 0) >= keys.all(open, None).to);
    }
}
