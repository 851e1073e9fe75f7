//! One history of sagas: first with faults, then calm until all is settled.

use std::fmt::Write as _;
use std::rc::Rc;

use unanimous_core::saga::{Phase, Record, SagaTxn};
use unanimous_core::{Input, Outcome};

use super::client::Order;
use super::event::{Event, Message, Party, What};
use super::exhibit::SagaExhibit;
use super::node::{Node, Out};
use super::oracle::Told;
use super::service::{Cell, Service};
use crate::event::{Queue, Slot, Strike};
use crate::journal::Journal;
use crate::oracle::Violation;
use crate::rng::Rng;
use crate::swarm::Faults;
use crate::totals::Totals;
use crate::world::Names;

/// Everything there is.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) exhibit: Option<SagaExhibit>,
    pub(super) now_ms: u64,
    /// Whether faults have stopped.
    pub(super) calm: bool,
    pub(super) queue: Queue<Event>,
    pub(super) journal: Journal<Record>,
    pub(super) nodes: [Node; 2],
    pub(super) services: Vec<Service>,
    pub(super) orders: Vec<Order>,
    pub(super) txns: Vec<Truth>,
    pub(super) names: Rc<Names>,
    pub(super) violation: Option<Violation>,
    pub(super) totals: Totals,
    pub(super) next_call: u32,
    pub(super) next_wish: u16,
    pub(super) free: Vec<(Slot, Out)>,
    /// Inputs that an exhibit makes up.
    pub(super) unbidden: Vec<(u8, Slot, Input)>,
    pub(super) cuts: Vec<(Party, Party)>,
    pub(super) flush_token: u32,
    pub(super) flush_at_ms: Option<u64>,
    trace: Option<String>,
}

/// The truth about one saga.
pub(super) struct Truth {
    pub(super) order: u8,
    pub(super) cells: Vec<Cell>,
    pub(super) told: Told,
}

/// What a history starts from.
pub(super) struct Setting {
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) exhibit: Option<SagaExhibit>,
    pub(super) services: Vec<Service>,
    pub(super) orders: Vec<Order>,
}

const CALM_MS: u64 = 4_000;
/// Everything must have ended this long after the faults: the pause of a step that is stuck and a
/// message that was very late, with room to spare.
const END_MS: u64 = CALM_MS + 90_000;
/// More events than this in one history, and something calls in circles.
const EVENTS_MAX: u64 = 30_000;
/// A service that is down from the start comes up then.
const OUTAGE_MS: u64 = 400;
const STRIKES: [Strike; 6] =
    [Strike::Crash, Strike::Takeover, Strike::Pause, Strike::Cut, Strike::Clock, Strike::Operate];

impl World {
    pub(super) fn new(setting: Setting, names: &Rc<Names>) -> Self {
        let mut world = Self {
            rng: setting.rng,
            faults: setting.faults,
            exhibit: setting.exhibit,
            now_ms: 0,
            calm: false,
            queue: Queue::default(),
            journal: Journal::new(setting.exhibit.and_then(SagaExhibit::of_journal)),
            nodes: [Node::default(), Node::default()],
            services: setting.services,
            orders: setting.orders,
            txns: Vec::with_capacity(4),
            names: Rc::clone(names),
            violation: None,
            totals: Totals { seeds: 1, ..Totals::default() },
            next_call: 1,
            next_wish: 1,
            free: Vec::new(),
            unbidden: Vec::new(),
            cuts: Vec::new(),
            flush_token: 0,
            flush_at_ms: None,
            trace: None,
        };
        world.start(0);
        for (order, wanted) in (0_u8..).zip(&world.orders.clone()) {
            world.after(wanted.starts_ms, Event::Client { order, attempt: 0 });
            for (wish, wanted_too) in (0_u8..).zip(&wanted.wishes) {
                world.after(wanted.starts_ms + wanted_too.after_ms, Event::Wish { order, wish });
            }
        }
        for service in 0..world.services.len() as u8 {
            if !world.services[usize::from(service)].up {
                world.after(OUTAGE_MS, Event::ServiceUp(service));
            }
        }
        world
    }

