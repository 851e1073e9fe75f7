//! Where the identities of transactions come from.

use std::sync::atomic::{AtomicU64, Ordering};

use unanimous_core::id::ShardId;

/// Entropy for identities: unique, not secret.
pub(crate) struct Ids {
    seed: u128,
    next: AtomicU64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).expect("the system has a source of random numbers");
        Self { seed: u128::from_le_bytes(seed), next: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> u128 {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let low = split_mix(count ^ self.seed as u64);
        let high = split_mix(low ^ (self.seed >> 64) as u64);
        u128::from(high) << 64 | u128::from(low)
    }
}

/// The finalizer of SplitMix64: a bijection, so that different inputs stay different.
fn split_mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Equal keys meet in one shard, whose driver takes them one after the other.
pub(crate) fn shard_of_key(key: &str) -> ShardId {
    ShardId::of(hash_of_key(key))
}

/// What decides where a key is looked for; it must never change.
pub(crate) fn hash_of_key(key: &str) -> u64 {
    key.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| split_mix(hash ^ u64::from(byte)))
}
