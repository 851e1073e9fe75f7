//! The proof that a branch has committed: a row under its name, written by the branch itself.
//!
//! | the row | the branch |
//! |---|---|
//! | is there | has committed |
//! | is not there | has rolled back, or is older than the proofs that are kept |
//! | is locked | is prepared, or being finished by somebody |
//!
//! The row is asked for with a lock, because only that meets whoever is finishing the branch.
//! Names begin with the time of their transaction, so the table grows at one end, and old rows are
//! removed from the other without a second index.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use unanimous_core::id::{BranchName, ShardId, Timestamp, TxnId};

use super::errno;
use super::session::{Broken, Product, Session};
use crate::limits::{FENCE_KEPT, FENCE_MARGIN, FENCE_SWEEP};

/// Makes the table. Anybody may do so in advance.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS unanimous_fence (branch VARBINARY(128) \
     NOT NULL PRIMARY KEY, at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP) ENGINE=InnoDB";

/// What the table says of a branch that is not prepared any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Proof {
    Committed,
    /// And so it has rolled back, if it wrote one at all.
    Missing,
    /// Somebody is finishing it.
    Locked,
    /// The server does not tell now.
    Untold,
    /// None are kept any more for branches as old, or the table is gone.
    Forgotten,
}

/// Writes the proof, from inside of the branch.
pub(super) fn write(name: &BranchName) -> String {
    format!("INSERT INTO unanimous_fence (branch) VALUES ('{name}')")
}

/// Asks without waiting for whoever holds the row.
pub(super) async fn ask(session: &mut Session, name: &BranchName) -> Result<Proof, Broken> {
    let lock = match session.product {
        Product::MariaDb => "LOCK IN SHARE MODE NOWAIT",
        Product::MySql => "FOR SHARE NOWAIT",
    };
    // At this isolation a row that is not there locks nothing around it.
    let sql = format!(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED\n;\n\
         SELECT branch FROM unanimous_fence WHERE branch = '{name}' {lock}"
    );
    Ok(match session.first(&sql).await? {
        Ok(Some(_)) => Proof::Committed,
        Ok(None) if is_forgotten(name) => Proof::Forgotten,
        Ok(None) => Proof::Missing,
        Err(refused) if errno::is_no_table(&refused) => Proof::Forgotten,
        Err(refused) if errno::is_locked(&refused) => Proof::Locked,
        Err(_) => Proof::Untold,
    })
}

/// Whether a prepared branch has written its proof, which nobody else can see yet.
pub(super) async fn is_written(session: &mut Session, name: &BranchName) -> Result<bool, Broken> {
    let sql = format!(
        "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED\n;\n\
         SELECT branch FROM unanimous_fence WHERE branch = '{name}'"
    );
    Ok(matches!(session.first(&sql).await?, Ok(Some(_))))
}

fn is_forgotten(name: &BranchName) -> bool {
    let age_ms = now().since_ms(name.txn.minted_at());
    u128::from(age_ms) >= (FENCE_KEPT - FENCE_MARGIN).as_millis()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(since.as_millis() as u64)
}

/// Remembers whose proofs are to be removed, and when that was done last.
#[derive(Default)]
pub(super) struct Sweeper(Mutex<Option<(String, Option<Instant>)>>);

impl Sweeper {
    /// A branch of this cluster was begun here.
    pub(super) fn saw(&self, name: &BranchName) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_none() {
            *state = Some((name.cluster.clone(), None));
        }
    }

    /// Removes some of what is too old to be asked for, if it is time.
    pub(super) async fn sweep(&self, session: &mut Session) -> Result<(), Broken> {
        let Some(cluster) = self.due() else { return Ok(()) };
        let before = now().0.saturating_sub(FENCE_KEPT.as_millis() as u64);
        let old = old(&cluster, before);
        // Looked for first, because a removal that finds nothing would still lock where it looked.
        let any =
            session.first(&format!("SELECT branch FROM unanimous_fence {old} LIMIT 1")).await?;
        let Ok(Some(_)) = any else { return Ok(()) };
        // What is in the way, or not allowed, is tried again next time.
        let removal = format!("DELETE FROM unanimous_fence {old} LIMIT {}", FENCE_SWEEP.1);
        session.execute(&removal).await.map(drop)
    }

    fn due(&self) -> Option<String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (cluster, swept_at) = state.as_mut()?;
        let is_due = swept_at.is_none_or(|at| at.elapsed() >= FENCE_SWEEP.0);
        is_due.then(|| {
            *swept_at = Some(Instant::now());
            cluster.clone()
        })
    }
}

fn old(cluster: &str, before_ms: u64) -> String {
    // The least name that this time can have: its shard and chance are all zero.
    let first_kept = TxnId::mint(before_ms, ShardId::of(0), 0);
    format!("WHERE branch >= 'una:{cluster}:' AND branch < 'una:{cluster}:{first_kept}'")
}

#[cfg(test)]
mod tests {
    use unanimous_core::id::BranchId;

    use super::*;

    fn name(minted_ms: u64) -> BranchName {
        let txn = TxnId::mint(minted_ms, ShardId::of(63), u128::MAX);
        BranchName { cluster: "main".to_owned(), txn, branch: BranchId(0) }
    }

    #[test]
    fn proofs_are_removed_by_the_time_in_their_names() {
        let sql = old("main", 1_763_700_000_000);
        let first_kept = sql.split('\'').nth(3).expect("two names").to_owned();
        assert!(name(1_763_699_999_999).to_string() < first_kept);
        assert!(name(1_763_700_000_000).to_string() > first_kept);
        assert!(*"una:main-1:x" < *"una:main:", "another cluster's are out of the range");
    }

    #[test]
    fn a_missing_proof_says_nothing_once_proofs_of_its_age_may_be_gone() {
        let kept_ms = (FENCE_KEPT - FENCE_MARGIN).as_millis() as u64;
        assert!(!is_forgotten(&name(now().0)));
        assert!(!is_forgotten(&name(now().0 - kept_ms + 60_000)));
        assert!(is_forgotten(&name(now().0 - kept_ms)));
    }
}
