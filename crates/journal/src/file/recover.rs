//! Opens a journal: reads the newest segment and begins a fresh one.
//!
//! The newest segment has everything that matters: its snapshot, and the frames since. The fresh
//! one begins with a snapshot of what is open now and a copy of the last frame. That frame is the
//! only one whose sync may have failed without anybody noticing (its bytes could be in the page
//! cache and not on the disk; Rebello et al., USENIX ATC 2020), so it is written and synced once
//! more before anything is answered from it. Nothing that exists is overwritten.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use unanimous_core::id::Lsn;

use super::fold::{Context, Fold};
use super::keeper;
use super::layout::{self, Epochs, Item, SEGMENT_HEADER_LEN};
use super::log::{Batch, Head, Log, Place, Spare, segment_number};
use super::segment::{Found, Segment};
use super::storage::Storage;
use super::table::{Recent, Table};
use crate::error::JournalError;
use crate::limits::FIRST_SEGMENT_BYTES;

/// The file that holds the journal's name.
const INSTANCE: &str = "instance";

/// A journal as it was found, with a fresh segment to go on in.
pub(crate) struct Recovered {
    pub(crate) instance: String,
    pub(crate) log: Log,
    pub(crate) table: Table,
    pub(crate) epochs: Epochs,
    /// Position of the next entry.
    pub(crate) next: Lsn,
    /// Every segment with the position of its first frame's first entry.
    pub(crate) segments: BTreeMap<u64, Lsn>,
}

/// What the newest segment says.
struct Newest {
    place: Place,
    fold: Fold,
    recent: Recent,
    epochs: Epochs,
    /// The last frame, to be written once more.
    last: Batch,
}

/// Opens the journal in `storage`; makes one if the folder has none.
pub(crate) fn open(
    storage: &Arc<dyn Storage>,
    segment_bytes: u64,
) -> Result<Recovered, JournalError> {
    let names = storage.list().map_err(|error| refused(storage.as_ref(), &error))?;
    let numbers = names.iter().filter_map(|name| segment_number(name));
    let mut segments = BTreeMap::new();
    for number in numbers {
        let header = Segment::open(storage.as_ref(), number)?.header;
        segments.insert(number, header.base);
    }
    let newest = match segments.last_key_value() {
        Some((&number, _)) => read_newest(storage.as_ref(), number)?,
        None => nothing(storage.as_ref(), &names)?,
    };
    let Newest { place, fold, recent, epochs, mut last } = newest;
    check_instance(storage.as_ref(), &names, &place.instance)?;

    let instance = place.instance.clone();
    let next = last.next();
    let table = Table::recovered(fold, recent, key_of);
    let head = Head { snapshot: table.snapshot(), epochs, salt: salt() };
    let len = Log::room_for(head.snapshot.len(), &last);
    let spare = spare(storage.as_ref(), &names, len, segment_bytes)
        .map_err(|error| refused(storage.as_ref(), &error))?;
    segments.insert(place.generation, last.first);
    let log = Log::start(Arc::clone(storage), place, spare, head, &mut last)
        .map_err(|error| refused(storage.as_ref(), &error))?;
    write_instance(storage.as_ref(), &names, &instance)
        .map_err(|error| refused(storage.as_ref(), &error))?;
    Ok(Recovered { instance, log, table, epochs, next, segments })
}

fn read_newest(storage: &dyn Storage, number: u64) -> Result<Newest, JournalError> {
    let mut segment = Segment::open(storage, number)?;
    let mut fold = Fold::default();
    let snapshot = segment.snapshot()?;
    fold.take_snapshot(&snapshot)
        .map_err(|error| segment.damaged(SEGMENT_HEADER_LEN as u64, error.what))?;
    let mut epochs = segment.header.epochs;
    let mut last = Batch::new(segment.next_lsn());
    let mut recent = Recent::default();
    let mut context = Context::FirstFrame;
    loop {
        let (offset, taken) = match segment.next()? {
            Found::Frame(frame, offset) => {
                last.restart(frame.first);
                last.count = frame.count;
                last.bytes.extend_from_slice(frame.entries_bytes());
                (offset, take_frame(&mut fold, &mut recent, &mut epochs, &frame, context))
            }
            Found::End if context == Context::FirstFrame => {
                let offset = segment.offset();
                return Err(segment.damaged(offset, "the segment's first frame is not valid"));
            }
            Found::End => break,
        };
        taken.map_err(|what| segment.damaged(offset, what))?;
        context = Context::Whole;
    }
    let place = Place {
        instance: segment.header.instance.clone(),
        generation: number + 1,
        sequence: segment.sequence(),
    };
    Ok(Newest { place, fold, recent, epochs, last })
}

