//! `/v1/sagas`: the sagas that are known by name.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use unanimous_api::{BeginRequest, Code, DefinitionsView, Kind, Problem, StepRequest};

use super::extract::Name;
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

/// Whether every configured saga can be begun.
///
/// # Errors
///
/// One line that names the saga, the place in its file and what is wrong there.
pub(crate) fn check(resources: &Resources, sagas: &[SagaConfig]) -> Result<(), String> {
    for definition in Definitions::new(sagas).iter() {
        let request = BeginRequest {
            kind: Kind::Saga,
            timeout_ms: None,
            wait: None,
            branches: Vec::new(),
            input: None,
            saga: None,
            steps: definition.steps(),
            source: None,
            webhook: None,
            delay_ms: None,
        };
        steps::steps(resources, &request, None)
            .map_err(|failure| format!("saga {}: {}", definition.label(), failure.line()))?;
    }
    Ok(())
}
