//! What goes wrong: the network, the disk, the clocks and the processes.

use unanimous_core::id::Lsn;

use super::event::{Event, Message, Party, What};
use super::exhibit::SagaExhibit;
use super::world::World;
use crate::disaster::YEAR_MS;
use crate::event::Strike;
use crate::journal::Tail;

const LATE_MS: (u64, u64) = (500, 8_000);
/// Records that nothing is forced with wait this long for company.
const IDLE_FLUSH_MS: u64 = 20;
const LOOK_MS: u64 = 400;

impl World {
    /// Sends a message over the bad network.
    pub(super) fn send(&mut self, message: Message) {
        if self.cuts.contains(&(message.from, message.to)) || self.strikes(self.faults.drop) {
            return;
        }
        if self.faults.lose_next > 0 {
            self.faults.lose_next -= 1;
            return;
        }
        let delay_ms = self.delay_ms();
        self.after(delay_ms, Event::Arrive(message));
        // One call is carried out once by a service that would not know it again.
        let once = match (message.to, message.what) {
            (Party::Service(service), What::Call(_)) => {
                self.services[usize::from(service)].forgets_refusals
            }
            (_, What::Call(_) | What::Said(..) | What::Request(..) | What::Reply(..)) => false,
        };
        if !once && self.strikes(self.faults.duplicate) {
            let delay_ms = self.delay_ms();
            self.after(delay_ms, Event::Arrive(message));
        }
    }

    fn delay_ms(&mut self) -> u64 {
        if self.calm {
            return 1;
        }
        match self.strikes(self.faults.late) {
            true => self.rng.range(LATE_MS.0, LATE_MS.1),
            false => self.rng.range(1, self.faults.delay_ms_max),
        }
    }