    /// Lets the faults of the setting come, and stops them after a while.
    pub(super) fn with_strikes(mut self) -> Self {
        STRIKES.into_iter().for_each(|strike| self.strike_again(strike));
        self.after(CALM_MS, Event::Calm);
        self
    }

    pub(super) fn traced(mut self) -> Self {
        self.trace = Some(String::new());
        self.note(|| "n0 owns the shard, epoch 1".to_owned());
        for index in 0..self.services.len() {
            let forgets = self.services[index].forgets_refusals;
            self.note(|| format!("s{index} forgets refusals {forgets}"));
        }
        for index in 0..self.orders.len() {
            for line in self.orders[index].described() {
                self.note(|| format!("o{index} {line}"));
            }
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
            match self.stored_phase(Slot(index as u8)) {
                Some(Phase::Ended(Outcome::Committed)) => self.totals.committed += 1,
                Some(Phase::Ended(Outcome::Mixed)) => self.totals.mixed += 1,
                Some(_) | None => self.totals.aborted += 1,
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

    fn on(&mut self, event: Event) {
        match event {
            Event::Arrive(message) => self.arrive(message),
            Event::Timeout(node, call) => self.answered(node, call, None),
            Event::Wake { node, slot, token } => self.woke(node, slot, token),
            Event::Flush { token } => self.flush(token),
            Event::Flushed { node, life, lsn } => {
                if self.nodes[usize::from(node)].life == life {
                    self.flushed(node, lsn);
                }
            }
            Event::Client { order, attempt } => self.client_acts(order, attempt),
            Event::Wish { order, wish } => self.wish(order, wish),
            Event::Start(node) => self.start(node),
            Event::Unpause { node, life } => self.unpause(node, life),
            Event::ServiceUp(service) => self.services[usize::from(service)].up = true,
            Event::Heal => self.cuts.clear(),
            Event::Strike(strike) => self.strike(strike),
            Event::Calm => self.calm_down(),
            Event::Look => self.look_after(),
        }
    }

    fn arrive(&mut self, message: Message) {
        match (message.to, message.what) {
            (Party::Service(service), What::Call(call)) => {
                self.call_arrives(service, message.from, call);
            }
            (Party::Node(node), What::Said(call, says)) => self.answered(node, call, Some(says)),
            (Party::Node(node), What::Request(order, request)) => {
                self.requested(node, order, request);
            }
            (Party::Client, What::Reply(order, reply)) => self.replied(order, reply),
            (Party::Node(_) | Party::Service(_) | Party::Client, what) => {
                unreachable!("sent to the wrong party: {what:?}")
            }
        }
    }

    pub(super) fn after(&mut self, delay_ms: u64, event: Event) {
        self.queue.push(self.now_ms.saturating_add(delay_ms), event);
    }

    /// Whether a fault with this rate happens now.
    pub(super) fn strikes(&mut self, permille: u64) -> bool {
        !self.calm && self.rng.chance(permille)
    }

    pub(super) fn order_of(&self, slot: Slot) -> &Order {
        &self.orders[usize::from(self.txns[slot.index()].order)]
    }

    pub(super) fn cell_mut(&mut self, slot: Slot, step: u8) -> &mut Cell {
        &mut self.txns[slot.index()].cells[usize::from(step)]
    }

    /// How far the journal has a saga, durable or not.
    pub(super) fn stored_phase(&self, slot: Slot) -> Option<Phase> {
        Some(SagaTxn::replay(self.journal.read(slot)).ok()?.durable().phase())
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

    /// Notes that a rule was broken; the first one counts.
    pub(super) fn violated(
        &mut self,
        rule: &'static str,
        slot: Slot,
        what: impl FnOnce() -> String,
    ) {
        if self.violation.is_none() {
            let what = format!("{slot}: {}", what());
            self.note(|| format!("VIOLATED  {rule} {what}"));
            self.violation = Some(Violation { rule, at_ms: self.now_ms, what });
        }
    }
}
