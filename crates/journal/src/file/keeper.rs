//! Keeps the segments: prepares the next one ahead of time, and lets old ones go.
//!
//! A segment is let go only when the projection durably has all that it says. Then it is used again
//! or removed. The writer never waits for zeros to be written unless the disk is full or slow.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use unanimous_core::id::Lsn;

use super::log::{Spare, segment_name};
use super::state::{Room, Shared};
use super::storage::Storage;
use crate::limits::{KEEPER_PAUSE_MS, RETIRED_MAX};

/// Files that become segments have names that begin so.
const SPARE: &str = "spare-";

pub(crate) struct Keeper {
    storage: Arc<dyn Storage>,
    segment_bytes: u64,
    backlog_bytes_max: u64,
    desk: Mutex<Desk>,
    /// The keeper's thread waits here.
    work: Condvar,
    /// The writer waits here for a spare.
    ready: Condvar,
}

struct Desk {
    spare: Option<Spare>,
    attempt: Attempt,
    /// Length that the next spare must have.
    wanted: u64,
    /// Spares made so far. One may still have its name while the next is made.
    made: u64,
    segments: BTreeMap<u64, SegmentFacts>,
    /// The projection durably has everything up to here.
    projected: Lsn,
    /// The segment and the offset in it that the projection has come to.
    taken: (u64, u64),
    duty: Duty,
}

/// What is known of a segment without opening it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentFacts {
    /// Position of the first entry of its first frame.
    pub(crate) base: Lsn,
    /// Bytes in use, or its length if it is not the one written to.
    pub(crate) used: u64,
}

/// What became of the latest attempt to prepare a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Attempt {
    /// It is not known yet.
    UnderWay,
    /// The disk refused.
    Refused,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Duty {
    On,
    Off,
}

impl Keeper {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        segment_bytes: u64,
        backlog_bytes_max: u64,
        segments: &BTreeMap<u64, Lsn>,
    ) -> Self {
        let facts = |(&number, &base)| {
            let len = storage.open(&segment_name(number)).and_then(|file| file.len());
            (number, SegmentFacts { base, used: len.unwrap_or(segment_bytes) })
        };
        let desk = Desk {
            spare: None,
            attempt: Attempt::UnderWay,
            wanted: segment_bytes,
            made: 0,
            segments: segments.iter().map(facts).collect(),
            projected: Lsn(0),
            taken: (0, 0),
            duty: Duty::On,
        };
        Self {
            storage,
            segment_bytes,
            backlog_bytes_max,
            desk: Mutex::new(desk),
            work: Condvar::new(),
            ready: Condvar::new(),
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("no thread panics while it holds the desk")
    }

    /// Works until the journal stops.
    pub(crate) fn run(&self, shared: &Shared) {
        loop {
            let busy = self.step(shared);
            let desk = self.desk();
            if desk.duty == Duty::Off {
                return;
            }
            match busy {
                Ok(Busy::Yes) => {}
                Err(_) if shared.closing() => {
                    // What is left may never find room.
                    drop(desk);
                    return self.stop();
                }
                Ok(Busy::No) | Err(_) => {
                    let pause = Duration::from_millis(KEEPER_PAUSE_MS);
                    let waited = self.work.wait_timeout(desk, pause);
                    drop(waited.expect("no thread panics with the desk"));
                }
            }
        }
    }

    /// Does one thing that is to be done.
    pub(crate) fn step(&self, shared: &Shared) -> io::Result<Busy> {
        let mut desk = self.desk();
        let (wanted, lacking) = (desk.wanted, desk.spare.is_none());
        let old = desk.release(if lacking { 0 } else { RETIRED_MAX });
        desk.made += u64::from(lacking);
        let name = spare_name(desk.made);
        drop(desk);
        if lacking {
            let made = match old {
                Some(number) => self.reuse(number, name, wanted),
                None => prepare(self.storage.as_ref(), name, wanted),
            };
            return match made {
                Ok(spare) => {
                    shared.set_room(self.room());
                    let mut desk = self.desk();
                    (desk.spare, desk.attempt) = (Some(spare), Attempt::UnderWay);
                    self.ready.notify_all();
                    Ok(Busy::Yes)
                }
                Err(error) => {
                    let path = self.storage.path("");
                    let text = format!("{}: {error}", path.display());
                    shared.set_room(Room::None(text.into()));
                    self.desk().attempt = Attempt::Refused;
                    self.ready.notify_all();
                    Err(error)
                }
            };
        }
        if let Some(number) = old {
            self.storage.remove(&segment_name(number))?;
            return Ok(Busy::Yes);
        }
        shared.set_room(self.room());
        Ok(Busy::No)
    }

    /// Makes an old segment the next one, or removes it and makes one if it is too short.
    fn reuse(&self, number: u64, name: String, wanted: u64) -> io::Result<Spare> {
        let old = segment_name(number);
        let file = self.storage.open(&old)?;
        let len = file.len()?;
        if len < wanted {
            self.storage.remove(&old)?;
            return prepare(self.storage.as_ref(), name, wanted);
        }
        self.storage.rename(&old, &name)?;
        // Else a crash could bring the old name back, with what is written next under it.
        self.storage.sync_dir()?;
        Ok(Spare { name, file, len })
    }

    fn room(&self) -> Room {
        let lag = self.lag_bytes();
        match lag > self.backlog_bytes_max {
            false => Room::Enough,
            true => Room::None(format!("{lag} bytes wait to enter the history").into()),
        }
    }

    /// Waits for a prepared file of at least `len` bytes; `None` if the journal stops.
    pub(crate) fn take_spare(&self, len: u64) -> Option<Spare> {
        let mut desk = self.desk();
        loop {
            if desk.duty == Duty::Off {
                return None;
            }
            // Mostly frames, not snapshots of what is open: else a segment would hold little.
            desk.wanted = self.segment_bytes.max(4 * len);
            if let Some(spare) = desk.spare.take_if(|spare| spare.len >= len) {
                return Some(spare);
            }
            if let Some(short) = desk.spare.take() {
                // Tried again when the journal is opened.
                let _ = self.storage.remove(&short.name);
            }
            self.work.notify_all();
            desk = self.ready.wait(desk).expect("no thread panics with the desk");
        }
    }

    /// The present segment is durable up to `offset`.
    pub(crate) fn advanced(&self, generation: u64, offset: u64) {
        if let Some(facts) = self.desk().segments.get_mut(&generation) {
            facts.used = offset;
        }
    }

    /// Waits until the next segment is prepared, or the disk has refused that.
    pub(crate) fn wait_verdict(&self) {
        let waited = self.ready.wait_while(self.desk(), |desk| {
            desk.spare.is_none() && desk.attempt == Attempt::UnderWay && desk.duty == Duty::On
        });
        drop(waited.expect("no thread panics with the desk"));
    }

    /// A new segment is the present one.
    pub(crate) fn rolled(&self, generation: u64, base: Lsn) {
        self.desk().segments.insert(generation, SegmentFacts { base, used: 0 });
        self.work.notify_all();
    }

    /// The projection durably has everything up to `lsn`.
    pub(crate) fn projected(&self, lsn: Lsn) {
        self.desk().projected = lsn;
        self.work.notify_all();
    }

    /// The segments, oldest first.
    pub(crate) fn segments(&self) -> Vec<(u64, SegmentFacts)> {
        self.desk().segments.iter().map(|(&number, &facts)| (number, facts)).collect()
    }

    /// The first segment after this one.
    pub(crate) fn after(&self, generation: u64) -> Option<(u64, SegmentFacts)> {
        let desk = self.desk();
        desk.segments.range(generation + 1..).next().map(|(&number, &facts)| (number, facts))
    }

    /// Number of the oldest segment that is needed when the projection has everything up to `lsn`.
    pub(crate) fn rests_on(&self, lsn: Lsn) -> u64 {
        let desk = self.desk();
        let reaching = desk.segments.iter().rfind(|(_, facts)| facts.base <= lsn);
        reaching.or(desk.segments.iter().next()).map_or(0, |(&number, _)| number)
    }

    /// The projection has come to this segment and offset.
    pub(crate) fn taken(&self, place: (u64, u64)) {
        self.desk().taken = place;
    }

    /// The present segment, and the offset up to which it is durable.
    pub(crate) fn end(&self) -> (u64, u64) {
        let desk = self.desk();
        let last = desk.segments.last_key_value();
        last.map_or((0, 0), |(&number, facts)| (number, facts.used))
    }

    /// Bytes that the projection has not taken.
    pub(crate) fn lag_bytes(&self) -> u64 {
        let desk = self.desk();
        let (generation, offset) = desk.taken;
        let ahead = desk.segments.range(generation..).map(|(_, facts)| facts.used).sum::<u64>();
        ahead.saturating_sub(offset)
    }

    pub(crate) fn stop(&self) {
        self.desk().duty = Duty::Off;
        self.work.notify_all();
        self.ready.notify_all();
    }
}

