//! Reads one segment: its header, its snapshot, and frame after frame.
//!
//! A frame that cannot be read is the torn end of the log if nothing valid follows it, and damage
//! otherwise: frames are written one after the other, each after the sync of the one before.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use unanimous_core::id::Lsn;

use super::layout::{
    ALIGN, FRAME_HEADER_LEN, Frame, SEGMENT_HEADER_LEN, SegmentHeader, claimed_len,
};
use super::log::segment_name;
use super::storage::{Handle, Storage};
use crate::error::JournalError;

/// Bytes read at a time when a segment is read through.
const CHUNK: usize = 1 << 20;

/// A segment that is being read.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    path: PathBuf,
    file: Arc<dyn Handle>,
    len: u64,
    seed: u32,
    offset: u64,
    sequence: u64,
    next: Lsn,
    /// What was read ahead, beginning at file offset `chunk_at`.
    chunk: Vec<u8>,
    chunk_at: u64,
}

/// A valid frame within the chunk.
struct Place {
    sequence: u64,
    first: Lsn,
    range: Range<usize>,
}

/// What is at the present place.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// The next frame, as it was written, and its offset.
    Frame(Frame<'a>, u64),
    /// No frame, and none after it: the log ends here.
    End,
}

impl Segment {
    /// Opens the segment of this number and reads its header.
    pub(crate) fn open(storage: &dyn Storage, generation: u64) -> Result<Self, JournalError> {
        let name = segment_name(generation);
        let path = storage.path(&name);
        let unreadable =
            |error: io::Error| JournalError::Failed(format!("{}: {error}", path.display()));
        let file = storage.open(&name).map_err(unreadable)?;
        let len = file.len().map_err(unreadable)?;
        let mut bytes = vec![0; SEGMENT_HEADER_LEN.min(usize::try_from(len).unwrap_or(0))];
        file.read_at(&mut bytes, 0).map_err(unreadable)?;
        let header = SegmentHeader::decode(&bytes).and_then(|header| {
            let same = header.generation == generation;
            same.then_some(header).ok_or("the header of another segment")
        });
        let damaged = |what: &str| JournalError::Damaged {
            path: path.clone(),
            offset: 0,
            what: what.to_owned(),
        };
        let header = header.map_err(damaged)?;
        if len < header.segment_len {
            let (lacking, all) = (header.segment_len - len, header.segment_len);
            return Err(damaged(&format!("{lacking} of {all} bytes are missing at the end")));
        }
        if header.snapshot_len > len || header.frames_at() > len {
            return Err(damaged("the snapshot is longer than the segment"));
        }
        Ok(Self {
            seed: header.seed(),
            offset: header.frames_at(),
            sequence: header.first_sequence,
            next: header.base,
            chunk: Vec::new(),
            chunk_at: 0,
            header,
            path,
            file,
            len,
        })
    }

    /// The transactions that were open at the end of the first frame.
    pub(crate) fn snapshot(&self) -> Result<Vec<u8>, JournalError> {
        let len = usize::try_from(self.header.snapshot_len).expect("not longer than the file");
        let mut bytes = vec![0; len];
        let at = SEGMENT_HEADER_LEN as u64;
        self.file.read_at(&mut bytes, at).map_err(|error| self.unreadable(&error))?;
        match crc32c::crc32c_append(self.seed, &bytes) == self.header.snapshot_crc {
            true => Ok(bytes),
            false => Err(self.damaged(at, "the checksum of the snapshot does not match")),
        }
    }

    /// Offset of the next frame.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Sequence number of the next frame.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Position of the next frame's first entry.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// Reads the next frame of a segment that nobody writes to.
    pub(crate) fn next(&mut self) -> Result<Found<'_>, JournalError> {
        let offset = self.offset;
        let Some(place) = self.find()? else {
            self.nothing_follows()?;
            return Ok(Found::End);
        };
        self.step(&place).map(|frame| Found::Frame(frame, offset))
    }

    /// Reads the next frame of a segment that may be written to at this moment; `None` if there is
    /// none, or not yet.
    pub(crate) fn poll(&mut self) -> Result<Option<Frame<'_>>, JournalError> {
        let mut place = self.find()?;
        if place.is_none() {
            // What was read ahead may have been written since.
            self.chunk.clear();
            place = self.find()?;
        }
        place.map(|place| self.step(&place)).transpose()
    }

    fn step(&mut self, place: &Place) -> Result<Frame<'_>, JournalError> {
        if place.sequence != self.sequence || place.first != self.next {
            let what = "a frame does not follow from the one before it";
            return Err(self.damaged(self.offset, what));
        }
        self.offset += place.range.len() as u64;
        self.sequence += 1;
        let bytes = &self.chunk[place.range.clone()];
        let frame = Frame::checked(bytes).expect("it was checked when it was found");
        self.next = frame.next();
        Ok(frame)
    }

    /// Brings the frame at the present place into the chunk; `None` if none is there.
    fn find(&mut self) -> Result<Option<Place>, JournalError> {
        let header = self.ensure(FRAME_HEADER_LEN)?;
        let Some(len) = header.and_then(|range| claimed_len(&self.chunk[range])) else {
            return Ok(None);
        };
        let Some(range) = self.ensure(len)? else { return Ok(None) };
        let frame = Frame::decode(&self.chunk[range.clone()], self.seed);
        Ok(frame.map(|frame| Place { sequence: frame.sequence, first: frame.first, range }))
    }

    /// The next `len` bytes; `None` if the segment ends before.
    fn ensure(&mut self, len: usize) -> Result<Option<Range<usize>>, JournalError> {
        if self.offset + len as u64 > self.len {
            return Ok(None);
        }
        let end = self.chunk_at + self.chunk.len() as u64;
        if self.offset < self.chunk_at || self.offset + len as u64 > end {
            let left = usize::try_from(self.len - self.offset).unwrap_or(usize::MAX);
            self.chunk.resize(len.max(CHUNK).min(left), 0);
            self.chunk.shrink_to(CHUNK);
            self.chunk_at = self.offset;
            if let Err(error) = self.file.read_at(&mut self.chunk, self.offset) {
                self.chunk.clear();
                return Err(self.unreadable(&error));
            }
        }
        let start = usize::try_from(self.offset - self.chunk_at).expect("within the chunk");
        Ok(Some(start..start + len))
    }

    /// Fails if a frame of this segment stands somewhere behind the present place.
    fn nothing_follows(&self) -> Result<(), JournalError> {
        let left = usize::try_from(self.len - self.offset).expect("a segment fits in memory");
        let mut rest = vec![0; left];
        self.file.read_at(&mut rest, self.offset).map_err(|error| self.unreadable(&error))?;
        for at in (0..rest.len()).step_by(ALIGN).skip(1) {
            if let Some(frame) = Frame::decode(&rest[at..], self.seed)
                && frame.sequence > self.sequence
            {
                let what = format!(
                    "no valid frame, but frame {} at offset {} was written after it",
                    frame.sequence,
                    self.offset + at as u64
                );
                return Err(self.damaged(self.offset, &what));
            }
        }
        Ok(())
    }

    pub(crate) fn damaged(&self, offset: u64, what: &str) -> JournalError {
        JournalError::Damaged { path: self.path.clone(), offset, what: what.to_owned() }
    }

    fn unreadable(&self, error: &io::Error) -> JournalError {
        JournalError::Failed(format!("{}: {error}", self.path.display()))
    }
}
