//! Runs many seeds on several threads, or one with a readable history.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::draw;
use crate::exhibit::Exhibit;
use crate::nodes;
use crate::oracle::Violation;
use crate::saga;
use crate::totals::Totals;
use crate::world::{Names, World};

/// The kind of transactions in a history.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Shape {
    /// Two-phase commit.
    Atomic,
    /// Try, confirm, cancel.
    Tcc,
    /// Steps and compensations.
    Saga,
    /// Two phases, by several coordinators on one journal.
    Nodes,
    /// All of them: two phases side by side, of every eight seeds two sagas and one several
    /// coordinators.
    #[default]
    Mixed,
}

/// Which of the simulated worlds a seed is played in.
enum Stage {
    Commit,
    Saga,
    Nodes,
}

impl Shape {
    fn stage(self, seed: u64) -> Stage {
        match (self, seed % 8) {
            (Self::Saga, _) | (Self::Mixed, 3 | 7) => Stage::Saga,
            (Self::Nodes, _) | (Self::Mixed, 5) => Stage::Nodes,
            (Self::Atomic | Self::Tcc | Self::Mixed, _) => Stage::Commit,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Atomic => "atomic",
            Self::Tcc => "tcc",
            Self::Saga => "saga",
            Self::Nodes => "nodes",
            Self::Mixed => "mixed",
        })
    }
}

/// The text names no shape.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownShape(String);

impl fmt::Display for UnknownShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown shape {:?}: expected atomic, tcc, saga, nodes or mixed", self.0)
    }
}

impl std::error::Error for UnknownShape {}

impl FromStr for Shape {
    type Err = UnknownShape;

    fn from_str(text: &str) -> Result<Self, UnknownShape> {
        match text {
            "atomic" => Ok(Self::Atomic),
            "tcc" => Ok(Self::Tcc),
            "saga" => Ok(Self::Saga),
            "nodes" => Ok(Self::Nodes),
            "mixed" => Ok(Self::Mixed),
            other => Err(UnknownShape(other.to_owned())),
        }
    }
}

/// Seeds that a thread takes at a time.
const BATCH: u64 = 64;

/// Runs the seeds on `threads` threads and adds them up; `progress` hears how many are done.
///
/// The totals depend on the seeds alone, whatever the number of threads, except for the time.
pub fn run_seeds(
    seeds: Range<u64>,
    shape: Shape,
    threads: usize,
    progress: impl Fn(u64) + Sync,
) -> Totals {
    let started = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let done = AtomicU64::new(0);
    let work = || {
        let names = Names::new();
        let mut totals = Totals::default();
        loop {
            let first = next.fetch_add(BATCH, Ordering::Relaxed);
            let batch = first..seeds.end.min(first.saturating_add(BATCH));
            if batch.is_empty() {
                return totals;
            }
            let count = batch.end - batch.start;
            for seed in batch {
                totals += match shape.stage(seed) {
                    Stage::Saga => saga::one(seed, None, &names),
                    Stage::Nodes => nodes::one(seed, None, &names),
                    Stage::Commit => one(seed, shape, None, &names),
                };
            }
            progress(done.fetch_add(count, Ordering::Relaxed) + count);
        }
    };
    let mut totals = Totals::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            totals += worker.join().expect("a seed panicked");
        }
    });
    totals.elapsed = started.elapsed();
    totals
}

/// Runs one seed.
pub(crate) fn one(seed: u64, shape: Shape, exhibit: Option<Exhibit>, names: &Rc<Names>) -> Totals {
    let world = World::new(draw::setting(seed, shape, exhibit), names).with_strikes();
    let (mut totals, violation, _) = world.run();
    if let Some(violation) = violation {
        totals.keep(seed, violation);
    }
    totals
}

/// Runs one seed and returns its history as text, with the rule it broke, if it did.
pub fn trace(seed: u64, shape: Shape) -> (String, Option<Violation>) {
    match shape.stage(seed) {
        Stage::Saga => saga::traced(seed, None),
        Stage::Nodes => nodes::traced(seed, None),
        Stage::Commit => traced(seed, shape, None),
    }
}

pub(crate) fn traced(
    seed: u64,
    shape: Shape,
    exhibit: Option<Exhibit>,
) -> (String, Option<Violation>) {
    let world =
        World::new(draw::setting(seed, shape, exhibit), &Names::new()).with_strikes().traced();
    let (_, violation, history) = world.run();
    (history.unwrap_or_default(), violation)
}
