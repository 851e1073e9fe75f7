//! Every placement of one or two faults in small histories of three nodes that share one part.
//!
//! A fault is placed before the messages that a transaction, or its change of owner, consists of.
//! Signs of life, surveys and listings go on all the time and are no places of their own.

use std::rc::Rc;

use unanimous_core::Vote;
use unanimous_core::commit::{Mode, Phases, Shape};

use super::client::{Order, Share, Stand, Token};
use super::draw::{Faults, Setting};
use super::event::{Answer, Event, Message, Party, What};
use super::participant::Resource;
use super::store::Claims;
use super::world::World;
use crate::client::{Rival, Wish};
use crate::coordinator::Wait;
use crate::event::Travels as _;
use crate::oracle::Violation;
use crate::participant::Kind;
use crate::placement::{Blow, Keeps};
use crate::rng::Rng;
use crate::totals::Totals;
use crate::world::Names;

/// A scripted history and its name.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    kinds: [Kind; 2],
    votes: [Vote; 2],
    mode: Mode,
    token: Token,
    rival: Option<(u64, Rival)>,
}

pub(crate) const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "three nodes, a service and a manager commit",
        kinds: [Kind::Service, Kind::Manager],
        votes: [Vote::Yes, Vote::Yes],
        mode: Mode::Run,
        token: Token::Key,
        rival: None,
    },
    Scenario {
        name: "three nodes, a begin is passed on",
        kinds: [Kind::Service, Kind::Manager],
        votes: [Vote::Yes, Vote::Yes],
        mode: Mode::Run,
        token: Token::Name,
        rival: None,
    },
    Scenario {
        name: "three nodes, a manager refuses",
        kinds: [Kind::Service, Kind::Manager],
        votes: [Vote::Yes, Vote::No],
        mode: Mode::RunLater,
        token: Token::Key,
        rival: None,
    },
    Scenario {
        name: "three nodes, an abort meets the commit",
        kinds: [Kind::Manager, Kind::Manager],
        votes: [Vote::Yes, Vote::Yes],
        mode: Mode::Interactive,
        token: Token::Key,
        rival: Some((9, Rival::Abort)),
    },
];

/// What is struck with: what moves a part from one node to another, or makes an append unknown.
pub(crate) const BLOWS: [Blow; 7] = [
    Blow::Crash(Keeps::All),
    Blow::Takeover,
    Blow::Pause,
    Blow::Loss,
    Blow::Unheard,
    Blow::Unanswered,
    Blow::Leave,
];

const NODES: u8 = 3;
const CALM_MS: u64 = 1_400;
/// The first owner is found by then.
const STARTS_MS: u64 = 250;
/// Longer than a node waits before it suspects another, and than anybody waits for the store.
const BLOW_MS: u64 = 500;

impl Scenario {
    fn setting(&self) -> Setting {
        let kinds = self.kinds.into_iter();
        let resource = |kind| Resource { kind, phases: Phases::Two, up: true, life: 0 };
        let share = |(resource, vote)| Share { resource, plan: Some(vote) };
        let order = Order {
            shape: Shape::Atomic,
            mode: self.mode,
            token: self.token,
            wait: Wait::Ended,
            timeout_ms: 800,
            shares: (0..).zip(self.votes).map(share).collect(),
            wish: Wish::Commit,
            starts_ms: STARTS_MS,
            rival: self.rival,
            stand: Stand::Begin,
            slot: None,
            name: None,
            attempt: 0,
            node: 0,
        };
        Setting {
            rng: Rng::from_seed(1),
            faults: Faults::none(),
            exhibit: None,
            nodes: NODES,
            parts: 1,
            claims: Claims::Raise,
            calm_ms: CALM_MS,
            resources: kinds.map(resource).collect(),
            orders: vec![order],
        }
    }
}

/// Runs one placement; `None` if it is the same as another. Its events are the places it has.
pub(crate) fn struck(
    scenario: &Scenario,
    names: &Rc<Names>,
    blows: &[(u64, Blow)],
) -> Option<(Totals, Option<Violation>)> {
    let mut world = World::new(scenario.setting(), names);
    let mut blows_left = blows.iter();
    let mut next = blows_left.next();
    let mut places = 0;
    loop {
        let next_place =
            world.queue.peek().filter(|(at_ms, _)| (STARTS_MS..CALM_MS).contains(at_ms));
        let is_place = next_place.is_some_and(|(_, event)| is_place(event));
        if let Some(&(at, blow)) = next
            && is_place
            && places == at
        {
            if !world.takes(blow) {
                return None;
            }
            next = blows_left.next();
        }
        places += u64::from(is_place);
        if !world.step() {
            break;
        }
    }
    let (mut sums, violation, _) = world.finish();
    sums.events = places;
    Some((sums, violation))
}

fn is_place(event: &Event) -> bool {
    let Event::Arrive(Message { what, .. }) = event else { return false };
    let answers = matches!(
        what,
        What::Answer(_, Answer::Taken | Answer::Refused | Answer::Claimed(_) | Answer::Loaded(..))
    );
    event.travels() || answers
}

impl World {
    /// Suffers a fault; false if it would change nothing, or nothing that another one does not.
    fn takes(&mut self, blow: Blow) -> bool {
        let Some(owner) = self.true_owner(0).filter(|&it| !self.nodes[usize::from(it)].paused)
        else {
            return false;
        };
        let me = Party::Node(owner);
        match blow {
            Blow::Crash(Keeps::All) => self.crash(owner),
            Blow::Takeover => {
                for other in (0..NODES).filter(|&it| it != owner).map(Party::Node) {
                    self.cut_for(BLOW_MS, me, other);
                    self.cut_for(BLOW_MS, other, me);
                }
            }
            Blow::Pause => self.pause_for(owner, BLOW_MS),
            Blow::Loss => self.faults.lose_next = 1,
            Blow::Unheard => self.cut_for(BLOW_MS, me, Party::Store),
            Blow::Unanswered => self.cut_for(BLOW_MS, Party::Store, me),
            Blow::Leave if self.nodes[usize::from(owner)].leaving => return false,
            Blow::Leave => self.leave(owner),
            Blow::Crash(Keeps::Half | Keeps::None) | Blow::Participant(_) | Blow::Clock(_) => {
                return false;
            }
        }
        true
    }
}
