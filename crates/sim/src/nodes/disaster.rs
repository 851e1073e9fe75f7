//! What goes wrong: the network between everybody, the store's answers, the clocks and the processes.

use super::client::Token;
use super::event::{Ask, Event, Message, Party, Request, Strike, What};
use super::world::World;

const LATE_MS: (u64, u64) = (400, 6_000);
const YEAR_MS: i64 = 365 * 24 * 3_600_000;

impl World {
    /// Sends a message over the bad network.
    pub(super) fn send(&mut self, message: Message) {
        if self.is_cut(message.from, message.to) || self.strikes(self.faults.drop) {
            return;
        }
        if self.faults.lose_next > 0 {
            self.faults.lose_next -= 1;
            return;
        }
        let answers = message.from == Party::Store;
        if answers && self.strikes(self.faults.answer_lost) {
            return;
        }
        let delay_ms = self.delay_ms(&message);
        // Nobody delivers a request twice that its client would not repeat.
        let once = match message.what {
            What::Request { order, request: Request::Begin, .. } => {
                self.orders[usize::from(order)].token == Token::None
            }
            What::Request { .. }
            | What::Call { .. }
            | What::Said { .. }
            | What::Inquiry { .. }
            | What::List(_)
            | What::Listed(..)
            | What::Reply { .. }
            | What::Ask(..)
            | What::Answer(..) => false,
        };
        if !once && self.strikes(self.faults.duplicate) {
            let delay_ms = self.delay_ms(&message);
            self.after(delay_ms, Event::Arrive(message.clone()));
        }
        self.after(delay_ms, Event::Arrive(message));
    }

    fn delay_ms(&mut self, message: &Message) -> u64 {
        if self.calm {
            return 1;
        }
        let writes = matches!(
            message.what,
            What::Ask(_, Ask::Append(_) | Ask::Claim(..) | Ask::Release(..))
        );
        let late = match writes {
            true => self.faults.late_write,
            false => self.faults.late,
        };
        match (self.strikes(late), message.from, message.to) {
            (true, ..) => self.rng.range(LATE_MS.0, LATE_MS.1),
            (false, Party::Store, _) | (false, _, Party::Store) => {
                self.rng.range(1, self.faults.store_ms_max)
            }
            (false, ..) => self.rng.range(1, self.faults.delay_ms_max),
        }
    }

    pub(super) fn is_cut(&self, from: Party, to: Party) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Schedules the next strike of this kind, if the seed has it.
    pub(super) fn strike_again(&mut self, strike: Strike) {
        let every_ms = match strike {
            Strike::Crash => self.faults.crash_every_ms,
            Strike::Pause => self.faults.pause_every_ms,
            Strike::Cut => self.faults.cut_every_ms,
            Strike::Clock => self.faults.clock_every_ms,
            Strike::Drain => self.faults.drain_every_ms,
        };
        if every_ms > 0 && !self.calm {
            let pause_ms = self.rng.range(1, 2 * every_ms);
            self.after(pause_ms, Event::Strike(strike));
        }
    }

    pub(super) fn strike(&mut self, strike: Strike) {
        if self.calm {
            return;
        }
        let node = self.rng.below(self.nodes.len() as u64) as u8;
        match strike {
            Strike::Crash => self.crash_someone(node),
            Strike::Pause => {
                let pause_ms = self.rng.range(50, self.faults.pause_ms_max);
                self.pause_for(node, pause_ms);
            }
            Strike::Cut => self.cut(node),
            Strike::Clock => {
                let by_ms = self.rng.pick(&[1, 40, 1_000, 3_600_000, YEAR_MS]);
                let by_ms = if self.rng.chance(500) { by_ms } else { -by_ms };
                self.note(|| format!("n{node}      its clock jumps by {by_ms} ms"));
                self.node(node).clock_ms += by_ms;
            }
            Strike::Drain => {
                let known = &self.nodes[usize::from(node)];
                if known.up && !known.paused && !known.leaving {
                    self.leave(node);
                }
            }
        }
        self.strike_again(strike);
    }

    fn crash_someone(&mut self, node: u8) {
        if self.rng.chance(250) {
            let resource = self.rng.below(self.resources.len() as u64) as u8;
            if self.resources[usize::from(resource)].up {
                self.crash_resource(resource);
            }
        } else if self.nodes[usize::from(node)].up {
            self.crash(node);
        }
    }

