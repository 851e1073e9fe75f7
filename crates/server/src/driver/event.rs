//! Everything that can wake a driver.

use std::sync::Arc;

use tokio::sync::oneshot;
use unanimous_api::{Code, Problem, TransactionView, Wait};
use unanimous_core::commit::{Branch, Key, Mode, Shape};
use unanimous_core::id::{BranchId, Timestamp, TxnId};
use unanimous_core::saga::Plan;
use unanimous_core::{Answer, Input, Opaque, Outcome, Refusal, Verb};

/// What a driver takes from its queue.
pub(super) enum Event {
    /// A client begins a transaction.
    Begin(Box<Order>),
    /// A client or an operator asks something of a transaction, perhaps of one version only.
    Ask(TxnId, Option<u32>, Box<Input>, Waiter),
    /// Somebody sends a step what it waits for.
    Signal(TxnId, String, Opaque, Waiter),
    /// A client adds a participant.
    Enlist(TxnId, Box<Branch>, oneshot::Sender<Result<Enlisted, AskError>>),
    /// A client votes and asks for commit, naming participants.
    Commit(TxnId, Vec<(String, unanimous_core::Vote)>, Waiter),
    /// A client waits along with another.
    Join(TxnId, Waiter),
    /// Somebody wants to see a transaction.
    Show(TxnId, Option<BranchId>, oneshot::Sender<Option<TransactionView>>),
    /// A call ended.
    Answered(TxnId, BranchId, Verb, Answer),
    /// Somebody counts what is open.
    Census(oneshot::Sender<super::Census>),
    /// Somebody wants the branches that a resource has in doubt.
    InDoubt(String, oneshot::Sender<Vec<unanimous_api::BranchInDoubt>>),
    /// A resource answers again.
    Returned(Arc<str>),
    /// Nothing new is to be begun; report when nothing is undecided, and whether that is all.
    Drain(oneshot::Sender<bool>),
    /// A part of the time for that is over.
    Hasten,
    /// Nothing more is to be done here.
    Stop,
}

/// A transaction to begin.
pub(super) struct Order {
    pub(super) txn: TxnId,
    /// If others may ask for it too: when the journal did not know it.
    pub(super) repeats: Option<Timestamp>,
    pub(super) what: What,
    pub(super) key: Option<CheckedKey>,
    pub(super) memo: Opaque,
    pub(super) waiter: Waiter,
}

/// What a transaction is to do.
pub(super) enum What {
    /// Two phases.
    Branches { shape: Shape, mode: Mode, timeout_ms: u64, branches: Vec<Branch> },
    /// A saga.
    Steps { steps: Vec<Plan>, input: Opaque, timeout_ms: Option<u64>, delay_ms: Option<u64> },
}

/// A key that the journal did not know when it was asked.
pub(super) struct CheckedKey {
    pub(super) key: Key,
    pub(super) checked_at: Timestamp,
    pub(super) running: IfRunning,
}

/// What to do if the first request with a key is still running.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IfRunning {
    /// Refuse, to be asked again.
    Refuse,
    /// Wait along with it.
    Join,
}

/// Who waits for a transaction to come so far.
pub(super) struct Waiter {
    pub(super) until: Wait,
    pub(super) want: Want,
}

/// What a waiter wants to hear.
pub(super) enum Want {
    /// Everything, for a reply.
    View(oneshot::Sender<Result<TransactionView, AskError>>),
    /// The outcome alone.
    Outcome(oneshot::Sender<Result<Outcome, AskError>>),
}

impl Want {
    /// Whether nobody listens any more.
    pub(super) fn has_left(&self) -> bool {
        match self {
            Self::View(reply) => reply.is_closed(),
            Self::Outcome(reply) => reply.is_closed(),
        }
    }

