//! Many seeds in a row: no rule is broken in any.

use std::env;

use unanimous_sim::{Shape, run_seeds, trace};

#[test]
fn no_seed_breaks_a_rule() {
    run(Shape::Atomic);
}

#[test]
fn no_seed_of_sagas_breaks_a_rule() {
    run(Shape::Saga);
}

#[test]
fn no_seed_of_several_coordinators_breaks_a_rule() {
    run(Shape::Nodes);
}

fn run(shape: Shape) {
    let count = match env::var("UNANIMOUS_SIM_SEEDS") {
        Ok(text) => text.parse().expect("UNANIMOUS_SIM_SEEDS is a number"),
        Err(_) => 20_000,
    };
    let totals = run_seeds(0..count, shape, 2, |_| {});
    println!("{totals}");
    let first = totals.found.first();
    assert!(first.is_none(), "seed {}: {}", first.expect("some").0, first.expect("some").1);
}

#[test]
fn a_seed_makes_the_same_history_every_time() {
    for shape in [Shape::Atomic, Shape::Saga, Shape::Nodes] {
        for seed in 0..50 {
            assert_eq!(trace(seed, shape), trace(seed, shape), "seed {seed}");
        }
        let [one, two] = [1, 2].map(|threads| run_seeds(0..500, shape, threads, |_| {}));
        assert_eq!((one.events, one.lost_records), (two.events, two.lost_records));
    }
}
