//! `POST /v1/transactions`: begin, or begin and run to the end; once for each key.
//!
//! A key is looked up in the journal first, which knows every transaction ever begun under it, and
//! then by the driver, which knows those begun since the look-up. So a key begins one transaction,
//! whoever else brings it and whenever.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use serde_json::value::RawValue;
use unanimous_api::{
    BeginRequest, Code, Kind, Problem, StatusWord, TIMEOUT_MS_DEFAULT, TransactionView, Wait,
    WebhookRequest,
};
use unanimous_core::Opaque;
use unanimous_core::commit::{Key, Shape};
use unanimous_core::id::TxnId;
use unanimous_participants::{Takes, Trace, step};

use super::answer::{self, Heard, hear, hear_or_show, present};
use super::{App, Failure, Reply, body, definitions, keys, message, steps, validate};
use crate::definitions::Definitions;
use crate::driver::{AskError, BeginOrder, Given, IfRunning, SagaOrder, Webhook};
use crate::limits::SAGA_MS_MAX;
use crate::nodes::Domains;
use crate::resources::Resources;

/// What a repeat of a request has to know of it.
struct Asked {
    wait: Wait,
    running: IfRunning,
    timeout_ms: u64,
}

/// The identity that a node gives a transaction before it asks for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assigned {
    pub(crate) txn: TxnId,
    pub(crate) attempt: Attempt,
}

/// What an identity has been through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Attempt {
    /// Nobody has been asked to begin it.
    First,
    /// This owner may have begun it, under the epoch that it has now.
    Again,
    /// A former owner may have. If the journal does not know it, a branch in doubt may have been told
    /// that it is aborted: it does not begin any more.
    Late,
}

/// Marks the answer that nothing was begun under an identity, and never will be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeverBegun;

pub(super) async fn begin(
    State(app): State<App>,
    assigned: Option<Extension<Assigned>>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let assigned = assigned.map(|Extension(assigned)| assigned);
    let bytes = body::read(&app, body).await?;
    let mut request: BeginRequest<&RawValue> = body::parse(&bytes)?;
    let key = body::key(&headers)?;
    let key = key.map(|text| Key { text: text.into(), fingerprint: keys::of_begin(&request) });
    known_domain(&app.domains, request.domain.as_deref())?;
    let named = named(&app.definitions, &mut request)?;
    let nothing_to_run = request.branches.is_empty() && request.steps.is_empty();
    let attempt = assigned.map_or(Attempt::First, |assigned| assigned.attempt);
    let is_repeat = attempt != Attempt::First;
    let running = match request.wait.is_none() && !nothing_to_run && !is_repeat {
        true => IfRunning::Refuse,
        false => IfRunning::Join,
    };
    let wait = request.wait.unwrap_or_default();
    let trace = body::trace(&headers);
    let mut order = order(&app, request, key.clone(), running, trace)?;
    let txn = assigned.map(|assigned| assigned.txn);
    let given = txn.map(|txn| Given { txn, repeats: is_repeat });
    match &mut order {
        Order::Saga(order) => (order.saga, order.txn) = (named, given),
        Order::Branches(order) => order.txn = given,
    }
    let timeout_ms = match &order {
        Order::Branches(order) => order.timeout_ms,
        Order::Saga(order) => order.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT),
    };
    let asked = Asked { wait, running, timeout_ms };
    if let Some(txn) = txn.filter(|_| is_repeat)
        && let Some(view) = app.coordinator.show(txn, None).await?
    {
        return along(&app, txn, view, asked).await;
    }
    if let Some(key) = &key
        && let Some(txn) = app.coordinator.find_key(&key.text).await?
    {
        return repeated(&app, txn, key, asked).await;
    }
    if attempt == Attempt::Late {
        return Ok(never_begun());
    }
    let (txn, answer) = match order {
        Order::Branches(order) => app.coordinator.begin(order),
        Order::Saga(order) => app.coordinator.begin_saga(order),
    };
    let view = match hear(&app, answer, asked.timeout_ms).await {
        Heard::View(view) => *view,
        Heard::Refused(AskError::KeyTaken(other)) => present(&app, other).await?,
        Heard::Refused(error) => return Err(Failure::of(error.problem(txn))),
        Heard::NotYet => begun_or_joined(&app, txn, key.as_ref()).await?,
    };
    Ok(answer::begun(view, asked.wait))
}

fn known_domain(domains: &Domains, name: Option<&str>) -> Result<(), Failure> {
    let Some(name) = name else { return Ok(()) };
    if domains.names().any(|known| known == name) {
        return Ok(());
    }
    let known: Vec<&str> = domains.names().collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let name = validate::brief(name);
    let detail = format!("no domain {name:?} is configured; configured: {known}");
    Err(Failure::of(Problem::new(Code::UnknownDomain, detail).at("/domain")))
}

fn never_begun() -> Response {
    let failure = Failure::new(Code::NoOwner, "its owner has changed before it began");
    let mut response = failure.into_response();
    response.extensions_mut().insert(NeverBegun);
    response
}

/// Puts the steps of sagas that are known by name in the place of their names, and returns the name
/// and version of the whole if it has one.
fn named<'a>(
    definitions: &'a Definitions,
    request: &mut BeginRequest<&'a RawValue>,
) -> Result<Option<String>, Failure> {
    let Some(name) = request.saga.take() else {
        definitions::spell_out(definitions, &mut request.steps, None)?;
        return Ok(None);
    };
    if request.kind != Kind::Saga {
        return Err(misplaced("/saga", "only a saga is known by name"));
    }
    if !request.steps.is_empty() {
        return Err(misplaced("/steps", "a saga that is named has its steps already"));
    }
    let found = definitions::find(definitions, &name, "/saga")?;
    request.steps = found.steps();
    definitions::spell_out(definitions, &mut request.steps, Some(found.label()))?;
    Ok(Some(found.label()))
}

