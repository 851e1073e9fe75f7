//! One history: processes, clients and a bad network, first with faults, then calm until all is settled.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use unanimous_core::barrier::Mark;
use unanimous_core::commit::Record;
use unanimous_core::{Input, Outcome, Reason, Stage};

use crate::client::Order;
use crate::coordinator::{Node, Out};
use crate::event::{BRANCHES, Event, Message, Party, Queue, Slot, Strike, What};
use crate::exhibit::Exhibit;
use crate::journal::Journal;
use crate::oracle::{Oracle, Told, Violation};
use crate::participant::{Cell, Resource};
use crate::rng::Rng;
use crate::swarm::Faults;
use crate::totals::Totals;

/// Everything there is.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    pub(crate) exhibit: Option<Exhibit>,
    pub(crate) now_ms: u64,
    /// Whether faults have stopped.
    pub(crate) calm: bool,
    pub(crate) queue: Queue<Event>,
    pub(crate) journal: Journal<Record>,
    pub(crate) nodes: [Node; 2],
    pub(crate) resources: Vec<Resource>,
    pub(crate) orders: Vec<Order>,
    pub(crate) txns: Vec<Truth>,
    pub(crate) names: Rc<Names>,
    pub(crate) oracle: Oracle,
    pub(crate) violation: Option<Violation>,
    pub(crate) totals: Totals,
    pub(crate) next_call: u32,
    pub(crate) free: Vec<(Slot, Out)>,
    /// Inputs that an exhibit makes up.
    pub(crate) unbidden: Vec<(u8, Slot, Input)>,
    pub(crate) cuts: Vec<(Party, Party)>,
    pub(crate) flush_token: u32,
    pub(crate) flush_at_ms: Option<u64>,
    trace: Option<String>,
}

/// The truth about one transaction.
pub(crate) struct Truth {
    pub(crate) order: u8,
    pub(crate) cells: Vec<Cell>,
    pub(crate) told: Told,
    /// An operator has asked to resolve it.
    pub(crate) operated: bool,
}

impl Truth {
    pub(crate) fn new(order: u8, cells: Vec<Cell>) -> Self {
        Self { order, cells, told: Told::default(), operated: false }
    }
}

/// Texts that every history uses, made once.
pub(crate) struct Names {
    pub(crate) branches: [Arc<str>; BRANCHES],
    pub(crate) resources: [Arc<str>; RESOURCES_MAX],
    pub(crate) keys: [Arc<str>; ORDERS_MAX],
    pub(crate) refusal: Reason,
    pub(crate) silence: Arc<str>,
}

impl Names {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            branches: std::array::from_fn(|index| Arc::from(format!("branch-{index}"))),
            resources: std::array::from_fn(|index| Arc::from(format!("resource-{index}"))),
            keys: std::array::from_fn(|index| Arc::from(format!("order-{index}"))),
            refusal: Reason::new("refused", "not enough money"),
            silence: Arc::from("no answer"),
        })
    }
}

/// What a history starts from.
pub(crate) struct Setting {
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    pub(crate) exhibit: Option<Exhibit>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) orders: Vec<Order>,
}

pub(crate) const START_MS: u64 = 1_700_000_000_000;
pub(crate) const RESOURCES_MAX: usize = 4;
pub(crate) const ORDERS_MAX: usize = 6;
const CALM_MS: u64 = 5_000;
/// Everything must have ended this long after the faults: the longest timeout, the longest pause
/// before a retry, two listings, and a message that was very late, with room to spare.
const END_MS: u64 = CALM_MS + 60_000;
/// A resource that is down from the start comes up then.
const OUTAGE_MS: u64 = 500;
/// More events than this in one history, and something calls in circles.
const EVENTS_MAX: u64 = 60_000;

impl World {
    pub(crate) fn new(setting: Setting, names: &Rc<Names>) -> Self {
        let resources = setting.resources.len();
        let mut world = Self {
            rng: setting.rng,
            faults: setting.faults,
            exhibit: setting.exhibit,
            now_ms: 0,
            calm: false,
            queue: Queue::default(),
            journal: Journal::new(setting.exhibit),
            nodes: [Node::new(resources), Node::new(resources)],
            resources: setting.resources,
            orders: setting.orders,
            txns: Vec::with_capacity(8),
            names: Rc::clone(names),
            oracle: Oracle::default(),
            violation: None,
            totals: Totals { seeds: 1, ..Totals::default() },
            next_call: 1,
            free: Vec::new(),
            unbidden: Vec::new(),
            cuts: Vec::new(),
            flush_token: 0,
            flush_at_ms: None,
            trace: None,
        };
        world.start(0);
        for resource in 0..resources as u8 {
            if !world.resources[usize::from(resource)].up {
                world.after(OUTAGE_MS, Event::ResourceUp { resource });
            }
        }
        for (order, wanted) in (0_u8..).zip(&world.orders.clone()) {
            world.after(wanted.starts_ms, Event::Client { order, attempt: 0 });
            if let Some((after_ms, _)) = wanted.rival {
                world.after(wanted.starts_ms + after_ms, Event::Rival { order });
            }
        }
        world
    }

    /// Lets the faults of the setting come, and stops them after a while.
    pub(crate) fn with_strikes(mut self) -> Self {
        for strike in Strike::ALL {
            self.strike_again(strike);
        }
        self.after(CALM_MS, Event::Calm);
        self
    }

