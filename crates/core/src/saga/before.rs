//! Which steps come before which, however far.

use crate::id::BranchId;
use crate::limits::BRANCHES_MAX;

const _: () = assert!(BRANCHES_MAX <= u64::BITS as usize);

/// For each step those that come before it, as bits. A step on a cycle comes before itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Before(Vec<u64>);

impl Before {
    /// The order of steps of which each names those that come directly before it.
    ///
    /// # Panics
    ///
    /// With more than [`BRANCHES_MAX`] steps, or if one names a step that there is not.
    pub fn of<'a>(steps: impl IntoIterator<Item = &'a [BranchId]>) -> Self {
        let steps: Vec<&[BranchId]> = steps.into_iter().collect();
        assert!(steps.len() <= BRANCHES_MAX, "the number of steps was checked");
        let mut before = vec![0_u64; steps.len()];
        loop {
            let known = before.clone();
            for (index, after) in steps.iter().enumerate() {
                for it in *after {
                    before[index] |= 1 << it.index() | before[it.index()];
                }
            }
            if before == known {
                return Self(before);
            }
        }
    }

    /// Whether a step comes before another.
    pub fn is(&self, earlier: BranchId, later: BranchId) -> bool {
        self.0[later.index()] >> earlier.index() & 1 == 1
    }
}
