//! What can be checked of a message before it is announced.
//!
//! To the machine a message is a saga whose first step is the application's local transaction, and
//! the point of no return; its other steps follow that, and are asked until they are done.

use std::sync::Arc;

use serde_json::value::RawValue;
use unanimous_api::{BeginRequest, Code, Problem};
use unanimous_core::Opaque;
use unanimous_core::limits::{RETRY_MS_MAX, RETRY_MS_MIN};
use unanimous_core::saga::{Action, Plan, Retry, Role, Work};
use unanimous_participants::{Takes, step};

use super::Failure;
use super::begin::misplaced;
use super::steps::steps as following;
use super::validate::{known, takes, timeout_ms};
use crate::resources::Resources;

/// The name of the step that the local transaction is.
const SOURCE: &str = "source";

/// The steps of a message, the local transaction first.
pub(super) fn steps(
    resources: &Resources,
    request: &BeginRequest<&RawValue>,
) -> Result<Vec<Plan>, Failure> {
    if !request.branches.is_empty() {
        return Err(misplaced("/branches", "a message has steps and no branches"));
    }
    if request.delay_ms.is_some() {
        return Err(misplaced("/delay_ms", "it begins now; a step may be a pause"));
    }
    following(resources, request, Some(source(resources, request)?))
}

fn source(resources: &Resources, request: &BeginRequest<&RawValue>) -> Result<Plan, Failure> {
    let unfit = |detail: String| Failure::of(Problem::new(Code::BadMessage, detail).at("/source"));
    let Some(resource) = &request.source else {
        let detail =
            "a message needs a source: the database in which your local transaction commits";
        return Err(unfit(detail.to_owned()));
    };
    known(resources, resource, || "/source".to_owned())?;
    match takes(resources, resource) {
        Takes::Statements => {}
        Takes::Body | Takes::Commands => {
            return Err(unfit(format!(
                "resource {resource} cannot tell whether a local transaction has committed: a PostgreSQL, \
                 MariaDB or MySQL can"
            )));
        }
    }
    let retry =
        Retry { attempts_max: None, backoff_ms: RETRY_MS_MIN, backoff_max_ms: RETRY_MS_MAX };
    let work = Work {
        resource: Arc::from(&**resource),
        work: Opaque::new(step::SETTLE.as_bytes()),
        retry,
        timeout_ms: None,
    };
    Ok(Plan {
        name: Arc::from(SOURCE),
        after: Vec::new(),
        action: Action::Local(work, timeout_ms(request.timeout_ms)?),
        compensation: None,
        role: Role::Pivot,
        state: None,
    })
}
