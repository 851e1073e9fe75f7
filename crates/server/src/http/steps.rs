//! What can be checked of a saga before it begins.
//!
//! What is wrong with a step is said with its code and its place in the request, and nothing has been
//! begun. What cannot be seen here is only what services answer.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use unanimous_api::{BeginRequest, CallRequest, Code, Problem, RetryRequest, StepRequest};
use unanimous_core::Opaque;
use unanimous_core::id::BranchId;
use unanimous_core::limits::{BRANCHES_MAX, RETRY_MS_MAX, RETRY_MS_MIN};
use unanimous_core::saga::{Action, Before, Fault, Plan, Retry, Role, Work, check};
use unanimous_participants::{Takes, step};

use super::Failure;
use super::validate::{known, out_of_bounds, participant, takes, work};
use crate::limits::{SAGA_MS_MAX, STEP_ATTEMPTS_MAX, STEP_CALL_MS_MAX};
use crate::resources::Resources;
use crate::saga::template::{Scope, Template};

/// The steps of a saga, or those that follow the source of a message, ready for the machine.
pub(super) fn steps(
    resources: &Resources,
    request: &BeginRequest<&RawValue>,
    source: Option<Plan>,
) -> Result<Vec<Plan>, Failure> {
    let steps = &request.steps;
    let most = BRANCHES_MAX - usize::from(source.is_some());
    if !(1..=most).contains(&steps.len()) {
        let kind = request.kind.as_str();
        let detail = format!("{} steps; a {kind} has 1 to {most}", steps.len());
        return Err(out_of_bounds(detail, "/steps"));
    }
    let mut names: HashSet<&str> = source.iter().map(|source| &*source.name).collect();
    for (index, step) in steps.iter().enumerate() {
        let pointer = || format!("/steps/{index}/name");
        participant(&step.name, pointer)?;
        if !names.insert(&*step.name) {
            let detail = format!("two steps have the name {}", step.name);
            return Err(Failure::of(Problem::new(Code::DuplicateStep, detail).at(pointer())));
        }
    }
    let order = Order::of(steps, source.as_ref())?;
    let plan = |(index, step)| Planner { resources, order: &order, index, step }.plan();
    let written = steps.iter().enumerate().map(plan).collect::<Result<Vec<_>, _>>()?;
    let plans: Vec<Plan> = source.iter().cloned().chain(written).collect();
    check(&plans).map_err(|fault| faulty(&fault, &plans, &order))?;
    Ok(plans)
}

fn faulty(fault: &Fault, plans: &[Plan], order: &Order<'_>) -> Failure {
    let at = |field: &str| format!("/steps/{}/{field}", fault.step().index() - order.first);
    let (code, pointer) = match fault {
        Fault::Cycle(_) => (Code::CyclicSaga, at("after")),
        Fault::SecondPivot(_) => (Code::BadSaga, at("pivot")),
        Fault::CompensablePivot(_) => (Code::BadSaga, at("compensation")),
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

/// Which steps come before which.
struct Order<'a> {
    /// The number of the first step of the request: all of them follow the source, if there is one.
    first: usize,
    names: Vec<&'a str>,
    after: Vec<Vec<BranchId>>,
    before: Before,
}

impl<'a> Order<'a> {
    fn of(steps: &'a [StepRequest<&RawValue>], source: Option<&'a Plan>) -> Result<Self, Failure> {
        let first = usize::from(source.is_some());
        let names = source.map(|source| &*source.name).into_iter();
        let names: Vec<&str> = names.chain(steps.iter().map(|step| &*step.name)).collect();
        let mut after = vec![Vec::new(); first];
        for (index, step) in steps.iter().enumerate() {
            let mut before = Vec::with_capacity(step.after.len());
            for (place, name) in step.after.iter().enumerate() {
                let Some(found) = names.iter().position(|it| it == name) else {
                    let detail = format!(
                        "step {} is after {name:?}, which is no step; there are: {}",
                        step.name,
                        names.join(", ")
                    );
                    let pointer = format!("/steps/{index}/after/{place}");
                    return Err(Failure::of(Problem::new(Code::UnknownStep, detail).at(pointer)));
                };
                if !before.contains(&BranchId(found as u16)) {
                    before.push(BranchId(found as u16));
                }
            }
            if before.is_empty() && source.is_some() {
                before.push(BranchId(0));
            }
            after.push(before);
        }
        let before = Before::of(after.iter().map(Vec::as_slice));
        Ok(Self { first, names, after, before })
    }
}

/// Which results a template may name.
struct Results<'a> {
    order: &'a Order<'a>,
    step: usize,
    own: Own,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Own {
    /// Of an action: it has no result yet.
    Unknown,
    /// Of a compensation.
    Known,
}

impl Scope for Results<'_> {
    fn reference(&self, step: &str) -> Result<(), String> {
        let Some(named) = self.order.names.iter().position(|name| *name == step) else {
            return Err(format!("there is no step {step:?}"));
        };
        let own = named == self.step && self.own == Own::Known;
        let id = |index| BranchId(index as u16);
        match own || self.order.before.is(id(named), id(self.step)) {
            true => Ok(()),
            false => Err(format!("step {step} does not come before this one: add it to after")),
        }
    }
}

