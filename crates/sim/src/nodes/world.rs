//! One history of several coordinators on one journal: first with faults, then calm until all is settled.

use std::fmt::Write as _;
use std::rc::Rc;

use unanimous_core::Decision;
use unanimous_core::barrier::Doubt;
use unanimous_core::id::{ShardId, TxnId};

use super::client::Order;
use super::draw::{Faults, Setting};
use super::event::{Answer, Ask, Event, Message, Part, Party, Strike, What};
use super::exhibit::NodesExhibit;
use super::node::{Asked, Node};
use super::oracle::Oracle;
use super::participant::Resource;
use super::store::Store;
use crate::event::{Queue, Slot};
use crate::oracle::Violation;
use crate::participant::Cell;
use crate::rng::Rng;
use crate::totals::Totals;
use crate::world::{Names, START_MS};

/// Everything there is.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) exhibit: Option<NodesExhibit>,
    pub(super) now_ms: u64,
    /// Whether faults have stopped.
    pub(super) calm: bool,
    pub(super) queue: Queue<Event>,
    pub(super) store: Store,
    pub(super) nodes: Vec<Node>,
    pub(super) resources: Vec<Resource>,
    pub(super) orders: Vec<Order>,
    pub(super) txns: Vec<Truth>,
    pub(super) names: Rc<Names>,
    pub(super) oracle: Oracle,
    pub(super) violation: Option<Violation>,
    pub(super) totals: Totals,
    pub(super) cuts: Vec<(Party, Party)>,
    next_number: u32,
    trace: Option<String>,
}

/// The truth about one transaction.
pub(super) struct Truth {
    pub(super) order: u8,
    pub(super) part: Part,
    keyed: bool,
    pub(super) cells: Vec<Cell>,
    pub(super) doubts: Vec<Option<Doubt>>,
    /// The outcome that somebody was told.
    pub(super) told: Option<Decision>,
    /// Somebody was given its identity.
    pub(super) given: bool,
    /// Somebody has begun it.
    pub(super) begun: bool,
    /// Somebody was told that it never begins.
    pub(super) never: bool,
}

impl Truth {
    pub(super) fn new(order: u8, part: Part, keyed: bool, cells: Vec<Cell>) -> Self {
        let doubts = vec![None; cells.len()];
        let (given, begun, never) = (false, false, false);
        Self { order, part, keyed, cells, doubts, told: None, given, begun, never }
    }
}

/// Everything must have ended this long after the faults: the longest timeout, the longest patience,
/// the longest pause before a retry, and a message that was very late, with room to spare.
const END_MS: u64 = 63_500;
/// More events than this in one history, and something goes in circles.
const EVENTS_MAX: u64 = 100_000;
const LOOK_MS: u64 = 50;
/// How long a node waits for the store.
const STORE_PATIENCE_MS: u64 = 150;

impl World {
    pub(super) fn new(setting: Setting, names: &Rc<Names>) -> Self {
        let Setting { rng, faults, exhibit, nodes, parts, claims, .. } = setting;
        let Setting { calm_ms, resources, orders, .. } = setting;
        let node = |_| Node::new(nodes, parts, resources.len());
        let mut world = Self {
            rng,
            faults,
            exhibit,
            now_ms: 0,
            calm: false,
            queue: Queue::default(),
            store: Store::new(parts, claims, exhibit),
            nodes: (0..nodes).map(node).collect(),
            resources,
            orders,
            txns: Vec::with_capacity(8),
            names: Rc::clone(names),
            oracle: Oracle::default(),
            violation: None,
            totals: Totals { seeds: 1, ..Totals::default() },
            cuts: Vec::new(),
            next_number: 0,
            trace: None,
        };
        (0..nodes).for_each(|node| world.after(u64::from(node), Event::Start { node }));
        for (order, wanted) in (0_u8..).zip(&world.orders.clone()) {
            world.after(wanted.starts_ms, Event::Client { order, attempt: 0 });
            if let Some((after_ms, _)) = wanted.rival {
                world.after(wanted.starts_ms + after_ms, Event::Rival { order });
            }
        }
        Strike::ALL.into_iter().for_each(|strike| world.strike_again(strike));
        world.after(calm_ms, Event::Calm);
        world
    }