/// Whether the keeper found something to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Busy {
    Yes,
    No,
}

impl Desk {
    /// Segments that nothing rests on any more, oldest first: the projection has everything up to
    /// and into the first frame of the one after.
    fn retired(&self) -> Vec<u64> {
        let bases = self.segments.values().skip(1).map(|facts| facts.base);
        let pairs = self.segments.keys().zip(bases);
        pairs.take_while(|(_, base)| *base <= self.projected).map(|(&number, _)| number).collect()
    }

    /// Takes the oldest retired segment off the list, if there are more than `kept` of them.
    fn release(&mut self, kept: usize) -> Option<u64> {
        let retired = self.retired();
        let oldest = (retired.len() > kept).then(|| retired[0])?;
        self.segments.remove(&oldest);
        Some(oldest)
    }
}

/// Makes a file of zeros that is to become a segment.
pub(crate) fn prepare(storage: &dyn Storage, name: String, len: u64) -> io::Result<Spare> {
    const UNFINISHED: &str = "unfinished";
    let file = storage.create(UNFINISHED, len).inspect_err(|_| {
        // What there is of it only takes room.
        let _ = storage.remove(UNFINISHED);
    })?;
    storage.rename(UNFINISHED, &name)?;
    Ok(Spare { name, file, len })
}

pub(crate) fn spare_name(number: u64) -> String {
    format!("{SPARE}{number}")
}

/// Takes a spare of at least `len` bytes that a former process left, and removes the others.
pub(crate) fn left_over(
    storage: &dyn Storage,
    names: &[String],
    len: u64,
) -> io::Result<Option<Spare>> {
    let mut taken = None;
    for name in names.iter().filter(|name| name.starts_with(SPARE)) {
        let file = storage.open(name)?;
        let found = file.len()?;
        match taken.is_none() && found >= len {
            true => taken = Some(Spare { name: name.clone(), file, len: found }),
            false => storage.remove(name)?,
        }
    }
    if taken.is_some() {
        // It may have been a segment under its old name, which a crash must not bring back.
        storage.sync_dir()?;
    }
    Ok(taken)
}
