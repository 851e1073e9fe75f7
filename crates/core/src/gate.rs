//! Holds effects back until the journal has caught up.
//!
//! Machines run ahead of the disk: a commit decision changes their state at once, while its record
//! is still being written. The gate keeps the outside world from seeing that state too early. Both
//! the production driver and the simulator use this type, so neither has an ordering rule of its
//! own. Whatever shows a transaction to somebody (a reply, a status query, an event) or acts on how it
//! ended (the answer to a branch in doubt, the rollback of an orphan) is an effect too and goes
//! through here.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{Lsn, TxnId};

/// Effects waiting for the journal, in journal order.
#[derive(Debug)]
pub struct Gate<E> {
    flushed: Lsn,
    /// The last forced position of each transaction that is not yet durable.
    forced: BTreeMap<TxnId, Lsn>,
    held: VecDeque<(Lsn, TxnId, E)>,
}

impl<E> Default for Gate<E> {
    fn default() -> Self {
        Self { flushed: Lsn::default(), forced: BTreeMap::new(), held: VecDeque::new() }
    }
}

impl<E> Gate<E> {
    /// Takes the effects of one step of `txn` and gives those to `perform` that may be performed now.
    ///
    /// `forced` is the position of the last forced record of the step, if it had any. Effects of
    /// later steps of the same transaction wait for it too, because the state they were derived
    /// from already includes it. For a machine rebuilt from records that may not be durable yet, it
    /// is the position of the last of them.
    pub fn admit(
        &mut self,
        txn: TxnId,
        forced: Option<Lsn>,
        effects: impl IntoIterator<Item = E>,
        mut perform: impl FnMut(E),
    ) {
        if let Some(lsn) = forced
            && lsn > self.flushed
        {
            self.forced.insert(txn, lsn);
        }
        match self.forced.get(&txn).copied().filter(|&lsn| lsn > self.flushed) {
            None => effects.into_iter().for_each(&mut perform),
            Some(lsn) => {
                // Steps are appended and admitted in one order, but a later step of another
                // transaction may wait for an earlier position than the last one held.
                let at = self.held.partition_point(|&(held, ..)| held <= lsn);
                let tail = self.held.split_off(at);
                self.held.extend(effects.into_iter().map(|effect| (lsn, txn, effect)));
                self.held.extend(tail);
            }
        }
    }

    /// Notes that every record up to and including `lsn` is durable, and gives the effects set free
    /// to `perform`, in journal order.
    pub fn flushed(&mut self, lsn: Lsn, mut perform: impl FnMut(TxnId, E)) {
        self.flushed = self.flushed.max(lsn);
        let flushed = self.flushed;
        while let Some((_, txn, effect)) = self.held.pop_front_if(|&mut (held, ..)| held <= flushed)
        {
            if self.forced.get(&txn).is_some_and(|&forced| forced <= flushed) {
                self.forced.remove(&txn);
            }
            perform(txn, effect);
        }
        // Steps with a forced record and no effect leave an entry that nothing above removes.
        if self.forced.len() > 2 * self.held.len() + 64 || self.held.is_empty() {
            self.forced.retain(|_, &mut forced| forced > flushed);
        }
    }

    /// Drops what is held for `txn`: another coordinator owns it now, and tells its own story.
    pub fn forget(&mut self, txn: TxnId) {
        self.forced.remove(&txn);
        self.held.retain(|&(_, held, _)| held != txn);
    }

    /// Effects that are waiting.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TxnId = TxnId(1);
    const B: TxnId = TxnId(2);

    fn admit(gate: &mut Gate<u8>, txn: TxnId, forced: Option<u64>, effect: u8) -> Vec<u8> {
        let mut free = Vec::new();
        gate.admit(txn, forced.map(Lsn), [effect], |effect| free.push(effect));
        free
    }

    fn flushed(gate: &mut Gate<u8>, lsn: u64) -> Vec<u8> {
        let mut free = Vec::new();
        gate.flushed(Lsn(lsn), |_, effect| free.push(effect));
        free
    }

    #[test]
    fn an_effect_waits_for_its_own_forced_record_and_for_no_other_transaction() {
        let mut gate = Gate::default();
        assert_eq!(admit(&mut gate, A, Some(5), 1), []);
        assert_eq!(admit(&mut gate, B, None, 2), [2]);
        assert_eq!(flushed(&mut gate, 4), []);
        assert_eq!(flushed(&mut gate, 5), [1]);
        assert_eq!(admit(&mut gate, A, None, 3), [3]);
    }

    #[test]
    fn a_later_step_of_the_same_transaction_does_not_overtake_the_record_it_rests_on() {
        let mut gate = Gate::default();
        assert_eq!(admit(&mut gate, A, Some(5), 1), []);
        assert_eq!(admit(&mut gate, B, Some(7), 2), []);
        assert_eq!(admit(&mut gate, A, None, 3), []);
        assert_eq!(flushed(&mut gate, 6), [1, 3]);
        assert_eq!(flushed(&mut gate, 7), [2]);
    }

    #[test]
    fn a_second_forced_record_moves_what_comes_after_it() {
        let mut gate = Gate::default();
        assert_eq!(admit(&mut gate, A, Some(5), 1), []);
        assert_eq!(admit(&mut gate, A, Some(9), 2), []);
        assert_eq!(flushed(&mut gate, 5), [1]);
        assert_eq!(admit(&mut gate, A, None, 3), []);
        assert_eq!(flushed(&mut gate, 9), [2, 3]);
        assert_eq!(gate.held(), 0);
    }

    #[test]
    fn a_record_that_is_already_durable_holds_nothing() {
        let mut gate = Gate::default();
        assert_eq!(flushed(&mut gate, 9), []);
        assert_eq!(admit(&mut gate, A, Some(5), 1), [1]);
    }

    #[test]
    fn forgetting_a_transaction_drops_only_its_own_effects() {
        let mut gate = Gate::default();
        assert_eq!(admit(&mut gate, A, Some(5), 1), []);
        assert_eq!(admit(&mut gate, B, Some(5), 2), []);
        gate.forget(A);
        assert_eq!(flushed(&mut gate, 5), [2]);
    }
}
