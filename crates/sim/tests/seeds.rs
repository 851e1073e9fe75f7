//! Many seeds in a row: no rule is broken in any.

use std::env;

use unanimous_sim::{Shape, run_seeds};

#[test]
fn no_seed_breaks_a_rule() {
    let count = match env::var("UNANIMOUS_SIM_SEEDS") {
        Ok(text) => text.parse().expect("UNANIMOUS_SIM_SEEDS is a number"),
        Err(_) => 20_000,
    };
    let totals = run_seeds(0..count, Shape::Atomic, 2, |_| {});
    println!("{totals}");
    let first = totals.found.first();
    assert!(first.is_none(), "seed {}: {}", first.expect("some").0, first.expect("some").1);
}
