//! `GET /v1/transactions`: filters and pages.

use axum::Json;
use axum::extract::State;
use unanimous_api::{Code, PAGE_MAX, StatusWord, SummaryView, TransactionList};
use unanimous_core::commit::Shape;
use unanimous_core::id::Timestamp;
use unanimous_journal::{Filter, Status, Summary};

use super::extract::Parameters;
use super::{App, Failure};
use crate::driver::view;

pub(super) async fn list(
    State(app): State<App>,
    Parameters(parameters): Parameters,
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
                "atomic" => filter.shape = Some(Shape::Atomic),
                "tcc" => filter.shape = Some(Shape::Tcc),
                _ => return Err(bad(format!("kind={value:?} is no kind; there are: atomic, tcc"))),
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
                    "no parameter {name:?}; there are: status, kind, resource, older_than_ms, limit, \
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
        kind: view::kind(row.shape),
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
