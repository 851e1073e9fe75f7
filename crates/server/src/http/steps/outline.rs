//! The steps of a request as one list, and which come before which.
//!
//! The machine knows no steps within steps. Those of a child saga stand in the list where the child
//! does, under its name and a dot; whoever is after the child is after its last steps. What a request
//! does not spell out is added at the end: the confirmations of what was tried, and the point of no
//! return before them.

use std::collections::HashMap;

use serde_json::value::RawValue;
use unanimous_api::{ChildRequest, Code, Problem, StepRequest};
use unanimous_core::id::BranchId;
use unanimous_core::limits::BRANCHES_MAX;
use unanimous_core::saga::{Before, Plan};

use crate::http::Failure;
use crate::http::validate::{out_of_bounds, participant};

type Step<'a> = &'a StepRequest<&'a RawValue>;

/// The name of the point of no return that nothing in the request is.
const COMMIT: &str = "commit";

/// All steps, in the order of their numbers.
pub(super) struct Outline<'a> {
    pub(super) places: Vec<Place<'a>>,
    before: Before,
}

/// One step in the list.
pub(super) struct Place<'a> {
    /// Unique within the saga.
    pub(super) name: String,
    /// Where it stands in the request.
    pub(super) pointer: String,
    pub(super) after: Vec<BranchId>,
    pub(super) is: Is<'a>,
}

/// What a step is.
pub(super) enum Is<'a> {
    /// The local transaction of a message.
    Source(Plan),
    /// A step of the request, with the child sagas around it, the outermost first.
    Written(Step<'a>, Vec<Child<'a>>),
    /// The point of no return.
    Commit,
    /// Confirms what that step has tried.
    Confirm(BranchId, Step<'a>),
}

/// A child saga around a step.
#[derive(Clone)]
pub(super) struct Child<'a> {
    /// With the names of the children around it.
    pub(super) name: String,
    pub(super) pointer: String,
    pub(super) input: Option<&'a RawValue>,
}

/// A step before it is known which others there are.
struct Draft<'a> {
    step: Step<'a>,
    pointer: String,
    within: Vec<Child<'a>>,
}

/// A child saga before it is known which steps there are.
struct Family<'a> {
    step: Step<'a>,
    pointer: String,
    within: Vec<Child<'a>>,
    last: Vec<String>,
}

impl<'a> Outline<'a> {
    /// # Errors
    ///
    /// What is wrong with the number of steps, their names or what they are after.
    pub(super) fn of(
        steps: &'a [StepRequest<&'a RawValue>],
        source: Option<Plan>,
    ) -> Result<Self, Failure> {
        let mut lister = Lister::default();
        lister.list(steps, "/steps", &[])?;
        let Lister { drafts, families } = lister;
        let mut places: Vec<Place<'_>> = source.into_iter().map(Place::of_source).collect();
        let first = places.len();
        places.extend(drafts.iter().map(|draft| Place {
            name: within(&draft.within, &draft.step.name),
            pointer: draft.pointer.clone(),
            after: Vec::new(),
            is: Is::Written(draft.step, draft.within.clone()),
        }));
        confirm(&mut places);
        bounded(&places)?;
        let names: Vec<String> = places.iter().map(|place| place.name.clone()).collect();
        let resolver = Resolver { names, families: &families };
        for (index, draft) in drafts.iter().enumerate() {
            let mut after = resolver.after(draft.step, &draft.pointer, &draft.within)?;
            if after.is_empty() && first > 0 {
                after.push(BranchId(0));
            }
            places[first + index].after = after;
        }
        let before = Before::of(places.iter().map(|place| &*place.after));
        Ok(Self { places, before })
    }

    /// The number of the step with that name.
    pub(super) fn number(&self, name: &str) -> Option<BranchId> {
        let found = self.places.iter().position(|place| place.name == name)?;
        Some(BranchId(found as u16))
    }

    /// Whether a step is a message, of which no other step sees what became.
    pub(super) fn is_message(&self, number: BranchId) -> bool {
        match &self.places[number.index()].is {
            Is::Written(step, _) => step.message.is_some(),
            Is::Source(_) | Is::Commit | Is::Confirm(..) => false,
        }
    }

    pub(super) fn is_before(&self, earlier: BranchId, later: BranchId) -> bool {
        self.before.is(earlier, later)
    }
}

