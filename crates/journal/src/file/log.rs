//! The segment that is written to, and how it is followed by the next.
//!
//! A frame is one write and one sync, and no frame is written before the sync of the one before it
//! has succeeded. A segment gets its name only when its header, snapshot and first frame are
//! durable, so whatever has the name of a segment begins with those three.

use std::io;
use std::sync::Arc;

use unanimous_core::id::Lsn;

use super::layout::{self, Epochs, FRAME_HEADER_LEN, SEGMENT_HEADER_LEN, SegmentHeader};
use super::storage::{Handle, Storage};

/// A file made ready to become a segment.
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn Handle>,
    pub(crate) len: u64,
}

/// Entries on their way to the disk.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Room for the frame header, then the entries.
    pub(crate) bytes: Vec<u8>,
    pub(crate) first: Lsn,
    pub(crate) count: u32,
}

impl Batch {
    pub(crate) fn new(first: Lsn) -> Self {
        Self { bytes: vec![0; FRAME_HEADER_LEN], first, count: 0 }
    }

    /// Empties the batch, which goes on at `first`.
    pub(crate) fn restart(&mut self, first: Lsn) {
        self.bytes.truncate(FRAME_HEADER_LEN);
        self.first = first;
        self.count = 0;
    }

    /// Position of the entry after the last.
    pub(crate) fn next(&self) -> Lsn {
        Lsn(self.first.0 + u64::from(self.count))
    }

    pub(crate) fn frame_len(&self) -> u64 {
        layout::aligned(self.bytes.len() as u64)
    }
}

/// What a new segment begins with, as of the end of the batch that becomes its first frame.
pub(crate) struct Head {
    pub(crate) snapshot: Vec<u8>,
    pub(crate) epochs: Epochs,
    pub(crate) salt: u64,
}

/// The segment that is written to.
pub(crate) struct Log {
    storage: Arc<dyn Storage>,
    file: Arc<dyn Handle>,
    instance: String,
    generation: u64,
    seed: u32,
    sequence: u64,
    offset: u64,
    len: u64,
}

/// Where a log goes on.
pub(crate) struct Place {
    pub(crate) instance: String,
    /// Number of the next segment.
    pub(crate) generation: u64,
    /// Sequence number of the next frame.
    pub(crate) sequence: u64,
}

impl Log {
    /// Makes the first segment that this process writes.
    pub(crate) fn start(
        storage: Arc<dyn Storage>,
        place: Place,
        spare: Spare,
        head: Head,
        batch: &mut Batch,
    ) -> io::Result<Self> {
        let Place { instance, generation, sequence } = place;
        let file = Arc::clone(&spare.file);
        let mut log =
            Self { storage, file, instance, generation, seed: 0, sequence, offset: 0, len: 0 };
        log.begin(generation, spare, head, batch)?;
        Ok(log)
    }

    /// Bytes that a segment with this snapshot and first frame takes at least.
    pub(crate) fn room_for(snapshot_len: usize, batch: &Batch) -> u64 {
        layout::aligned((SEGMENT_HEADER_LEN + snapshot_len) as u64) + batch.frame_len()
    }

    pub(crate) fn fits(&self, batch: &Batch) -> bool {
        self.offset + batch.frame_len() <= self.len
    }

    /// Bytes of the segment.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of the segment that are left.
    pub(crate) fn left(&self) -> u64 {
        self.len - self.offset
    }

    /// Number of the segment that is written to.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Where the next frame goes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Makes a batch durable as a frame of the present segment.
    pub(crate) fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        layout::seal(&mut batch.bytes, self.seed, self.sequence, batch.first, batch.count);
        self.file.write_at(&batch.bytes, self.offset)?;
        self.file.sync()?;
        self.offset += batch.bytes.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    /// Makes a batch durable as the first frame of the next segment.
    pub(crate) fn roll(&mut self, spare: Spare, head: Head, batch: &mut Batch) -> io::Result<()> {
        self.begin(self.generation + 1, spare, head, batch)
    }

    fn begin(
        &mut self,
        generation: u64,
        spare: Spare,
        head: Head,
        batch: &mut Batch,
    ) -> io::Result<()> {
        let seed = layout::seed(generation, head.salt);
        let header = SegmentHeader {
            generation,
            salt: head.salt,
            first_sequence: self.sequence,
            base: batch.first,
            snapshot_len: head.snapshot.len() as u64,
            snapshot_crc: crc32c::crc32c_append(seed, &head.snapshot),
            segment_len: spare.len,
            instance: self.instance.clone(),
            epochs: head.epochs,
        };
        let frames_at = header.frames_at();
        layout::seal(&mut batch.bytes, seed, self.sequence, batch.first, batch.count);
        spare.file.write_at(&header.encode(), 0)?;
        spare.file.write_at(&head.snapshot, SEGMENT_HEADER_LEN as u64)?;
        spare.file.write_at(&batch.bytes, frames_at)?;
        spare.file.sync()?;
        self.storage.rename(&spare.name, &segment_name(generation))?;
        self.storage.sync_dir()?;

        self.file = spare.file;
        self.generation = generation;
        self.seed = seed;
        self.sequence += 1;
        self.offset = frames_at + batch.bytes.len() as u64;
        self.len = spare.len;
        Ok(())
    }
}

/// The file of a segment.
pub(crate) fn segment_name(generation: u64) -> String {
    format!("{generation:08}.seg")
}

/// The number of the segment in a file of this name; `None` if it is no segment.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}
