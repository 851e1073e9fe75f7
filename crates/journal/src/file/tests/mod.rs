//! Tests of the file journal: on real folders here, on simulated disks beside.

mod crash;
mod disk;
pub(crate) mod life;
mod trouble;

use std::sync::Arc;

use crate::conformance;
use crate::file::{FileJournal, Options};

#[test]
fn the_file_journal_conforms() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    conformance::suite(&|listener| {
        let options = Options { segment_bytes: 64 << 10, ..Options::default() };
        Box::new(FileJournal::open(folder.path(), options, Arc::clone(&listener)).expect("opens"))
    });
}

/// Numbers by chance, the same for the same seed (SplitMix64; Steele, Lea and Flood, 2014).
#[derive(Clone)]
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// Below `bound`; zero if that is zero.
    fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }
}

/// How many seeds to try: `SEEDS` in the environment, or else `usual`.
fn seeds(usual: u64) -> u64 {
    std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
