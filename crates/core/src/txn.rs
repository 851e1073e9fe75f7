//! One transaction of any protocol, so that a driver needs to know none of them.

use crate::commit::{self, CommitTxn, Key, Misfit, Shape};
use crate::id::Timestamp;
use crate::saga::{self, SagaTxn};
use crate::step::{Durability, Input, Opaque, Outcome, Step};

/// A fact about one transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// Of two phases.
    Commit(commit::Record),
    /// Of a saga.
    Saga(saga::Record),
}

impl Record {
    /// Whether effects must wait for this record.
    pub fn durability(&self) -> Durability {
        match self {
            Self::Commit(record) => record.durability(),
            Self::Saga(record) => record.durability(),
        }
    }

    /// The idempotency key, if this is the first record of a transaction begun under one.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Commit(commit::Record::Begun(begun)) => begun.key.as_ref(),
            Self::Saga(saga::Record::Begun(begun)) => begun.key.as_ref(),
            Self::Commit(_) | Self::Saga(_) => None,
        }
    }
}

/// The shape of a transaction.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// All branches or none, by prepare and commit.
    Atomic,
    /// All branches or none, by try and confirm.
    Tcc,
    /// Steps, each for all to see, and compensations.
    Saga,
    /// Steps that follow a local transaction of the application, or never act: a saga whose first
    /// step that transaction is.
    Message,
}

impl From<Shape> for Kind {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::Atomic => Self::Atomic,
            Shape::Tcc => Self::Tcc,
        }
    }
}

/// What a transaction begins with.
#[allow(clippy::large_enum_variant, reason = "nearly all are of the larger one")]
#[derive(Clone, Debug)]
pub enum Begun {
    /// Two phases.
    Commit(commit::Begun),
    /// A saga.
    Saga(saga::Begun),
}

/// The coordinator of one transaction.
#[allow(clippy::large_enum_variant, reason = "nearly all are of the larger one")]
#[derive(Clone, Debug)]
pub enum Txn {
    /// Runs two phases.
    Commit(CommitTxn),
    /// Runs steps.
    Saga(Box<SagaTxn>),
}

impl Txn {
    /// Begins a transaction.
    pub fn begin(begun: Begun, now: Timestamp) -> (Self, Step<Record>) {
        match begun {
            Begun::Commit(begun) => {
                let (txn, step) = CommitTxn::begin(begun, now);
                (Self::Commit(txn), step.map(Record::Commit))
            }
            Begun::Saga(begun) => {
                let (saga, step) = SagaTxn::begin(begun, now);
                (Self::Saga(Box::new(saga)), step.map(Record::Saga))
            }
        }
    }

    /// Rebuilds the machine from its records. Feed it [`Input::Resumed`] next.
    ///
    /// # Errors
    ///
    /// [`Misfit`] if no machine can have written these records in this order.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self, Misfit> {
        let mut records = records.into_iter().peekable();
        let mixed = Misfit("records of two protocols");
        match records.peek() {
            Some(Record::Commit(_)) => {
                let ours = records.map(|record| match record {
                    Record::Commit(record) => Ok(record),
                    Record::Saga(_) => Err(mixed),
                });
                CommitTxn::replay(ours.collect::<Result<Vec<_>, _>>()?).map(Self::Commit)
            }
            Some(Record::Saga(_)) => {
                let ours = records.map(|record| match record {
                    Record::Saga(record) => Ok(record),
                    Record::Commit(_) => Err(mixed),
                });
                let saga = SagaTxn::replay(ours.collect::<Result<Vec<_>, _>>()?)?;
                Ok(Self::Saga(Box::new(saga)))
            }
            None => Err(Misfit("no records")),
        }
    }

    /// Takes one input. Late, repeated and unexpected inputs are harmless.
    ///
    /// The machine is then ahead of the journal by the records of the step. If the journal refuses
    /// them, drop the machine with its effects and answer nobody: another coordinator was first.
    /// [`Txn::replay`] of what the journal holds tells what became of the transaction.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Step<Record> {
        match self {
            Self::Commit(txn) => txn.handle(now, input).map(Record::Commit),
            Self::Saga(saga) => saga.handle(now, input).map(Record::Saga),
        }
    }

    /// Its shape.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Commit(txn) => txn.durable().begun().shape.into(),
            Self::Saga(saga) => match saga.durable().source() {
                Some(_) => Kind::Message,
                None => Kind::Saga,
            },
        }
    }

    /// The client's own name for it.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Commit(txn) => txn.durable().begun().key.as_ref(),
            Self::Saga(saga) => saga.durable().begun().key.as_ref(),
        }
    }

    /// What the driver wanted back.
    pub fn memo(&self) -> &Opaque {
        match self {
            Self::Commit(txn) => &txn.durable().begun().memo,
            Self::Saga(saga) => &saga.durable().begun().memo,
        }
    }

    /// Branches or steps that it has so far.
    pub fn branches(&self) -> usize {
        match self {
            Self::Commit(txn) => txn.durable().branches().len(),
            Self::Saga(saga) => saga.durable().begun().steps.len(),
        }
    }

    /// How the transaction ended, or `None` while there is work left.
    pub fn ended(&self) -> Option<Outcome> {
        match self {
            Self::Commit(txn) => txn.durable().phase().ended(),
            Self::Saga(saga) => match saga.durable().phase() {
                saga::Phase::Ended(outcome) => Some(outcome),
                saga::Phase::Running | saga::Phase::Unwinding => None,
            },
        }
    }

    /// How many times it came to need an operator's attention.
    pub fn attentions(&self) -> u32 {
        match self {
            Self::Commit(txn) => match txn.durable().phase() {
                commit::Phase::Attention | commit::Phase::Ended(Outcome::Mixed) => 1,
                commit::Phase::Active
                | commit::Phase::Preparing
                | commit::Phase::Delegated(_)
                | commit::Phase::Committing
                | commit::Phase::Aborting
                | commit::Phase::Ended(Outcome::Committed | Outcome::Aborted) => 0,
            },
            Self::Saga(saga) => saga.durable().attentions(),
        }
    }

    /// Whether the two agree on everything a crash cannot take.
    pub fn same_durable_state(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Commit(a), Self::Commit(b)) => a.durable() == b.durable(),
            (Self::Saga(a), Self::Saga(b)) => a.durable() == b.durable(),
            (Self::Commit(_), Self::Saga(_)) | (Self::Saga(_), Self::Commit(_)) => false,
        }
    }
}
