//! Every placement of one or two faults in the small scripted sagas.

use std::rc::Rc;

use super::event::Event;
use super::scenario::Scenario;
use super::world::World;
use crate::journal::Tail;
use crate::oracle::Violation;
use crate::placement::{Blow, Keeps, PAUSE_MS};
use crate::totals::Totals;
use crate::world::Names;

/// A scripted saga has had its faults by then.
const SCRIPT_MS: u64 = 500;

/// Runs one placement; `None` if it is the same as another.
pub(crate) fn struck(
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
            Blow::Participant(service) => {
                let up = self.services[usize::from(service)].up;
                if up {
                    self.crash_service(service);
                }
                up
            }
            Blow::Loss => {
                self.faults.lose_next = 1;
                true
            }
            // In the calm nobody sets a clock any more.
            Blow::Clock(_) if self.calm => false,
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
                let first = &self.nodes[0];
                let (up, life) = (first.up && !first.paused, first.life);
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
