//! Looking for branches that were left behind, each node in the parts that it owns.
//!
//! Two listings of a resource, and then the journal: it says what it has of the transactions, and
//! whether the epoch is still the node's own. Whoever could have begun one of them since has raised it.

use std::rc::Rc;

use unanimous_core::Decision;
use unanimous_core::barrier::Mark;
use unanimous_core::commit::{CommitTxn, Record};
use unanimous_core::id::{BranchId, BranchName, Epoch, ShardId, Timestamp, TxnId};
use unanimous_core::recovery::{Known, Listing, Pass, Verdict};

use super::event::{Ask, Event, Found, Message, Part, Party, What};
use super::exhibit::NodesExhibit;
use super::node::Asked;
use super::world::World;
use crate::coordinator::{CLUSTER, GRACE_MS};
use crate::event::Slot;
use crate::participant::Kind;

pub(super) const SWEEP_MS: u64 = 500;

impl World {
    /// Asks every manager what it holds under our names.
    pub(super) fn sweep(&mut self, node: u8, life: u32) {
        if self.nodes[usize::from(node)].life != life {
            return;
        }
        self.after(SWEEP_MS, Event::Sweep { node, life });
        for resource in 0..self.resources.len() as u8 {
            if self.resources[usize::from(resource)].kind == Kind::Manager {
                let (token, at) = (self.next_number(), self.time_of(node));
                self.expect_answer(node, token, Asked::List { resource, at });
                let (from, to) = (Party::Node(node), Party::Resource(resource));
                self.send(Message { from, to, what: What::List(token) });
            }
        }
    }

    /// A resource has said what it holds, or has not.
    pub(super) fn listed(
        &mut self,
        node: u8,
        resource: u8,
        at: Timestamp,
        names: Option<&Rc<[String]>>,
    ) {
        let known = &mut self.nodes[usize::from(node)];
        let listings = &mut known.listings[usize::from(resource)];
        // After an error start over with two new ones.
        let Some(names) = names else { return listings.clear() };
        listings.push(Listing { at, held: names.iter().cloned().collect() });
        if listings.len() > 2 {
            listings.remove(0);
        }
        let [earlier, later] = &listings[..] else { return };
        let both = later.held.intersection(&earlier.held);
        let parsed = both.filter_map(|name| name.parse::<BranchName>().ok());
        let slots: Vec<_> = parsed.map(|name| Slot::of(name.txn)).collect();
        for part in 0..self.parts() {
            let everywhere = self.exhibit == Some(NodesExhibit::HuntsEverywhere);
            let epoch = match self.node(node).open_share(part) {
                Some(held) => held.epoch,
                None if everywhere => Epoch(0),
                None => continue,
            };
            let here = slots.iter().filter(|&&slot| self.part_of(slot) == part);
            // What is being driven now may be over, and look forgotten, when the journal answers.
            let here = here.filter(|&&slot| !self.drives(node, slot));
            let here: Rc<[Slot]> = here.copied().collect();
            if !here.is_empty() {
                let asked = Asked::Hunt { part, epoch, resource };
                self.ask(node, Ask::Look(part, here), asked);
            }
        }
    }

    /// The journal has said what it has of the transactions of held branches.
    pub(super) fn hunted(
        &mut self,
        node: u8,
        (part, epoch): (Part, Epoch),
        resource: u8,
        (current, found): Found<'_>,
    ) {
        let everywhere = self.exhibit == Some(NodesExhibit::HuntsEverywhere);
        let unfenced = self.exhibit == Some(NodesExhibit::HuntsUnfenced);
        let owns = self.epoch_of(node, part) == Some(epoch) && (current == epoch || unfenced);
        let [earlier, later] = &self.nodes[usize::from(node)].listings[usize::from(resource)][..]
        else {
            return;
        };
        let known = |id: TxnId| self.known_to(node, Slot::of(id), found);
        let owned = |shard: ShardId| everywhere || owns && shard == ShardId::of(u64::from(part));
        let pass = Pass {
            cluster: CLUSTER,
            grace_ms: GRACE_MS,
            earlier,
            later,
            known: &known,
            owned: &owned,
        };
        let plan = pass.plan().into_iter().filter_map(|(name, verdict)| match verdict {
            Verdict::End(_) => name.parse::<BranchName>().ok(),
            Verdict::LeaveAlone(_) => None,
        });
        for name in plan.collect::<Vec<_>>() {
            let (slot, branch) = (Slot::of(name.txn), name.branch.0 as u8);
            self.note(|| format!("n{node}      {slot} b{branch} is an orphan on r{resource}"));
            self.check_orphan(slot, current == epoch);
            self.end(node, slot, branch, Decision::Abort);
        }
    }

    fn known_to(&self, node: u8, slot: Slot, found: &[(Slot, Vec<Record>)]) -> Known {
        // One that the journal was not asked about is being driven, or is another part's.
        let Some((_, records)) = found.iter().find(|(it, _)| *it == slot) else {
            return Known::Live;
        };
        if self.drives(node, slot) {
            return Known::Live;
        }
        match CommitTxn::replay(records).map(|machine| machine.durable().phase().ended()) {
            Ok(Some(outcome)) => Known::Ended(outcome),
            Ok(None) => Known::Live,
            Err(_) => Known::Absent,
        }
    }

    /// A resource is asked what it holds prepared under our names.
    pub(super) fn list(&mut self, resource: u8, asks: Party, token: u32) {
        let mut names = Vec::new();
        for (slot, truth) in (0_u8..).map(Slot).zip(&self.txns) {
            for (branch, cell) in (0_u16..).zip(&truth.cells) {
                let held = cell.mark == Mark::Prepared;
                if held && cell.resource == resource {
                    let branch = BranchId(branch);
                    let txn = self.id_of(slot);
                    let name = BranchName { cluster: CLUSTER.to_owned(), txn, branch };
                    names.push(name.to_string());
                }
            }
        }
        if self.strikes(self.faults.listing_short) {
            names.pop();
        }
        let what = What::Listed(token, names.into());
        self.send(Message { from: Party::Resource(resource), to: asks, what });
    }
}