struct Planner<'a> {
    resources: &'a Resources,
    order: &'a Order<'a>,
    index: usize,
    step: &'a StepRequest<&'a RawValue>,
}

impl Planner<'_> {
    fn at(&self, field: &str) -> String {
        format!("/steps/{}/{field}", self.index)
    }

    /// Its number in the saga.
    fn number(&self) -> usize {
        self.order.first + self.index
    }

    fn bad(&self, field: &str, detail: impl Into<String>) -> Failure {
        Failure::of(Problem::new(Code::BadSaga, detail).at(self.at(field)))
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let step = self.step;
        if let Some(state) = &step.state {
            participant(state, || self.at("state"))?;
        }
        Ok(Plan {
            name: Arc::from(&*step.name),
            after: self.order.after[self.number()].clone(),
            action: self.action()?,
            compensation: match &step.compensation {
                Some(call) => Some(self.call(call, "compensation", Own::Known)?),
                None => None,
            },
            role: self.role()?,
            state: step.state.as_deref().map(Arc::from),
        })
    }

    fn role(&self) -> Result<Role, Failure> {
        let (step, follows) = (self.step, self.order.first > 0);
        match (step.pivot, step.retriable) {
            (true, _) if follows => {
                Err(self.unfit("pivot", "the local transaction is the point of no return"))
            }
            (false, _) if follows && step.compensation.is_some() => {
                Err(self.unfit("compensation", "what follows a commit is not undone"))
            }
            (false, false) if !follows => Ok(Role::Compensable),
            (true, false) => Ok(Role::Pivot),
            (false, _) => Ok(Role::Retriable),
            (true, true) => {
                Err(self.bad("retriable", "a pivot may be refused: it is not retriable"))
            }
        }
    }

    fn unfit(&self, field: &str, detail: &str) -> Failure {
        Failure::of(Problem::new(Code::BadMessage, detail).at(self.at(field)))
    }

    fn action(&self) -> Result<Action, Failure> {
        let step = self.step;
        match (&step.action, step.signal, step.pause_ms) {
            (Some(call), None, None) => {
                Ok(Action::Call(self.call(call, "action", Own::Unknown)?))
            }
            (None, Some(_), None) | (None, None, Some(_)) if step.compensation.is_some() => {
                Err(self.bad("compensation", "a step that only waits has nothing to undo"))
            }
            (None, Some(_), None) | (None, None, Some(_)) if step.pivot => {
                Err(self.bad("pivot", "a step that only waits cannot be the pivot"))
            }
            (None, Some(signal), None) => {
                let pointer = || self.at("signal/timeout_ms");
                Ok(Action::Signal(millis(signal.timeout_ms, SAGA_MS_MAX, pointer)?))
            }
            (None, None, Some(pause_ms)) => {
                millis(Some(pause_ms), SAGA_MS_MAX, || self.at("pause_ms"))?;
                Ok(Action::Pause(pause_ms))
            }
            _ => {
                let detail = format!("step {} needs one of action, signal and pause_ms", step.name);
                Err(self.bad("action", detail))
            }
        }
    }

    fn call(&self, call: &CallRequest<&RawValue>, field: &str, own: Own) -> Result<Work, Failure> {
        let at = |inner: &str| self.at(&format!("{field}/{inner}"));
        known(self.resources, &call.resource, || at("resource"))?;
        if !self.resources.get(&call.resource).is_some_and(|(_, resource)| resource.steps()) {
            let detail = format!("resource {} takes no steps of a saga", call.resource);
            return Err(Failure::of(Problem::new(Code::UnfitResource, detail).at(at("resource"))));
        }
        work(call.body, || at("body"))?;
        let (written, template_at) = match takes(self.resources, &call.resource) {
            Takes::Body | Takes::Commands => (request(call, &at)?, self.at(field)),
            Takes::Statements => (statements(call, &at)?, at("statements")),
        };
        let scope = Results { order: self.order, step: self.number(), own };
        let template = match takes(self.resources, &call.resource) {
            Takes::Statements => Template::statements(&written, &scope),
            Takes::Body | Takes::Commands => Template::request(&written, &scope),
        };
        let template = template.map_err(|bad| {
            let pointer = format!("{template_at}{}", bad.pointer);
            Failure::of(Problem::new(Code::BadTemplate, bad.to_string()).at(pointer))
        })?;
        let specimen = Opaque::new(template.specimen().as_bytes());
        step::check(takes(self.resources, &call.resource), &specimen).map_err(|bad| {
            let pointer = format!("{template_at}{}", bad.pointer);
            Failure::of(Problem::new(Code::BadSaga, bad.why).at(pointer))
        })?;
        let timeout_ms = call.timeout_ms.or(self.step.timeout_ms);
        Ok(Work {
            resource: Arc::from(&*call.resource),
            work: Opaque::new(written.get().as_bytes()),
            retry: self.retry(call.retry.or(self.step.retry).unwrap_or_default())?,
            timeout_ms: millis(timeout_ms, STEP_CALL_MS_MAX, || self.at("timeout_ms"))?,
        })
    }

    fn retry(&self, asked: RetryRequest) -> Result<Retry, Failure> {
        let at = |field: &str| self.at(&format!("retry/{field}"));
        let attempts = asked.max_attempts.map(u64::from);
        millis(attempts, STEP_ATTEMPTS_MAX.into(), || at("max_attempts"))?;
        let backoff_ms = millis(asked.backoff_ms, SAGA_MS_MAX, || at("backoff_ms"))?;
        let backoff_max_ms = millis(asked.backoff_max_ms, SAGA_MS_MAX, || at("backoff_max_ms"))?;
        let backoff_ms = backoff_ms.unwrap_or(RETRY_MS_MIN);
        Ok(Retry {
            attempts_max: asked.max_attempts,
            backoff_ms,
            backoff_max_ms: backoff_max_ms.unwrap_or(RETRY_MS_MAX).max(backoff_ms),
        })
    }
}

