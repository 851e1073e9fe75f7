//! `/v1/events`: every change of state, as server-sent events.
//!
//! A reader that is too slow is told that it missed some, and goes on with what comes next.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::broadcast::error::RecvError;
use unanimous_api::{Code, EventView, TransactionView};

use super::{App, Failure, body};

pub(super) async fn stream(
    State(app): State<App>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let mut only = None;
    for (name, value) in &parameters {
        match &**name {
            "transaction" => only = Some(body::txn_id(value)?),
            _ => {
                let detail = format!("no parameter {name}; there is: transaction");
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
    let only = only.map(|txn| txn.to_string());
    let quitting = app.quitting.clone();
    let changes = stream::unfold((events, quitting), move |(mut events, mut quitting)| {
        let only = only.clone();
        async move {
            loop {
                let received = tokio::select! {
                    received = events.recv() => received,
                    _ = quitting.wait_for(|&quit| quit) => return None,
                };
                let event = match received {
                    Ok(view) if only.as_ref().is_none_or(|id| *id == view.id) => changed(&view),
                    Ok(_) => continue,
                    Err(RecvError::Lagged(count)) => {
                        Event::default().event("missed").data(count.to_string())
                    }
                    Err(RecvError::Closed) => return None,
                };
                return Some((Ok(event), (events, quitting)));
            }
        }
    });
    let first = stream::iter(first.map(|view| Ok(changed(&view))));
    let alive = KeepAlive::new().interval(Duration::from_secs(15));
    Ok(Sse::new(first.chain(changes)).keep_alive(alive))
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
    }
}
