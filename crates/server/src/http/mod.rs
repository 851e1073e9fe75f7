//! The HTTP face of the coordinator: `/v1` as the contract has it, health and metrics.
//!
//! A handler parses into the wire types of `unanimous-api`, checks what can be checked without the
//! driver, and asks the driver. Whatever goes wrong leaves as one problem document. What a client
//! wrote is bounded and made plain before it is kept or shown to anybody.

mod answer;
mod begin;
mod body;
mod definitions;
mod events;
mod extract;
mod failure;
mod guard;
mod invariants;
mod keys;
mod list;
mod listen;
mod message;
mod steps;
mod system;
mod transactions;
mod validate;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use tokio::sync::watch;
use unanimous_api::Code;

use crate::config::Config;
use crate::definitions::Definitions;
use crate::driver::Coordinator;
use crate::invariants::Invariants;
use crate::nodes::Domains;

pub(crate) use begin::{Assigned, Attempt, NeverBegun};
pub(crate) use body::{key as request_key, within_bounds as read_body};
pub(crate) use definitions::check as check_definitions;
pub(crate) use events::all as all_events;
pub(crate) use failure::Failure;
pub(crate) use guard::guard;
pub(crate) use list::PAGE_DEFAULT;
pub(crate) use listen::{Apart, Bounds, bind, listen};
pub(crate) use system::healthz;

type Reply = Result<Response, Failure>;

/// Where the process is on its way to its end.
#[derive(Clone, Debug)]
pub struct Lights {
    /// It is about to stop: send new work elsewhere.
    pub stopping: watch::Receiver<bool>,
    /// It stops now: event streams end, and requests that wait get the state so far.
    pub quitting: watch::Receiver<bool>,
}

/// What every handler has.
pub(crate) struct State {
    coordinator: Coordinator,
    invariants: Invariants,
    definitions: Definitions,
    domains: Domains,
    keys: keys::Keys,
    body_bytes_max: usize,
    stopping: watch::Receiver<bool>,
    quitting: watch::Receiver<bool>,
}

type App = Arc<State>;

/// Everything that is served.
pub fn router(
    coordinator: Coordinator,
    invariants: Invariants,
    config: &Config,
    lights: Lights,
) -> Router {
    let app = Arc::new(State {
        coordinator,
        invariants,
        definitions: Definitions::new(&config.sagas),
        domains: config.domains.clone(),
        keys: keys::Keys::default(),
        body_bytes_max: config.limits.body_bytes_max,
        stopping: lights.stopping,
        quitting: lights.quitting,
    });
    let closed = Router::new()
        .route("/v1/transactions", get(list::list).post(begin::begin))
        .route("/v1/transactions/{id}", get(transactions::show))
        .route("/v1/transactions/{id}/log", get(transactions::log))
        .route("/v1/transactions/{id}/participants", post(transactions::enlist))
        .route("/v1/transactions/{id}/commit", post(transactions::commit))
        .route("/v1/transactions/{id}/abort", post(transactions::abort))
        .route("/v1/transactions/{id}/signals/{name}", post(transactions::signal))
        .route("/v1/transactions/{id}/retry", post(transactions::retry))
        .route("/v1/transactions/{id}/resolve", post(transactions::resolve))
        .route("/v1/resources", get(system::resources))
        .route("/v1/resources/{name}/in-doubt", get(system::in_doubt))
        .route("/v1/resources/{name}/check", get(system::check))
        .route("/v1/invariants", get(invariants::list))
        .route("/v1/invariants/{name}/check", post(invariants::check))
        .route("/v1/sagas", get(definitions::list))
        .route("/v1/sagas/{name}", get(definitions::show))
        .route("/v1/nodes", get(system::nodes))
        .route("/v1/nodes/{name}/drain", post(system::drain))
        .route("/v1/events", get(events::stream))
        .route("/metrics", get(system::metrics))
        .layer(middleware::from_fn_with_state(config.token.clone(), guard::guard));
    Router::new()
        .merge(closed)
        .route("/healthz", get(system::healthz))
        .route("/readyz", get(system::readyz))
        .route("/openapi.json", get(system::openapi))
        .route("/errors/{code}", get(system::explain))
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

async fn no_such_path(request: Request) -> Failure {
    Failure::new(Code::NoSuchPath, format!("nothing is at {}", request.uri().path()))
}

async fn method_not_allowed(method: Method, request: Request) -> Failure {
    let detail = format!("{} does not take {method}", request.uri().path());
    Failure::new(Code::MethodNotAllowed, detail)
}
