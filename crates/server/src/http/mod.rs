//! The HTTP face of the coordinator: `/v1` as the contract has it, health and metrics.
//!
//! A handler parses into the wire types of `unanimous-api`, checks what can be checked without the
//! driver, and asks the driver. Whatever goes wrong leaves as one problem document.

mod body;
mod events;
mod keys;
mod system;
mod transactions;
mod validate;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;
use unanimous_api::{Code, Problem};

use crate::config::{Config, Secret};
use crate::driver::Coordinator;

/// What every handler has.
#[derive(Clone)]
pub(crate) struct App {
    coordinator: Coordinator,
    keys: Arc<keys::Keys>,
    token: Option<Arc<Secret>>,
    body_bytes_max: usize,
    quitting: watch::Receiver<bool>,
}

/// Everything that is served. Event streams end when `quitting` is set.
pub fn router(
    coordinator: Coordinator,
    config: &Config,
    quitting: watch::Receiver<bool>,
) -> Router {
    let app = App {
        coordinator,
        keys: Arc::default(),
        token: config.token.clone().map(Arc::new),
        body_bytes_max: config.limits.body_bytes_max,
        quitting,
    };
    let transaction = "/v1/transactions/{id}";
    let closed = Router::new()
        .route("/v1/transactions", get(transactions::list).post(transactions::begin))
        .route(transaction, get(transactions::show))
        .route(&format!("{transaction}/log"), get(transactions::log))
        .route(&format!("{transaction}/participants"), post(transactions::enlist))
        .route(&format!("{transaction}/commit"), post(transactions::commit))
        .route(&format!("{transaction}/abort"), post(transactions::abort))
        .route(&format!("{transaction}/retry"), post(transactions::retry))
        .route(&format!("{transaction}/resolve"), post(transactions::resolve))
        .route("/v1/resources", get(system::resources))
        .route("/v1/resources/{name}/in-doubt", get(system::in_doubt))
        .route("/v1/events", get(events::stream))
        .route("/metrics", get(system::metrics))
        .layer(middleware::from_fn_with_state(app.clone(), authorize));
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

/// A problem on its way out.
pub(crate) struct Failure(Box<Problem>);

impl Failure {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        Self::of(Problem::new(code, detail))
    }

    fn of(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).expect("a problem is always JSON");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        let problem = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, problem);
        let again = Code::parse(&self.0.code).is_some_and(|code| match code {
            Code::Overloaded | Code::KeyInUse | Code::JournalFull | Code::ShuttingDown => true,
            Code::MalformedJson
            | Code::BadField
            | Code::OutOfBounds
            | Code::UnknownResource
            | Code::BodyTooLarge
            | Code::TooManyBranches
            | Code::DuplicateParticipant
            | Code::NotATransactionId
            | Code::BadQuery
            | Code::UnknownParticipant
            | Code::BadIdempotencyKey
            | Code::NoSuchPath
            | Code::MethodNotAllowed
            | Code::Aborted
            | Code::AlreadyCommitted
            | Code::NotEnlisting
            | Code::KeyReused
            | Code::UnknownTransaction
            | Code::Mixed
            | Code::ContradictsDecision
            | Code::Undecided
            | Code::NothingToResolve
            | Code::Delegated
            | Code::OtherCluster
            | Code::Unauthorized
            | Code::Internal => false,
        });
        if again {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<unanimous_journal::JournalError> for Failure {
    fn from(error: unanimous_journal::JournalError) -> Self {
        Self::new(Code::Internal, error.to_string())
    }
}

async fn authorize(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(token) = &app.token else { return next.run(request).await };
    let offered = request.headers().get(header::AUTHORIZATION);
    let offered = offered.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match offered {
        Some(offered) if token.is(offered.trim()) => next.run(request).await,
        Some(_) => Failure::new(Code::Unauthorized, "the token is wrong").into_response(),
        None => Failure::new(Code::Unauthorized, "the request has no token").into_response(),
    }
}

async fn no_such_path(request: Request) -> Failure {
    Failure::new(Code::NoSuchPath, format!("nothing is at {}", request.uri().path()))
}

async fn method_not_allowed(method: Method, request: Request) -> Failure {
    let detail = format!("{} does not take {method}", request.uri().path());
    Failure::new(Code::MethodNotAllowed, detail)
}
