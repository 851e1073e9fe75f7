//! A transaction as a whole, made again while it meets others.
//!
//! Made again is only what certainly came to nothing, and because of another transaction: a failed
//! serialization, a deadlock, a lock that was not free in time. An outcome that is not known is
//! asked for by the transaction's identity until the deadline, and never tried again.

use std::error::Error as StdError;

use tokio::time::sleep;

use crate::error::Error;
use crate::limits::ATTEMPTS_MAX;
use crate::transaction::{Transaction, Txn};

/// Whatever an application's work fails with.
type BoxError = Box<dyn StdError + Send + Sync>;

/// Reasons that pass when all is done again: words that the adapters of databases share.
const PASSING: [&str; 3] = ["serialization", "deadlock", "lock_timeout"];

impl Transaction {
    /// Begins it and does `work`, which ends with a commit or an abort. If it came to nothing because
    /// it met another transaction, all of it is done again in a new transaction, up to
    /// [`ATTEMPTS_MAX`] times in all, with growing pauses. So whatever `work` does besides may be
    /// done more than once. With a key, later attempts have the keys `KEY/2`, `KEY/3` and so on.
    ///
    /// # Errors
    ///
    /// What `work` failed with, as it is: the last of them if attempts ran out. The transaction is
    /// aborted then, unless the error is an [`Error::Unknown`]. [`Error::Usage`] if `work` succeeded
    /// and neither committed nor aborted: it is aborted.
    pub async fn retrying<T, W>(self, mut work: impl FnMut(Txn) -> W) -> Result<T, BoxError>
    where
        // The futures of an `AsyncFnMut` cannot be shown to be `Send`.
        W: Future<Output = Result<T, BoxError>>,
    {
        let mut pauses = self.client().pauses();
        let mut attempt = 1;
        loop {
            let txn = self.clone().attempt(attempt).begin().await?;
            let worked = work(txn.clone()).await;
            let was_asked_to_end = txn.was_asked_to_end();
            if !was_asked_to_end {
                txn.give_up("the work ended without commit").await;
            }
            match worked {
                Ok(_) if !was_asked_to_end => {
                    return Err(Error::Usage("the work ended without commit".to_owned()).into());
                }
                Err(error) if attempt < ATTEMPTS_MAX && passes(&txn, &*error) => attempt += 1,
                worked => return worked,
            }
            sleep(pauses.next()).await;
        }
    }
}

/// Whether nothing came of the transaction because it met another.
fn passes(txn: &Txn, error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if kind(txn, error).is_some_and(|kind| PASSING.contains(&kind)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// The word for what kept the transaction from taking effect, if that is what the error says.
fn kind<'a>(txn: &Txn, error: &'a (dyn StdError + 'static)) -> Option<&'a str> {
    if let Some(error) = error.downcast_ref::<Error>() {
        let id = match error {
            Error::Aborted(view) => &*view.id,
            Error::NotPrepared { id, .. } => id,
            Error::Usage(_)
            | Error::Compensated(_)
            | Error::NeedsAttention(_)
            | Error::Mixed(_)
            | Error::Refused(_)
            | Error::NotFound(_)
            | Error::Busy(_)
            | Error::Unreachable { .. }
            | Error::NotACoordinator { .. }
            | Error::Unknown { .. } => return None,
        };
        return error.reason().filter(|_| id == txn.id()).map(|reason| &*reason.kind);
    }
    // An error of a statement behind the commit says nothing of how that came out.
    if txn.was_asked_to_commit() {
        return None;
    }
    #[cfg(feature = "tokio-postgres")]
    if let Some(error) = error.downcast_ref::<tokio_postgres::Error>() {
        return Some(crate::own::Fault::from(error).kind);
    }
    #[cfg(feature = "mysql_async")]
    if let Some(error) = error.downcast_ref::<mysql_async::Error>() {
        return Some(crate::own::Fault::from(error).kind);
    }
    #[cfg(any(feature = "sqlx-mysql", feature = "sqlx-postgres"))]
    if let Some(error) = error.downcast_ref::<sqlx_core::Error>() {
        return Some(crate::own::Fault::from(error).kind);
    }
    None
}
