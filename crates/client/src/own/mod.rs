//! Branches that the application works in over connections of its own.
//!
//! A branch is enlisted, worked in, and handed over to [`Txn::commit_branches`], which prepares all of
//! them at the same time, tells the coordinator their votes, and learns the outcome. The coordinator
//! finishes what is prepared, through the resource that it has configured.
//!
//! What always holds: yes is said only of a branch that the server has prepared, seen in a way that
//! does not rest on the driver; a branch that is not known to be prepared ends the whole transaction
//! in an abort; a branch that goes without commit is rolled back, and its transaction aborted. What a
//! process leaves behind that dies, the coordinator ends: at the transaction's timeout, or as an orphan.

#[cfg(any(feature = "mysql_async", feature = "sqlx-mysql"))]
pub(crate) mod mysql;
#[cfg(any(feature = "sqlx-postgres", feature = "tokio-postgres"))]
pub(crate) mod postgres;
#[cfg(any(feature = "sqlx-mysql", feature = "sqlx-postgres"))]
mod sqlx;

use futures_util::future::{BoxFuture, join_all};
use tokio::runtime::Handle;
use unanimous_api::{OutcomeWord, ReasonView, TransactionView, VoteWord, Wait};
use unanimous_core::id::BranchName;

use crate::error::Error;
use crate::transaction::Txn;

/// A branch of any kind, for [`Txn::commit_branches`].
#[must_use = "a branch that goes without commit aborts its transaction"]
pub struct Branch<'c>(Box<dyn Own + 'c>);

/// What every kind of branch can do.
trait Own: Send {
    fn seat(&self) -> &Seat;

    /// Whether it has to hear the outcome to commit. Otherwise the coordinator does it.
    fn commits_itself(&self) -> bool;

    /// Says yes only of what is certainly prepared. The reason names no participant.
    fn prepare(&mut self) -> BoxFuture<'_, Result<VoteWord, Reason>>;

    /// Whether the branch has ended as it was told. What has not is for the coordinator to end.
    fn end(&mut self, told: Told) -> BoxFuture<'_, bool>;
}

/// Which branch it is, of which transaction.
struct Seat {
    txn: Txn,
    participant: String,
    name: BranchName,
}

/// What a branch is told of the outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Told {
    Commit,
    Rollback,
    /// It is for the coordinator to end what is prepared.
    Nothing,
}

/// Why a branch is not prepared.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Reason {
    kind: &'static str,
    detail: String,
}

/// Why a connection did not do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fault {
    /// The code of the server, if that refused. Otherwise the driver did, or nothing was heard.
    code: Option<String>,
    pub(crate) kind: &'static str,
    text: String,
}

impl Fault {
    /// The server did not say it.
    fn silent(text: String) -> Self {
        Self { code: None, kind: "connection", text }
    }

    fn during(self, what: &str) -> Reason {
        Reason { kind: self.kind, detail: format!("{what}: {}", self.text) }
    }
}

impl Seat {
    async fn take(txn: &Txn, resource: &str) -> Result<Self, Error> {
        let branch = txn.enlist(resource, resource).await?;
        // It becomes part of SQL.
        let name = branch
            .parse()
            .map_err(|_| txn.of.client().foreign(&format!("{branch:?} is no name of a branch")))?;
        Ok(Self { txn: txn.clone(), participant: resource.to_owned(), name })
    }

    fn unprepared(&self, reason: Reason) -> Error {
        let Reason { kind, detail } = reason;
        let participant = Some(self.participant.clone());
        let reason =
            Box::new(ReasonView { participant, step: None, kind: kind.to_owned(), detail });
        Error::NotPrepared { id: self.txn.id().to_owned(), reason }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.txn.was_asked_to_end() {
            return;
        }
        // Without a runtime the transaction is aborted at its timeout.
        if let Ok(runtime) = Handle::try_current() {
            let txn = self.txn.clone();
            runtime.spawn(async move { txn.give_up("a branch was dropped without commit").await });
        }
    }
}

impl Txn {
    /// Prepares the branches, all at the same time, and commits if each of them is prepared and
    /// nobody else says no. Waits for as much as [`crate::Transaction::wait`] says; with a branch in
    /// MariaDB or MySQL, for the decision at least.
    ///
    /// # Errors
    ///
    /// [`Error::NotPrepared`] if a branch cannot be prepared; otherwise as [`Txn::commit`]. After
    /// [`Error::Unknown`], ask with [`Txn::show`]. The connections are outside of any transaction
    /// afterwards, whatever came of it.
    pub async fn commit_branches<'c>(
        &self,
        branches: impl IntoIterator<Item = Branch<'c>>,
    ) -> Result<TransactionView, Error> {
        let mut branches: Vec<_> = branches.into_iter().map(|branch| branch.0).collect();
        if let Some(stray) = branches.iter().find(|it| it.seat().txn.id() != self.id()) {
            let (participant, id) = (&stray.seat().participant, stray.seat().txn.id());
            return Err(Error::Usage(format!(
                "the branch {participant} belongs to the transaction {id}, not to {}",
                self.id()
            )));
        }
        let prepared = join_all(branches.iter_mut().map(|branch| branch.prepare())).await;
        let mut votes = Vec::with_capacity(branches.len());
        let mut refusal = None;
        for (branch, prepared) in branches.iter().zip(prepared) {
            match prepared {
                Ok(vote) => votes.push((branch.seat().participant.clone(), vote)),
                Err(reason) => refusal = refusal.or(Some(branch.seat().unprepared(reason))),
            }
        }
        if let Some(refusal) = refusal {
            end_all(&mut branches, Told::Rollback).await;
            // Without a request to commit nothing else can come of it.
            self.give_up(&refusal.to_string()).await;
            return Err(refusal);
        }
        if !branches.iter().any(|branch| branch.commits_itself()) {
            let committed = self.commit_with_votes(votes).await;
            end_all(&mut branches, told(&committed)).await;
            return committed;
        }
        let decided = self.waiting(Wait::Decided).commit_with_votes(votes).await;
        let ended = end_all(&mut branches, told(&decided)).await;
        match decided {
            Ok(view) => self.others(view, &ended).await,
            Err(Error::Aborted(view)) => self.others(*view, &ended).await,
            Err(error) => Err(error),
        }
    }
}

/// Returns the participants whose branches have ended.
async fn end_all(branches: &mut [Box<dyn Own + '_>], told: Told) -> Vec<String> {
    let have_ended = join_all(branches.iter_mut().map(|branch| branch.end(told))).await;
    let branches = branches.iter().zip(have_ended).filter(|(_, has_ended)| *has_ended);
    branches.map(|(branch, _)| branch.seat().participant.clone()).collect()
}

/// What the answer to a request to commit is for a prepared branch.
fn told(ended: &Result<TransactionView, Error>) -> Told {
    match ended {
        Ok(view) if view.outcome == Some(OutcomeWord::Committed) => Told::Commit,
        // What the coordinator does not know was never decided.
        Err(Error::Aborted(_) | Error::NotFound(_)) => Told::Rollback,
        Ok(_) | Err(_) => Told::Nothing,
    }
}
