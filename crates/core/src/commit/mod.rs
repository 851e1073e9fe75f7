//! Atomic commit: two phases, presumed abort.
//!
//! Every branch is asked to prepare; commit is decided only when each has voted yes or read-only.
//! One record is forced per transaction, [`Record::Decided`]. Votes are not kept: a transaction that
//! was collecting them when the coordinator crashed has aborted, and one that the journal does not
//! know has too (presumed abort; Mohan, Lindsay and Obermarck, 1986). An abort is forced only because
//! somebody is told of it; the branches are rolled back meanwhile ([`crate::Effect::Undo`]).
//!
//! A transaction of one branch whose resource can do it commits in one phase: the branch decides, and
//! [`Record::Delegated`] is forced before it is asked, because from then on only the branch knows. Try,
//! confirm and cancel (TCC) are the same two phases under other names ([`Shape`]).
//!
//! ```text
//!                          all yes                  all acked
//! Active ──► Preparing ──────────────► Committing ─────────────► Ended
//!   │            │   └► Delegated ─────────┘ │                     ▲
//!   └────────────┴─────────────────────► Aborting ─────────────────┤
//!     a no, deadline, client, restart        └► Attention ─────────┘
//!                                    against the decision    operator
//! ```
//!
//! The rules are in three files: `decide` (what an input makes true), `durable` (what a record
//! means) and `outstanding` (whom to call next).

mod decide;
mod durable;
mod outstanding;
mod record;
#[cfg(test)]
mod tests;

pub use durable::{Durable, Misfit, Phase};
pub use record::{Begun, Branch, Ending, Key, Mode, Phases, Record, Shape};

use std::sync::Arc;

use crate::id::{BranchId, Timestamp};
use crate::retry::Call;
use crate::step::{Input, Opaque, Refusal, Stage, Step, Vote};

/// The coordinator of one atomic transaction.
#[derive(Clone, Debug)]
pub struct CommitTxn {
    durable: Durable,
    volatile: Volatile,
}

impl CommitTxn {
    /// Begins a transaction. Unless it is [`Mode::Interactive`], the first phase starts at once.
    ///
    /// # Panics
    ///
    /// With more than [`crate::limits::BRANCHES_MAX`] branches: refuse the request before.
    pub fn begin(begun: Begun, now: Timestamp) -> (Self, Step<Record>) {
        let mut records = vec![Record::Begun(Arc::new(begun))];
        let mut txn = Self::replay(&records).expect("the request was checked");
        if txn.durable.phase() == Phase::Preparing {
            records.extend(txn.tally());
            txn.apply(&records[1..]);
        }
        let effects = txn.outstanding(now);
        (txn, Step { records, effects, refused: None })
    }

    /// Rebuilds the machine from its records. Feed it [`Input::Resumed`] next.
    ///
    /// # Errors
    ///
    /// [`Misfit`] if no machine can have written these records in this order.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self, Misfit> {
        let durable = Durable::replay(records)?;
        let mut volatile = Volatile {
            branches: Vec::new(),
            told: None,
            wake_at: None,
            deadline: durable.begun().deadline,
        };
        volatile.branches.resize_with(durable.branches().len(), Progress::default);
        Ok(Self { durable, volatile })
    }

    /// Takes one input. Late, repeated and unexpected inputs are harmless.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Step<Record> {
        if input == Input::Woke {
            self.volatile.wake_at = None;
        }
        // The clock may have been set back since the deadline was computed.
        let latest = now.after_ms(self.durable.begun().timeout_ms);
        self.volatile.deadline = self.volatile.deadline.min(latest);
        let (records, refused) = match self.decide(now, input) {
            Ok(records) => (records, None),
            Err(refusal) => (Vec::new(), Some(refusal)),
        };
        self.apply(&records);
        Step { effects: self.outstanding(now), records, refused }
    }

    fn apply(&mut self, records: &[Record]) {
        let phase = self.durable.phase();
        for record in records {
            self.durable.apply(record).expect("only records that fit are decided");
        }
        self.volatile.branches.resize_with(self.durable.branches().len(), Progress::default);
        if self.durable.phase() != phase {
            self.volatile.branches.iter_mut().for_each(Progress::enter_phase);
        }
    }

    /// The part of the state that a crash cannot take.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// How the calls to one branch went since the last restart; `None` if there is no such branch.
    pub fn progress(&self, branch: BranchId) -> Option<&Progress> {
        self.volatile.branches.get(branch.index())
    }

    fn known(&self, branch: BranchId) -> Result<(), Refusal> {
        match branch.index() < self.durable.branches().len() {
            true => Ok(()),
            false => Err(Refusal::UnknownBranch(branch)),
        }
    }
}

/// What a crash takes: votes, calls under way and who was told what.
#[derive(Clone, Debug)]
struct Volatile {
    branches: Vec<Progress>,
    told: Option<Stage>,
    wake_at: Option<Timestamp>,
    deadline: Timestamp,
}

/// How the calls to one branch went since the last restart.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub(crate) call: Call,
    pub(crate) vote: Option<Vote>,
    pub(crate) result: Opaque,
    attempts: u32,
    last_error: Option<Arc<str>>,
}

impl Progress {
    /// The vote, if it is known; it may not be durable.
    pub fn vote(&self) -> Option<Vote> {
        self.vote
    }

    /// The call under way or planned.
    pub fn call(&self) -> Call {
        self.call
    }

    /// Calls in this phase that brought no answer yet, counting none that succeeded.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What the last call without an answer came back with.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    fn unanswered(&mut self, now: Timestamp, error: Option<Arc<str>>) {
        self.attempts = self.attempts.saturating_add(1);
        self.call = Call::RetryAt(now.after_ms(crate::retry::pause_ms(self.attempts)));
        if error.is_some() {
            self.last_error = error;
        }
    }

    /// A pause after the last question does not hold up the first of the next phase.
    fn enter_phase(&mut self) {
        self.hurry();
        self.attempts = 0;
    }

    fn hurry(&mut self) {
        if let Call::RetryAt(_) = self.call {
            self.call = Call::Idle;
        }
    }

    fn answered(&mut self) {
        self.call = Call::Idle;
        self.attempts = 0;
        self.last_error = None;
    }
}
