//! Explores every state of a model, breadth first, and judges each state and each step.
//!
//! The first broken rule is reported with the shortest way to it. States that differ only in who is
//! who are explored once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use super::tcommit::{self, Manager};

/// A protocol as a set of states and steps.
pub(super) trait Model {
    type State: Clone + Eq + Hash;

    fn initial(&self) -> Self::State;

    /// Calls `to` with every step that can be taken from a state: its name, and where it leads.
    fn steps(&self, from: &Self::State, to: &mut dyn FnMut(&'static str, Self::State));

    /// How each resource manager stands: the state of transaction commit that this state maps to.
    fn managers<'a>(&self, state: &'a Self::State) -> &'a [Manager];

    /// One of the states that differ from this one only in who is who, always the same.
    fn canonical(&self, state: Self::State) -> Self::State {
        state
    }
}

/// What came of exploring a model.
#[derive(Clone, Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// Most steps on the shortest way to a state.
    pub depth: usize,
    /// States from which there is no step, with a resource manager that has not ended.
    pub blocked: usize,
    /// The rule that was broken first; exploring ended there.
    pub broken: Option<Broken>,
}

/// A rule that a model breaks.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which one.
    pub rule: &'static str,
    /// The shortest way to break it.
    pub path: Vec<&'static str>,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, steps, depth, blocked, broken } = self;
        write!(f, "states={states} steps={steps} depth={depth} blocked={blocked}")?;
        match broken {
            Some(Broken { rule, path }) => write!(f, " broken: {rule}: {}", path.join(", ")),
            None => Ok(()),
        }
    }
}

/// The rule that every state keeps.
const CONSISTENT: &str = "no resource manager has committed while another has aborted";
/// The rule that every step keeps.
const REFINES: &str = "every step is one of transaction commit";

/// Explores everything that can be reached.
pub(super) fn explore<M: Model>(model: &M) -> Explored {
    let mut seen: HashMap<M::State, usize, Fast> = HashMap::default();
    let mut known: Vec<(M::State, Origin)> = Vec::new();
    let initial = model.canonical(model.initial());
    seen.insert(initial.clone(), 0);
    known.push((initial, Origin { from: 0, step: "start", depth: 0 }));
    let mut explored = Explored { states: 0, steps: 0, depth: 0, blocked: 0, broken: None };
    let mut next = 0;
    while next < known.len() && explored.broken.is_none() {
        let from = known[next].0.clone();
        let depth = known[next].1.depth + 1;
        let (mut steps, mut broken) = (0, None);
        model.steps(&from, &mut |step, state| {
            steps += 1;
            let (before, after) = (model.managers(&from), model.managers(&state));
            let rule = if !tcommit::is_consistent(after) {
                Some(CONSISTENT)
            } else {
                (!tcommit::is_step(before, after)).then_some(REFINES)
            };
            if let Some(rule) = rule {
                broken.get_or_insert((rule, step));
            }
            if let Entry::Vacant(entry) = seen.entry(model.canonical(state)) {
                known.push((entry.key().clone(), Origin { from: next, step, depth }));
                entry.insert(known.len() - 1);
                explored.depth = depth;
            }
        });
        explored.steps += steps;
        let settled = model.managers(&from).iter().all(|it| it.has_ended());
        explored.blocked += usize::from(steps == 0 && !settled);
        explored.broken = broken.map(|(rule, step)| {
            let mut path = path(&known, next);
            path.push(step);
            Broken { rule, path }
        });
        next += 1;
    }
    explored.states = known.len();
    explored
}

/// How a state was first reached.
struct Origin {
    from: usize,
    step: &'static str,
    depth: usize,
}

fn path<S>(known: &[(S, Origin)], mut at: usize) -> Vec<&'static str> {
    let mut path = Vec::new();
    while at > 0 {
        path.push(known[at].1.step);
        at = known[at].1.from;
    }
    path.reverse();
    path
}

type Fast = BuildHasherDefault<Fnv>;

/// FNV-1a (Fowler, Noll and Vo): nobody chooses states to collide.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01B3);
    }

    // What `derive(Hash)` writes for a variant is no more than a byte.
    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        // The table takes its buckets from the high bits as well.
        self.0 ^ self.0 >> 32
    }
}
