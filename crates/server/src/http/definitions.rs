//! `/v1/sagas`: the sagas that are known by name.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use unanimous_api::{BeginRequest, Code, DefinitionsView, Kind, Problem, StepRequest};
use unanimous_core::limits::BRANCHES_MAX;

use super::begin::misplaced;
use super::extract::Name;
use super::validate::out_of_bounds;
use super::{App, Failure, steps};
use crate::definitions::{Definition, Definitions, SagaConfig};
use crate::resources::Resources;

/// One of them with all that stands in its file.
#[derive(Serialize)]
struct Whole<'a> {
    saga: String,
    steps: Vec<StepRequest<&'a RawValue>>,
}

pub(super) async fn list(State(app): State<App>) -> Json<DefinitionsView> {
    Json(app.definitions.view())
}

pub(super) async fn show(State(app): State<App>, Name(name): Name) -> Result<Response, Failure> {
    let found = find(&app.definitions, &name, "/name")?;
    Ok(Json(Whole { saga: found.label(), steps: found.steps() }).into_response())
}

/// The saga of that name.
pub(super) fn find<'a>(
    definitions: &'a Definitions,
    named: &str,
    pointer: &str,
) -> Result<Definition<'a>, Failure> {
    definitions.find(named).ok_or_else(|| {
        let known: Vec<String> = definitions.iter().map(|it| it.label()).collect();
        let detail = match known.is_empty() {
            true => format!("saga {named:?} is not configured, and no other is"),
            false => format!("saga {named:?} is not configured; there are: {}", known.join(", ")),
        };
        Failure::of(Problem::new(Code::UnknownSaga, detail).at(pointer))
    })
}

/// Puts the steps of sagas that are known by name in the places where steps name them, also within
/// such sagas. `within` is the name and version of the saga that they are the steps of.
///
/// # Errors
///
/// [`Code::UnknownSaga`], [`Code::SagaWithinItself`], and what has both a name and steps.
pub(super) fn spell_out<'a>(
    definitions: &'a Definitions,
    steps: &mut [StepRequest<&'a RawValue>],
    within: Option<String>,
) -> Result<(), Failure> {
    let within = within.into_iter().collect();
    Speller { definitions, within, named: 0 }.steps(steps, "/steps")
}

struct Speller<'a> {
    definitions: &'a Definitions,
    /// The sagas that the present steps are within, the outermost first.
    within: Vec<String>,
    /// Names found so far. Each stands for a step or more, of which there is a bounded number.
    named: usize,
}

impl<'a> Speller<'a> {
    fn steps(
        &mut self,
        steps: &mut [StepRequest<&'a RawValue>],
        pointer: &str,
    ) -> Result<(), Failure> {
        for (index, step) in steps.iter_mut().enumerate() {
            let Some(child) = &mut step.saga else { continue };
            let at = |field: &str| format!("{pointer}/{index}/saga/{field}");
            let Some(name) = child.saga.take() else {
                self.steps(&mut child.steps, &at("steps"))?;
                continue;
            };
            if !child.steps.is_empty() {
                let why = "a saga that is named has its steps already";
                return Err(misplaced(&at("steps"), why));
            }
            let found = find(self.definitions, &name, &at("saga"))?;
            let label = found.label();
            self.named += 1;
            if self.named > BRANCHES_MAX {
                let detail = format!("more than {BRANCHES_MAX} sagas are named");
                return Err(out_of_bounds(detail, at("saga")));
            }
            if self.within.contains(&label) {
                let detail =
                    format!("{label} is within itself: {} > {label}", self.within.join(" > "));
                let problem = Problem::new(Code::SagaWithinItself, detail).at(at("saga"));
                return Err(Failure::of(problem));
            }
            child.steps = found.steps();
            self.within.push(label);
            self.steps(&mut child.steps, &at("steps"))?;
            self.within.pop();
        }
        Ok(())
    }
}

/// Whether every configured saga can be begun.
///
/// # Errors
///
/// One line that names the saga, the place in its file and what is wrong there.
pub(crate) fn check(resources: &Resources, sagas: &[SagaConfig]) -> Result<(), String> {
    let definitions = Definitions::new(sagas);
    for definition in definitions.iter() {
        let wrong = |failure: Failure| {
            let (label, code) = (definition.label(), failure.code().info().code);
            format!("saga {label}: {} ({code})", failure.line())
        };
        let mut spelled_out = definition.steps();
        spell_out(&definitions, &mut spelled_out, Some(definition.label())).map_err(wrong)?;
        let request = BeginRequest {
            kind: Kind::Saga,
            domain: None,
            timeout_ms: None,
            wait: None,
            branches: Vec::new(),
            input: None,
            saga: None,
            steps: spelled_out,
            source: None,
            webhook: None,
            delay_ms: None,
        };
        steps::steps(resources, &request, None).map_err(wrong)?;
    }
    Ok(())
}