    pub(super) fn refuse(self, error: AskError) {
        // The receiver may have left: then nobody minds.
        match self {
            Self::View(reply) => drop(reply.send(Err(error))),
            Self::Outcome(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// An enlisted branch.
#[derive(Clone, Debug)]
pub struct Enlisted {
    /// The participant's name.
    pub name: String,
    /// Its resource.
    pub resource: String,
    /// The identifier to prepare under.
    pub branch: String,
}

/// Why the driver did not do what it was asked.
#[derive(Clone, Debug)]
pub enum AskError {
    /// It is not open here: look into the journal.
    NotOpen,
    /// The machine refused.
    Refused(Refusal, Option<Box<TransactionView>>),
    /// The transaction has no such participant.
    UnknownParticipant(String),
    /// The saga has no such step that waits.
    UnknownStep(String),
    /// The transaction has this version by now.
    Changed(u32, Option<Box<TransactionView>>),
    /// The resource cannot try, confirm and cancel.
    NotForTcc(String),
    /// The key was used for another request, by this transaction.
    KeyReused(TxnId),
    /// The first request with the key is still running, as this transaction.
    KeyInUse(TxnId),
    /// Somebody has begun under the key, or the given identity, since it was looked up: look again.
    KeyTaken(TxnId),
    /// Too much is open or queued.
    Overloaded(&'static str),
    /// The journal takes nothing new.
    JournalFull(String),
    /// The coordinator is about to stop.
    ShuttingDown,
    /// Another coordinator took the transaction over, or the journal failed.
    Lost,
}

impl AskError {
    /// The same for the wire; `txn` is what was asked about.
    pub fn problem(self, txn: TxnId) -> Problem {
        match self {
            Self::NotOpen => {
                Problem::new(Code::UnknownTransaction, format!("transaction {txn} is not known"))
            }
            Self::Refused(refusal, view) => refused(txn, &refusal, view),
            Self::UnknownParticipant(name) => Problem::new(
                Code::UnknownParticipant,
                format!("transaction {txn} has no participant {name:?}"),
            )
            .at(format!("/votes/{}", name.replace('~', "~0").replace('/', "~1"))),
            Self::UnknownStep(name) => Problem::new(
                Code::UnknownStep,
                format!("transaction {txn} has no step {name:?} that waits for a signal"),
            ),
            Self::Changed(version, view) => {
                let detail = format!("transaction {txn} has version {version} by now");
                let problem = Problem::new(Code::VersionChanged, detail).at("/if_version");
                match view {
                    Some(view) => problem.about(*view),
                    None => problem,
                }
            }
            Self::NotForTcc(resource) => not_for_tcc(&resource).at("/resource"),
            Self::KeyReused(other) => Problem::new(
                Code::KeyReused,
                format!("the key was used for another request, which began transaction {other}"),
            ),
            Self::KeyInUse(other) | Self::KeyTaken(other) => {
                Problem::new(Code::KeyInUse, format!("transaction {other} is still running"))
            }
            Self::Overloaded(what) => Problem::new(Code::Overloaded, what),
            Self::JournalFull(why) => Problem::new(Code::JournalFull, why),
            Self::ShuttingDown => Problem::new(Code::ShuttingDown, "no new work is taken"),
            Self::Lost => Problem::new(
                Code::Internal,
                format!("the coordinator lost transaction {txn} while it was asked about it"),
            ),
        }
    }
}

/// What a transaction of kind `tcc` is told that names a database.
pub(crate) fn not_for_tcc(resource: &str) -> Problem {
    let detail = format!(
        "resource {resource} is a database, which prepares and does not try; a transaction of kind \
         tcc takes services, and one of kind atomic both"
    );
    Problem::new(Code::UnfitResource, detail)
}

fn refused(txn: TxnId, refusal: &Refusal, view: Option<Box<TransactionView>>) -> Problem {
    let (code, detail) = match refusal {
        Refusal::NotEnlisting => {
            (Code::NotEnlisting, format!("transaction {txn} takes no more participants"))
        }
        Refusal::TooManyBranches => (
            Code::TooManyBranches,
            format!("transaction {txn} has {} branches", unanimous_core::limits::BRANCHES_MAX),
        ),
        Refusal::UnknownBranch(branch) => {
            (Code::UnknownParticipant, format!("transaction {txn} has no branch {}", branch.0))
        }
        Refusal::Decided(unanimous_core::Decision::Commit) => {
            (Code::AlreadyCommitted, format!("transaction {txn} is committed"))
        }
        Refusal::Decided(unanimous_core::Decision::Abort) => {
            (Code::Aborted, format!("transaction {txn} was aborted"))
        }
        Refusal::Delegated(branch) => (
            Code::Delegated,
            format!("branch {} of transaction {txn} was asked to decide", branch.0),
        ),
        Refusal::Pivoting(step) => {
            let step = view.as_ref().and_then(|view| view.steps.get(step.index()));
            let name = step.map_or("the pivot", |step| &*step.name);
            (
                Code::TooLateToCancel,
                format!(
                    "step {name} of transaction {txn} is its point of no return, and was called"
                ),
            )
        }
        Refusal::NotForSaga => (
            Code::NotForKind,
            format!("transaction {txn} is a saga, which goes on by itself: nobody commits it"),
        ),
        Refusal::NoSignals => (
            Code::NotForKind,
            format!("transaction {txn} has branches and no steps: nothing waits for a signal"),
        ),
        Refusal::Undecided => (Code::Undecided, format!("transaction {txn} is not decided")),
        Refusal::NothingToResolve => {
            (Code::NothingToResolve, format!("transaction {txn} has ended"))
        }
    };
    let problem = Problem::new(code, detail);
    match view {
        Some(view) => problem.about(*view),
        None => problem,
    }
}
