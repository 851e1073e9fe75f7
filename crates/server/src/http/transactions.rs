//! `/v1/transactions`: begin, enlist, commit, abort, retry, resolve; list, show, log.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;
use unanimous_api::{
    AbortRequest, BeginRequest, Code, CommitRequest, EnlistRequest, EnlistedView, Kind, LogView,
    OutcomeWord, PAGE_MAX, Problem, ResolveOutcome, ResolveRequest, StatusWord, SummaryView,
    TIMEOUT_MS_DEFAULT, TransactionList, TransactionView, VoteWord, Wait,
};
use unanimous_core::commit::Key;
use unanimous_core::id::{BranchName, Timestamp, TxnId};
use unanimous_core::{Decision, Force, Reason, Resolution, Vote};
use unanimous_journal::{Filter, Status, Summary};

use super::{App, Failure, body, keys, validate};
use crate::driver::{AskError, BeginOrder, IfRunning, view};
use crate::limits::WAIT_SLACK_MS;

type Reply = Result<Response, Failure>;
type Answer = oneshot::Receiver<Result<TransactionView, AskError>>;

pub(super) async fn begin(State(app): State<App>, headers: HeaderMap, body: Body) -> Reply {
    let bytes = body::read(&app, body).await?;
    let request: BeginRequest = body::parse(&bytes)?;
    let key = body::key(&headers)?;
    let timeout_ms = validate::timeout_ms(&request)?;
    let fingerprint = key.map(|_| {
        // The request as it was understood: white space and the order of fields do not matter.
        let canonical = serde_json::to_vec(&request).expect("a request is always JSON");
        keys::fingerprint("/v1/transactions", &canonical)
    });
    let Kind::Atomic = request.kind;
    let asked_to_wait = request.wait;
    let wait = request.wait.unwrap_or_default();
    let runs = !request.branches.is_empty();
    let branches = validate::branches(app.coordinator.resources(), request.branches)?;
    let running = match (asked_to_wait, runs) {
        (None, true) => IfRunning::Refuse,
        (Some(_), _) | (None, false) => IfRunning::Join,
    };
    let key = match key.zip(fingerprint) {
        None => None,
        Some((text, fingerprint)) => {
            let known = app.coordinator.find_key(text).await?;
            if let Some(txn) = known {
                return repeated(&app, txn, fingerprint, wait, running, timeout_ms).await;
            }
            Some(Key { text: text.into(), fingerprint })
        }
    };
    let traceparent = body::traceparent(&headers);
    let order = BeginOrder { timeout_ms, branches, key, running, wait, traceparent };
    let (txn, answer) = app.coordinator.begin(order);
    match hear(&app, txn, answer, timeout_ms).await {
        Ok(view) => Ok(show_begun(view, wait)),
        Err(Asked(AskError::KeyTaken(other) | AskError::KeyInUse(other)))
            if running == IfRunning::Join =>
        {
            let view = present(&app, other).await?;
            Ok(show_begun(view, wait))
        }
        Err(Asked(AskError::KeyTaken(other))) => {
            let view = present(&app, other).await?;
            Ok(show_begun(view, wait))
        }
        Err(Asked(error)) => Err(Failure::of(error.problem(txn))),
    }
}

/// Answers a request whose key the journal knows.
async fn repeated(
    app: &App,
    txn: TxnId,
    fingerprint: [u8; 16],
    wait: Wait,
    running: IfRunning,
    timeout_ms: u64,
) -> Reply {
    if app.coordinator.fingerprint(txn).await? != Some(fingerprint) {
        return Err(Failure::of(AskError::KeyReused(txn).problem(txn)));
    }
    let view = present(app, txn).await?;
    let open = !matches!(view.status, StatusWord::Committed | StatusWord::Aborted);
    if !open || view.status == StatusWord::Initiated {
        return Ok(show_begun(view, wait));
    }
    match running {
        IfRunning::Refuse => Err(Failure::of(AskError::KeyInUse(txn).problem(txn))),
        IfRunning::Join => {
            let answer = app.coordinator.join(txn, wait);
            match hear(app, txn, answer, timeout_ms).await {
                Ok(view) => Ok(show_begun(view, wait)),
                Err(Asked(AskError::NotOpen)) => Ok(show_begun(present(app, txn).await?, wait)),
                Err(Asked(error)) => Err(Failure::of(error.problem(txn))),
            }
        }
    }
}

