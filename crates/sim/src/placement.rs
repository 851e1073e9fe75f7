//! Every single and double placement of a fault in small scripted histories.
//!
//! What chance does in the seeded histories is done here exhaustively: before each event of a
//! scenario one process crashes, a second coordinator takes over, a message is lost or a clock jumps;
//! and then one of these once more before each event that is left.

use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::disaster::{SCRIPT_MS, YEAR_MS};
use crate::event::Event;
use crate::journal::Tail;
use crate::nodes;
use crate::oracle::Violation;
use crate::saga;
use crate::scenario::{SCENARIOS, Scenario};
use crate::totals::Totals;
use crate::world::{Names, World};

/// How many faults one history has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Depth {
    /// One, of every kind, before every event.
    Single,
    /// Two: one of every kind before every event, and then another before every event that is left.
    Double,
}

/// What came of all placements in one scenario.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The scenario.
    pub scenario: &'static str,
    /// The sums; a seed stands for one placement.
    pub totals: Totals,
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<42} {}", self.scenario, self.totals)
    }
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blow {
    /// The coordinator that owns the shard crashes and keeps so many of the entries that were not flushed.
    Crash(Keeps),
    /// A participant crashes.
    Participant(u8),
    /// The second coordinator takes the shard while the first one runs.
    Takeover,
    /// The first one is paused, loses the shard, and goes on.
    Pause,
    /// The next message is lost.
    Loss,
    /// The clock of the first coordinator jumps by so many milliseconds.
    Clock(i64),
    /// What the owner sends to the shared journal does not arrive for a while.
    Unheard,
    /// What the shared journal answers to the owner does not arrive for a while.
    Unanswered,
    /// The owner hands over and stops.
    Leave,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Keeps {
    All,
    Half,
    None,
}

const EVERYWHERE: [Blow; 8] = [
    Blow::Crash(Keeps::All),
    Blow::Crash(Keeps::Half),
    Blow::Crash(Keeps::None),
    Blow::Takeover,
    Blow::Pause,
    Blow::Loss,
    Blow::Clock(YEAR_MS),
    Blow::Clock(-YEAR_MS),
];
pub(crate) const PAUSE_MS: u64 = 120;

/// A scenario of one of the worlds.
#[derive(Clone, Copy)]
enum Case {
    Commit(&'static Scenario),
    Saga(&'static saga::Scenario),
    Nodes(&'static nodes::Scenario),
}

impl Case {
    fn all() -> Vec<Self> {
        let sagas = saga::SCENARIOS.iter().map(Self::Saga);
        let nodes = nodes::SCENARIOS.iter().map(Self::Nodes);
        SCENARIOS.iter().map(Self::Commit).chain(sagas).chain(nodes).collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Commit(scenario) => scenario.name,
            Self::Saga(scenario) => scenario.name,
            Self::Nodes(scenario) => scenario.name,
        }
    }

    /// What it is struck with.
    fn blows(self) -> Vec<Blow> {
        let participants = match self {
            Self::Commit(scenario) => scenario.setting().resources.len() as u8,
            Self::Saga(_) => saga::SERVICES,
            Self::Nodes(_) => return nodes::BLOWS.to_vec(),
        };
        EVERYWHERE.into_iter().chain((0..participants).map(Blow::Participant)).collect()
    }

    /// Runs one placement and returns its number of events; zero if it is the same as another.
    fn run(self, names: &Rc<Names>, blows: &[(u64, Blow)], totals: &mut Totals) -> u64 {
        let sums = match self {
            Self::Commit(scenario) => run(scenario, names, blows),
            Self::Saga(scenario) => saga::struck(scenario, names, blows),
            Self::Nodes(scenario) => nodes::struck(scenario, names, blows),
        };
        let Some((mut sums, violation)) = sums else { return 0 };
        let events = sums.events;
        if let Some(mut violation) = violation {
            violation.what = format!("{} after {blows:?}", violation.what);
            sums.keep(totals.seeds, violation);
        }
        *totals += sums;
        events
    }
}

/// Runs all placements of all scenarios on `threads` threads.
pub fn placements(depth: Depth, threads: usize) -> Vec<Placed> {
    let all = Case::all();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut placed = Vec::new();
        while let Some(case) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            placed.push(place(*case, depth));
        }
        placed
    };
    let mut placed: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|it| it.join().expect("a placement panicked")).collect()
    });
    placed.sort_by_key(|it| all.iter().position(|known| known.name() == it.scenario));
    placed
}

fn place(case: Case, depth: Depth) -> Placed {
    let started = Instant::now();
    let names = Names::new();
    let mut totals = Totals::default();
    let blows = case.blows();
    let undisturbed = case.run(&names, &[], &mut totals);
    for first in 0..undisturbed {
        for &blow in &blows {
            let events = case.run(&names, &[(first, blow)], &mut totals);
            if depth == Depth::Single {
                continue;
            }
            for second in first + 1..events {
                for &again in &blows {
                    case.run(&names, &[(first, blow), (second, again)], &mut totals);
                }
            }
        }
    }
    totals.elapsed = started.elapsed();
    Placed { scenario: case.name(), totals }
}

fn run(
    scenario: &Scenario,
    names: &Rc<Names>,
    blows: &[(u64, Blow)],
) -> Option<(Totals, Option<Violation>)> {
    let mut world = World::new(scenario.setting(), names);
    world.after(SCRIPT_MS, Event::Calm);
    let mut blows_left = blows.iter();
    let mut next = blows_left.next();
    loop {
        if let Some(&(at, blow)) = next
            && world.totals.events == at
        {
            if !world.takes(blow) {
                return None;
            }
            next = blows_left.next();
        }
        if !world.step() {
            break;
        }
    }
    let (sums, violation, _) = world.finish();
    Some((sums, violation))
}

impl World {
    /// Suffers a fault; false if it would change nothing, or nothing that another one does not.
    fn takes(&mut self, blow: Blow) -> bool {
        let first = &self.nodes[0];
        let (up, life) = (first.up && !first.paused, first.life);
        let tail = self.journal.tail();
        let second_owns = self.nodes[1].up && self.nodes[1].epoch == self.journal.epoch();
        let owner = u8::from(second_owns);
        match blow {
            Blow::Crash(keeps) => {
                let kept = match keeps {
                    Keeps::All => tail,
                    Keeps::Half if tail > 1 => tail / 2,
                    Keeps::None if tail > 0 => 0,
                    Keeps::Half | Keeps::None => return false,
                };
                let is_up = self.nodes[usize::from(owner)].up;
                self.crash_node(owner, Tail::Kept(kept));
                is_up
            }
            Blow::Participant(resource) => {
                let up = self.resources[usize::from(resource)].up;
                if up {
                    self.crash_resource(resource);
                }
                up
            }
            Blow::Loss => {
                self.faults.lose_next = 1;
                true
            }
            Blow::Clock(by_ms) => {
                self.node(0).clock_ms += by_ms;
                true
            }
            Blow::Takeover => {
                self.start(1);
                true
            }
            Blow::Unheard | Blow::Unanswered | Blow::Leave => false,
            Blow::Pause => {
                if up {
                    self.node(0).paused = true;
                    self.after(PAUSE_MS, Event::Unpause { node: 0, life });
                    self.start(1);
                }
                up
            }
        }
    }
}
