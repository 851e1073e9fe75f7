//! Shows that every exhibit is caught, and after how many seeds.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::exhibit::Exhibit;
use crate::nodes::{self, NodesExhibit};
use crate::oracle::Violation;
use crate::runner::{Shape, one, traced};
use crate::saga::{self, SagaExhibit};
use crate::totals::Totals;
use crate::world::Names;

/// An exhibit of one of the worlds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AnyExhibit {
    /// Of two-phase commit.
    Commit(Exhibit),
    /// Of sagas.
    Saga(SagaExhibit),
    /// Of several coordinators.
    Nodes(NodesExhibit),
}

impl AnyExhibit {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let sagas = SagaExhibit::ALL.into_iter().map(Self::Saga);
        let nodes = NodesExhibit::ALL.into_iter().map(Self::Nodes);
        Exhibit::ALL.into_iter().map(Self::Commit).chain(sagas).chain(nodes)
    }

    /// The mistake in one line.
    pub fn mistake(self) -> &'static str {
        match self {
            Self::Commit(exhibit) => exhibit.mistake(),
            Self::Saga(exhibit) => exhibit.mistake(),
            Self::Nodes(exhibit) => exhibit.mistake(),
        }
    }

    fn one(self, seed: u64, names: &Rc<Names>) -> Totals {
        match self {
            Self::Commit(exhibit) => one(seed, Shape::Atomic, Some(exhibit), names),
            Self::Saga(exhibit) => saga::one(seed, Some(exhibit), names),
            Self::Nodes(exhibit) => nodes::one(seed, Some(exhibit), names),
        }
    }
}

impl fmt::Display for AnyExhibit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit(exhibit) => write!(f, "{exhibit}"),
            Self::Saga(exhibit) => write!(f, "saga: {exhibit}"),
            Self::Nodes(exhibit) => write!(f, "nodes: {exhibit}"),
        }
    }
}

/// How one exhibit fared.
#[derive(Clone, Debug)]
pub struct Row {
    /// The mistake.
    pub exhibit: AnyExhibit,
    /// Seeds until it was caught, for each visit; `None` where it was not.
    pub visits: Vec<Option<u64>>,
    /// The rule that caught it most often.
    pub rule: &'static str,
}

impl Row {
    /// Whether every visit caught it.
    pub fn is_caught(&self) -> bool {
        self.visits.iter().all(Option::is_some)
    }

    /// Median of the seeds it took; `None` if most visits did not catch it.
    pub fn median(&self) -> Option<u64> {
        let mut sorted = self.visits.clone();
        sorted.sort_by_key(|visit| visit.unwrap_or(u64::MAX));
        sorted[sorted.len() / 2]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = match self.median() {
            Some(seeds) => seeds.to_string(),
            None => "not caught".to_owned(),
        };
        let mistake = self.exhibit.mistake();
        write!(f, "{:<28} {median:>10}  {:<6}  {mistake}", self.exhibit.to_string(), self.rule)
    }
}

/// Visits between which seeds are never shared.
const STRIDE: u64 = 1_000_000_007;

/// Tries every exhibit `visits` times, each time with other seeds and at most `seeds_max` of them.
pub fn museum(visits: u64, seeds_max: u64, threads: usize) -> Vec<Row> {
    let all: Vec<_> = AnyExhibit::all().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut rows = Vec::new();
        while let Some(&exhibit) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            rows.push(visit(exhibit, visits, seeds_max));
        }
        rows
    };
    let mut rows: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|it| it.join().expect("an exhibit panicked")).collect()
    });
    rows.sort_by_key(|row| all.iter().position(|it| *it == row.exhibit));
    rows
}

fn visit(exhibit: AnyExhibit, visits: u64, seeds_max: u64) -> Row {
    let names = Names::new();
    let mut rules: BTreeMap<&'static str, u64> = BTreeMap::new();
    let first_catch = |visit: u64| {
        let first = visit * STRIDE;
        let caught = |seed: u64| exhibit.one(seed, &names).found.pop();
        (0..seeds_max).find_map(|count| Some((count + 1, caught(first + count)?)))
    };
    let visits = (0..visits)
        .map(|visit| {
            let (count, (_, violation)) = first_catch(visit)?;
            *rules.entry(violation.rule).or_default() += 1;
            Some(count)
        })
        .collect();
    let rule = rules.iter().max_by_key(|(_, count)| **count).map_or("-", |(rule, _)| *rule);
    Row { exhibit, visits, rule }
}

/// Runs one seed with a deliberate mistake and returns its history as text, with the rule it broke.
pub fn trace_exhibit(seed: u64, exhibit: AnyExhibit) -> (String, Option<Violation>) {
    match exhibit {
        AnyExhibit::Commit(exhibit) => traced(seed, Shape::Atomic, Some(exhibit)),
        AnyExhibit::Saga(exhibit) => saga::traced(seed, Some(exhibit)),
        AnyExhibit::Nodes(exhibit) => nodes::traced(seed, Some(exhibit)),
    }
}
