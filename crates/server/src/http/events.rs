//! `/v1/events`: every change of state, as server-sent events.
//!
//! A stream of one transaction begins with its present state and never goes back behind what it has
//! shown. A reader that is too slow is told that it missed some, and goes on with what comes next.

use std::convert::Infallible;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use unanimous_api::{Code, EventView, TransactionView};

use super::extract::{Parameters, txn_id};
use super::{App, Failure};
use crate::limits::KEEP_ALIVE;

pub(super) async fn stream(
    State(app): State<App>,
    Parameters(parameters): Parameters,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let mut only = None;
    for (name, value) in &parameters {
        match &**name {
            "transaction" => only = Some(txn_id(value)?),
            _ => {
                let detail = format!("no parameter {name:?}; there is: transaction");
                return Err(Failure::new(Code::BadQuery, detail));
            }
        }
    }
    // Subscribed before the state is read, so that no change falls between the two.
    let events = app.coordinator.events();
    let first = match only {
        None => None,
        Some(txn) => {
            let view = app.coordinator.show(txn, None).await?;
            let unknown = || Failure::of(crate::driver::AskError::NotOpen.problem(txn));
            Some(now(view.ok_or_else(unknown)?))
        }
    };
    let changes = changes(events, app.quitting.clone(), first.clone());
    let first = stream::iter(first.map(|view| Ok(changed(&view))));
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(first.chain(changes)).keep_alive(alive))
}

/// Every change that is told at a place, until `quitting` is set.
pub(crate) fn all(
    events: broadcast::Receiver<EventView>,
    quitting: watch::Receiver<bool>,
) -> Response {
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(changes(events, quitting, None)).keep_alive(alive).into_response()
}

/// Changes that follow `shown`; all, if nothing is shown.
fn changes(
    events: broadcast::Receiver<EventView>,
    quitting: watch::Receiver<bool>,
    shown: Option<EventView>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((events, quitting), move |(mut events, mut quitting)| {
        let shown = shown.clone();
        async move {
            loop {
                let received = tokio::select! {
                    received = events.recv() => received,
                    _ = quitting.wait_for(|&quit| quit) => return None,
                };
                let event = match received {
                    Ok(view) if shown.as_ref().is_none_or(|shown| follows(&view, shown)) => {
                        changed(&view)
                    }
                    Ok(_) => continue,
                    Err(RecvError::Lagged(count)) => {
                        Event::default().event("missed").data(count.to_string())
                    }
                    Err(RecvError::Closed) => return None,
                };
                return Some((Ok(event), (events, quitting)));
            }
        }
    })
}

/// Whether an event says more than the state that the stream began with. Events that were on their
/// way when that was read may be older.
fn follows(event: &EventView, shown: &EventView) -> bool {
    event.id == shown.id && event.version > shown.version
}

fn changed(view: &EventView) -> Event {
    let data = serde_json::to_string(view).expect("an event is always JSON");
    Event::default().event("state").data(data)
}

fn now(view: TransactionView) -> EventView {
    EventView {
        id: view.id,
        kind: view.kind,
        status: view.status,
        outcome: view.outcome,
        at_ms: view.updated_at_ms,
        version: view.version,
        state: view.state,
        steps: view.steps.into_iter().map(|step| (step.name, step.status)).collect(),
    }
}
