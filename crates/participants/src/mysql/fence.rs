//! The proof that a branch has committed: a row under its name, written by the branch itself.
//!
//! | the row | the branch |
//! |---|---|
//! | is there | has committed |
//! | is not there | has rolled back, or is older than the proofs that are kept |
//! | is locked | is prepared, or being finished by somebody |
//!
//! The row is asked for with a lock, because only that meets whoever is finishing the branch.
//! Old rows are removed (see [`kept`](crate::kept)).

use unanimous_core::id::BranchName;

use super::errno;
use super::session::{Broken, Product, Session};
use crate::kept::{self, Range};
use crate::limits::FENCE_SWEEP;

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
        Ok(None) if kept::may_be_gone(name) => Proof::Forgotten,
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

/// Removes some of what is too old to be asked for, if it is time.
pub(super) async fn sweep(session: &mut Session, (from, before): &Range) -> Result<(), Broken> {
    let old = format!("WHERE branch >= '{from}' AND branch < '{before}'");
    // Looked for first, because a removal that finds nothing would still lock where it looked.
    let any = session.first(&format!("SELECT branch FROM unanimous_fence {old} LIMIT 1")).await?;
    let Ok(Some(_)) = any else { return Ok(()) };
    // What is in the way, or not allowed, is tried again next time.
    let removal = format!("DELETE FROM unanimous_fence {old} LIMIT {}", FENCE_SWEEP.1);
    session.execute(&removal).await.map(drop)
}
