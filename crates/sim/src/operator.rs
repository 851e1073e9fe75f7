//! Operators: they end branches by hand, tell the coordinator, and settle what needs attention.
//!
//! An operator who says how branches ended has seen to it that they did; what the oracles hold
//! against the system never comes from an operator who lies.

use unanimous_core::barrier::Mark;
use unanimous_core::commit::CommitTxn;
use unanimous_core::id::BranchId;
use unanimous_core::{Decision, Force, Outcome, Stage};

use crate::event::{Request, Slot};
use crate::participant::{Cell, Kind};
use crate::world::World;

/// Stands for an operator where a request names an order.
pub(crate) const OPERATOR: u8 = u8::MAX;

impl World {
    /// An operator meddles with a transaction that is still going on.
    pub(crate) fn operate(&mut self) {
        let open: Vec<_> = self.journal.open().collect();
        if open.is_empty() {
            return;
        }
        let slot = self.rng.pick(&open);
        match self.rng.below(6) {
            0 => self.request(OPERATOR, Request::Retry(slot)),
            1 => self.resolve(slot, Decision::Abort, Force::No),
            2 => self.resolve(slot, Decision::Commit, Force::No),
            3 => self.end_one_by_hand(slot),
            4 => self.vouch(slot),
            _ => self.contradict(slot),
        }
    }

    fn resolve(&mut self, slot: Slot, outcome: Decision, force: Force) {
        // Without force an operator's word about a decision in the journal is a statement that all
        // its branches have ended; only `vouch` and `contradict` have made that true.
        let decision = self.journal.decision(slot);
        if force == Force::No && decision == Some(outcome) {
            return;
        }
        self.txns[slot.index()].operated = true;
        self.request(OPERATOR, Request::Resolve(slot, outcome, force));
    }

    fn end_one_by_hand(&mut self, slot: Slot) {
        let Ok(machine) = CommitTxn::replay(self.journal.read(slot)) else { return };
        let durable = machine.durable();
        let cells = (0_u8..).zip(&self.txns[slot.index()].cells);
        let mut held = cells.filter(|&(branch, cell)| {
            let ended = durable.ending(BranchId(u16::from(branch))).is_some();
            is_in_doubt(cell) && !ended
        });
        let Some((branch, _)) = held.next() else { return };
        let decision = self.rng.pick(&[Decision::Commit, Decision::Abort]);
        self.end_by_hand(slot, branch, decision);
    }

    fn end_by_hand(&mut self, slot: Slot, branch: u8, decision: Decision) {
        self.note(|| format!("operator  ends {slot} b{branch} by hand: {decision:?}"));
        let cell = &mut self.txns[slot.index()].cells[usize::from(branch)];
        let kind = self.resources[usize::from(cell.resource)].kind;
        cell.end_alone(kind, decision);
    }

    /// Ends by hand, as decided, what is left, and says so.
    fn vouch(&mut self, slot: Slot) {
        let Some(decision) = self.journal.durable_decision(slot) else { return };
        if self.end_rest(slot, decision) {
            self.txns[slot.index()].operated = true;
            self.request(OPERATOR, Request::Resolve(slot, decision, Force::No));
        }
    }

    /// Ends by hand, against the decision, what is left, and insists.
    fn contradict(&mut self, slot: Slot) {
        let Some(decision) = self.journal.durable_decision(slot) else { return };
        let against = match decision {
            Decision::Commit => Decision::Abort,
            Decision::Abort => Decision::Commit,
        };
        if self.end_rest(slot, against) {
            self.resolve(slot, against, Force::Yes);
        }
    }

    /// Ends every pending branch of a decided transaction one way; false if one cannot be.
    fn end_rest(&mut self, slot: Slot, decision: Decision) -> bool {
        let Ok(machine) = CommitTxn::replay(self.journal.durable_records(slot)) else {
            return false;
        };
        let pending: Vec<_> = machine.durable().pending().map(|it| it.0 as u8).collect();
        let cells = &self.txns[slot.index()].cells;
        let endable = |&it: &u8| cells.get(usize::from(it)).is_some_and(is_in_doubt);
        if pending.is_empty() || !pending.iter().all(endable) {
            return false;
        }
        pending.into_iter().for_each(|branch| self.end_by_hand(slot, branch, decision));
        true
    }

    /// Once faults have stopped, operators work through what needs them.
    pub(crate) fn settle_by_hand(&mut self) {
        for index in 0..self.txns.len() {
            let slot = Slot(index as u8);
            match self.stored_stage(slot) {
                Some(Stage::NeedsAttention) => {
                    let decision = self.journal.decision(slot).expect("it contradicts one");
                    self.txns[index].operated = true;
                    self.request(OPERATOR, Request::Resolve(slot, decision, Force::No));
                }
                Some(Stage::Ended(Outcome::Committed | Outcome::Mixed)) => self.end_held(slot),
                Some(Stage::Begun | Stage::Decided(_) | Stage::Ended(Outcome::Aborted)) | None => {}
            }
        }
    }

    /// Recovery leaves alone what a manager holds for a transaction that has ended otherwise.
    fn end_held(&mut self, slot: Slot) {
        let decision = self.journal.decision(slot).expect("it has ended");
        for branch in 0..self.txns[slot.index()].cells.len() {
            let cell = &self.txns[slot.index()].cells[branch];
            let kind = self.resources[usize::from(cell.resource)].kind;
            let left = cell.is_excused() || decision == Decision::Abort;
            if kind == Kind::Manager && cell.mark == Mark::Prepared && left {
                self.end_by_hand(slot, branch as u8, decision);
            }
        }
    }
}

/// Whether an operator may end a branch by hand. A late prepare of one that has rolled back is the
/// sweeper's: nobody could notice how it ended.
fn is_in_doubt(cell: &Cell) -> bool {
    cell.mark == Mark::Prepared && !cell.barred
}
