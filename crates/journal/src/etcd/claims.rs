//! The shards that this process has claimed, with the words that prove it.
//!
//! A claim writes the shard's next epoch with the random word of this opening. Every write compares
//! all of that, so that a journal which somebody has set back to an older state is no longer ours
//! either.

use std::sync::Mutex;

use unanimous_core::id::{Epoch, ShardId};

const SHARDS: usize = unanimous_core::limits::SHARDS as usize;

/// The word of a shard that is kept in another journal, whose name stands where the owner does.
const MOVED: &str = "moved";

/// What is known of a shard, as it stands in etcd: `epoch word owner`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Claim {
    pub(super) epoch: Epoch,
    pub(super) value: Vec<u8>,
}

impl Claim {
    pub(super) fn new(epoch: Epoch, word: u64, owner: &str) -> Self {
        Self { epoch, value: format!("{} {word:016x} {owner}", epoch.0).into_bytes() }
    }

    /// Of a shard that nobody has.
    pub(super) fn unclaimed(epoch: Epoch) -> Self {
        Self { epoch, value: epoch.0.to_string().into_bytes() }
    }

    /// Of a shard that another journal has.
    pub(super) fn moved(epoch: Epoch, journal: &str) -> Self {
        Self { epoch, value: format!("{} {MOVED} {journal}", epoch.0).into_bytes() }
    }

    /// The journal that has the shard instead of this one.
    pub(super) fn moved_to(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.value);
        let is_moved = text.split(' ').nth(1) == Some(MOVED);
        is_moved.then(|| self.owner().unwrap_or_default())
    }

    /// What a value says; a shard that nobody has claimed has epoch zero.
    pub(super) fn read(value: Vec<u8>) -> Self {
        let text = String::from_utf8_lossy(&value);
        let epoch = text.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or_default();
        Self { epoch: Epoch(epoch), value }
    }

    /// The word of the opening that made it.
    pub(super) fn word(&self) -> Option<u64> {
        let text = std::str::from_utf8(&self.value).ok()?;
        u64::from_str_radix(text.split(' ').nth(1)?, 16).ok()
    }

    /// Who made it.
    pub(super) fn owner(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.value);
        text.splitn(3, ' ').nth(2).map(str::to_owned)
    }
}

/// The claims of this opening.
pub(super) struct Claims {
    /// Random: what every claim of this opening says, and nobody else's.
    pub(super) word: u64,
    held: Mutex<[Claim; SHARDS]>,
}

impl Claims {
    pub(super) fn new(word: u64) -> Self {
        Self { word, held: Mutex::new(std::array::from_fn(|_| Claim::default())) }
    }

    /// One of them, if there is any.
    pub(super) fn any(&self) -> Option<(ShardId, Epoch)> {
        let held = self.held.lock().expect("nothing panics with it");
        let epochs = ShardId::all().map(|shard| (shard, held[shard.index()].epoch));
        epochs.into_iter().find(|(_, epoch)| epoch.0 > 0)
    }

    pub(super) fn of(&self, shard: ShardId) -> Claim {
        self.held.lock().expect("nothing panics with it")[shard.index()].clone()
    }

    pub(super) fn set(&self, shard: ShardId, claim: Claim) {
        self.held.lock().expect("nothing panics with it")[shard.index()] = claim;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written() {
        let claim = Claim::new(Epoch(7), 0xAB, "db1:42");
        assert_eq!(claim.value, b"7 00000000000000ab db1:42");
        assert_eq!(Claim::read(claim.value.clone()), claim);
        assert_eq!(Claim::read(Vec::new()), Claim::default());
        assert_eq!((claim.word(), Claim::default().word()), (Some(0xAB), None));
        assert_eq!((claim.owner().as_deref(), Claim::default().owner()), (Some("db1:42"), None));
        let moved = Claim::moved(Epoch(8), "abcdefgh");
        assert_eq!((moved.moved_to().as_deref(), moved.word()), (Some("abcdefgh"), None));
        assert_eq!((claim.moved_to(), Claim::default().moved_to()), (None, None));
        let spaced = Claim::new(Epoch(1), 1, "node one");
        assert_eq!(spaced.owner().as_deref(), Some("node one"));
    }
}
