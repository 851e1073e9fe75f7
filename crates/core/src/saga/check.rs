//! What can be wrong with the steps of a saga before it begins.

use std::fmt;

use super::before::Before;
use super::record::{Action, Plan, Role};
use crate::id::BranchId;

/// Why steps make no saga.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// A step comes after itself, by way of these steps.
    Cycle(Vec<BranchId>),
    /// Two steps are the pivot.
    SecondPivot(BranchId),
    /// The pivot can be undone, so it is none.
    CompensablePivot(BranchId),
    /// The pivot is a message, which is sent after the pivot.
    SentPivot(BranchId),
    /// A step that may fail is not certain to be over when the pivot acts.
    NotBeforePivot(BranchId),
}

impl Fault {
    /// The step to look at first.
    pub fn step(&self) -> BranchId {
        match self {
            Self::Cycle(steps) => steps[0],
            Self::SecondPivot(step)
            | Self::CompensablePivot(step)
            | Self::SentPivot(step)
            | Self::NotBeforePivot(step) => *step,
        }
    }

    /// The same for people, with the names of the steps.
    pub fn explain<'a>(&'a self, steps: &'a [Plan]) -> impl fmt::Display + 'a {
        Explained { fault: self, steps }
    }
}

struct Explained<'a> {
    fault: &'a Fault,
    steps: &'a [Plan],
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |step: &BranchId| &*self.steps[step.index()].name;
        match self.fault {
            Fault::Cycle(steps) => {
                let names: Vec<&str> = steps.iter().chain(steps.first()).map(name).collect();
                write!(f, "the steps wait for each other: {}", names.join(" after "))
            }
            Fault::SecondPivot(step) => {
                write!(
                    f,
                    "step {} is a second pivot; a saga has one point of no return",
                    name(step)
                )
            }
            Fault::CompensablePivot(step) => write!(
                f,
                "step {} is the pivot, after which nothing is undone, and has a compensation",
                name(step)
            ),
            Fault::SentPivot(step) => write!(
                f,
                "step {} is a message, which is sent when nothing is undone any more, and the pivot",
                name(step)
            ),
            Fault::NotBeforePivot(step) => write!(
                f,
                "step {} may run after the pivot, when nothing can be undone any more: put it before \
                 the pivot or make it retriable, without a time limit",
                name(step)
            ),
        }
    }
}

/// Looks for what the machine could not bring to an end. Names and bounds are the server's matter.
///
/// # Errors
///
/// The first [`Fault`].
pub fn check(steps: &[Plan]) -> Result<(), Fault> {
    let before = Before::of(steps.iter().map(|step| &*step.after));
    if let Some(cycle) = cycle(steps, &before) {
        return Err(Fault::Cycle(cycle));
    }
    let mut pivots = ids(steps).filter(|it| steps[it.index()].role == Role::Pivot);
    let Some(pivot) = pivots.next() else { return Ok(()) };
    if let Some(second) = pivots.next() {
        return Err(Fault::SecondPivot(second));
    }
    if steps[pivot.index()].compensation.is_some() {
        return Err(Fault::CompensablePivot(pivot));
    }
    if let Action::Message(_) = steps[pivot.index()].action {
        return Err(Fault::SentPivot(pivot));
    }
    let may_fail = |step: &Plan| match step.action {
        Action::Call(_) => step.role == Role::Compensable,
        Action::Signal(timeout_ms) => timeout_ms.is_some(),
        Action::Pause(_) | Action::Local(..) | Action::Message(_) => false,
    };
    let late =
        |it: &BranchId| *it != pivot && !before.is(*it, pivot) && may_fail(&steps[it.index()]);
    match ids(steps).find(late) {
        Some(step) => Err(Fault::NotBeforePivot(step)),
        None => Ok(()),
    }
}

fn ids(steps: &[Plan]) -> impl Iterator<Item = BranchId> + use<> {
    (0..steps.len() as u16).map(BranchId)
}

/// A shortest list of steps of which each comes after the next, and the last after the first.
fn cycle(steps: &[Plan], before: &Before) -> Option<Vec<BranchId>> {
    let first = ids(steps).find(|&it| before.is(it, it))?;
    let mut came_from = vec![None; steps.len()];
    let mut todo = std::collections::VecDeque::from([first]);
    while let Some(step) = todo.pop_front() {
        for &before in &steps[step.index()].after {
            if before == first {
                let back = |it: &BranchId| came_from[it.index()];
                let mut path: Vec<BranchId> = std::iter::successors(Some(step), back).collect();
                path.reverse();
                return Some(path);
            }
            if came_from[before.index()].is_none() {
                came_from[before.index()] = Some(step);
                todo.push_back(before);
            }
        }
    }
    None
}
