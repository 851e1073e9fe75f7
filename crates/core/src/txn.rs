//! One transaction of any protocol, so that a driver needs to know none of them.
//!
//! Atomic commit is the only protocol so far. A saga will be a second variant here: its steps are
//! branches too, so [`crate::id::BranchId`]s, answers and effects keep their meaning.

use crate::commit::{self, CommitTxn, Misfit};
use crate::id::Timestamp;
use crate::step::{Durability, Input, Outcome, Step};

/// A fact about one transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// Of an atomic commit.
    Commit(commit::Record),
}

impl Record {
    /// Whether effects must wait for this record.
    pub fn durability(&self) -> Durability {
        match self {
            Self::Commit(record) => record.durability(),
        }
    }
}

/// The coordinator of one transaction.
#[derive(Clone, Debug)]
pub enum Txn {
    /// Runs two phases.
    Commit(CommitTxn),
}

impl Txn {
    /// Begins an atomic transaction.
    pub fn begin(begun: commit::Begun, now: Timestamp) -> (Self, Step<Record>) {
        let (txn, step) = CommitTxn::begin(begun, now);
        (Self::Commit(txn), step.map(Record::Commit))
    }

    /// Rebuilds the machine from its records. Feed it [`Input::Resumed`] next.
    ///
    /// # Errors
    ///
    /// [`Misfit`] if no machine can have written these records in this order.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self, Misfit> {
        let records = records.into_iter().map(|Record::Commit(record)| record);
        CommitTxn::replay(records).map(Self::Commit)
    }

    /// Takes one input. Late, repeated and unexpected inputs are harmless.
    ///
    /// The machine is then ahead of the journal by the records of the step. If the journal refuses
    /// them, drop the machine with its effects and answer nobody: another coordinator was first.
    /// [`Txn::replay`] of what the journal holds tells what became of the transaction.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Step<Record> {
        match self {
            Self::Commit(txn) => txn.handle(now, input).map(Record::Commit),
        }
    }

    /// How the transaction ended, or `None` while there is work left.
    pub fn ended(&self) -> Option<Outcome> {
        match self {
            Self::Commit(txn) => txn.durable().phase().ended(),
        }
    }

    /// Whether the two agree on everything a crash cannot take.
    pub fn same_durable_state(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Commit(a), Self::Commit(b)) => a.durable() == b.durable(),
        }
    }
}
