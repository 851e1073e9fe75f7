//! Every single and double placement of a fault in the canonical histories.

use unanimous_sim::{Depth, placements};

#[test]
fn no_placement_of_one_or_two_faults_breaks_a_rule() {
    for depth in [Depth::Single, Depth::Double] {
        let placed = placements(depth, 2);
        assert!(placed.len() >= 10, "only {} scenarios", placed.len());
        for it in &placed {
            println!("{it}");
            let broken = it.totals.found.first();
            assert!(broken.is_none(), "{}: {}", it.scenario, broken.expect("some").1);
        }
    }
}
