//! `/v1/transactions/{id}`: enlist, commit, abort, retry, resolve; show, log.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::value::RawValue;
use unanimous_api::{
    AbortRequest, Code, CommitRequest, EnlistRequest, EnlistedView, LogView, Problem,
    ResolutionView, ResolveOutcome, ResolveRequest, TIMEOUT_MS_DEFAULT, TransactionView, VoteWord,
    Wait,
};
use unanimous_core::id::{BranchName, TxnId};
use unanimous_core::{Decision, Force, Reason, Refusal, Resolution, Vote};

use super::answer::{self, Heard, hear, hear_or_show, present};
use super::body::Nothing;
use super::extract::{Signal, Txn};
use super::keys::{self, Seen};
use super::{App, Failure, Reply, body, validate};
use crate::driver::{AskError, Enlisted};

pub(super) async fn show(
    State(app): State<App>,
    Txn(txn): Txn,
    headers: HeaderMap,
) -> Result<Json<TransactionView>, Failure> {
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

pub(super) async fn log(State(app): State<App>, Txn(txn): Txn) -> Result<Json<LogView>, Failure> {
    let log = app.coordinator.log(txn).await?;
    match log.events.is_empty() {
        true => Err(Failure::of(AskError::NotOpen.problem(txn))),
        false => Ok(Json(log)),
    }
}

/// Takes the key of a request that was understood.
fn take_key(
    app: &App,
    headers: &HeaderMap,
    txn: TxnId,
    verb: &str,
    body: &Bytes,
) -> Result<Seen, Failure> {
    match body::key(headers)? {
        Some(key) => app.keys.take(key, keys::of_ask(txn, verb, body)),
        None => Ok(Seen::First),
    }
}

pub(super) async fn enlist(
    State(app): State<App>,
    Txn(txn): Txn,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let bytes = body::read(&app, body).await?;
    let request: EnlistRequest<&RawValue> = body::parse(&bytes)?;
    validate::known(app.coordinator.resources(), &request.resource, || "/resource".to_owned())?;
    validate::participant(&request.participant, || "/participant".to_owned())?;
    validate::no_work(app.coordinator.resources(), &request.resource, request.body)?;
    let work = validate::work(request.body, || "/body".to_owned())?;
    let seen = take_key(&app, &headers, txn, "participants", &bytes)?;
    let enlisted = app.coordinator.enlist(txn, &request.participant, &request.resource, work).await;
    let enlisted = match enlisted {
        Ok(enlisted) => enlisted,
        Err(AskError::NotOpen | AskError::Refused(Refusal::NotEnlisting, _)) => {
            let view = present(&app, txn).await?;
            match seen {
                Seen::Again => enlisted_before(&view, &request.participant)?,
                Seen::First => return Err(not_enlisting(view)),
            }
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

/// The answer that a repeated request got the first time.
fn enlisted_before(view: &TransactionView, name: &str) -> Result<Enlisted, Failure> {
    let participant = view.participants.iter().find(|participant| participant.name == name);
    let participant = participant.ok_or_else(|| not_enlisting(view.clone()))?;
    Ok(Enlisted {
        name: participant.name.clone(),
        resource: participant.resource.clone(),
        branch: participant.branch.clone(),
    })
}

fn not_enlisting(view: TransactionView) -> Failure {
    let detail = format!("transaction {} takes no more participants", view.id);
    Failure::of(Problem::new(Code::NotEnlisting, detail).about(view))
}

pub(super) async fn commit(
    State(app): State<App>,
    Txn(txn): Txn,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let bytes = body::read(&app, body).await?;
    let request: CommitRequest = body::parse_or_default(&bytes)?;
    take_key(&app, &headers, txn, "commit", &bytes)?;
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
    let view = hear_or_show(&app, txn, answer, TIMEOUT_MS_DEFAULT).await?;
    Ok(answer::outcome(view, wait))
}

pub(super) async fn abort(
    State(app): State<App>,
    Txn(txn): Txn,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let bytes = body::read(&app, body).await?;
    let request: AbortRequest = body::parse_or_default(&bytes)?;
    take_key(&app, &headers, txn, "abort", &bytes)?;
    let why = request.reason.as_deref().map(validate::plain);
    let why = why.filter(|why| !why.is_empty());
    let why = Reason::new("client", why.as_deref().unwrap_or("the client asked for it"));
    let wait = request.wait.unwrap_or_default();
    let answer = app.coordinator.abort(txn, why, request.if_version, wait);
    let view = hear_or_show(&app, txn, answer, TIMEOUT_MS_DEFAULT).await?;
    Ok(answer::abort(view, wait))
}

/// A step of a saga waits for this.
pub(super) async fn signal(
    State(app): State<App>,
    Signal(txn, step): Signal,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let bytes = body::read(&app, body).await?;
    let payload = validate::work(body::any(&bytes)?, String::new)?;
    take_key(&app, &headers, txn, &format!("signals/{step}"), &bytes)?;
    let answer = app.coordinator.signal(txn, &step, payload, Wait::None);
    let view = hear_or_show(&app, txn, answer, TIMEOUT_MS_DEFAULT).await?;
    Ok(answer::ok(view))
}

pub(super) async fn retry(
    State(app): State<App>,
    Txn(txn): Txn,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let bytes = body::read(&app, body).await?;
    let Nothing {} = body::parse_or_default(&bytes)?;
    take_key(&app, &headers, txn, "retry", &bytes)?;
    let answer = app.coordinator.retry(txn);
    Ok(answer::ok(hear_or_show(&app, txn, answer, TIMEOUT_MS_DEFAULT).await?))
}

pub(super) async fn resolve(
    State(app): State<App>,
    Txn(txn): Txn,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let bytes = body::read(&app, body).await?;
    let request: ResolveRequest = body::parse(&bytes)?;
    let wish = ResolutionView {
        outcome: request.outcome,
        by: validate::operator(request.by.as_deref())?,
        reason: validate::reason(&request.reason)?,
    };
    take_key(&app, &headers, txn, "resolve", &bytes)?;
    let resolution = Resolution {
        outcome: match wish.outcome {
            ResolveOutcome::Commit => Decision::Commit,
            ResolveOutcome::Rollback => Decision::Abort,
        },
        force: if request.force { Force::Yes } else { Force::No },
        by: wish.by.as_str().into(),
        reason: wish.reason.as_str().into(),
    };
    let answer = app.coordinator.resolve(txn, resolution);
    match hear(&app, answer, TIMEOUT_MS_DEFAULT).await {
        Heard::View(view) => Ok(answer::ok(*view)),
        Heard::NotYet => Ok(answer::ok(present(&app, txn).await?)),
        Heard::Refused(AskError::NotOpen) => resolved_before(present(&app, txn).await?, &wish),
        Heard::Refused(AskError::Refused(Refusal::Decided(_), view)) => {
            let detail = format!("the journal has decided transaction {txn} otherwise");
            let problem = Problem::new(Code::ContradictsDecision, detail).at("/outcome");
            Err(Failure::of(match view {
                Some(view) => problem.about(*view),
                None => problem,
            }))
        }
        Heard::Refused(error) => Err(Failure::of(error.problem(txn))),
    }
}

/// The same resolution once more is answered like the first time; another comes too late.
fn resolved_before(view: TransactionView, wish: &ResolutionView) -> Result<Response, Failure> {
    if view.resolution.as_ref() == Some(wish) {
        return Ok(answer::ok(view));
    }
    let detail = format!("transaction {} has ended", view.id);
    Err(Failure::of(Problem::new(Code::NothingToResolve, detail).about(view)))
}
