//! What must hold among several coordinators, judged with the truth about everything.
//!
//! The rules are those of the fault catalogue. What several coordinators add: an epoch has one owner
//! ever, only its owner writes under it, and in the end every part is owned by exactly one.

use unanimous_core::barrier::Mark;
use unanimous_core::commit::{CommitTxn, Record};
use unanimous_core::id::Epoch;
use unanimous_core::{Decision, Outcome, Stage, Verb};

use super::client::{Stand, Token};
use super::event::{Part, Party, Reply};
use super::store::{Batch, Owner, Shard};
use super::world::World;
use crate::event::{BRANCHES, Slot};
use crate::journal::decided;
use crate::model::tcommit::{self, Manager};
use crate::oracle::{Violation, manager_of, recovery_aborts};

/// What the oracles remember of a history.
#[derive(Default)]
pub(super) struct Oracle {
    /// Every epoch that was won, and by whom.
    claims: Vec<(Part, Epoch, Owner)>,
    /// The transaction that each order is known to have made.
    made: [Option<Slot>; crate::world::ORDERS_MAX],
}

type Standing = ([Manager; BRANCHES], usize);

impl World {
    /// I9: a claim was won. No epoch is won twice, and none after a higher one.
    pub(super) fn check_claim(&mut self, part: Part, epoch: Epoch, owner: Owner) {
        let mut before = self.oracle.claims.iter().filter(|(it, ..)| *it == part);
        let late = before.any(|&(_, won, by)| won >= epoch && (won, by) != (epoch, owner));
        let again = self.oracle.claims.iter().any(|&(it, won, _)| it == part && won == epoch);
        if late || again {
            self.violated("I9", None, || format!("p{part}: {epoch:?} is won once more"));
        }
        self.oracle.claims.push((part, epoch, owner));
    }

    /// I9: a node starts to act under an epoch. It must have won that.
    pub(super) fn check_ownership(&mut self, node: u8, part: Part, epoch: Epoch) {
        let owner = self.nodes[usize::from(node)].as_owner(node);
        if !self.oracle.claims.contains(&(part, epoch, owner)) {
            self.violated("I9", None, || {
                format!("n{node} acts in p{part} under {epoch:?}, which it has not won")
            });
        }
    }

    /// A node starts as owner from these open transactions. Under the newest epoch nobody else can have
    /// written since, so that they are what the journal has.
    pub(super) fn check_start(&mut self, part: Part, epoch: Epoch, open: &[(Slot, Vec<Record>)]) {
        if self.store.shard(part).epoch == epoch && self.store.load(part).open != open {
            self.violated("replay", None, || {
                format!("the new owner of p{part} does not start from what the journal has")
            });
        }
    }

    /// The store has taken a batch. I9: from the owner, under its epoch. I2: a commit has all votes.
    pub(super) fn check_taken(&mut self, batch: &Batch, from: Party) {
        let shard = self.store.shard(batch.part);
        let by_owner = shard.owner.is_none_or(|owner| from == Party::Node(owner.node));
        if batch.epoch != shard.epoch || !by_owner {
            let (part, epoch) = (batch.part, batch.epoch);
            self.violated("I9", None, || {
                format!("{from} wrote to p{part} under {epoch:?}, but {shard:?} owns it")
            });
        }
        for entry in &batch.entries {
            self.totals.records += entry.records.len() as u64;
            if let Err(misfit) = CommitTxn::replay(self.store.read(entry.slot)) {
                self.violated("replay", Some(entry.slot), || misfit.to_string());
            }
            if self.txns[entry.slot.index()].never {
                self.violated("I3", Some(entry.slot), || "it was never to begin".into());
            }
            if entry.records.iter().find_map(decided) == Some(Decision::Commit) {
                self.check_promises(entry.slot);
            }
        }
    }