    pub(crate) fn traced(mut self) -> Self {
        self.trace = Some(String::new());
        self.note(|| "n0 owns the shard, epoch 1".to_owned());
        for index in 0..self.resources.len() {
            let Resource { kind, phases, policy, .. } = self.resources[index];
            self.note(|| format!("r{index} is a {kind:?}, phases {phases:?}, in doubt {policy:?}"));
        }
        for index in 0..self.orders.len() {
            let order = self.orders[index].clone();
            let Order { mode, keyed, wait, wish, rival, .. } = order;
            let on: Vec<_> = order.shares.iter().map(|it| format!("r{}", it.resource)).collect();
            self.note(|| {
                let on = on.join(" ");
                format!("o{index} on {on}: {mode:?}, keyed {keyed}, {wait:?}, {wish:?}, {rival:?}")
            });
        }
        let faults = self.faults.clone();
        self.note(|| format!("{faults:?}"));
        self
    }

    /// Lets one thing happen; false if the history is over.
    pub(crate) fn step(&mut self) -> bool {
        let Some((at_ms, event)) = self.queue.pop() else { return false };
        self.now_ms = at_ms;
        self.totals.events += 1;
        if self.totals.events > EVENTS_MAX {
            self.violated("I10", Slot(0), || "calls go in circles".into());
        }
        if at_ms > END_MS {
            self.check_termination();
            return false;
        }
        match event.node() {
            Some(node) if self.nodes[usize::from(node)].paused => {
                self.nodes[usize::from(node)].backlog.push(event);
            }
            Some(_) | None => self.on(event),
        }
        while let Some((node, slot, input)) = self.unbidden.pop() {
            let _ = self.feed(node, slot, input);
        }
        self.violation.is_none() && !(self.calm && self.is_settled())
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> (Totals, Option<Violation>, Option<String>) {
        while self.step() {}
        self.finish()
    }

    pub(crate) fn finish(mut self) -> (Totals, Option<Violation>, Option<String>) {
        if self.violation.is_none() {
            self.check_end();
        }
        for index in 0..self.txns.len() {
            match self.stored_stage(Slot(index as u8)) {
                Some(Stage::Ended(Outcome::Committed)) => self.totals.committed += 1,
                Some(Stage::Ended(Outcome::Mixed)) => self.totals.mixed += 1,
                Some(_) | None => self.totals.aborted += 1,
            }
        }
        (self.totals, self.violation, self.trace)
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Arrive(message) => self.arrive(message),
            Event::Timeout { node, slot, branch, verb, call } => {
                self.answered(node, (slot, branch, verb), call, None);
            }
            Event::Wake { node, slot, token } => self.woke(node, slot, token),
            Event::Flush { token } => self.flush(token),
            Event::Flushed { node, life, lsn } => {
                if self.nodes[usize::from(node)].life == life {
                    self.flushed(node, lsn);
                }
            }
            Event::Sweep { node, epoch } => self.sweep(node, epoch),
            Event::Plan { node, epoch, resource } => self.plan(node, epoch, resource),
            Event::Doubt { slot, branch, life } => self.doubt(slot, branch, life),
            Event::Client { order, attempt } => self.client_acts(order, attempt),
            Event::Rival { order } => self.rival_acts(order),
            Event::Start { node } => self.start(node),
            Event::Unpause { node, life } => self.unpause(node, life),
            Event::ResourceUp { resource } => self.resource_up(resource),
            Event::Heal => self.cuts.clear(),
            Event::Strike(strike) => self.strike(strike),
            Event::Calm => self.calm_down(),
            Event::Look => self.look_after(),
        }
    }

    fn arrive(&mut self, message: Message) {
        match (message.to, message.what) {
            (Party::Resource(_), What::Call { .. }) => self.call_arrives(message),
            (Party::Resource(resource), What::Orphan(orphan)) => {
                self.orphan_arrives(resource, orphan);
            }
            (Party::Node(node), What::Said { slot, branch, verb, call, says }) => {
                self.answered(node, (slot, branch, verb), call, Some(says));
            }
            (Party::Client, What::Said { slot, branch, says, .. }) => {
                self.client_heard(slot, branch, says);
            }
            (Party::Node(node), What::Ask { slot, branch }) => self.asked(node, slot, branch),
            (Party::Node(node), What::Request { order, request }) => {
                self.requested(node, order, request);
            }
            (Party::Client, What::Reply { order, reply }) => self.replied(order, reply),
            (Party::Node(_) | Party::Resource(_) | Party::Client, what) => {
                unreachable!("sent to the wrong party: {what:?}")
            }
        }
    }

    pub(crate) fn after(&mut self, delay_ms: u64, event: Event) {
        self.queue.push(self.now_ms.saturating_add(delay_ms), event);
    }

    /// Whether a fault with this rate happens now.
    pub(crate) fn strikes(&mut self, permille: u64) -> bool {
        !self.calm && self.rng.chance(permille)
    }

    pub(crate) fn cell(&self, slot: Slot, branch: u8) -> Option<&Cell> {
        self.txns.get(slot.index())?.cells.get(usize::from(branch))
    }

    pub(crate) fn cell_mut(&mut self, slot: Slot, branch: u8) -> &mut Cell {
        &mut self.txns[slot.index()].cells[usize::from(branch)]
    }

    /// Branches that a resource holds prepared.
    pub(crate) fn prepared_on(&self, resource: u8) -> impl Iterator<Item = (Slot, u8)> {
        (0_u8..).zip(&self.txns).flat_map(move |(slot, truth)| {
            let cells = (0_u8..).zip(&truth.cells);
            let held = cells
                .filter(move |(_, cell)| cell.resource == resource && cell.mark == Mark::Prepared);
            held.map(move |(branch, _)| (Slot(slot), branch))
        })
    }

    pub(crate) fn tracing(&self) -> bool {
        self.trace.is_some()
    }

    /// Adds a line to the readable history, if one is kept.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            writeln!(trace, "{:>6} ms  {}", self.now_ms, line()).expect("a string takes all");
        }
    }
}
