//! `GET /v1/transactions` where domains have journals of their own: from each of them, newest first.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tokio::time::timeout;
use unanimous_api::{Code, TransactionList, header as name};

use super::limits::ANSWER_WAIT;
use super::node::{Node, Owner};
use super::partition::Partition;
use super::relay;
use crate::http::{Failure, PAGE_DEFAULT};

/// Whoever is asked by another node answers from the journals that it has open.
pub(super) async fn list(State(node): State<Arc<Node>>, request: Request) -> Response {
    let journals = node.config.domains.by_journal();
    if journals.len() == 1 {
        return relay::any(State(node), request).await;
    }
    let (parts, _) = request.into_parts();
    let is_forwarded = parts.headers.contains_key(name::FORWARDED_BY);
    let mut pages = Vec::new();
    for partitions in journals {
        match page(&node, &partitions, &parts, is_forwarded).await {
            Ok(page) => pages.extend(page),
            Err(answer) => return *answer,
        }
    }
    Json(merged(pages, limit(&parts.uri))).into_response()
}

/// What the journal of these partitions has; nothing if it is another node's to say. The error is an
/// answer that is no list.
async fn page(
    node: &Arc<Node>,
    partitions: &[Partition],
    parts: &Parts,
    is_forwarded: bool,
) -> Result<Option<TransactionList>, Box<Response>> {
    let owners: Vec<Owner> = partitions.iter().filter_map(|&it| node.owner(it)).collect();
    let here = owners.iter().find_map(|owner| match owner {
        Owner::Here(held) => Some(held),
        Owner::There { .. } => None,
    });
    if let Some(held) = here {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = parts.uri.clone();
        *request.headers_mut() = parts.headers.clone();
        let answer = held.answer(request).await;
        if answer.status() != StatusCode::OK {
            return Err(Box::new(answer));
        }
        let body = answer.into_body().collect().await.map(|body| body.to_bytes());
        return Ok(body.ok().and_then(|body| serde_json::from_slice(&body).ok()));
    }
    if is_forwarded {
        return Ok(None);
    }
    let path = parts.uri.path_and_query().map_or("/", |it| it.as_str());
    for owner in owners {
        let Owner::There { address, .. } = owner else { continue };
        let request = Request::get(format!("{address}{path}"))
            .header(name::FORWARDED_BY, node.header())
            .body(Body::empty());
        let Ok(request) = request else { continue };
        let answer = timeout(ANSWER_WAIT, node.peers.ask(request)).await.ok().flatten();
        if let Some((StatusCode::OK, body)) = answer
            && let Ok(list) = serde_json::from_slice(&body)
        {
            return Ok(Some(list));
        }
    }
    let why = "no node that is alive has one of the journals open";
    Err(Box::new(Failure::new(Code::NoOwner, why).into_response()))
}

/// The newest of all pages. Each has its newest `limit`, so that none of those is missing.
fn merged(pages: Vec<TransactionList>, limit: usize) -> TransactionList {
    let more = pages.iter().any(|page| page.next_cursor.is_some());
    let mut transactions: Vec<_> = pages.into_iter().flat_map(|page| page.transactions).collect();
    transactions.sort_by(|a, b| b.id.cmp(&a.id));
    // Two nodes may have told of one.
    transactions.dedup_by(|a, b| a.id == b.id);
    let more = more || transactions.len() > limit;
    transactions.truncate(limit);
    let next_cursor = transactions.last().filter(|_| more).map(|last| last.id.clone());
    TransactionList { transactions, next_cursor }
}

/// As it was asked for; whoever answers has seen whether it can be.
fn limit(uri: &Uri) -> usize {
    let parameters = uri.query().unwrap_or_default().split('&');
    let given = parameters.filter_map(|pair| pair.strip_prefix("limit=")).next();
    given.and_then(|text| text.parse().ok()).unwrap_or(PAGE_DEFAULT)
}

#[cfg(test)]
mod tests {
    use unanimous_api::{Kind, StatusWord, SummaryView};

    use super::*;

    fn page(ids: &[u8], next: Option<&str>) -> TransactionList {
        let summary = |id: &u8| SummaryView {
            id: format!("{id:02}"),
            kind: Kind::Atomic,
            status: StatusWord::Committed,
            outcome: None,
            resources: Vec::new(),
            idempotency_key: None,
            initiated_at_ms: 0,
            updated_at_ms: 0,
        };
        let transactions = ids.iter().map(summary).collect();
        TransactionList { transactions, next_cursor: next.map(str::to_owned) }
    }

    #[test]
    fn pages_of_several_journals_make_one_that_goes_on_where_it_ends() {
        for (pages, limit, expected) in [
            (vec![page(&[9, 3], None), page(&[7, 5], None)], 4, page(&[9, 7, 5, 3], None)),
            (vec![page(&[9, 3], None), page(&[7, 5], None)], 3, page(&[9, 7, 5], Some("05"))),
            (vec![page(&[9, 8], Some("08")), page(&[7], None)], 2, page(&[9, 8], Some("08"))),
            (vec![page(&[9, 8], None), page(&[8, 4], None)], 9, page(&[9, 8, 4], None)),
            (vec![page(&[], None), page(&[], None)], 9, page(&[], None)),
        ] {
            assert_eq!(merged(pages, limit), expected);
        }
    }
}