    fn check_promises(&mut self, slot: Slot) {
        let delegated = self.store.is_delegated(slot);
        let cells = &self.txns[slot.index()].cells;
        let unpromised = cells.iter().position(|cell| {
            let promised = match cell.mark {
                Mark::Prepared => !delegated,
                Mark::ReadOnly | Mark::Committed => true,
                Mark::Absent => cell.read_only,
                Mark::Refused | Mark::RolledBack | Mark::Heuristic(_) => false,
            };
            !promised
        });
        if let Some(branch) = unpromised {
            let mark = cells[branch].mark;
            self.violated("I2", Some(slot), || {
                format!("commit is decided, but b{branch} is {mark:?}")
            });
        }
    }

    /// I1: an order arrives at a participant. It must rest on what the journal has.
    pub(super) fn check_order(&mut self, slot: Slot, branch: u8, verb: Verb) {
        if !self.rests(slot, verb) {
            let decided = self.store.decision(slot);
            self.violated("I1", Some(slot), || {
                format!("b{branch} is told to {verb:?}, but the journal has decided {decided:?}")
            });
        }
    }

    /// Whether what a rollback rests on is the truth: that it was decided, or that nobody who could
    /// commit knows of the transaction.
    fn is_aborted(&self, slot: Slot) -> bool {
        match self.store.decision(slot) {
            Some(decision) => decision == Decision::Abort,
            None => {
                let owner = self.true_owner(self.part_of(slot));
                let driven = owner.is_some_and(|owner| self.drives(owner, slot));
                self.store.read(slot).is_empty() && !driven
            }
        }
    }

    /// Whether a verb may be asked of a branch now.
    fn rests(&self, slot: Slot, verb: Verb) -> bool {
        match verb {
            Verb::Prepare => true,
            Verb::Commit => self.store.decision(slot) == Some(Decision::Commit),
            Verb::CommitOnePhase => self.store.is_delegated(slot),
            Verb::Rollback => self.is_aborted(slot) || self.can_only_abort(slot),
            Verb::Act | Verb::Compensate => unreachable!("two phases have no steps"),
        }
    }

    /// Whether it will abort without a decision in the journal: recovery would not commit it, and whoever
    /// drives it has decided.
    fn can_only_abort(&self, slot: Slot) -> bool {
        let part = self.part_of(slot);
        let stored = self.store.read(slot);
        let owner = self.true_owner(part).and_then(|it| self.nodes[usize::from(it)].held(part));
        let can_only_abort = match owner.filter(|held| held.is_busy_with(slot)) {
            Some(held) => {
                let records = held.records(slot, stored);
                let decision = records.iter().find_map(decided);
                recovery_aborts(&records) && decision == Some(Decision::Abort)
            }
            None => recovery_aborts(stored),
        };
        can_only_abort && self.store.decision(slot).is_none()
    }

    /// The owner in truth, if it is up and knows that it is.
    pub(super) fn true_owner(&self, part: Part) -> Option<u8> {
        let Shard { epoch, owner } = self.store.shard(part);
        let owner = owner?;
        let known = &self.nodes[usize::from(owner.node)];
        let holds = known.held(part).is_some_and(|held| held.epoch == epoch);
        (known.up && known.life == owner.life && holds).then_some(owner.node)
    }

    /// I5: an orphan is about to be rolled back. `owned` tells whether the part was the node's own
    /// after both listings.
    pub(super) fn check_orphan(&mut self, slot: Slot, owned: bool) {
        if !owned {
            self.violated("I5", Some(slot), || "another node owns the orphan's part".into());
        } else if !self.is_aborted(slot) {
            self.violated("I5", Some(slot), || "what is taken for an orphan is live".into());
        }
    }

