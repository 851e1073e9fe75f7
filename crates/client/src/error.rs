//! What can go wrong for a caller, by what the caller can do about it.

use std::error::Error as StdError;

use unanimous_api::{Code, Problem, ReasonView, TransactionView};

/// Why a call did not come out as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call cannot be made like this, and was not: mend the program or its configuration.
    #[error("{0}")]
    Usage(String),

    /// Nothing of the transaction took effect, or will. [`Error::reason`] says why; if that may
    /// pass (a conflict, a timeout), begin a new transaction with a new key.
    #[error("transaction {} was aborted{}", .0.id, because(.0.reason.as_ref()))]
    Aborted(Box<TransactionView>),

    /// The saga was undone: nothing of it is left but what has no compensation. [`Error::reason`] has
    /// the step and why; if that may pass, begin a new saga with a new key.
    #[error("saga {} was undone{}", .0.id, because(.0.reason.as_ref()))]
    Compensated(Box<TransactionView>),

    /// The saga goes neither on nor back by itself: an operator has to look at the steps in
    /// [`TransactionView::attention`]. It is as good as begun, so do not begin it again.
    #[error("saga {} needs attention{}", .0.id, stuck(.0))]
    NeedsAttention(Box<TransactionView>),

    /// A branch on a connection of the application's own could not be prepared, so nothing of the
    /// transaction took effect, or will: as after [`Error::Aborted`].
    #[error("transaction {id} was not committed{}", because(Some(&**reason)))]
    NotPrepared {
        /// The transaction.
        id: String,
        /// What was seen, and where.
        reason: Box<ReasonView>,
    },

    /// A participant ended against the decision by itself, or an operator skipped a step of a saga:
    /// the books have to be mended by hand.
    #[error("transaction {} is mixed: a participant ended against the decision, or was skipped", .0.id)]
    Mixed(Box<TransactionView>),

    /// The coordinator will not do this: read the problem's remedy. Repeating does not help.
    #[error("{}: {} ({})", .0.code, .0.detail, .0.remedy)]
    Refused(Box<Problem>),

    /// The coordinator does not know the transaction. One that was never decided counts as
    /// aborted; one that ended may have been forgotten after the retention time.
    #[error("{}: {}", .0.code, .0.detail)]
    NotFound(Box<Problem>),

    /// The coordinator took nothing on until the deadline: try later.
    #[error("the coordinator takes nothing on: {}: {}", .0.code, .0.detail)]
    Busy(Box<Problem>),

    /// Nothing was asked, because the coordinator cannot be reached: look at its address and
    /// whether it runs.
    #[error("no coordinator answers at {server}: {cause}")]
    Unreachable {
        /// Where it should be.
        server: String,
        /// What was seen last.
        cause: String,
    },

    /// Something answers that is no coordinator: look at the address.
    #[error("what answers at {server} is no coordinator: {cause}")]
    NotACoordinator {
        /// Where the coordinator should be.
        server: String,
        /// What was seen.
        cause: String,
    },

    /// The deadline passed before the result was known. It may take effect or not: make the same
    /// call again with the same key, or ask for the transaction if its identity is known.
    #[error("the result is not known: {cause}{}{}", named("key", key), named("transaction", id))]
    Unknown {
        /// The idempotency key that the request was made with.
        key: String,
        /// The transaction, if its identity was learned.
        id: Option<String>,
        /// What was seen last.
        cause: String,
    },
}

impl Error {
    /// The stable code, if the coordinator gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Aborted(_) => Some(Code::Aborted),
            Self::Compensated(_) => Some(Code::Compensated),
            Self::Mixed(_) => Some(Code::Mixed),
            Self::Refused(problem) | Self::NotFound(problem) | Self::Busy(problem) => {
                Code::parse(&problem.code)
            }
            Self::Usage(_)
            | Self::NeedsAttention(_)
            | Self::NotPrepared { .. }
            | Self::Unreachable { .. }
            | Self::NotACoordinator { .. }
            | Self::Unknown { .. } => None,
        }
    }

    /// Why the transaction was aborted, or the saga undone, if that is what happened.
    pub fn reason(&self) -> Option<&ReasonView> {
        if let Self::NotPrepared { reason, .. } = self {
            return Some(reason);
        }
        self.transaction()?.reason.as_ref()
    }

    /// The transaction as it stood, if the coordinator showed it.
    pub fn transaction(&self) -> Option<&TransactionView> {
        match self {
            Self::Aborted(view)
            | Self::Compensated(view)
            | Self::NeedsAttention(view)
            | Self::Mixed(view) => Some(view),
            Self::Refused(problem) | Self::NotFound(problem) | Self::Busy(problem) => {
                problem.transaction.as_deref()
            }
            Self::Usage(_)
            | Self::NotPrepared { .. }
            | Self::Unreachable { .. }
            | Self::NotACoordinator { .. }
            | Self::Unknown { .. } => None,
        }
    }

    /// What a problem document comes to.
    pub(crate) fn of_problem(problem: Problem) -> Self {
        match (Code::parse(&problem.code), problem.transaction) {
            (Some(Code::Aborted), Some(view)) => Self::Aborted(view),
            (Some(Code::Compensated), Some(view)) => Self::Compensated(view),
            (Some(Code::Mixed), Some(view)) => Self::Mixed(view),
            (Some(Code::UnknownTransaction), transaction) => {
                Self::NotFound(Box::new(Problem { transaction, ..problem }))
            }
            (_, transaction) => Self::Refused(Box::new(Problem { transaction, ..problem })),
        }
    }
}

fn because(reason: Option<&ReasonView>) -> String {
    match reason {
        Some(ReasonView { participant, step, kind, detail }) => {
            match participant.as_ref().or(step.as_ref()) {
                Some(name) => format!(": {name}: {kind}: {detail}"),
                None => format!(": {kind}: {detail}"),
            }
        }
        None => String::new(),
    }
}

fn stuck(view: &TransactionView) -> String {
    let steps = view.attention.iter().map(|it| format!(": {}: {}", it.step, it.error));
    steps.collect()
}

fn named<'a>(what: &str, name: impl Into<Option<&'a String>>) -> String {
    name.into().map_or_else(String::new, |name| format!("; {what} {name}"))
}

/// What an error comes from in the end.
pub(crate) fn root<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    error.source().map_or(error, root)
}

/// An error with everything that led to it, in one line.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
