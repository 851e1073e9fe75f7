//! Makes of each step of a request what the machine takes, or says what is wrong with it.

use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};
use unanimous_api::{CallRequest, Code, Problem, RetryRequest, StepRequest, TccRequest};
use unanimous_core::Opaque;
use unanimous_core::id::BranchId;
use unanimous_core::limits::{RETRY_MS_MAX, RETRY_MS_MIN};
use unanimous_core::saga::{Action, Plan, Retry, Role, Work};
use unanimous_participants::{Takes, step};

use super::call::{request, statements};
use super::millis;
use super::outline::{Child, Is, Outline, within};
use crate::driver::not_for_tcc;
use crate::http::Failure;
use crate::http::validate::{known, participant, takes, work};
use crate::limits::{SAGA_MS_MAX, STEP_ATTEMPTS_MAX, STEP_CALL_MS_MAX};
use crate::resources::Resources;
use crate::saga::sent::{Around, Sent, Tried};
use crate::saga::template::{BadTemplate, Scope, Template};

/// Which results a template may name.
struct Results<'a> {
    outline: &'a Outline<'a>,
    /// The child sagas whose steps it sees.
    children: &'a [Child<'a>],
    step: BranchId,
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
        let Some(named) = self.outline.number(&within(self.children, step)) else {
            return Err(format!("there is no step {step:?}"));
        };
        if self.outline.is_message(named) {
            return Err(format!("step {step} is a message, which has no result"));
        }
        let own = named == self.step && self.own == Own::Known;
        match own || self.outline.is_before(named, self.step) {
            true => Ok(()),
            false => Err(format!("step {step} does not come before this one: add it to after")),
        }
    }
}

/// The plans of all steps, in their order.
pub(super) fn plans(resources: &Resources, outline: &Outline<'_>) -> Result<Vec<Plan>, Failure> {
    let follows = matches!(outline.places.first().map(|place| &place.is), Some(Is::Source(_)));
    let plan = |(number, place): (u16, &super::outline::Place<'_>)| {
        let number = BranchId(number);
        let of = |step, children| Planner {
            resources,
            outline,
            number,
            pointer: &place.pointer,
            step,
            children,
            follows,
        };
        let added = |action, role| Plan {
            name: Arc::from(&*place.name),
            after: place.after.clone(),
            action,
            compensation: None,
            role,
            state: None,
        };
        match &place.is {
            Is::Source(plan) => Ok(plan.clone()),
            Is::Written(step, children) => of(step, children).plan(&place.name, &place.after),
            Is::Commit => Ok(added(Action::Pause(0), Role::Pivot)),
            Is::Confirm(tried, step) => {
                let work = of(step, &[]).confirmation(*tried)?;
                Ok(added(Action::Call(work), Role::Retriable))
            }
        }
    };
    (0_u16..).zip(&outline.places).map(plan).collect()
}

struct Planner<'a> {
    resources: &'a Resources,
    outline: &'a Outline<'a>,
    number: BranchId,
    /// Where the step stands.
    pointer: &'a str,
    step: &'a StepRequest<&'a RawValue>,
    children: &'a [Child<'a>],
    /// Whether it follows a local transaction.
    follows: bool,
}

