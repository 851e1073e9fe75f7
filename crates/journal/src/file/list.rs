//! Lists of transactions, open and ended together.
//!
//! Memory is looked through first and the history after it, so that a transaction that ends in
//! between is not missed; one that is in both is shown as the history has it.

use unanimous_core::id::TxnId;

use super::layout;
use super::state::Shared;
use crate::entry::End;
use crate::error::JournalError;
use crate::projection::Projection;
use crate::query::{Filter, Page, Summary};
use crate::summary::{Scope, summarize};

/// Transactions copied at a time from under the lock that appending needs.
const CHUNK: usize = 256;

pub(crate) fn page(
    shared: &Shared,
    projection: &Projection,
    filter: &Filter,
) -> Result<Page, JournalError> {
    // One more than is shown, to know whether there are more.
    let limit = filter.limit.saturating_add(1);
    let (ids, evicted) = {
        let state = shared.lock();
        let scope = filter.scope();
        let wanted = |&(txn, end): &(TxnId, End)| match (scope, end) {
            (Scope::All, _) | (Scope::Open, End::Open) | (Scope::Ended, End::Ended) => {
                filter.after.is_none_or(|after| txn < after)
            }
            (Scope::Open, End::Ended) | (Scope::Ended, End::Open) => false,
        };
        let ids: Vec<_> = state.table.ids().filter(wanted).map(|(txn, _)| txn).collect();
        (ids, state.table.evicted())
    };
    let mut rows = held(shared, ids, filter, limit);
    if filter.scope() != Scope::Open {
        projection.catch_up(evicted)?;
        for (txn, kept) in projection.page(filter, limit)? {
            let stored = layout::stored(&kept).unwrap_or_default();
            rows.extend(summarize(txn, &stored));
        }
        // Stable: of two with one identity the later, from the history, comes last.
        rows.sort_by_key(|row| std::cmp::Reverse(row.txn));
        rows.reverse();
        rows.dedup_by_key(|row| row.txn);
        rows.reverse();
    }
    let more = rows.len() > filter.limit;
    rows.truncate(filter.limit);
    let next = if more { rows.last().map(|row| row.txn) } else { None };
    Ok(Page { rows, next })
}

/// The newest of these transactions that the filter shows.
fn held(shared: &Shared, mut ids: Vec<TxnId>, filter: &Filter, limit: usize) -> Vec<Summary> {
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let mut rows = Vec::new();
    for chunk in ids.chunks(CHUNK) {
        let copied: Vec<_> = {
            let state = shared.lock();
            let copy = |&txn| Some((txn, state.table.get(txn)?.to_vec()));
            chunk.iter().filter_map(copy).collect()
        };
        for (txn, kept) in copied {
            let stored = layout::stored(&kept).unwrap_or_default();
            rows.extend(summarize(txn, &stored).filter(|row| filter.shows(row)));
        }
        if rows.len() >= limit {
            rows.truncate(limit);
            break;
        }
    }
    rows
}