    pub(super) fn traced(mut self) -> Self {
        self.trace = Some(String::new());
        let (nodes, parts) = (self.nodes.len(), self.parts());
        self.note(|| format!("{nodes} nodes, {parts} parts"));
        for index in 0..self.resources.len() {
            let Resource { kind, phases, .. } = self.resources[index];
            self.note(|| format!("r{index} is a {kind:?}, phases {phases:?}"));
        }
        for index in 0..self.orders.len() {
            let Order { mode, token, wait, wish, rival, shares, .. } = self.orders[index].clone();
            let on: Vec<_> = shares.iter().map(|it| format!("r{}", it.resource)).collect();
            self.note(|| {
                let on = on.join(" ");
                format!("o{index} on {on}: {mode:?}, {token:?}, {wait:?}, {wish:?}, {rival:?}")
            });
        }
        let faults = self.faults.clone();
        self.note(|| format!("{faults:?}"));
        self
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> (Totals, Option<Violation>, Option<String>) {
        while self.step() {}
        self.finish()
    }

    pub(super) fn finish(mut self) -> (Totals, Option<Violation>, Option<String>) {
        if self.violation.is_none() {
            self.check_end();
        }
        for index in 0..self.txns.len() {
            match self.store.decision(Slot(index as u8)) {
                Some(Decision::Commit) => self.totals.committed += 1,
                Some(Decision::Abort) | None => self.totals.aborted += 1,
            }
        }
        (self.totals, self.violation, self.trace)
    }

    /// Lets one thing happen; false if the history is over.
    pub(super) fn step(&mut self) -> bool {
        let Some((at_ms, event)) = self.queue.pop() else { return false };
        self.now_ms = at_ms;
        self.totals.events += 1;
        if self.totals.events > EVENTS_MAX {
            self.violated("I10", None, || "things go in circles".into());
        }
        if at_ms > END_MS {
            self.check_termination();
            return false;
        }
        let settled = self.calm && matches!(event, Event::Look) && self.is_settled();
        match event.node() {
            Some(node) if self.nodes[usize::from(node)].paused => {
                self.nodes[usize::from(node)].backlog.push(event);
            }
            Some(_) | None => self.on(event),
        }
        self.violation.is_none() && !settled
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Arrive(message) => self.arrive(message),
            Event::Timeout { node, slot, branch, verb, call } => {
                self.answered(node, (slot, branch, verb), call, None);
            }
            Event::Wake { node, slot, token } => self.woke(node, slot, token),
            Event::Write { node, part, epoch, token } => self.write(node, part, epoch, token),
            Event::Patience { node, token } => self.heard_of(node, token, None),
            Event::Beat { node, life } => self.beat(node, life),
            Event::Survey { node, life } => self.survey(node, life),
            Event::Sweep { node, life } => self.sweep(node, life),
            Event::Doubt { slot, branch, life } => self.doubt(slot, branch, life),
            Event::Client { order, attempt } => self.client_acts(order, attempt),
            Event::Rival { order } => self.rival_acts(order),
            Event::Start { node } => self.start(node),
            Event::Unpause { node, life } => self.unpause(node, life),
            Event::ResourceUp { resource } => self.resource_up(resource),
            Event::Cut(from, to) if !self.calm => self.cuts.push((from, to)),
            Event::Heal(from, to) if !self.calm => self.heal(from, to),
            Event::Cut(..) | Event::Heal(..) => {}
            Event::Strike(strike) => self.strike(strike),
            Event::Calm => self.calm_down(),
            Event::Look => self.after(LOOK_MS, Event::Look),
        }
    }

    fn arrive(&mut self, Message { from, to, what }: Message) {
        let up = match to {
            Party::Node(node) => self.nodes[usize::from(node)].up,
            Party::Resource(resource) => self.resources[usize::from(resource)].up,
            Party::Store | Party::Client => true,
        };
        if !up {
            return;
        }
        match (to, what) {
            (Party::Resource(resource), What::Call { slot, branch, verb, call }) => {
                self.call_arrives(resource, from, (slot, branch, verb, call));
            }
            (Party::Resource(resource), What::List(token)) => self.list(resource, from, token),
            (Party::Node(node), What::Said { slot, branch, verb, call, says }) => {
                self.answered(node, (slot, branch, verb), call, Some(says));
            }
            (Party::Node(node), What::Inquiry { slot, branch, hops }) => {
                self.inquired(node, slot, branch, hops);
            }
            (Party::Node(node), What::Request { order, request, hops }) => {
                self.requested(node, order, request, hops);
            }
            (Party::Client, What::Reply { order, from, reply }) => self.replied(order, from, reply),
            (Party::Store, What::Ask(token, ask)) => self.store_asked(from, token, &ask),
            (Party::Node(node), What::Answer(token, answer)) => {
                self.heard_of(node, token, Some(Heard::Store(answer)));
            }
            (Party::Node(node), What::Listed(token, names)) => {
                self.heard_of(node, token, Some(Heard::Listing(names)));
            }
            (to, what) => unreachable!("sent to the wrong party {to:?}: {what:?}"),
        }
    }

    /// A node asks the store.
    pub(super) fn ask(&mut self, node: u8, ask: Ask, asked: Asked) {
        let token = self.next_number();
        self.expect_answer(node, token, asked);
        let from = Party::Node(node);
        self.send(Message { from, to: Party::Store, what: What::Ask(token, ask) });
    }

    pub(super) fn expect_answer(&mut self, node: u8, token: u32, asked: Asked) {
        self.node(node).asked.insert(token, asked);
        self.after(STORE_PATIENCE_MS, Event::Patience { node, token });
    }