impl Place<'_> {
    fn of_source(plan: Plan) -> Self {
        let (name, pointer) = (plan.name.to_string(), "/source".to_owned());
        Self { name, pointer, after: Vec::new(), is: Is::Source(plan) }
    }
}

/// The name of a step within child sagas.
pub(super) fn within(children: &[Child<'_>], name: &str) -> String {
    match children.last() {
        Some(child) => format!("{}.{name}", child.name),
        None => name.to_owned(),
    }
}

#[derive(Default)]
struct Lister<'a> {
    drafts: Vec<Draft<'a>>,
    families: HashMap<String, Family<'a>>,
}

impl<'a> Lister<'a> {
    fn list(
        &mut self,
        steps: &'a [StepRequest<&'a RawValue>],
        pointer: &str,
        children: &[Child<'a>],
    ) -> Result<(), Failure> {
        if steps.is_empty() || self.drafts.len() + steps.len() > BRANCHES_MAX {
            let detail = format!("{} steps; there are 1 to {BRANCHES_MAX} in all", steps.len());
            return Err(out_of_bounds(detail, pointer));
        }
        for (index, step) in steps.iter().enumerate() {
            let pointer = format!("{pointer}/{index}");
            participant(&step.name, || format!("{pointer}/name"))?;
            match &step.saga {
                Some(child) => self.descend(step, child, pointer, children)?,
                None => {
                    self.drafts.push(Draft { step, pointer, within: children.to_vec() });
                }
            }
        }
        Ok(())
    }