/// What a service is sent, as the journal keeps it.
#[derive(Serialize)]
struct Request<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    headers: &'a std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
}

fn request(
    call: &CallRequest<&RawValue>,
    at: &impl Fn(&str) -> String,
) -> Result<Box<RawValue>, Failure> {
    if call.statements.is_some() {
        return Err(misplaced("statements", "a service takes a path and a body", at));
    }
    let Some(path) = &call.path else {
        let detail = "a call to a service needs a path, which is appended to its url";
        return Err(Failure::of(Problem::new(Code::BadSaga, detail).at(at("path"))));
    };
    let input = to_raw_value("{{input}}").expect("a text is always JSON");
    let has_body = call.method.as_deref() != Some("GET");
    let request = Request {
        path,
        method: call.method.as_deref(),
        headers: &call.headers,
        body: call.body.or(has_body.then_some(&*input)),
        status: call.status.as_deref(),
    };
    Ok(to_raw_value(&request).expect("a request is always JSON"))
}

fn statements(
    call: &CallRequest<&RawValue>,
    at: &impl Fn(&str) -> String,
) -> Result<Box<RawValue>, Failure> {
    let not_taken = [
        ("path", call.path.is_some()),
        ("method", call.method.is_some()),
        ("headers", !call.headers.is_empty()),
        ("body", call.body.is_some()),
        ("status", call.status.is_some()),
    ];
    if let Some((field, _)) = not_taken.into_iter().find(|(_, given)| *given) {
        return Err(misplaced(field, "a database takes statements", at));
    }
    super::validate::statements(call.statements.as_deref(), &at("statements"))?;
    Ok(to_raw_value(&call.statements).expect("statements are always JSON"))
}

fn misplaced(field: &str, why: &str, at: &impl Fn(&str) -> String) -> Failure {
    Failure::of(Problem::new(Code::BadField, why).at(at(field)))
}
