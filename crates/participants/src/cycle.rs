//! Transactions that wait for each other in a circle, seen by the process they all run in.
//!
//! Each Redis server, and each SQLite file, knows who holds what in it, and none who waits for whom
//! elsewhere. The adapters of one coordinator share what they know: whoever would close a circle is told
//! so, and does not wait. A circle through a resource of another kind ends by a lock timeout.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use unanimous_core::id::TxnId;

/// Who waits for whom. A transaction waits in several resources at once.
#[derive(Default)]
pub(crate) struct Waits(Mutex<HashMap<TxnId, Vec<TxnId>>>);

/// A transaction waits for another for as long as this lives.
pub(crate) struct Wait<'a> {
    waits: &'a Waits,
    waiter: TxnId,
    holder: TxnId,
}

/// The holder waits for the waiter already.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Circle;

impl Waits {
    /// The waits of this process.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: std::sync::LazyLock<Waits> = std::sync::LazyLock::new(Waits::default);
        &SHARED
    }

    /// Notes that one transaction waits for another.
    ///
    /// # Errors
    ///
    /// [`Circle`] if it would wait for ever: nothing is noted.
    pub(crate) fn begin(&self, waiter: TxnId, holder: TxnId) -> Result<Wait<'_>, Circle> {
        let mut all = self.lock();
        let (mut seen, mut next) = (vec![holder], 0);
        while let Some(&txn) = seen.get(next) {
            if txn == waiter {
                return Err(Circle);
            }
            for &holder in all.get(&txn).map(Vec::as_slice).unwrap_or_default() {
                if !seen.contains(&holder) {
                    seen.push(holder);
                }
            }
            next += 1;
        }
        all.entry(waiter).or_default().push(holder);
        Ok(Wait { waits: self, waiter, holder })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TxnId, Vec<TxnId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut all = self.waits.lock();
        let Some(holders) = all.get_mut(&self.waiter) else { return };
        if let Some(at) = holders.iter().position(|holder| *holder == self.holder) {
            holders.swap_remove(at);
        }
        if holders.is_empty() {
            all.remove(&self.waiter);
        }
    }
}

#[cfg(test)]
mod tests {
    use unanimous_core::id::ShardId;

    use super::*;

    #[test]
    fn who_closes_a_circle_is_told_and_a_wait_that_is_over_closes_none() {
        let waits = Waits::default();
        let [a, b, c] = [1, 2, 3].map(|number| TxnId::mint(number, ShardId::of(0), 0));
        let first = waits.begin(a, b).expect("nobody waits");
        let elsewhere = waits.begin(a, b).expect("in another resource");
        let second = waits.begin(b, c).expect("no circle yet");
        assert_eq!(waits.begin(c, a).err(), Some(Circle));
        assert_eq!(waits.begin(a, a).err(), Some(Circle));
        drop(first);
        assert_eq!(waits.begin(c, a).err(), Some(Circle), "it still waits in the other resource");
        drop(elsewhere);
        drop(waits.begin(c, a).expect("not any more"));
        drop(second);
        assert!(waits.lock().is_empty());
    }
}
