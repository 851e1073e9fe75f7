//! Resources, health, metrics, and what explains the contract.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use unanimous_api::{BranchInDoubt, Code, NodesView, ResourceCheck, ResourceView, ResourcesView};

use super::extract::Name;
use super::{App, Failure, validate};
use crate::{orphans, reconcile};

pub(super) async fn resources(State(app): State<App>) -> Json<ResourcesView> {
    let resources = app.coordinator.resources().iter().map(|(name, resource)| {
        let state = resource.state();
        ResourceView {
            name: name.to_string(),
            resource_type: resource.kind().to_owned(),
            url: resource.location().to_owned(),
            circuit: state.circuit.as_str().to_owned(),
            calls: state.calls as u64,
            waiting: state.waiting as u64,
            places: state.places as u64,
            last_error: state.last_error.map(|error| error.to_string()),
        }
    });
    Json(ResourcesView { resources: resources.collect() })
}

pub(super) async fn in_doubt(
    State(app): State<App>,
    Name(name): Name,
) -> Result<Json<Vec<BranchInDoubt>>, Failure> {
    if validate::known(app.coordinator.resources(), &name, String::new).is_err() {
        return Err(Failure::new(Code::NoSuchPath, format!("no resource {name:?} is configured")));
    }
    let mut branches = app.coordinator.in_doubt(&name).await?;
    orphans::add_held(&app.coordinator, &name, &mut branches).await?;
    Ok(Json(branches))
}

pub(super) async fn check(
    State(app): State<App>,
    Name(name): Name,
) -> Result<Json<ResourceCheck>, Failure> {
    match reconcile::check(&app.coordinator, &name).await? {
        Some(check) => Ok(Json(check)),
        None => Err(Failure::new(Code::NoSuchPath, format!("no resource {name:?} is configured"))),
    }
}

/// `GET /v1/nodes` where no other node can share the journal.
pub(super) async fn nodes() -> Json<NodesView> {
    Json(NodesView::default())
}

pub(super) async fn drain(Name(name): Name) -> Failure {
    let detail = format!("no node {name:?}: the journal is a folder, which belongs to one process");
    Failure::new(Code::UnknownNode, detail)
}

/// The process answers.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// New transactions are taken.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let why_not = match (*app.stopping.borrow(), app.coordinator.journal().has_room()) {
        (true, _) => "the coordinator is shutting down",
        (false, false) => "the journal takes no new transactions",
        (false, true) => return Json(json!({"ready": true})).into_response(),
    };
    let reply = json!({"ready": false, "reason": why_not});
    (StatusCode::SERVICE_UNAVAILABLE, Json(reply)).into_response()
}

pub(super) async fn metrics(State(app): State<App>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.coordinator.scrape().await).into_response()
}

pub(super) async fn openapi() -> Response {
    let kind = "application/json";
    ([(header::CONTENT_TYPE, kind)], include_str!("openapi.json")).into_response()
}

/// What an error code means, for whoever follows a problem's `type`.
pub(super) async fn explain(Name(code): Name) -> Result<String, Failure> {
    let known = Code::parse(&code.to_ascii_uppercase());
    let info = known
        .ok_or_else(|| Failure::new(Code::NoSuchPath, format!("no error code {code:?}")))?
        .info();
    Ok(format!("{} (HTTP {})\n{}\n\n{}\n", info.code, info.http, info.title, info.remedy))
}