fn show_begun(view: TransactionView, wait: Wait) -> Response {
    match (view.status, wait) {
        (StatusWord::Initiated, _) => {
            let location = format!("/v1/transactions/{}", view.id);
            (StatusCode::CREATED, [(header::LOCATION, location)], Json(view)).into_response()
        }
        (_, Wait::None) if view.outcome.is_none() => accepted(view),
        _ => show_outcome(view, wait),
    }
}

fn accepted(view: TransactionView) -> Response {
    (StatusCode::ACCEPTED, Json(view)).into_response()
}

/// 200 for a commit, 409 for an abort, 202 if it has not come as far as was asked.
fn show_outcome(view: TransactionView, wait: Wait) -> Response {
    let ended = matches!(view.status, StatusWord::Committed | StatusWord::Aborted);
    match (view.outcome, wait) {
        (None, _) => accepted(view),
        (Some(_), Wait::Finished) if !ended => accepted(view),
        (Some(OutcomeWord::Committed), _) => (StatusCode::OK, Json(view)).into_response(),
        (Some(OutcomeWord::Aborted), _) => aborted(view).into_response(),
        (Some(OutcomeWord::Mixed), _) => mixed(view).into_response(),
    }
}

fn aborted(view: TransactionView) -> Failure {
    let detail = match &view.reason {
        Some(reason) => match &reason.participant {
            Some(name) => format!("{name}: {}", reason.detail),
            None => reason.detail.clone(),
        },
        None => format!("transaction {} was aborted", view.id),
    };
    Failure::of(Problem::new(Code::Aborted, detail).about(view))
}

fn mixed(view: TransactionView) -> Failure {
    let own = view.participants.iter().filter(|participant| participant.heuristic.is_some());
    let names: Vec<&str> = own.map(|participant| &*participant.name).collect();
    let detail = format!("ended against the decision: {}", names.join(", "));
    Failure::of(Problem::new(Code::Mixed, detail).about(view))
}

/// What the driver said of a request.
struct Asked(AskError);

/// Waits for the driver, no longer than its transaction's timeout; then shows the state so far.
async fn hear(
    app: &App,
    txn: TxnId,
    answer: Answer,
    timeout_ms: u64,
) -> Result<TransactionView, Asked> {
    let limit = Duration::from_millis(timeout_ms.saturating_add(WAIT_SLACK_MS));
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(answer)) => answer.map_err(Asked),
        Ok(Err(_)) => Err(Asked(AskError::ShuttingDown)),
        Err(_) => match app.coordinator.show(txn, None).await {
            Ok(Some(view)) => Ok(view),
            Ok(None) => Err(Asked(AskError::NotOpen)),
            Err(_) => Err(Asked(AskError::Lost)),
        },
    }
}

async fn present(app: &App, txn: TxnId) -> Result<TransactionView, Failure> {
    let view = app.coordinator.show(txn, None).await?;
    view.ok_or_else(|| Failure::of(AskError::NotOpen.problem(txn)))
}

pub(super) async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<TransactionView>, Failure> {
    let txn = body::txn_id(&id)?;
    let inquirer = match headers.get(unanimous_api::header::BRANCH) {
        None => None,
        Some(name) => {
            let name: Option<BranchName> = name.to_str().ok().and_then(|name| name.parse().ok());
            let ours = name.filter(|it| it.cluster == app.coordinator.cluster() && it.txn == txn);
            let foreign = || {
                let cluster = app.coordinator.cluster();
                let detail =
                    format!("this is cluster {cluster}, and transaction {txn} was asked for");
                Failure::new(Code::OtherCluster, detail)
            };
            Some(ours.ok_or_else(foreign)?.branch)
        }
    };
    let view = app.coordinator.show(txn, inquirer).await?;
    view.map(Json).ok_or_else(|| Failure::of(AskError::NotOpen.problem(txn)))
}

