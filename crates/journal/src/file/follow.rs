//! Follows the log from segment to segment, as its history is made.
//!
//! Gives every transaction as it ends, with all its entries. Reads only what is durable, and reads
//! it from the segments, so that it never holds up the writer. What should be there and is not is
//! damage: nothing is skipped.

use std::sync::Arc;

use unanimous_core::id::{Lsn, TxnId};

use super::fold::{Context, Fold};
use super::keeper::Keeper;
use super::layout::Item;
use super::segment::Segment;
use super::storage::Storage;
use crate::error::JournalError;

/// A transaction that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) txn: TxnId,
    /// Position of its last entry.
    pub(crate) lsn: Lsn,
    /// All its entries, in the form of [`super::layout::put_kept`].
    pub(crate) kept: Vec<u8>,
}

pub(crate) struct Follower {
    storage: Arc<dyn Storage>,
    keeper: Arc<Keeper>,
    segment: Segment,
    fold: Fold,
    context: Context,
    /// Everything up to here is folded.
    seen: Lsn,
    /// Everything up to here was given before.
    given: Lsn,
}

impl Follower {
    /// Goes on behind `given`; at the oldest segment there is if that is zero.
    ///
    /// # Errors
    ///
    /// [`JournalError::Damaged`] if the segments do not reach back to `given`, or are damaged.
    pub(crate) fn start(
        storage: Arc<dyn Storage>,
        keeper: Arc<Keeper>,
        given: Lsn,
    ) -> Result<Self, JournalError> {
        let segments = keeper.segments();
        let oldest = segments.first().expect("a journal has a segment");
        let reaching = segments.iter().rfind(|(_, facts)| facts.base <= given);
        let (number, facts) = reaching.unwrap_or(oldest);
        let segment = Segment::open(storage.as_ref(), *number)?;
        if given > Lsn(0) && facts.base.0 > given.0 + 1 {
            let what = format!("the segments before it, from position {}, are missing", given.0);
            return Err(segment.damaged(0, &what));
        }
        let mut fold = Fold::default();
        let snapshot = segment.snapshot()?;
        fold.take_snapshot(&snapshot).map_err(|error| segment.damaged(0, error.what))?;
        let seen = Lsn(facts.base.0 - 1);
        Ok(Self { storage, keeper, segment, fold, context: Context::FirstFrame, seen, given })
    }

    /// Everything up to here was given.
    pub(crate) fn seen(&self) -> Lsn {
        self.seen
    }

    /// The segment that is being read, and the offset in it.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.segment.header.generation, self.segment.offset())
    }

    /// Reads one frame, if something is durable that was not read, and gives the transactions that
    /// end in it. Returns the bytes read; `None` if there was nothing to read.
    ///
    /// # Errors
    ///
    /// [`JournalError::Damaged`] if what was durable is not there.
    pub(crate) fn advance(
        &mut self,
        flushed: Lsn,
        mut give: impl FnMut(Ended),
    ) -> Result<Option<u64>, JournalError> {
        if self.seen >= flushed {
            return Ok(None);
        }
        if let Some((number, facts)) = self.keeper.after(self.segment.header.generation)
            && facts.base.0 <= self.seen.0 + 1
            && self.context == Context::Whole
        {
            self.segment = Segment::open(self.storage.as_ref(), number)?;
        }
        let offset = self.segment.offset();
        let Some(frame) = self.segment.poll()? else {
            let what = format!("the entries from position {} on are missing", self.seen.0 + 1);
            return Err(self.segment.damaged(offset, &what));
        };
        let mut wrong = None;
        for entry in frame.entries() {
            let (lsn, item, bytes) = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    wrong = Some(error.what);
                    break;
                }
            };
            let Item::Records(records) = item else { continue };
            // The last frame of the segment before, written once more.
            if self.context == Context::Whole && lsn <= self.seen {
                continue;
            }
            match self.fold.take(lsn, &records, bytes, self.context) {
                Ok(Some(kept)) if lsn > self.given => {
                    give(Ended { txn: records.txn, lsn, kept: kept.bytes });
                }
                Ok(_) => {}
                Err(what) => {
                    wrong = Some(what);
                    break;
                }
            }
        }
        self.seen = self.seen.max(Lsn(frame.next().0 - 1));
        self.context = Context::Whole;
        match wrong {
            None => Ok(Some(self.segment.offset() - offset)),
            Some(what) => Err(self.segment.damaged(offset, what)),
        }
    }
}
