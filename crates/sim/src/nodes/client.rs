//! The clients: each has one order, sees it through at whatever node it comes upon, and repeats what
//! was not answered.

use unanimous_core::commit::{Mode, Shape};
use unanimous_core::id::Epoch;
use unanimous_core::{Stage, Vote};

use super::event::{Event, Message, Party, Reply, Request, What};
use super::world::World;
use crate::client::{Rival, Wish};
use crate::coordinator::Wait;
use crate::event::Slot;

/// What one client wants, and how far it has come.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) shape: Shape,
    pub(super) mode: Mode,
    pub(super) token: Token,
    pub(super) wait: Wait,
    pub(super) timeout_ms: u64,
    pub(super) shares: Vec<Share>,
    pub(super) wish: Wish,
    pub(super) starts_ms: u64,
    /// When somebody else interferes, in milliseconds after the start.
    pub(super) rival: Option<(u64, Rival)>,
    pub(super) stand: Stand,
    pub(super) slot: Option<Slot>,
    /// The name under which it asks for its transaction to begin, if it has one.
    pub(super) name: Option<(Slot, Epoch)>,
    pub(super) attempt: u32,
    /// The node that it asks first: the one that answered last.
    pub(super) node: u8,
}

/// By what a begin that is repeated is told from a second order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Token {
    /// By nothing: it is not repeated.
    None,
    Key,
    /// By the name that the node gave it which was asked, and which asks the owner again until it has
    /// an answer. Here the client stands for that node.
    Name,
}

/// One branch that a client wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) resource: u8,
    pub(super) plan: Option<Vote>,
}

/// Where a client stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stand {
    Begin,
    End,
    /// The outcome is settled by others; it only wants to know.
    Watch,
    Done,
}

const RETRY_MS: u64 = 250;

impl World {
    /// A client starts, or repeats what was not answered.
    pub(super) fn client_acts(&mut self, order: u8, attempt: u32) {
        let known = &mut self.orders[usize::from(order)];
        if known.stand == Stand::Done || known.attempt != attempt {
            return;
        }
        if known.stand == Stand::Begin && known.token == Token::None && attempt > 0 {
            known.stand = Stand::Done;
            return;
        }
        known.attempt += 1;
        let (next, stand, slot, wish) = (known.attempt, known.stand, known.slot, known.wish);
        let token = known.token;
        self.after(RETRY_MS, Event::Client { order, attempt: next });
        let node = self.node_for(order);
        let request = match (stand, slot) {
            (Stand::Begin, _) | (_, None) if token == Token::Name => {
                let Some((slot, epoch)) = self.name(order, node) else { return };
                Request::BeginAs(slot, epoch)
            }
            (Stand::Begin, _) | (_, None) => Request::Begin,
            (Stand::End, Some(slot)) if wish == Wish::Commit => Request::Commit(slot),
            (Stand::End, Some(slot)) => Request::Abort(slot),
            (Stand::Watch | Stand::Done, Some(slot)) => Request::Status(slot),
        };
        self.request(order, node, request);
    }

    /// The node that is asked next.
    fn node_for(&mut self, order: u8) -> u8 {
        match self.rng.chance(600) {
            true => self.orders[usize::from(order)].node,
            false => self.rng.below(self.nodes.len() as u64) as u8,
        }
    }

    /// The name of an order; a new one, as this node gives it, if it has none.
    fn name(&mut self, order: u8, node: u8) -> Option<(Slot, Epoch)> {
        let known = self.orders[usize::from(order)].name;
        if known.is_none() && self.has_room() {
            let part = self.part_wanted(node, order, Request::Begin);
            let epoch = self.nodes[usize::from(node)].shares[usize::from(part)].seen.epoch;
            let slot = self.mint(order, part);
            self.orders[usize::from(order)].name = Some((slot, epoch));
        }
        self.orders[usize::from(order)].name
    }

    fn request(&mut self, order: u8, node: u8, request: Request) {
        let what = What::Request { order, request, hops: 0 };
        self.send(Message { from: Party::Client, to: Party::Node(node), what });
    }

    pub(super) fn replied(&mut self, order: u8, from: u8, reply: Reply) {
        let known = &mut self.orders[usize::from(order)];
        known.node = from;
        if let Reply::NeverBegun(slot) = reply {
            // Under another name it may begin.
            if known.name.is_some_and(|(it, _)| it == slot) {
                known.name = None;
                let attempt = known.attempt;
                self.after(0, Event::Client { order, attempt });
            }
            return;
        }
        let next = match (known.stand, reply) {
            (Stand::Begin, Reply::Begun(slot)) => {
                known.slot = Some(slot);
                match (known.mode, known.wish) {
                    (Mode::Run | Mode::RunLater, _) => Stand::Watch,
                    (Mode::Interactive, Wish::Vanish) => Stand::Done,
                    (Mode::Interactive, Wish::Commit | Wish::Abort) => Stand::End,
                }
            }
            (Stand::Begin, Reply::Stage(slot, _)) => {
                known.slot = Some(slot);
                Stand::Done
            }
            (Stand::End | Stand::Watch, Reply::Stage(_, stage)) if stage != Stage::Begun => {
                match known.wait.is_over(stage) {
                    true => Stand::Done,
                    false => Stand::Watch,
                }
            }
            (Stand::End, Reply::Refused(..)) => Stand::Watch,
            (
                Stand::Begin | Stand::End | Stand::Watch | Stand::Done,
                Reply::Begun(_)
                | Reply::Stage(..)
                | Reply::Refused(..)
                | Reply::Unknown(_)
                | Reply::NeverBegun(_),
            ) => return,
        };
        if next == known.stand {
            return;
        }
        known.stand = next;
        known.attempt += 1;
        let attempt = known.attempt;
        if next != Stand::Done {
            self.after(0, Event::Client { order, attempt });
        }
    }

    /// Somebody else interferes with an order.
    pub(super) fn rival_acts(&mut self, order: u8) {
        let Some((_, rival)) = self.orders[usize::from(order)].rival else { return };
        let Some(slot) = self.txns.iter().rposition(|it| it.order == order && it.begun) else {
            return;
        };
        let slot = Slot(slot as u8);
        let request = match rival {
            Rival::Abort => Request::Abort(slot),
            Rival::Commit => Request::Commit(slot),
            Rival::Look => Request::Status(slot),
        };
        let node = self.node_for(order);
        self.request(order, node, request);
        if rival == Rival::Look && !self.calm {
            let pause_ms = self.rng.range(1, 150);
            self.after(pause_ms, Event::Rival { order });
        }
    }
}
