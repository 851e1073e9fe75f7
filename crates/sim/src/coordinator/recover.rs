//! Starting, losing the shard, and looking for branches that were left behind.

use std::collections::BTreeSet;

use unanimous_core::Input;
use unanimous_core::commit::CommitTxn;
use unanimous_core::id::{BranchId, BranchName, Epoch, Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::recovery::{Known, Listing, Pass, Verdict};

use super::{Live, Node, Out};
use crate::event::{Event, Message, Orphan, Party, Slot, What};
use crate::exhibit::Exhibit;
use crate::participant::{Kind, Whose};
use crate::world::World;

/// What a coordinator remembers of one resource between two listings.
#[derive(Default)]
pub(crate) struct Watch {
    earlier: Option<Listing>,
    later: Option<Listing>,
    /// Transactions known at the listing before the earlier one, at that, and at the later one.
    known: [Option<Vec<TxnId>>; 3],
}

pub(crate) const CLUSTER: &str = "sim";
pub(crate) const GRACE_MS: u64 = 400;
const SWEEP_MS: u64 = 500;
const LISTING_MS_MAX: u64 = 40;

impl World {
    /// Starts a node, which takes the shard from whoever has it.
    pub(crate) fn start(&mut self, node: u8) {
        let known = self.node(node);
        if known.up {
            return;
        }
        known.up = true;
        known.paused = false;
        known.life += 1;
        self.claim(node);
    }

    /// Takes the shard and resumes what is open in the journal.
    pub(crate) fn claim(&mut self, node: u8) {
        let epoch = self.journal.claim();
        self.totals.claims += 1;
        self.check_claim(epoch);
        self.note(|| format!("n{node}      owns the shard, epoch {}", epoch.0));
        let known = self.node(node);
        known.forget();
        self.oracle.unlisted(node, None);
        let known = self.node(node);
        known.owner = true;
        known.epoch = epoch;
        let mut open: Vec<_> = self.journal.open().collect();
        for &slot in &open {
            self.load(node, slot);
        }
        if self.exhibit == Some(Exhibit::ForgetResume) {
            open.clear();
        }
        let turn = self.rng.below(open.len().max(1) as u64) as usize;
        open.rotate_left(turn);
        for slot in open {
            self.resume(node, slot, None);
        }
        let sweep_ms = self.rng.range(1, SWEEP_MS);
        self.after(sweep_ms, Event::Sweep { node, epoch });
    }

    /// Rebuilds a machine from the journal; false if the journal has nothing of it.
    fn load(&mut self, node: u8, slot: Slot) -> bool {
        let records = self.journal.read(slot);
        if records.is_empty() {
            return false;
        }
        let stored = records.len();
        match CommitTxn::replay(records) {
            Ok(machine) => self.node(node).insert(slot, Live::new(machine, stored)),
            Err(misfit) => self.violated("replay", slot, || misfit.to_string()),
        }
        self.violation.is_none()
    }

    fn resume(&mut self, node: u8, slot: Slot, rests_on: Option<Lsn>) {
        let now = self.time_of(node);
        self.note(|| format!("n{node}      {slot} > Resumed"));
        let Some(live) = self.node(node).live_mut(slot) else { return };
        let step = live.machine.handle(now, Input::Resumed);
        let _ = self.take(node, slot, step, rests_on);
    }

    /// Another coordinator has written to the transaction: start again from what it wrote.
    pub(crate) fn reload(&mut self, node: u8, slot: Slot) {
        let known = self.node(node);
        known.gate.forget(slot.id());
        known.live[slot.index()] = None;
        if self.load(node, slot) {
            // What was read may not be durable yet.
            let rests_on = self.journal.last(slot);
            self.resume(node, slot, rests_on);
        }
    }

    /// Another coordinator owns the shard: drop it.
    pub(crate) fn depose(&mut self, node: u8) {
        self.note(|| format!("n{node}      has lost the shard"));
        self.node(node).forget();
    }

    /// Asks every manager what it holds under our names.
    pub(crate) fn sweep(&mut self, node: u8, epoch: Epoch) {
        let known = &self.nodes[usize::from(node)];
        if !known.owner || known.epoch != epoch {
            return;
        }
        self.after(SWEEP_MS, Event::Sweep { node, epoch });
        if self.exhibit == Some(Exhibit::NoSweep) {
            return;
        }
        for resource in 0..self.resources.len() as u8 {
            if self.resources[usize::from(resource)].kind == Kind::Manager {
                self.list(node, resource);
            }
        }
    }

    fn list(&mut self, node: u8, resource: u8) {
        let unreachable = !self.resources[usize::from(resource)].up
            || self.is_cut(Party::Node(node), Party::Resource(resource));
        let fails = unreachable || self.strikes(self.faults.listing_error);
        let mut held = self.held_by(resource);
        if self.strikes(self.faults.listing_short) {
            held.pop_last();
        }
        let at = self.time_of(node);
        self.note(|| {
            format!("n{node}      lists r{resource}: {} held, failed {fails}", held.len())
        });
        let ids: Vec<_> = (0..self.txns.len() as u8).map(Slot).map(Slot::id).collect();
        let known = &mut self.nodes[usize::from(node)];
        let (live, journal) = (&known.live, &self.journal);
        let is_known = |id: &TxnId| is_live(live, *id) || !journal.read(Slot::of(*id)).is_empty();
        let known_now = ids.into_iter().filter(is_known).collect();
        let watch = &mut known.watches[usize::from(resource)];
        if fails {
            // After an error start over with two new ones.
            *watch = Watch::default();
            self.oracle.unlisted(node, Some(resource));
            return;
        }
        if watch.earlier.is_none() || watch.later.is_some() {
            watch.earlier = watch.later.take();
        }
        watch.known.rotate_left(1);
        watch.known[2] = Some(known_now);
        self.oracle.listed(node, resource, at, &held);
        let listing = Listing { at, held };
        match watch.earlier {
            None => watch.earlier = Some(listing),
            Some(_) => watch.later = Some(listing),
        }
        let epoch = known.epoch;
        let delay_ms = self.rng.range(1, LISTING_MS_MAX);
        self.after(delay_ms, Event::Plan { node, epoch, resource });
    }

    fn held_by(&self, resource: u8) -> BTreeSet<String> {
        let known = &self.resources[usize::from(resource)];
        let planted = known.planted.iter().filter(|it| it.held).map(|it| it.name.clone());
        let ours = self.prepared_on(resource).map(|(slot, branch)| {
            let branch = BranchId(u16::from(branch));
            BranchName { cluster: CLUSTER.to_owned(), txn: slot.id(), branch }.to_string()
        });
        planted.chain(ours).collect()
    }

    /// Makes the plan for one resource out of its last two listings, and carries it out.
    pub(crate) fn plan(&mut self, node: u8, epoch: Epoch, resource: u8) {
        let known = &self.nodes[usize::from(node)];
        if !known.owner || known.epoch != epoch {
            return;
        }
        let watch = &known.watches[usize::from(resource)];
        let (earlier, later) = match (&watch.earlier, &watch.later) {
            (Some(earlier), Some(later)) => (earlier, later),
            (Some(only), None) if self.exhibit == Some(Exhibit::SweepAfterOneListing) => {
                (only, only)
            }
            (Some(_) | None, _) => return,
        };
        if later.held.is_empty() {
            return;
        }
        let hasty = Listing { at: Timestamp(0), held: later.held.clone() };
        let pass = Pass {
            cluster: CLUSTER,
            grace_ms: GRACE_MS,
            earlier: match self.exhibit {
                Some(Exhibit::SweepAfterOneListing) => &hasty,
                Some(_) | None => earlier,
            },
            later,
            known: &|id| self.known_to(known, watch, id),
            owned: &|_: ShardId| self.journal.epoch() == known.epoch,
        };
        for (name, verdict) in pass.plan() {
            let foreign = self.exhibit == Some(Exhibit::SweepForeign);
            if matches!(verdict, Verdict::End(_)) || foreign {
                self.roll_orphan_back(node, resource, &name);
            }
        }
    }

    fn known_to(&self, node: &Node, watch: &Watch, id: TxnId) -> Known {
        let blind = self.exhibit == Some(Exhibit::SweepLive);
        let stale = self.exhibit == Some(Exhibit::SweepKnowsEarly);
        if stale && watch.known[0].as_ref().is_some_and(|known| !known.contains(&id)) {
            return Known::Absent;
        }
        if !blind && is_live(&node.live, id) {
            return Known::Live;
        }
        // A planted identity has no records.
        match CommitTxn::replay(self.journal.read(Slot::of(id)))
            .ok()
            .and_then(|txn| txn.durable().phase().ended())
        {
            Some(outcome) => Known::Ended(outcome),
            None if blind || self.journal.read(Slot::of(id)).is_empty() => Known::Absent,
            None => Known::Live,
        }
    }

    fn roll_orphan_back(&mut self, node: u8, resource: u8, name: &str) {
        let planted = &self.resources[usize::from(resource)].planted;
        let planted = planted.iter().position(|it| it.name == name);
        let parsed = name.parse::<BranchName>();
        let (slot, orphan) = match (planted, parsed) {
            (Some(index), Ok(name)) => (Slot::of(name.txn), Orphan::Planted(index as u8)),
            (Some(index), Err(_)) => (Slot(0), Orphan::Planted(index as u8)),
            (None, name) => {
                let name = name.expect("only we prepare under other names");
                let slot = Slot::of(name.txn);
                (slot, Orphan::Branch(slot, name.branch.0 as u8))
            }
        };
        self.note(|| format!("n{node}      rolls back orphan {name} on r{resource}"));
        self.check_orphan(node, resource, name);
        // An abort that a crash could still forget is no reason yet.
        self.admit(node, slot, None, std::iter::once(Out::Orphan(resource, orphan)));
    }

    /// A resource is told to roll back what nobody seems to own.
    pub(crate) fn orphan_arrives(&mut self, resource: u8, orphan: Orphan) {
        if !self.resources[usize::from(resource)].up {
            return;
        }
        match orphan {
            Orphan::Branch(slot, branch) => {
                let call =
                    What::Call { slot, branch, verb: unanimous_core::Verb::Rollback, call: 0 };
                let to = Party::Resource(resource);
                self.call_arrives(Message { from: Party::Client, to, what: call });
            }
            Orphan::Planted(index) => {
                let planted =
                    &mut self.resources[usize::from(resource)].planted[usize::from(index)];
                planted.held = false;
                if planted.whose == Whose::Foreign {
                    self.violated("I5", Slot(0), || "a foreign branch was rolled back".into());
                }
            }
        }
    }
}

fn is_live(live: &[Option<Live>], id: TxnId) -> bool {
    live.get(Slot::of(id).index()).is_some_and(Option::is_some)
}
