//! Every deliberate mistake is caught: the oracles are not blind.

use unanimous_sim::museum;

/// The rarest mistakes take hundreds of seeds; this leaves room for bad luck.
const SEEDS_MAX: u64 = 20_000;

#[test]
fn every_exhibit_is_caught() {
    let rows = museum(3, SEEDS_MAX, 2);
    rows.iter().for_each(|row| println!("{row}"));
    let missed: Vec<_> = rows.iter().filter(|row| !row.is_caught()).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
