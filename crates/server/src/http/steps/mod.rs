//! What can be checked of a saga before it begins.
//!
//! What is wrong with a step is said with its code and its place in the request, and nothing has been
//! begun. What cannot be seen here is only what services answer.

mod call;
mod outline;
mod planner;

use serde_json::value::RawValue;
use unanimous_api::{BeginRequest, Code, Problem};
use unanimous_core::saga::{Fault, Plan, check};

use self::outline::Outline;
use super::Failure;
use super::validate::out_of_bounds;
use crate::resources::Resources;

/// The steps of a saga, or those that follow the source of a message, ready for the machine.
pub(super) fn steps(
    resources: &Resources,
    request: &BeginRequest<&RawValue>,
    source: Option<Plan>,
) -> Result<Vec<Plan>, Failure> {
    let outline = Outline::of(&request.steps, source)?;
    let plans = planner::plans(resources, &outline)?;
    check(&plans).map_err(|fault| faulty(&fault, &plans, &outline))?;
    Ok(plans)
}

fn faulty(fault: &Fault, plans: &[Plan], outline: &Outline<'_>) -> Failure {
    let at = |field: &str| format!("{}/{field}", outline.places[fault.step().index()].pointer);
    let (code, pointer) = match fault {
        Fault::Cycle(_) => (Code::CyclicSaga, at("after")),
        Fault::SecondPivot(_) => (Code::BadSaga, at("pivot")),
        Fault::CompensablePivot(_) => (Code::BadSaga, at("compensation")),
        Fault::SentPivot(_) => (Code::BadSaga, at("pivot")),
        Fault::NotBeforePivot(_) => (Code::BadSaga, at("retriable")),
    };
    Failure::of(Problem::new(code, fault.explain(plans).to_string()).at(pointer))
}

/// Milliseconds within a bound.
pub(super) fn millis(
    asked: Option<u64>,
    max: u64,
    pointer: impl FnOnce() -> String,
) -> Result<Option<u64>, Failure> {
    match asked {
        None => Ok(None),
        Some(ms) if (1..=max).contains(&ms) => Ok(Some(ms)),
        Some(ms) => Err(out_of_bounds(format!("{ms} is not within 1 to {max}"), pointer())),
    }
}