fn take_frame(
    fold: &mut Fold,
    recent: &mut Recent,
    epochs: &mut Epochs,
    frame: &layout::Frame<'_>,
    context: Context,
) -> Result<(), &'static str> {
    for entry in frame.entries() {
        match entry.map_err(|error| error.what)? {
            (lsn, Item::Records(records), bytes) => {
                if let Some(ended) = fold.take(lsn, &records, bytes, context)?
                    && let Some(dropped) = recent.push(lsn, records.txn, ended)
                {
                    fold.recycle(dropped);
                }
            }
            (_, Item::Claim(shard, epoch), _) => {
                let held = &mut epochs[shard.index()];
                *held = epoch.max(*held);
            }
        }
    }
    if context == Context::FirstFrame {
        // Of those that ended in it, the beginnings may be in the segment before.
        *recent = Recent::after(Lsn(frame.next().0 - 1));
    }
    Ok(())
}

/// A journal that does not exist yet.
fn nothing(storage: &dyn Storage, names: &[String]) -> Result<Newest, JournalError> {
    if names.iter().any(|name| name == INSTANCE) {
        return Err(JournalError::Damaged {
            path: storage.path(INSTANCE),
            offset: 0,
            what: "the folder was a journal's, and its segments are gone".into(),
        });
    }
    let place = Place { instance: new_instance(), generation: 1, sequence: 1 };
    let (fold, recent, epochs) = (Fold::default(), Recent::default(), layout::NO_EPOCHS);
    Ok(Newest { place, fold, recent, epochs, last: Batch::new(Lsn(1)) })
}

/// A prepared segment that a former process left, or a small new one.
fn spare(
    storage: &dyn Storage,
    names: &[String],
    len: u64,
    segment_bytes: u64,
) -> io::Result<Spare> {
    match keeper::left_over(storage, names, len)? {
        Some(spare) => Ok(spare),
        None => {
            let len = (4 * len).max(FIRST_SEGMENT_BYTES.min(segment_bytes));
            keeper::prepare(storage, keeper::spare_name(0), len)
        }
    }
}

fn check_instance(
    storage: &dyn Storage,
    names: &[String],
    instance: &str,
) -> Result<(), JournalError> {
    if !names.iter().any(|name| name == INSTANCE) {
        return Ok(());
    }
    let read = || {
        let file = storage.open(INSTANCE)?;
        let mut bytes = vec![0; usize::try_from(file.len()?.min(64)).unwrap_or(64)];
        file.read_at(&mut bytes, 0).map(|()| bytes)
    };
    let found = read().map_err(|error: io::Error| refused(storage, &error))?;
    match found == format!("{instance}\n").as_bytes() {
        true => Ok(()),
        false => Err(JournalError::Damaged {
            path: storage.path(INSTANCE),
            offset: 0,
            what: format!("it does not say {instance}, as the newest segment does"),
        }),
    }
}

/// Written after the first segment is there, so that a name without segments means a loss.
fn write_instance(storage: &dyn Storage, names: &[String], instance: &str) -> io::Result<()> {
    const TEMPORARY: &str = "instance.tmp";
    if names.iter().any(|name| name == INSTANCE) {
        return Ok(());
    }
    let text = format!("{instance}\n");
    let file = storage.create(TEMPORARY, text.len() as u64)?;
    file.write_at(text.as_bytes(), 0)?;
    file.sync()?;
    storage.rename(TEMPORARY, INSTANCE)?;
    storage.sync_dir()
}

/// The idempotency key that a transaction with these entries was begun under.
pub(crate) fn key_of(kept: &[u8]) -> Option<Arc<str>> {
    let (_, records, _) = layout::kept(kept).next()?.ok()?;
    Some(Arc::clone(&records.first().ok()?.key()?.text))
}

/// A random name for a journal that is made.
pub(crate) fn new_instance() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let random = salt();
    (0..8).map(|index| char::from(LETTERS[(random >> (5 * index)) as usize % 32])).collect()
}

pub(crate) fn salt() -> u64 {
    getrandom::u64().expect("the operating system has random numbers")
}

fn refused(storage: &dyn Storage, error: &io::Error) -> JournalError {
    let folder = storage.path("");
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    let text = format!("{}: {error}", folder.display());
    match full.contains(&error.kind()) {
        true => JournalError::Full(text),
        false => JournalError::Failed(text),
    }
}