    pub(super) fn crash(&mut self, node: u8) {
        let left = self.nodes.iter().filter(|it| !it.gone).count();
        let gone = left > 1 && self.strikes(self.faults.gone);
        self.note(|| format!("n{node}      crashes, for ever {gone}"));
        self.totals.crashes += 1;
        self.node(node).gone = gone;
        self.stop(node);
    }

    /// A node is gone, with all that it had in memory. What it has sent may still arrive.
    pub(super) fn stop(&mut self, node: u8) {
        let known = self.node(node);
        known.forget();
        known.up = false;
        known.paused = false;
        known.life += 1;
        let gone = known.gone;
        let down_ms = self.rng.range(1, self.faults.down_ms_max);
        if !gone {
            self.after(down_ms, Event::Start { node });
        }
    }

    pub(super) fn pause_for(&mut self, node: u8, pause_ms: u64) {
        let known = self.node(node);
        if !known.up || known.paused {
            return;
        }
        known.paused = true;
        let life = known.life;
        self.note(|| format!("n{node}      is paused"));
        self.after(pause_ms, Event::Unpause { node, life });
    }

    /// A node goes on, and believes what it believed.
    pub(super) fn unpause(&mut self, node: u8, life: u32) {
        let now_ms = self.now_ms;
        let heard = self.rng.chance(500);
        let known = self.node(node);
        if known.life != life || !known.paused {
            return;
        }
        known.paused = false;
        if heard {
            // The signs of life of the others had been waiting.
            known.heard_at_ms.fill(now_ms);
        }
        let backlog = std::mem::take(&mut known.backlog);
        self.note(|| format!("n{node}      goes on"));
        for event in backlog {
            self.after(0, event);
        }
    }

    /// Cuts some links of a node, in one direction or in both, for good or on and off.
    fn cut(&mut self, node: u8) {
        let mut others = vec![match self.rng.below(4) {
            0 => Party::Store,
            1 => Party::Resource(self.rng.below(self.resources.len() as u64) as u8),
            2 => Party::Client,
            _ => Party::Node(self.rng.below(self.nodes.len() as u64) as u8),
        }];
        if self.rng.chance(250) {
            others = self.everybody().filter(|it| *it != Party::Node(node)).collect();
        }
        let (to, from) = self.rng.pick(&[(true, true), (true, false), (false, true)]);
        let lasts_ms = self.rng.range(50, self.faults.cut_ms_max);
        let flaps = if self.rng.chance(300) { self.rng.range(2, 6) } else { 1 };
        self.note(|| {
            let whom: Vec<_> = others.iter().map(Party::to_string).collect();
            let whom = whom.join(" ");
            format!("network   n{node} is cut from {whom}: to {to}, from {from}, {flaps} times")
        });
        for other in others {
            let node = Party::Node(node);
            let links = [(to, node, other), (from, other, node)];
            for (_, from, to) in links.into_iter().filter(|(cut, ..)| *cut) {
                for flap in 0..flaps {
                    self.after(2 * flap * lasts_ms, Event::Cut(from, to));
                    self.after((2 * flap + 1) * lasts_ms, Event::Heal(from, to));
                }
            }
        }
    }

    fn everybody(&self) -> impl Iterator<Item = Party> + use<> {
        let (nodes, resources) = (self.nodes.len() as u8, self.resources.len() as u8);
        let nodes = (0..nodes).map(Party::Node);
        nodes.chain((0..resources).map(Party::Resource)).chain([Party::Store, Party::Client])
    }

    pub(super) fn cut_for(&mut self, lasts_ms: u64, from: Party, to: Party) {
        self.cuts.push((from, to));
        self.after(lasts_ms, Event::Heal(from, to));
    }

    pub(super) fn heal(&mut self, from: Party, to: Party) {
        if let Some(index) = self.cuts.iter().position(|it| *it == (from, to)) {
            self.cuts.swap_remove(index);
        }
    }

    /// Faults stop. Two nodes that never hear of each other again may be left.
    pub(super) fn calm_down(&mut self) {
        self.note(|| "all       faults stop".into());
        self.calm = true;
        self.cuts.clear();
        if self.faults.standoff {
            let (one, two) = (Party::Node(0), Party::Node(1));
            self.note(|| "network   n0 and n1 never hear of each other again".into());
            self.cuts.extend([(one, two), (two, one)]);
        }
        for node in 0..self.nodes.len() as u8 {
            let life = self.nodes[usize::from(node)].life;
            self.unpause(node, life);
        }
        self.after(0, Event::Look);
    }
}
