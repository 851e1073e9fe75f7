//! The parts that the shards are divided into between nodes.

use std::fmt;

use serde::{Deserialize, Serialize};
use unanimous_core::id::ShardId;
use unanimous_core::limits::SHARDS;

/// Parts that the shards are divided into. Each costs its owner a connection to the journal and a
/// thread; with fewer, a handful of nodes could not share the work evenly.
pub(crate) const PARTITIONS: u8 = 8;

const SHARDS_EACH: u8 = SHARDS / PARTITIONS;

/// Shards that have one owner, and change it together.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "u8", into = "u8")]
pub(crate) struct Partition(u8);

impl Partition {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    pub(crate) fn of(shard: ShardId) -> Self {
        Self(shard.index() as u8 / SHARDS_EACH)
    }

    pub(crate) fn shards(self) -> impl Iterator<Item = ShardId> {
        ShardId::all().filter(move |&shard| Self::of(shard) == self)
    }

    pub(crate) fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Partition {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number < PARTITIONS {
            true => Ok(Self(number)),
            false => Err(format!("{number} is no partition: there are {PARTITIONS}")),
        }
    }
}

impl From<Partition> for u8 {
    fn from(partition: Partition) -> Self {
        partition.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_in_one_partition() {
        let shards: Vec<ShardId> = Partition::all().flat_map(Partition::shards).collect();
        assert_eq!(shards, ShardId::all().collect::<Vec<_>>());
    }
}