    /// Schedules the next strike of this kind, if the seed has it.
    pub(super) fn strike_again(&mut self, strike: Strike) {
        let every_ms = match strike {
            Strike::Crash => self.faults.crash_every_ms,
            Strike::Takeover => self.faults.takeover_every_ms,
            Strike::Pause => self.faults.pause_every_ms,
            Strike::Cut => self.faults.cut_every_ms,
            Strike::Clock => self.faults.clock_every_ms,
            Strike::Operate => self.faults.operator_every_ms,
            Strike::Restore => 0,
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
        match strike {
            Strike::Crash => self.crash_someone(),
            Strike::Takeover => self.take_over(),
            Strike::Pause => self.pause_someone(),
            Strike::Cut => self.cut(),
            Strike::Clock => self.set_a_clock(),
            Strike::Operate => self.operate(),
            Strike::Restore => {}
        }
        self.strike_again(strike);
    }

    fn crash_someone(&mut self) {
        if self.rng.chance(250) {
            let service = self.rng.below(self.services.len() as u64) as u8;
            if self.services[usize::from(service)].up {
                self.crash_service(service);
            }
            return;
        }
        let node = match self.nodes[1].up {
            true => self.rng.below(2) as u8,
            false => 0,
        };
        let tail = self.random_tail();
        self.crash_node(node, tail);
    }

    /// All of the unflushed tail is lost, none of it, or a part with or without a torn entry.
    fn random_tail(&mut self) -> Tail {
        let length = self.journal.tail() as u64;
        match self.rng.below(4) {
            0 => Tail::Kept(0),
            1 => Tail::Kept(length as usize),
            2 => Tail::Kept(self.rng.range(0, length) as usize),
            _ => Tail::Torn(self.rng.range(0, length.saturating_sub(1)) as usize),
        }
    }

    pub(super) fn crash_node(&mut self, node: u8, tail: Tail) {
        let known = &self.nodes[usize::from(node)];
        if !known.up {
            return;
        }
        // A deposed coordinator has nothing unflushed: the claim has flushed it.
        let owns = known.owner && known.epoch == self.journal.epoch();
        let known = self.node(node);
        known.forget();
        known.up = false;
        known.paused = false;
        known.backlog.clear();
        self.totals.crashes += 1;
        let mut lost = 0;
        if owns {
            lost = self.journal.crash(tail);
            self.totals.lost_records += lost as u64;
            self.flush_at_ms = None;
        }
        self.note(|| format!("n{node}      crashes, {lost} records lost"));
        self.check_survivors();
        let down_ms = self.rng.range(1, self.faults.down_ms_max);
        self.after(down_ms, Event::Start(node));
    }

    fn take_over(&mut self) {
        let owner = self.nodes[0].owner && self.nodes[0].epoch == self.journal.epoch();
        let node = u8::from(owner);
        let known = &self.nodes[usize::from(node)];
        match (known.up, known.paused) {
            (true, true) => {}
            (true, false) => self.claim(node),
            (false, _) => self.start(node),
        }
    }

    fn pause_someone(&mut self) {
        let node = self.rng.below(2) as u8;
        let known = self.node(node);
        if !known.up || known.paused {
            return;
        }
        known.paused = true;
        let life = known.life;
        self.note(|| format!("n{node}      is paused"));
        let pause_ms = self.rng.range(50, 2_500);
        self.after(pause_ms, Event::Unpause { node, life });
    }

    pub(super) fn unpause(&mut self, node: u8, life: u32) {
        let known = self.node(node);
        if known.life != life || !known.paused {
            return;
        }
        known.paused = false;
        let backlog = std::mem::take(&mut known.backlog);
        self.note(|| format!("n{node}      goes on"));
        for event in backlog {
            self.after(0, event);
        }
    }

    /// Cuts some links, in one direction or in both.
    fn cut(&mut self) {
        let node = Party::Node(self.rng.below(2) as u8);
        let service = Party::Service(self.rng.below(self.services.len() as u64) as u8);
        let other = if self.rng.chance(300) { Party::Client } else { service };
        let (to, from) = self.rng.pick(&[(true, true), (true, false), (false, true)]);
        if to {
            self.cuts.push((node, other));
        }
        if from {
            self.cuts.push((other, node));
        }
        self.note(|| format!("network   cut: {node:?} to {other:?} {to}, from {from}"));
        let heal_ms = self.rng.range(50, 2_000);
        self.after(heal_ms, Event::Heal);
    }

    fn set_a_clock(&mut self) {
        let by_ms = self.rng.pick(&[1, 40, 1_000, 3_600_000, YEAR_MS]);
        let by_ms = if self.rng.chance(500) { by_ms } else { -by_ms };
        let node = self.rng.below(2) as u8;
        self.note(|| format!("n{node}      its clock jumps by {by_ms} ms"));
        self.node(node).clock_ms += by_ms;
    }

    /// The journal is flushed as soon as the disk can.
    pub(super) fn flush_soon(&mut self) {
        let flush_ms = self.rng.range(1, self.faults.flush_ms_max);
        self.plan_flush(flush_ms);
    }

    pub(super) fn flush_later(&mut self) {
        if self.flush_at_ms.is_none() {
            self.plan_flush(IDLE_FLUSH_MS + self.faults.flush_ms_max);
        }
    }

    fn plan_flush(&mut self, delay_ms: u64) {
        let at_ms = self.now_ms + delay_ms;
        if self.flush_at_ms.is_none_or(|planned| planned > at_ms) {
            self.flush_at_ms = Some(at_ms);
            self.flush_token += 1;
            self.after(delay_ms, Event::Flush { token: self.flush_token });
        }
    }

    pub(super) fn flush(&mut self, token: u32) {
        if token != self.flush_token || self.flush_at_ms.is_none() {
            return;
        }
        self.flush_at_ms = None;
        let mut upto = self.journal.appended();
        if self.strikes(self.faults.flush_error) {
            self.note(|| "disk      refuses to sync".into());
            if self.exhibit == Some(SagaExhibit::FsyncErrorIgnored) {
                return self.report_flush(upto);
            }
            // The coordinator stops at once; what the disk has kept is anybody's guess.
            let epoch = self.journal.epoch();
            let owner = self.nodes.iter().position(|node| node.owner && node.epoch == epoch);
            if let Some(owner) = owner {
                let tail = self.random_tail();
                self.crash_node(owner as u8, tail);
            }
            return;
        }
        let behind = upto.0 - self.journal.flushed().0;
        if behind > 1 && self.strikes(self.faults.short_flush) {
            upto.0 -= self.rng.range(1, behind - 1);
            self.flush_soon();
        }
        self.journal.flush(upto);
        self.report_flush(upto);
    }

    fn report_flush(&mut self, lsn: Lsn) {
        for node in 0..2 {
            let known = self.node(node);
            let life = known.life;
            match (known.up, known.paused) {
                (true, false) => self.flushed(node, lsn),
                (true, true) => known.backlog.push(Event::Flushed { node, life, lsn }),
                (false, _) => {}
            }
        }
    }

    pub(super) fn calm_down(&mut self) {
        self.note(|| "all       faults stop".into());
        self.calm = true;
        self.cuts.clear();
        for node in 0..2 {
            self.node(node).clock_ms = 0;
            let life = self.nodes[usize::from(node)].life;
            self.unpause(node, life);
        }
        self.after(0, Event::Look);
    }

    /// In the calm, somebody owns the shard and operators do their work.
    pub(super) fn look_after(&mut self) {
        self.after(LOOK_MS, Event::Look);
        let current = self.journal.epoch();
        let owned = self.nodes.iter().any(|it| it.up && it.owner && it.epoch == current);
        if !owned {
            let node = u8::from(!self.nodes[0].up && self.nodes[1].up);
            match self.nodes[usize::from(node)].up {
                true => self.claim(node),
                false => self.start(node),
            }
        }
        self.settle_by_hand();
    }
}