impl Planner<'_> {
    fn at(&self, field: &str) -> String {
        format!("{}/{field}", self.pointer)
    }

    fn bad(&self, field: &str, detail: impl Into<String>) -> Failure {
        Failure::of(Problem::new(Code::BadSaga, detail).at(self.at(field)))
    }

    fn plan(&self, name: &str, after: &[BranchId]) -> Result<Plan, Failure> {
        let step = self.step;
        if let Some(state) = &step.state {
            participant(state, || self.at("state"))?;
        }
        Ok(Plan {
            name: Arc::from(name),
            after: after.to_vec(),
            action: self.action()?,
            compensation: match (&step.compensation, &step.tcc) {
                (Some(_), Some(_)) => {
                    return Err(self.bad("compensation", "what was tried is undone by cancel"));
                }
                (Some(call), None) => Some(self.call(call, "compensation", Own::Known)?),
                (None, Some(tcc)) => Some(self.phase(tcc, Tried::Cancel, self.number)?),
                (None, None) => None,
            },
            role: self.role()?,
            state: step.state.as_deref().map(Arc::from),
        })
    }

    fn role(&self) -> Result<Role, Failure> {
        let (step, follows) = (self.step, self.follows);
        match (step.pivot, step.retriable) {
            (true, _) if follows => {
                Err(self.unfit("pivot", "the local transaction is the point of no return"))
            }
            (false, _) if follows && step.compensation.is_some() => {
                Err(self.unfit("compensation", "what follows a commit is not undone"))
            }
            (false, _) if follows && step.tcc.is_some() => {
                Err(self.unfit("tcc", "what follows a commit is not tried, but done"))
            }
            (false, _) if follows && step.message.is_some() => {
                Err(self
                    .unfit("message", "what follows a commit is sent anyway: make it an action"))
            }
            (true, _) if step.message.is_some() => {
                Err(self.bad("pivot", "a message is sent after the pivot"))
            }
            (true, _) if step.tcc.is_some() => {
                Err(self.bad("pivot", "what is tried is confirmed after the pivot"))
            }
            (_, true) if step.tcc.is_some() => {
                Err(self.bad("retriable", "a try may be refused: it is not retriable"))
            }
            (false, false) if !follows && step.message.is_none() => Ok(Role::Compensable),
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
        let waits = step.signal.is_some() || step.pause_ms.is_some();
        if let Some(message) = &step.message {
            return self.message(message);
        }
        match (&step.action, &step.tcc, step.signal, step.pause_ms) {
            (Some(call), None, None, None) => {
                Ok(Action::Call(self.call(call, "action", Own::Unknown)?))
            }
            (None, Some(tcc), None, None) => {
                Ok(Action::Call(self.phase(tcc, Tried::Try, self.number)?))
            }
            (None, None, ..) if waits && step.compensation.is_some() => {
                Err(self.bad("compensation", "a step that only waits has nothing to undo"))
            }
            (None, None, ..) if waits && step.pivot => {
                Err(self.bad("pivot", "a step that only waits cannot be the pivot"))
            }
            (None, None, Some(signal), None) => {
                let pointer = || self.at("signal/timeout_ms");
                Ok(Action::Signal(millis(signal.timeout_ms, SAGA_MS_MAX, pointer)?))
            }
            (None, None, None, Some(pause_ms)) => {
                millis(Some(pause_ms), SAGA_MS_MAX, || self.at("pause_ms"))?;
                Ok(Action::Pause(pause_ms))
            }
            _ => {
                let detail = format!(
                    "step {} needs one of action, tcc, message, signal, pause_ms and saga",
                    step.name
                );
                Err(self.bad("action", detail))
            }
        }
    }

    fn message(&self, message: &CallRequest<&RawValue>) -> Result<Action, Failure> {
        let step = self.step;
        let beside = [
            ("action", step.action.is_some()),
            ("tcc", step.tcc.is_some()),
            ("signal", step.signal.is_some()),
            ("pause_ms", step.pause_ms.is_some()),
        ];
        if let Some((field, _)) = beside.into_iter().find(|(_, given)| *given) {
            return Err(self.bad(field, "a message is all that its step does"));
        }
        if step.compensation.is_some() {
            let detail = "a message is dropped if the saga is undone: there is nothing to undo";
            return Err(self.bad("compensation", detail));
        }
        Ok(Action::Message(self.call(message, "message", Own::Unknown)?))
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
        let scope = self.scope(self.children, own);
        let template = match takes(self.resources, &call.resource) {
            Takes::Statements => Template::statements(&written, &scope),
            Takes::Body | Takes::Commands => Template::request(&written, &scope),
        };
        let template = template.map_err(|bad| bad_template(&template_at, &bad))?;
        let specimen = Opaque::new(template.specimen().as_bytes());
        step::check(takes(self.resources, &call.resource), &specimen).map_err(|bad| {
            let pointer = format!("{template_at}{}", bad.pointer);
            Failure::of(Problem::new(Code::BadSaga, bad.why).at(pointer))
        })?;
        let timeout_ms = call.timeout_ms.or(self.step.timeout_ms);
        Ok(Work {
            resource: Arc::from(&*call.resource),
            work: Sent { around: self.around()?, tried: None, template: &written }.kept(),
            retry: self.retry(call.retry.or(self.step.retry).unwrap_or_default())?,
            timeout_ms: millis(timeout_ms, STEP_CALL_MS_MAX, || self.at("timeout_ms"))?,
        })
    }

    fn scope<'s>(&'s self, children: &'s [Child<'s>], own: Own) -> Results<'s> {
        Results { outline: self.outline, children, step: self.number, own }
    }

    /// What its templates see of the child sagas around it.
    fn around(&self) -> Result<Vec<Around<'_>>, Failure> {
        let mut around = Vec::with_capacity(self.children.len());
        for (depth, child) in self.children.iter().enumerate() {
            if let Some(input) = child.input {
                let at = format!("{}/saga/input", child.pointer);
                work(Some(input), || at.clone())?;
                // It sees what the child itself stands beside.
                let scope = self.scope(&self.children[..depth], Own::Unknown);
                Template::json(input, &scope).map_err(|bad| bad_template(&at, &bad))?;
            }
            around.push(Around { name: child.name.clone(), input: child.input });
        }
        Ok(around)
    }

    /// One of the calls to a resource that tries, confirms and cancels.
    fn phase(
        &self,
        tcc: &TccRequest<&RawValue>,
        tried: Tried,
        of: BranchId,
    ) -> Result<Work, Failure> {
        let at = |inner: &str| self.at(&format!("tcc/{inner}"));
        known(self.resources, &tcc.resource, || at("resource"))?;
        if takes(self.resources, &tcc.resource) != Takes::Body {
            return Err(Failure::of(not_for_tcc(&tcc.resource).at(at("resource"))));
        }
        work(tcc.body, || at("body"))?;
        let input = to_raw_value("{{input}}").expect("a text is always JSON");
        let nothing = to_raw_value(&()).expect("nothing is JSON too");
        let (body, around) = match tried {
            Tried::Try => (tcc.body.unwrap_or(&input), self.around()?),
            Tried::Confirm | Tried::Cancel => (&*nothing, Vec::new()),
        };
        let scope = self.scope(self.children, Own::Unknown);
        Template::json(body, &scope).map_err(|bad| bad_template(&at("body"), &bad))?;
        Ok(Work {
            resource: Arc::from(&*tcc.resource),
            work: Sent { around, tried: Some((tried, of)), template: body }.kept(),
            retry: self.retry(self.step.retry.unwrap_or_default())?,
            timeout_ms: millis(self.step.timeout_ms, STEP_CALL_MS_MAX, || self.at("timeout_ms"))?,
        })
    }

    fn confirmation(&self, of: BranchId) -> Result<Work, Failure> {
        let tcc = self.step.tcc.as_ref().expect("only what tries is confirmed");
        self.phase(tcc, Tried::Confirm, of)
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

fn bad_template(at: &str, bad: &BadTemplate) -> Failure {
    let pointer = format!("{at}{}", bad.pointer);
    Failure::of(Problem::new(Code::BadTemplate, bad.to_string()).at(pointer))
}
