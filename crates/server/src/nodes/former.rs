//! What a partition had in the main journal, before its domain was given a journal of its own.
//!
//! It is only ever read: nothing is open in it, and nothing begins there any more.

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use unanimous_api::Code;

use super::node::{Node, Owner};
use super::partition::Partition;
use super::relay::{Ask, To, exchange, nobody};

/// Says that the main journal is to be looked into.
const IN_MAIN: HeaderName = HeaderName::from_static("unanimous-in-main-journal");

impl Ask {
    /// Whether another node asks what its domain's journal does not know.
    pub(super) fn is_of_before(&self) -> bool {
        self.is_forwarded && self.headers.contains_key(IN_MAIN)
    }
}

/// What the main journal says of a transaction, from this node or another; 404 if it has none.
pub(super) async fn look(node: &Arc<Node>, ask: &Ask) -> Response {
    let domains = &node.config.domains;
    let main = || Partition::all().filter(|&it| domains.journal_of(it).is_none());
    for partition in main() {
        if let Some(Owner::Here(held)) = node.owner(partition) {
            let answer = held.answer(ask.here(None)).await;
            // Who has claimed no shard of it finds what is there, and cannot know what is not: given
            // away as they are, nobody else writes there either.
            return match answer.extensions().get() {
                // It may be the journal that it has lost, which says nothing of the transaction.
                Some(Code::NoOwner) if held.is_over() => continue,
                Some(Code::NoOwner) => StatusCode::NOT_FOUND.into_response(),
                Some(_) | None => answer,
            };
        }
    }
    if ask.is_forwarded {
        return nobody().into_response();
    }
    for partition in main() {
        let Some(Owner::There { address, .. }) = node.owner(partition) else { continue };
        let Some(mut request) = ask.there(node, &address, None) else { continue };
        request.headers_mut().insert(IN_MAIN, HeaderValue::from_static("true"));
        if let Some(answer) = exchange(node, To::Owner(partition), &address, request).await {
            return answer;
        }
    }
    nobody().into_response()
}