    /// A machine has taken an input: its records replay to it, and the journal has a part of them.
    pub(super) fn check_replay(&mut self, node: u8, slot: Slot) {
        let part = self.part_of(slot);
        let shard = self.store.shard(part);
        let Some(held) = self.nodes[usize::from(node)].held(part) else { return };
        let Some(live) = held.live.get(&slot) else { return };
        let same = CommitTxn::replay(&live.records)
            .is_ok_and(|replayed| replayed.durable() == live.machine.durable());
        let stored: &[Record] = self.store.read(slot);
        let owns = held.epoch == shard.epoch && shard.owner.is_some_and(|it| it.node == node);
        let behind = owns && !live.records.starts_with(stored);
        if !same {
            self.violated("replay", Some(slot), || "the records replay to another state".into());
        } else if behind {
            self.violated("replay", Some(slot), || {
                format!("n{node} owns it and does not know what the journal has")
            });
        }
    }

    /// I3 and I11: a stage is shown. What is settled is durable, and never anything else.
    pub(super) fn check_told(&mut self, slot: Slot, stage: Stage) {
        let outcome = match stage {
            Stage::Begun => return,
            Stage::NeedsAttention => Outcome::Mixed,
            Stage::Decided(outcome) | Stage::Ended(outcome) => outcome,
        };
        match outcome {
            Outcome::Committed => self.check_outcome(slot, Decision::Commit),
            Outcome::Aborted => self.check_outcome(slot, Decision::Abort),
            Outcome::Mixed => {
                self.violated("I8", Some(slot), || "mixed, but no branch ends by itself".into());
            }
        }
    }

    fn check_outcome(&mut self, slot: Slot, decision: Decision) {
        let durable = self.store.decision(slot);
        if durable != Some(decision) {
            self.violated("I3", Some(slot), || {
                format!("{decision:?} is told, but the journal has decided {durable:?}")
            });
        }
        let told = &mut self.txns[slot.index()].told;
        let before = *told.get_or_insert(decision);
        if before != decision {
            self.violated("I11", Some(slot), || format!("{before:?} was told, now {decision:?}"));
        }
    }

    /// A reply leaves a node.
    pub(super) fn check_reply(&mut self, order: u8, reply: Reply) {
        match reply {
            Reply::Begun(slot) => {
                if self.store.read(slot).is_empty() {
                    self.violated("I3", Some(slot), || {
                        "it is given out, but not in the journal".into()
                    });
                }
                self.txns[slot.index()].given = true;
                self.check_made(order, slot);
            }
            Reply::Stage(slot, stage) => {
                self.check_told(slot, stage);
                if stage != Stage::Begun {
                    self.check_made(order, slot);
                }
            }
            Reply::Refused(slot, Some(decision)) => self.check_outcome(slot, decision),
            Reply::Unknown(slot) => {
                let truth = &self.txns[slot.index()];
                if truth.given || truth.told.is_some() {
                    self.violated("I3", Some(slot), || "what was told is unknown now".into());
                }
            }
            Reply::NeverBegun(slot) => {
                self.txns[slot.index()].never = true;
                if !self.store.read(slot).is_empty() {
                    self.violated("I3", Some(slot), || "it is in the journal".into());
                }
            }
            Reply::Refused(_, None) => {}
        }
    }

    fn check_made(&mut self, order: u8, slot: Slot) {
        let made = *self.oracle.made[usize::from(order)].get_or_insert(slot);
        if made != slot {
            self.violated("I11", Some(slot), || format!("order {order} was known to be {made}"));
        }
    }

    pub(super) fn standing(&self, slot: Slot) -> Standing {
        let cells = &self.txns[slot.index()].cells;
        let mut managers = [Manager::Working; BRANCHES];
        managers.iter_mut().zip(cells).for_each(|(manager, cell)| *manager = manager_of(cell));
        (managers, cells.len())
    }

    /// I1 and I6: a call was carried out, which is one step of transaction commit.
    pub(super) fn check_refinement(&mut self, slot: Slot, (before, count): Standing) {
        let (after, _) = self.standing(slot);
        let (before, after) = (&before[..count], &after[..count]);
        let one_phase = (before, after) == (&[Manager::Working][..], &[Manager::Committed][..]);
        if !one_phase && !tcommit::is_step(before, after) {
            self.violated("I1", Some(slot), || {
                format!("{before:?} became {after:?}, which is no step of commit")
            });
        }
        if self.txns[slot.index()].cells.iter().any(|cell| cell.effects > 1) {
            self.violated("I6", Some(slot), || "a branch took effect again".into());
        }
    }