pub(super) async fn log(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<LogView>, Failure> {
    let txn = body::txn_id(&id)?;
    let log = app.coordinator.log(txn).await?;
    match log.events.is_empty() {
        true => Err(Failure::of(AskError::NotOpen.problem(txn))),
        false => Ok(Json(log)),
    }
}

/// Reads the body of a request about a transaction, and takes its key.
async fn read_keyed(
    app: &App,
    headers: &HeaderMap,
    path: String,
    body: Body,
) -> Result<bytes::Bytes, Failure> {
    let bytes = body::read(app, body).await?;
    if let Some(key) = body::key(headers)? {
        app.keys.take(key, keys::fingerprint(&path, &bytes))?;
    }
    Ok(bytes)
}

pub(super) async fn enlist(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let txn = body::txn_id(&id)?;
    let bytes = read_keyed(&app, &headers, format!("{id}/participants"), body).await?;
    let request: EnlistRequest = body::parse(&bytes)?;
    validate::known(app.coordinator.resources(), &request.resource, "/resource".to_owned())?;
    validate::participant(&request.participant, "/participant".to_owned())?;
    let work = validate::work(request.body.as_ref());
    let enlisted = app.coordinator.enlist(txn, &request.participant, &request.resource, work);
    let enlisted = match enlisted.await {
        Ok(enlisted) => enlisted,
        Err(AskError::NotOpen) => {
            let view = present(&app, txn).await?;
            let detail = format!("transaction {txn} has ended");
            return Err(Failure::of(Problem::new(Code::NotEnlisting, detail).about(view)));
        }
        Err(error) => return Err(Failure::of(error.problem(txn))),
    };
    if enlisted.resource != request.resource {
        let detail =
            format!("participant {} is enlisted on resource {}", enlisted.name, enlisted.resource);
        let problem = Problem::new(Code::DuplicateParticipant, detail).at("/participant");
        return Err(Failure::of(problem));
    }
    let view = EnlistedView {
        id: txn.to_string(),
        participant: enlisted.name,
        resource: enlisted.resource,
        branch: enlisted.branch,
    };
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

pub(super) async fn commit(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let txn = body::txn_id(&id)?;
    let bytes = read_keyed(&app, &headers, format!("{id}/commit"), body).await?;
    let request: CommitRequest = body::parse_or_default(&bytes)?;
    let wait = request.wait.unwrap_or_default();
    let votes = request.votes.into_iter().map(|(name, vote)| {
        let vote = match vote {
            VoteWord::Yes => Vote::Yes,
            VoteWord::No => Vote::No,
            VoteWord::ReadOnly => Vote::ReadOnly,
        };
        (name, vote)
    });
    let answer = app.coordinator.commit(txn, votes.collect(), wait);
    match hear(&app, txn, answer, TIMEOUT_MS_DEFAULT).await {
        Ok(view) => Ok(show_outcome(view, wait)),
        Err(Asked(AskError::NotOpen)) => Ok(show_outcome(present(&app, txn).await?, wait)),
        Err(Asked(error)) => Err(Failure::of(error.problem(txn))),
    }
}

pub(super) async fn abort(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let txn = body::txn_id(&id)?;
    let bytes = read_keyed(&app, &headers, format!("{id}/abort"), body).await?;
    let request: AbortRequest = body::parse_or_default(&bytes)?;
    let why = request.reason.as_deref().unwrap_or("the client asked for it");
    let wait = request.wait.unwrap_or_default();
    let answer = app.coordinator.abort(txn, Reason::new("client", why), wait);
    let view = match hear(&app, txn, answer, TIMEOUT_MS_DEFAULT).await {
        Ok(view) => view,
        Err(Asked(AskError::NotOpen)) => present(&app, txn).await?,
        Err(Asked(error)) => return Err(Failure::of(error.problem(txn))),
    };
    match (view.outcome, view.status) {
        (Some(OutcomeWord::Aborted), StatusWord::Aborting) if wait == Wait::Finished => {
            Ok(accepted(view))
        }
        (Some(OutcomeWord::Aborted), _) => Ok((StatusCode::OK, Json(view)).into_response()),
        (Some(OutcomeWord::Mixed), _) => Err(mixed(view)),
        (Some(OutcomeWord::Committed), _) => {
            let detail = format!("transaction {txn} is committed");
            Err(Failure::of(Problem::new(Code::AlreadyCommitted, detail).about(view)))
        }
        (None, _) => Ok(accepted(view)),
    }
}

pub(super) async fn retry(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let txn = body::txn_id(&id)?;
    read_keyed(&app, &headers, format!("{id}/retry"), body).await?;
    let answer = app.coordinator.retry(txn);
    match hear(&app, txn, answer, TIMEOUT_MS_DEFAULT).await {
        Ok(view) => Ok(Json(view).into_response()),
        Err(Asked(AskError::NotOpen)) => Ok(Json(present(&app, txn).await?).into_response()),
        Err(Asked(error)) => Err(Failure::of(error.problem(txn))),
    }
}

pub(super) async fn resolve(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let txn = body::txn_id(&id)?;
    let bytes = read_keyed(&app, &headers, format!("{id}/resolve"), body).await?;
    let request: ResolveRequest = body::parse(&bytes)?;
    if request.reason.trim().is_empty() {
        let problem = Problem::new(Code::OutOfBounds, "a resolution needs a reason").at("/reason");
        return Err(Failure::of(problem));
    }
    let resolution = Resolution {
        outcome: match request.outcome {
            ResolveOutcome::Commit => Decision::Commit,
            ResolveOutcome::Rollback => Decision::Abort,
        },
        force: if request.force { Force::Yes } else { Force::No },
        by: request.by.as_deref().unwrap_or("operator").into(),
        reason: Reason::new("operator", &request.reason).detail,
    };
    let answer = app.coordinator.resolve(txn, resolution);
    match hear(&app, txn, answer, TIMEOUT_MS_DEFAULT).await {
        Ok(view) => Ok(Json(view).into_response()),
        Err(Asked(AskError::NotOpen)) => {
            let view = present(&app, txn).await?;
            let detail = format!("transaction {txn} has ended");
            Err(Failure::of(Problem::new(Code::NothingToResolve, detail).about(view)))
        }
        Err(Asked(AskError::Refused(unanimous_core::Refusal::Decided(_), view))) => {
            let detail = format!("the journal has decided transaction {txn} otherwise");
            let problem = Problem::new(Code::ContradictsDecision, detail).at("/outcome");
            Err(Failure::of(match view {
                Some(view) => problem.about(*view),
                None => problem,
            }))
        }
        Err(Asked(error)) => Err(Failure::of(error.problem(txn))),
    }
}

pub(super) async fn list(
    State(app): State<App>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<TransactionList>, Failure> {
    let now = app.coordinator.clock().now();
    let Some(filter) = filter(&parameters, now)? else {
        return Ok(Json(TransactionList::default()));
    };
    let page = app.coordinator.list(filter).await?;
    Ok(Json(TransactionList {
        transactions: page.rows.into_iter().map(summary).collect(),
        next_cursor: page.next.map(|txn| txn.to_string()),
    }))
}

const PAGE_DEFAULT: usize = 100;

/// The filter of a list; `None` if nothing can pass it.
fn filter(parameters: &[(String, String)], now: Timestamp) -> Result<Option<Filter>, Failure> {
    let bad = |detail: String| Failure::new(Code::BadQuery, detail);
    let mut filter = Filter { limit: PAGE_DEFAULT, ..Filter::default() };
    let mut passable = true;
    for (name, value) in parameters {
        let number =
            || value.parse::<u64>().map_err(|_| bad(format!("{name}={value:?} is no number")));
        match &**name {
            "status" => match &*value.to_ascii_uppercase() {
                "INITIATED" => filter.status = Some(Status::Initiated),
                "PREPARING" => filter.status = Some(Status::Preparing),
                // All votes yes and the decision not yet durable: too short to be seen in a list.
                "PREPARED" => passable = false,
                "COMMITTING" => filter.status = Some(Status::Committing),
                "COMMITTED" => filter.status = Some(Status::Committed),
                "ABORTING" => filter.status = Some(Status::Aborting),
                "ABORTED" => filter.status = Some(Status::Aborted),
                _ => return Err(bad(format!("status={value:?} is no status"))),
            },
            "kind" => match &**value {
                "atomic" => {}
                _ => return Err(bad(format!("kind={value:?} is no kind; there is: atomic"))),
            },
            "resource" => filter.resource = Some(value.clone()),
            "older_than_ms" => {
                filter.begun_before = Some(Timestamp(now.0.saturating_sub(number()?)));
            }
            "limit" => match usize::try_from(number()?) {
                Ok(limit) if (1..=PAGE_MAX).contains(&limit) => filter.limit = limit,
                Ok(_) | Err(_) => {
                    return Err(bad(format!("limit={value} is not within 1 to {PAGE_MAX}")));
                }
            },
            "cursor" => {
                let cursor = value.parse();
                filter.after = Some(cursor.map_err(|_| bad(format!("cursor={value:?} is none")))?);
            }
            _ => {
                return Err(bad(format!(
                    "no parameter {name}; there are: status, kind, resource, older_than_ms, limit, \
                     cursor"
                )));
            }
        }
    }
    Ok(passable.then_some(filter))
}

fn summary(row: Summary) -> SummaryView {
    SummaryView {
        id: row.txn.to_string(),
        kind: Kind::Atomic,
        status: match row.status {
            Status::Initiated => StatusWord::Initiated,
            Status::Preparing => StatusWord::Preparing,
            Status::Committing => StatusWord::Committing,
            Status::Committed => StatusWord::Committed,
            Status::Aborting => StatusWord::Aborting,
            Status::Aborted => StatusWord::Aborted,
        },
        outcome: row.outcome.map(view::outcome_word),
        resources: row.resources,
        idempotency_key: row.key,
        initiated_at_ms: row.begun_at.0,
        updated_at_ms: row.updated_at.0,
    }
}