    fn descend(
        &mut self,
        step: Step<'a>,
        child: &'a ChildRequest<&'a RawValue>,
        pointer: String,
        children: &[Child<'a>],
    ) -> Result<(), Failure> {
        if let Some(field) = beside(step) {
            let detail =
                "a child saga has steps of its own, and nothing beside them but a name and after";
            let problem = Problem::new(Code::BadSaga, detail).at(format!("{pointer}/{field}"));
            return Err(Failure::of(problem));
        }
        let name = within(children, &step.name);
        let mut inner = children.to_vec();
        inner.push(Child { name: name.clone(), pointer: pointer.clone(), input: child.input });
        self.list(&child.steps, &format!("{pointer}/saga/steps"), &inner)?;
        let is_last =
            |it: &&StepRequest<_>| child.steps.iter().all(|other| !other.after.contains(&it.name));
        let last = child.steps.iter().filter(is_last).map(|it| within(&inner, &it.name)).collect();
        let family = Family { step, pointer: pointer.clone(), within: children.to_vec(), last };
        match self.families.insert(name.clone(), family) {
            None => Ok(()),
            Some(_) => Err(twice(&name, &pointer)),
        }
    }
}

/// What is written beside a child saga and does not go with it.
fn beside(step: Step<'_>) -> Option<&'static str> {
    [
        ("action", step.action.is_some()),
        ("compensation", step.compensation.is_some()),
        ("tcc", step.tcc.is_some()),
        ("message", step.message.is_some()),
        ("signal", step.signal.is_some()),
        ("pause_ms", step.pause_ms.is_some()),
        ("pivot", step.pivot),
        ("retriable", step.retriable),
        ("retry", step.retry.is_some()),
        ("timeout_ms", step.timeout_ms.is_some()),
        ("state", step.state.is_some()),
    ]
    .into_iter()
    .find(|(_, given)| *given)
    .map(|(field, _)| field)
}

/// Adds what confirms the steps that try.
fn confirm(places: &mut Vec<Place<'_>>) {
    let mut tried = Vec::new();
    let mut pivot = None;
    let mut may_fail = Vec::new();
    for (index, place) in (0_u16..).zip(&*places) {
        let Is::Written(step, _) = place.is else { continue };
        if step.tcc.is_some() {
            tried.push((
                BranchId(index),
                step,
                format!("{}-confirm", place.name),
                place.pointer.clone(),
            ));
        }
        if step.pivot {
            pivot = Some(BranchId(index));
        }
        if !step.retriable && step.message.is_none() {
            may_fail.push(BranchId(index));
        }
    }
    if tried.is_empty() {
        return;
    }
    let pivot = pivot.unwrap_or_else(|| {
        places.push(Place {
            name: COMMIT.to_owned(),
            pointer: "/steps".to_owned(),
            after: may_fail,
            is: Is::Commit,
        });
        BranchId(places.len() as u16 - 1)
    });
    for (of, step, name, pointer) in tried {
        places.push(Place { name, pointer, after: vec![pivot], is: Is::Confirm(of, step) });
    }
}

/// Not too many, and each with a name of its own.
fn bounded(places: &[Place<'_>]) -> Result<(), Failure> {
    if places.len() > BRANCHES_MAX {
        let detail = format!(
            "{} steps with what is added to them; at most {BRANCHES_MAX} are allowed",
            places.len()
        );
        return Err(out_of_bounds(detail, "/steps"));
    }
    for (index, place) in places.iter().enumerate() {
        if let Some(earlier) = places[..index].iter().find(|it| it.name == place.name) {
            // Of two, the one that the request has spelled out can be given another name.
            let spelled = match place.is {
                Is::Written(..) => place,
                Is::Source(_) | Is::Commit | Is::Confirm(..) => earlier,
            };
            return Err(twice(&spelled.name, &spelled.pointer));
        }
    }
    Ok(())
}

fn twice(name: &str, pointer: &str) -> Failure {
    let detail = format!("two steps have the name {name}");
    Failure::of(Problem::new(Code::DuplicateStep, detail).at(format!("{pointer}/name")))
}

struct Resolver<'f, 'a> {
    names: Vec<String>,
    families: &'f HashMap<String, Family<'a>>,
}

impl Resolver<'_, '_> {
    /// The steps that a step, or a child saga, is directly after.
    fn after(
        &self,
        step: Step<'_>,
        pointer: &str,
        children: &[Child<'_>],
    ) -> Result<Vec<BranchId>, Failure> {
        let mut after = Vec::new();
        for (place, name) in step.after.iter().enumerate() {
            if !self.add(&within(children, name), &mut after) {
                let siblings = within(children, "");
                let there_are = self.names.iter().filter(|it| it.starts_with(&siblings));
                let there_are: Vec<&str> = there_are.map(|it| &it[siblings.len()..]).collect();
                let detail = format!(
                    "step {} is after {name:?}, which is no step; there are: {}",
                    step.name,
                    there_are.join(", ")
                );
                let pointer = format!("{pointer}/after/{place}");
                return Err(Failure::of(Problem::new(Code::UnknownStep, detail).at(pointer)));
            }
        }
        match children.last() {
            // The first steps of a child are after what the child is after.
            Some(child) if after.is_empty() => {
                let family = &self.families[&child.name];
                self.after(family.step, &family.pointer, &family.within)
            }
            Some(_) | None => Ok(after),
        }
    }

    /// Adds a step, or the last steps of a child saga. Returns whether there is one of that name.
    fn add(&self, name: &str, after: &mut Vec<BranchId>) -> bool {
        if let Some(family) = self.families.get(name) {
            return family.last.iter().all(|last| self.add(last, after));
        }
        let Some(found) = self.names.iter().position(|it| it == name) else { return false };
        let found = BranchId(found as u16);
        if !after.contains(&found) {
            after.push(found);
        }
        true
    }
}
