//! `GET /v1/transactions`: filters and pages.

use axum::Json;
use axum::extract::State;
use unanimous_api::{Code, OutcomeWord, PAGE_MAX, StatusWord, SummaryView, TransactionList};
use unanimous_core::id::Timestamp;
use unanimous_core::txn::Kind;
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

/// Transactions on a page, unless asked otherwise.
pub(crate) const PAGE_DEFAULT: usize = 100;

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
                "RUNNING" => filter.status = Some(Status::Running),
                "COMPENSATING" => filter.status = Some(Status::Compensating),
                "NEEDS_ATTENTION" => filter.status = Some(Status::NeedsAttention),
                "COMPLETED" => filter.status = Some(Status::Completed),
                "COMPENSATED" => filter.status = Some(Status::Compensated),
                _ => return Err(bad(format!("status={value:?} is no status"))),
            },
            "kind" => match &**value {
                "atomic" => filter.kind = Some(Kind::Atomic),
                "tcc" => filter.kind = Some(Kind::Tcc),
                "saga" => filter.kind = Some(Kind::Saga),
                "message" => filter.kind = Some(Kind::Message),
                _ => {
                    let there_are = "atomic, tcc, saga, message";
                    return Err(bad(format!("kind={value:?} is no kind; there are: {there_are}")));
                }
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
        kind: view::kind(row.kind),
        status: match row.status {
            Status::Initiated => StatusWord::Initiated,
            Status::Preparing => StatusWord::Preparing,
            Status::Committing => StatusWord::Committing,
            Status::Committed => StatusWord::Committed,
            Status::Aborting => StatusWord::Aborting,
            Status::Aborted => StatusWord::Aborted,
            Status::Running => StatusWord::Running,
            Status::Compensating => StatusWord::Compensating,
            Status::NeedsAttention => StatusWord::NeedsAttention,
            Status::Completed => StatusWord::Completed,
            Status::Compensated => StatusWord::Compensated,
        },
        outcome: if row.status == Status::NeedsAttention {
            Some(OutcomeWord::NeedsAttention)
        } else {
            row.outcome.map(|outcome| view::outcome_word(row.kind, outcome))
        },
        resources: row.resources,
        idempotency_key: row.key,
        initiated_at_ms: row.begun_at.0,
        updated_at_ms: row.updated_at.0,
    }
}
