//! Which session of the server a branch belongs to.
//!
//! MariaDB ties a branch to the session that prepared it, and lets go of it in two steps when that
//! session ends: first in the layer that knows the names of branches, then in InnoDB. Between the two
//! it acknowledges a commit or rollback by any other session, forgets the name and carries out
//! nothing; the branch keeps its locks until the server is restarted. (10.11: `trans_xa_detach`
//! comes before `trx_disconnect_prepared`, and `innobase_commit_by_xid` finds only what the latter has
//! set free.)
//!
//! So a session takes a lock in the name of its branch, which the server gives back between the
//! same two steps or before them, and nobody else touches the branch before that lock has been free for
//! [`LET_GO`](crate::limits::LET_GO). What slips through all the same is seen by its proof, which
//! stays locked.

use unanimous_core::id::BranchName;

use super::session::{Broken, Session};
use crate::limits::UNTIE_IDLE_S;

/// Takes the lock for this branch and gives back those of earlier ones: a part of a `SET`.
pub(super) fn make(name: &BranchName) -> String {
    format!("@una_tie = RELEASE_ALL_LOCKS(), @una_tie = GET_LOCK('{}', 0)", lock(name))
}

/// MySQL takes no more than 64 characters, and the cluster may have as many of its own.
fn lock(name: &BranchName) -> String {
    format!("una:{}:{}", name.txn, name.branch.0)
}

/// Whether a session that works in the branch, or has prepared it, lives.
pub(super) async fn is_held(session: &mut Session, name: &BranchName) -> Result<bool, Broken> {
    let holder = format!("SELECT IS_USED_LOCK('{}')", lock(name));
    Ok(matches!(session.first(&holder).await?, Ok(Some(_))))
}

/// The number of that session, if it lives and is known.
pub(super) async fn holder(
    session: &mut Session,
    name: &BranchName,
) -> Result<Option<i64>, Broken> {
    let holder = format!("SELECT IS_USED_LOCK('{}')", lock(name));
    let number = session.first(&holder).await?.ok().flatten();
    Ok(number.and_then(|number| number.parse().ok()))
}

/// Ends the session that holds the branch if it has been idle for long: nobody is left to use it.
pub(super) async fn cut(session: &mut Session, name: &BranchName) -> Result<(), Broken> {
    let holder = format!(
        "SELECT id FROM information_schema.processlist WHERE id = IS_USED_LOCK('{}') \
         AND command = 'Sleep' AND time >= {UNTIE_IDLE_S}",
        lock(name)
    );
    if let Ok(Some(id)) = session.first(&holder).await? {
        // It may have gone by itself in between.
        drop(session.execute(&format!("KILL CONNECTION {id}")).await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use unanimous_core::id::{BranchId, ShardId, TxnId};

    use super::*;

    #[test]
    fn the_name_of_a_lock_is_short_enough_for_every_cluster_and_branch() {
        let txn = TxnId::mint(u64::MAX >> 16, ShardId::of(63), u128::MAX);
        let name = BranchName { cluster: "c".repeat(64), txn, branch: BranchId(u16::MAX) };
        assert!(lock(&name).len() <= 64);
    }
}
