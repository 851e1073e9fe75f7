//! Names of things, and time as the drivers tell it.
//!
//! Identities are minted by the server and never reused; a name that a client chose is an
//! idempotency key, not an identity.

use std::fmt;
use std::str::FromStr;

use crate::limits::{CLUSTER_LEN_MAX, SHARDS};

/// Identifies one transaction: a UUIDv7 (RFC 9562) whose `rand_a` begins with the shard.
///
/// ```text
///  48 bits unix_ms | 4 bits version 7 | 6 bits shard | 6 bits random | 2 bits variant | 62 bits random
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TxnId(pub u128);

impl TxnId {
    /// Makes an identity from the time in milliseconds, its shard and 68 random bits of `entropy`.
    pub fn mint(unix_ms: u64, shard: ShardId, entropy: u128) -> Self {
        let time = u128::from(unix_ms & 0xFFFF_FFFF_FFFF) << 80;
        let rand_a = u128::from(shard.0) << 70 | (entropy >> 62 & 0x3F) << 64;
        let rand_b = entropy & ((1 << 62) - 1);
        Self(time | 0x7 << 76 | rand_a | 0b10 << 62 | rand_b)
    }

    /// The shard that owns the transaction.
    pub fn shard(self) -> ShardId {
        ShardId((self.0 >> 70 & 0x3F) as u8)
    }

    /// When the identity was minted, in milliseconds since the Unix epoch.
    pub fn minted_at(self) -> Timestamp {
        Timestamp((self.0 >> 80) as u64)
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |shift: u32, bits: u32| self.0 >> shift & ((1_u128 << bits) - 1);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            hex(96, 32),
            hex(80, 16),
            hex(64, 16),
            hex(48, 16),
            hex(0, 48)
        )
    }
}

/// The text is not a transaction identity.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a transaction id: expected a UUID such as 01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10",
        )
    }
}

impl std::error::Error for NotAnId {}

impl FromStr for TxnId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        const DASHES: [usize; 4] = [8, 13, 18, 23];
        if text.len() != 36 {
            return Err(NotAnId);
        }
        let mut value: u128 = 0;
        for (index, byte) in text.bytes().enumerate() {
            match (DASHES.contains(&index), char::from(byte).to_digit(16)) {
                (true, None) if byte == b'-' => {}
                (false, Some(digit)) => value = value << 4 | u128::from(digit),
                (true | false, _) => return Err(NotAnId),
            }
        }
        Ok(Self(value))
    }
}

/// One of the [`SHARDS`] parts that transactions are divided into, each with one owner at a time.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ShardId(u8);

impl ShardId {
    /// The shard that `number` falls on.
    pub fn of(number: u64) -> Self {
        Self((number % u64::from(SHARDS)) as u8)
    }

    /// All shards, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }

    /// The shard as an index into per-shard tables.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Position of a branch (or saga step) within its transaction, counted from zero.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BranchId(pub u16);

impl BranchId {
    /// The branch as an index into per-branch tables.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0)
    }
}

/// Position of a record in the journal. Positions only grow.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Lsn(pub u64);

/// Ownership of a shard. Each new owner has a higher one; the journal refuses lower ones.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Epoch(pub u64);

/// Milliseconds since the Unix epoch, as told by the driver.
///
/// Deadlines must survive a restart, so they are wall-clock time. Machines compare timestamps but
/// never depend on two of them being in order.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This instant plus `delay_ms` milliseconds, stopping at the end of time.
    pub fn after_ms(self, delay_ms: u64) -> Self {
        Self(self.0.saturating_add(delay_ms))
    }

    /// Milliseconds from `earlier` to this instant; zero if that is later.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A branch as resources and services know it: `una:<cluster>:<txn>:<branch>`.
///
/// Recovery touches nothing that does not parse as one of these with its own cluster's name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BranchName {
    /// The cluster that began the transaction.
    pub cluster: String,
    /// The transaction.
    pub txn: TxnId,
    /// The branch within it.
    pub branch: BranchId,
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "una:{}:{}:{}", self.cluster, self.txn, self.branch.0)
    }
}

/// The text is no branch identifier of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Foreign;

impl FromStr for BranchName {
    type Err = Foreign;

    fn from_str(text: &str) -> Result<Self, Foreign> {
        let rest = text.strip_prefix("una:").ok_or(Foreign)?;
        let (cluster, rest) = rest.split_once(':').ok_or(Foreign)?;
        let (txn, branch) = rest.split_once(':').ok_or(Foreign)?;
        let canonical = branch == "0" || !branch.starts_with(['0', '+']);
        if !is_cluster_name(cluster) || !canonical {
            return Err(Foreign);
        }
        let txn = txn.parse().map_err(|NotAnId| Foreign)?;
        let branch = BranchId(branch.parse().map_err(|_| Foreign)?);
        Ok(Self { cluster: cluster.to_owned(), txn, branch })
    }
}

/// Whether `name` may name a cluster: 1 to [`CLUSTER_LEN_MAX`] lower-case letters, digits and dashes.
pub fn is_cluster_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=CLUSTER_LEN_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_its_shard_and_its_time_and_is_a_uuid_v7() {
        let shard = ShardId::of(61);
        let id = TxnId::mint(1_763_700_000_123, shard, u128::MAX);
        assert_eq!(id.shard(), shard);
        assert_eq!(id.minted_at(), Timestamp(1_763_700_000_123));
        let text = id.to_string();
        assert_eq!(&text[14..15], "7");
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"));
        assert_eq!(text.parse(), Ok(id));
    }

    #[test]
    fn what_is_not_quite_an_id_is_refused() {
        let id = TxnId::mint(1, ShardId::of(0), 7).to_string();
        for text in ["", &id[1..], &id.replace('-', "0"), &format!("{id}0"), &id.replace('7', "g")]
        {
            assert_eq!(text.parse::<TxnId>(), Err(NotAnId), "{text}");
        }
    }

    #[test]
    fn a_branch_name_reads_back_and_a_near_miss_is_foreign() {
        let txn = TxnId::mint(5, ShardId::of(3), 9);
        let name = BranchName { cluster: "main-1".into(), txn, branch: BranchId(12) };
        let text = name.to_string();
        assert_eq!(text.parse(), Ok(name));
        for near in [
            text.replace("una:", "uma:"),
            text.replace("main-1", "Main"),
            format!("{text}x"),
            text.replace(":12", ":012"),
            text.replace(":12", ":+12"),
            text.replace(":12", ""),
        ] {
            assert_eq!(near.parse::<BranchName>(), Err(Foreign), "{near}");
        }
    }
}