    fn store_asked(&mut self, from: Party, token: u32, ask: &Ask) {
        let answer = match ask {
            Ask::Append(batch) => {
                let txns = &self.txns;
                let key_of = |slot: Slot| {
                    let truth = &txns[slot.index()];
                    truth.keyed.then_some(truth.order)
                };
                let taken = self.store.append(batch, key_of);
                self.note(|| format!("store     {from} appends to p{}: {taken}", batch.part));
                if taken {
                    self.check_taken(batch, from);
                }
                if taken { Answer::Taken } else { Answer::Refused }
            }
            Ask::Claim(part, seen, owner) => {
                let won = self.store.claim(*part, *seen, *owner);
                self.note(|| format!("store     {from} claims p{part} after {seen:?}: {won:?}"));
                if let Some(epoch) = won {
                    self.check_claim(*part, epoch, *owner);
                }
                Answer::Claimed(won)
            }
            Ask::Release(part, epoch) => {
                self.store.release(*part, *epoch);
                Answer::Released
            }
            Ask::Look(part, slots) => {
                Answer::Found(self.store.shard(*part).epoch, self.store.look(slots))
            }
            Ask::Load(part) => {
                let loaded = Rc::new(self.store.load(*part));
                Answer::Loaded(self.store.shard(*part).epoch, loaded)
            }
            Ask::Directory => Answer::Directory(self.store.shards.as_slice().into()),
        };
        self.send(Message { from: Party::Store, to: from, what: What::Answer(token, answer) });
    }

    /// An answer has come, or patience is at its end. Only the first counts.
    fn heard_of(&mut self, node: u8, token: u32, heard: Option<Heard>) {
        let Some(asked) = self.node(node).asked.remove(&token) else { return };
        let (answer, names) = match heard {
            Some(Heard::Store(answer)) => (Some(answer), None),
            Some(Heard::Listing(names)) => (None, Some(names)),
            None => (None, None),
        };
        let found = match &answer {
            Some(Answer::Found(epoch, found)) => Some((*epoch, &found[..])),
            Some(_) | None => None,
        };
        match (asked, found) {
            (Asked::Append(part, epoch), _) => self.appended(node, part, epoch, answer.as_ref()),
            (Asked::ReadBack(part, epoch), found) => self.was_read_back(node, part, epoch, found),
            (Asked::Claim(part), _) => {
                let won = match answer {
                    Some(Answer::Claimed(won)) => won,
                    Some(_) | None => None,
                };
                self.claimed(node, part, won);
            }
            (Asked::Load(part, epoch), _) => {
                let loaded = match answer {
                    Some(Answer::Loaded(current, loaded)) => Some((current, loaded)),
                    Some(_) | None => None,
                };
                self.loaded(node, part, epoch, loaded);
            }
            (Asked::Directory, _) => {
                if let Some(Answer::Directory(shards)) = answer {
                    self.surveyed(node, &shards);
                }
            }
            (Asked::List { resource, at }, _) => self.listed(node, resource, at, names.as_ref()),
            (Asked::Status { part, epoch, order }, Some(found)) => {
                self.status_found(node, (part, epoch), order, found);
            }
            (Asked::Name { part, epoch, order, named }, Some(found)) => {
                self.name_found(node, (part, epoch), (order, named), found);
            }
            (Asked::Inquiry { part, epoch, branch }, Some(found)) => {
                self.inquiry_found(node, (part, epoch), branch, found);
            }
            (Asked::Hunt { part, epoch, resource }, Some(found)) => {
                self.hunted(node, (part, epoch), resource, found);
            }
            // Whoever wants to know asks again.
            (
                Asked::Status { .. }
                | Asked::Name { .. }
                | Asked::Inquiry { .. }
                | Asked::Hunt { .. },
                None,
            )
            | (Asked::Release, _) => {}
        }
    }

    pub(super) fn after(&mut self, delay_ms: u64, event: Event) {
        self.queue.push(self.now_ms.saturating_add(delay_ms), event);
    }

    /// A number that nothing else has: a call, a question, a timer.
    pub(super) fn next_number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }

    /// Whether a fault with this rate happens now.
    pub(super) fn strikes(&mut self, permille: u64) -> bool {
        !self.calm && self.rng.chance(permille)
    }

    pub(super) fn parts(&self) -> Part {
        self.store.shards.len() as Part
    }

    pub(super) fn part_of(&self, slot: Slot) -> Part {
        self.txns[slot.index()].part
    }

    pub(super) fn id_of(&self, slot: Slot) -> TxnId {
        let shard = ShardId::of(u64::from(self.part_of(slot)));
        TxnId::mint(START_MS, shard, u128::from(slot.0))
    }

    pub(super) fn cell(&self, slot: Slot, branch: u8) -> &Cell {
        &self.txns[slot.index()].cells[usize::from(branch)]
    }

    pub(super) fn cell_mut(&mut self, slot: Slot, branch: u8) -> &mut Cell {
        &mut self.txns[slot.index()].cells[usize::from(branch)]
    }

    pub(super) fn tracing(&self) -> bool {
        self.trace.is_some()
    }

    /// Adds a line to the readable history, if one is kept.
    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            writeln!(trace, "{:>6} ms  {}", self.now_ms, line()).expect("a string takes all");
        }
    }
}

enum Heard {
    Store(Answer),
    Listing(Rc<[String]>),
}
