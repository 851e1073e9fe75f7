//! Chance from a seed that is printed, so that a run can be tried again.
//!
//! A seed repeats what the test does and when it means to; what the machine does is its own affair.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Sets the seed of every test.
const SEED: &str = "UNANIMOUS_CRASH_SEED";

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// From the environment, or from the clock.
    pub(crate) fn new() -> Self {
        let from_clock = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(since.subsec_nanos())
        };
        let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(from_clock);
        println!("{SEED}={seed}");
        Self(seed)
    }

    /// A stream of its own for somebody else.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From zero to `bound`, not included.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of `all`.
    pub(crate) fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// Up to `ms_max` milliseconds.
    pub(crate) fn pause(&mut self, ms_max: u64) -> Duration {
        Duration::from_micros(self.below(ms_max * 1_000 + 1))
    }
}