    /// I4: whether nothing is left to do, and nothing that matters is on its way.
    pub(super) fn is_settled(&self) -> bool {
        self.queue.messages() == 0 && self.unsettled().is_none()
    }

    fn unsettled(&self) -> Option<String> {
        if let Some(slot) = self.store.open() {
            return Some(format!("{slot} has not ended"));
        }
        let prepared = |index: usize| {
            let mut cells = self.txns[index].cells.iter();
            cells.any(|cell| cell.mark == Mark::Prepared)
        };
        if let Some(slot) = (0..self.txns.len()).find(|&it| prepared(it)) {
            return Some(format!("t{slot} has a branch that is still prepared"));
        }
        if let Some(order) = self.orders.iter().position(|it| it.stand != Stand::Done) {
            return Some(format!("order {order} still waits"));
        }
        (0..self.parts()).find_map(|part| self.misowned(part))
    }

    /// Why a part is not owned by exactly one node, which knows it.
    fn misowned(&self, part: Part) -> Option<String> {
        let Some(owner) = self.true_owner(part) else {
            return Some(format!("p{part} has no owner that knows of it"));
        };
        let holds = |node: &u8| {
            let known = &self.nodes[usize::from(*node)];
            known.up && *node != owner && known.held(part).is_some()
        };
        let other = (0..self.nodes.len() as u8).find(holds)?;
        Some(format!("n{owner} owns p{part}, and n{other} believes to own it"))
    }

    /// Time is up.
    pub(super) fn check_termination(&mut self) {
        if let Some(what) = self.unsettled() {
            self.violated("I4", None, || what);
        }
    }

    /// I6: what an order is repeated by makes it one transaction.
    fn check_once(&mut self) {
        for (order, wanted) in self.orders.iter().enumerate() {
            let ours =
                self.txns.iter().enumerate().filter(|(_, it)| usize::from(it.order) == order);
            let committed = ours.filter(|&(slot, _)| {
                self.store.decision(Slot(slot as u8)) == Some(Decision::Commit)
            });
            if wanted.token != Token::None && committed.count() > 1 {
                return self.violated("I6", None, || format!("order {order} took effect twice"));
            }
        }
    }

    /// Looks at the whole history once it is over.
    pub(super) fn check_end(&mut self) {
        self.check_once();
        for index in 0..self.txns.len() {
            let slot = Slot(index as u8);
            let decision = self.store.decision(slot);
            let truth = &self.txns[index];
            let contradicted = truth.told.is_some() && truth.told != decision;
            let wrong = truth.cells.iter().position(|cell| {
                let committed = cell.mark == Mark::Committed || cell.effects > 0;
                match decision {
                    Some(Decision::Commit) => !committed && !cell.read_only,
                    Some(Decision::Abort) | None => committed || cell.mark == Mark::Prepared,
                }
            });
            if let Some(branch) = wrong {
                let mark = truth.cells[branch].mark;
                self.violated("I1", Some(slot), || {
                    format!("decided is {decision:?}, but b{branch} is {mark:?}")
                });
            } else if contradicted {
                self.violated("I3", Some(slot), || "the journal has lost what was told".into());
            }
        }
    }

    /// Notes that a rule was broken; the first one counts.
    pub(super) fn violated(
        &mut self,
        rule: &'static str,
        slot: Option<Slot>,
        what: impl FnOnce() -> String,
    ) {
        if self.violation.is_none() {
            let what = match slot {
                Some(slot) => format!("{slot}: {}", what()),
                None => what(),
            };
            self.note(|| format!("VIOLATED  {rule} {what}"));
            self.violation = Some(Violation { rule, at_ms: self.now_ms, what });
        }
    }
}
