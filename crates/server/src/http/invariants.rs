//! `/v1/invariants`: what was last found of each, and checks on demand.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use unanimous_api::{Code, InvariantView, InvariantsView};

use super::body::{self, Nothing};
use super::extract::Name;
use super::{App, Failure};

pub(super) async fn list(State(app): State<App>) -> Json<InvariantsView> {
    Json(app.invariants.view())
}

/// Repeating it checks again, so an idempotency key has nothing to say here.
pub(super) async fn check(
    State(app): State<App>,
    Name(name): Name,
    body: Body,
) -> Result<Json<InvariantView>, Failure> {
    let bytes = body::read(&app, body).await?;
    let Nothing {} = body::parse_or_default(&bytes)?;
    let view = app.invariants.check(&name).await.ok_or_else(|| {
        let detail = format!("no invariant {name:?} is configured");
        Failure::new(Code::UnknownInvariant, detail)
    })?;
    Ok(Json(view))
}
