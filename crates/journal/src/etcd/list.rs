//! Lists of transactions, open and ended together, newest first.
//!
//! What is open is looked through first and what has ended after it, so that a transaction that ends
//! in between is not missed; one that is in both is shown as it ended. A filter that lets little
//! through makes a short part, and the next one goes on where that ended.

use unanimous_core::id::{ShardId, TxnId};

use super::keys::Room;
use super::limits::{PAGES, SCAN_MAX};
use super::readers::{Readers, Walk};
use crate::error::JournalError;
use crate::file::layout;
use crate::query::{Filter, Page, Summary};
use crate::summary::{Scope, summarize};

/// What was found in one place.
struct Found {
    rows: Vec<Summary>,
    /// Nothing older was looked at than this.
    down_to: Option<TxnId>,
}

/// Part of a list.
pub(super) async fn page(readers: &Readers, filter: &Filter) -> Result<Page, JournalError> {
    let open: Vec<Room> = ShardId::all().map(Room::Open).collect();
    let places: &[&[Room]] = match filter.scope() {
        Scope::All => &[&open, &[Room::Ended]],
        Scope::Open => &[&open],
        Scope::Ended => &[&[Room::Ended]],
    };
    let (mut rows, mut down_to) = (Vec::new(), None);
    for rooms in places {
        let found = look(readers, filter, rooms).await?;
        // Newer first: the place that was looked through least says how far the list reaches.
        down_to = down_to.max(found.down_to);
        rows.extend(found.rows);
    }
    // Stable: of two with one identity the later, which has ended, comes last.
    rows.sort_by_key(|row: &Summary| std::cmp::Reverse(row.txn));
    rows.reverse();
    rows.dedup_by_key(|row| row.txn);
    rows.reverse();
    if let Some(down_to) = down_to {
        rows.retain(|row| row.txn >= down_to);
    }
    let more = rows.len() > filter.limit;
    rows.truncate(filter.limit);
    let next = match more {
        true => rows.last().map(|row| row.txn),
        false => down_to,
    };
    Ok(Page { rows, next })
}

async fn look(readers: &Readers, filter: &Filter, rooms: &[Room]) -> Result<Found, JournalError> {
    // One more than is shown, to know whether there are more.
    let limit = filter.limit.saturating_add(1);
    let rooms = rooms.iter().copied();
    let mut walk = Walk::begin(readers, rooms, filter.after, PAGES[0]).await?;
    let mut found = Found { rows: Vec::new(), down_to: None };
    let mut keys = 0;
    while found.rows.len() < limit
        && let Some((txn, values)) = walk.next(readers).await?
    {
        keys += values.len();
        if let Ok(entries) = readers.entries(txn, values.into_iter()).await? {
            let stored = layout::stored(&entries).unwrap_or_default();
            found.rows.extend(summarize(txn, &stored).filter(|row| filter.shows(row)));
        }
        if keys > SCAN_MAX && found.rows.len() < limit {
            found.down_to = Some(txn);
            break;
        }
    }
    Ok(found)
}
