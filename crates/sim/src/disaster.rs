//! What goes wrong: the network, the disk, the clocks and the processes.

use unanimous_core::Verb;

use crate::event::{Event, Message, Party, Request, Slot, Strike, What};
use crate::exhibit::Exhibit;
use crate::journal::Tail;
use crate::world::World;

const LATE_MS: (u64, u64) = (500, 8_000);
pub(crate) const YEAR_MS: i64 = 365 * 24 * 3_600_000;
/// Records that nothing is forced with wait this long for company.
const IDLE_FLUSH_MS: u64 = 20;
const LOOK_MS: u64 = 250;
/// A scripted history has had its faults by then.
pub(crate) const SCRIPT_MS: u64 = 1_000;

impl Strike {
    pub(crate) const ALL: [Self; 7] = [
        Self::Crash,
        Self::Takeover,
        Self::Pause,
        Self::Cut,
        Self::Clock,
        Self::Restore,
        Self::Operate,
    ];
}

impl World {
    /// Sends a message over the bad network.
    pub(crate) fn send(&mut self, message: Message) {
        if self.is_cut(message.from, message.to) || self.strikes(self.faults.drop) {
            return;
        }
        if self.faults.lose_next > 0 {
            self.faults.lose_next -= 1;
            return;
        }
        let mut delay_ms = self.delay_ms();
        if let What::Call { branch: 0, verb: Verb::Prepare, .. } = message.what {
            delay_ms += std::mem::take(&mut self.faults.first_prepare_ms);
        }
        self.after(delay_ms, Event::Arrive(message));
        // Nobody delivers a request twice that its client would not repeat.
        let once = match message.what {
            What::Request { order, request: Request::Begin } => {
                !self.orders[usize::from(order)].keyed
            }
            What::Request { .. }
            | What::Call { .. }
            | What::Said { .. }
            | What::Ask { .. }
            | What::Orphan(_)
            | What::Reply { .. } => false,
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

    pub(crate) fn is_cut(&self, from: Party, to: Party) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Schedules the next strike of this kind, if the seed has it.
    pub(crate) fn strike_again(&mut self, strike: Strike) {
        let every_ms = match strike {
            Strike::Crash => self.faults.crash_every_ms,
            Strike::Takeover => self.faults.takeover_every_ms,
            Strike::Pause => self.faults.pause_every_ms,
            Strike::Cut => self.faults.cut_every_ms,
            Strike::Clock => self.faults.clock_every_ms,
            Strike::Restore => self.faults.restore_every_ms,
            Strike::Operate => self.faults.operator_every_ms,
        };
        if every_ms > 0 && !self.calm {
            let pause_ms = self.rng.range(1, 2 * every_ms);
            self.after(pause_ms, Event::Strike(strike));
        }
    }

    pub(crate) fn strike(&mut self, strike: Strike) {
        if self.calm {
            return;
        }
        match strike {
            Strike::Crash => self.crash_someone(),
            Strike::Takeover => self.take_over(),
            Strike::Pause => self.pause_someone(),
            Strike::Cut => self.cut(),
            Strike::Clock => self.set_a_clock(),
            Strike::Restore => self.back_up_or_restore(),
            Strike::Operate => self.operate(),
        }
        self.strike_again(strike);
    }

    fn crash_someone(&mut self) {
        if self.rng.chance(250) {
            let resource = self.rng.below(self.resources.len() as u64) as u8;
            if self.resources[usize::from(resource)].up {
                self.crash_resource(resource);
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

    pub(crate) fn crash_node(&mut self, node: u8, tail: Tail) {
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
        known.life += 1;
        known.backlog.clear();
        self.totals.crashes += 1;
        if owns {
            let lost = self.journal.crash(tail);
            self.totals.lost_records += lost as u64;
            self.flush_at_ms = None;
            self.note(|| format!("n{node}      crashes, {lost} records lost"));
            self.forget_lost_branches();
            self.check_survivors();
        } else {
            self.note(|| format!("n{node}      crashes"));
        }
        let down_ms = self.rng.range(1, self.faults.down_ms_max);
        self.after(down_ms, Event::Start { node });
    }

    /// A branch whose enlisting was lost was never told to anybody.
    fn forget_lost_branches(&mut self) {
        for index in 0..self.txns.len() {
            let slot = Slot(index as u8);
            if let Some(count) = self.branches_in_journal(slot) {
                self.txns[index].cells.truncate(count);
            }
        }
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

    pub(crate) fn unpause(&mut self, node: u8, life: u32) {
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
        let resource = Party::Resource(self.rng.below(self.resources.len() as u64) as u8);
        let other = if self.rng.chance(300) { Party::Client } else { resource };
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
        self.note(|| format!("clock     jumps by {by_ms} ms"));
        let whose = self.rng.below(self.resources.len() as u64 + 2) as usize;
        match self.nodes.get_mut(whose) {
            Some(node) => node.clock_ms += by_ms,
            None => self.resources[whose - 2].clock_ms += by_ms,
        }
    }

    /// The journal is flushed as soon as the disk can.
    pub(crate) fn flush_soon(&mut self) {
        let flush_ms = self.rng.range(1, self.faults.flush_ms_max);
        self.plan_flush(flush_ms);
    }

    pub(crate) fn flush_later(&mut self) {
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

    pub(crate) fn flush(&mut self, token: u32) {
        if token != self.flush_token || self.flush_at_ms.is_none() {
            return;
        }
        self.flush_at_ms = None;
        let owns =
            |node: &crate::coordinator::Node| node.owner && node.epoch == self.journal.epoch();
        let owner = self.nodes.iter().position(owns);
        let mut upto = self.journal.appended();
        if self.strikes(self.faults.flush_error) {
            self.note(|| "disk      refuses to sync".into());
            if self.exhibit == Some(Exhibit::FsyncErrorIgnored) {
                return self.report_flush(upto);
            }
            // The coordinator stops at once; what the disk has kept is anybody's guess.
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

    fn report_flush(&mut self, lsn: unanimous_core::id::Lsn) {
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

    pub(crate) fn calm_down(&mut self) {
        self.note(|| "all       faults stop".into());
        self.calm = true;
        self.cuts.clear();
        for node in 0..2 {
            let life = self.nodes[usize::from(node)].life;
            self.unpause(node, life);
        }
        self.after(0, Event::Look);
    }

    /// In the calm, somebody owns the shard and operators do their work.
    pub(crate) fn look_after(&mut self) {
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
