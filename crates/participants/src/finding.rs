//! What an examination of a resource found: whether it can take part, and what to change if not.

use std::future::Future;
use std::pin::Pin;

/// An examination that is under way.
pub type Examining = Pin<Box<dyn Future<Output = Vec<Finding>> + Send>>;

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What was looked at, in the resource's own word for it, such as `max_prepared_transactions`.
    pub subject: &'static str,
    /// Whether it will do.
    pub fitness: Fitness,
    /// What was seen and, if that will not do, what to change: one line without any secret.
    pub detail: String,
}

/// Whether something will do.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Fitness {
    /// It will.
    Fit,
    /// It will, at a risk or a cost that the detail names.
    Doubtful,
    /// The resource cannot take part until this is changed.
    Unfit,
}

impl Fitness {
    /// As the command line spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fit => "ok",
            Self::Doubtful => "warning",
            Self::Unfit => "unfit",
        }
    }
}

impl Finding {
    /// Something that will do.
    pub fn fit(subject: &'static str, detail: impl Into<String>) -> Self {
        Self { subject, fitness: Fitness::Fit, detail: detail.into() }
    }

    /// Something that will do, at a risk or a cost.
    pub fn doubtful(subject: &'static str, detail: impl Into<String>) -> Self {
        Self { subject, fitness: Fitness::Doubtful, detail: detail.into() }
    }

    /// Something that keeps the resource from taking part.
    pub fn unfit(subject: &'static str, detail: impl Into<String>) -> Self {
        Self { subject, fitness: Fitness::Unfit, detail: detail.into() }
    }
}