enum Order {
    Branches(BeginOrder),
    Saga(SagaOrder),
}

/// What is asked for, if it can be begun.
fn order(
    app: &App,
    request: BeginRequest<&RawValue>,
    key: Option<Key>,
    running: IfRunning,
    trace: Option<Trace>,
) -> Result<Order, Failure> {
    let wait = request.wait.unwrap_or_default();
    let webhook = webhook(app.coordinator.resources(), request.webhook.as_ref())?;
    let shape = match request.kind {
        Kind::Atomic => Shape::Atomic,
        Kind::Tcc => Shape::Tcc,
        Kind::Saga => {
            if !request.branches.is_empty() {
                return Err(misplaced("/branches", "a saga has steps and no branches"));
            }
            if request.source.is_some() {
                return Err(misplaced("/source", "only a message has it"));
            }
            let bound = |ms, pointer: &str| steps::millis(ms, SAGA_MS_MAX, || pointer.to_owned());
            return Ok(Order::Saga(SagaOrder {
                txn: None,
                timeout_ms: bound(request.timeout_ms, "/timeout_ms")?,
                delay_ms: bound(request.delay_ms, "/delay_ms")?,
                steps: steps::steps(app.coordinator.resources(), &request, None)?,
                input: validate::work(request.input, || "/input".to_owned())?,
                key,
                running,
                wait,
                trace,
                webhook,
                saga: None,
            }));
        }
        Kind::Message => {
            return Ok(Order::Saga(SagaOrder {
                txn: None,
                timeout_ms: None,
                delay_ms: None,
                steps: message::steps(app.coordinator.resources(), &request)?,
                input: validate::work(request.input, || "/input".to_owned())?,
                key,
                // It waits for the application.
                running: IfRunning::Join,
                wait: Wait::None,
                trace,
                webhook,
                saga: None,
            }));
        }
    };
    for (given, pointer) in [
        (!request.steps.is_empty(), "/steps"),
        (request.input.is_some(), "/input"),
        (request.source.is_some(), "/source"),
        (request.delay_ms.is_some(), "/delay_ms"),
    ] {
        if given {
            let why = "a saga or a message may have it; this kind has branches";
            return Err(misplaced(pointer, why));
        }
    }
    Ok(Order::Branches(BeginOrder {
        txn: None,
        shape,
        timeout_ms: validate::timeout_ms(request.timeout_ms)?,
        branches: validate::branches(app.coordinator.resources(), shape, request.branches)?,
        key,
        running,
        wait,
        trace,
        webhook,
    }))
}

/// A service that can tell the coordinator's word from anybody else's.
fn webhook(
    resources: &Resources,
    asked: Option<&WebhookRequest>,
) -> Result<Option<Webhook>, Failure> {
    let Some(WebhookRequest { resource, path }) = asked else { return Ok(None) };
    validate::known(resources, resource, || "/webhook/resource".to_owned())?;
    if !resources.get(resource).is_some_and(|(_, resource)| resource.signs()) {
        let detail = format!(
            "resource {resource} has no signing secret, by which it would know who calls: set \
             signing_secret_env"
        );
        let problem = Problem::new(Code::UnfitResource, detail).at("/webhook/resource");
        return Err(Failure::of(problem));
    }
    let work = Opaque::new(json!({"path": path}).to_string().as_bytes());
    step::check(Takes::Body, &work)
        .map_err(|bad| Failure::of(Problem::new(Code::BadField, bad.why).at("/webhook/path")))?;
    Ok(Some(Webhook { resource: resource.clone(), path: path.clone() }))
}

pub(super) fn misplaced(pointer: &str, why: &str) -> Failure {
    Failure::of(Problem::new(Code::BadField, why).at(pointer))
}

/// The transaction that this request began, or the one under its key that it waited along with.
async fn begun_or_joined(
    app: &App,
    txn: TxnId,
    key: Option<&Key>,
) -> Result<TransactionView, Failure> {
    let joined = match key {
        Some(key) => app.coordinator.find_key(&key.text).await?,
        None => None,
    };
    let txn = joined.unwrap_or(txn);
    // A driver takes its events in order: had it begun the transaction, it would show it now. It was
    // refused by a coordinator that is about to stop.
    let view = app.coordinator.show(txn, None).await?;
    view.ok_or_else(|| Failure::of(AskError::ShuttingDown.problem(txn)))
}

/// Answers a request whose key the journal knows.
async fn repeated(app: &App, txn: TxnId, key: &Key, asked: Asked) -> Result<Response, Failure> {
    if app.coordinator.fingerprint(txn).await? != Some(key.fingerprint) {
        return Err(Failure::of(AskError::KeyReused(txn).problem(txn)));
    }
    let view = present(app, txn).await?;
    along(app, txn, view, asked).await
}

/// Waits along with a transaction that had begun already, and was seen like this.
async fn along(
    app: &App,
    txn: TxnId,
    view: TransactionView,
    asked: Asked,
) -> Result<Response, Failure> {
    // An open one that nobody drives yet shows itself, too.
    let at_rest = view.status.is_final() || view.status == StatusWord::Initiated;
    let view = match (at_rest, asked.running) {
        (true, _) => view,
        (false, IfRunning::Refuse) => {
            return Err(Failure::of(AskError::KeyInUse(txn).problem(txn)));
        }
        (false, IfRunning::Join) => {
            let answer = app.coordinator.join(txn, asked.wait);
            hear_or_show(app, txn, answer, asked.timeout_ms).await?
        }
    };
    Ok(answer::begun(view, asked.wait))
}
