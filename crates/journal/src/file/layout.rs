//! The bytes of a segment: header, snapshot, frames, entries.
//!
//! docs/journal-format.md draws them and gives the reasons. Checksums are CRC-32C (Castagnoli) and
//! begin from a seed made of the segment's number and salt, so that what an earlier use of the file
//! left behind, or a client's payload, never passes for a frame of this segment.

use unanimous_core::id::{Epoch, Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::limits::SHARDS;
use unanimous_core::txn::Record;

use crate::codec::{self, Reader, Undecodable, put_varint};
use crate::entry::{End, Entry, Stored};

pub(crate) const SEGMENT_HEADER_LEN: usize = 640;
pub(crate) const FRAME_HEADER_LEN: usize = 32;

/// Snapshots and frames begin at multiples of this, so that a search for frames need not look at
/// every byte.
pub(crate) const ALIGN: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"UNAJRNL\n";
const FRAME_MAGIC: [u8; 4] = *b"UFRM";
const FORMAT_VERSION: u32 = 1;
const INSTANCE_LEN_MAX: usize = 20;
const EPOCHS: usize = SHARDS as usize;

const _: () = assert!(SEGMENT_HEADER_LEN == 120 + 8 * EPOCHS + 8);
const _: () = assert!(SEGMENT_HEADER_LEN.is_multiple_of(ALIGN));
const _: () = assert!(FRAME_HEADER_LEN.is_multiple_of(ALIGN));

/// The epoch of each shard.
pub(crate) type Epochs = [Epoch; EPOCHS];

/// As long as nobody has claimed a shard.
pub(crate) const NO_EPOCHS: Epochs = [Epoch(0); EPOCHS];

/// What stands at the beginning of a segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SegmentHeader {
    /// The number in the file's name.
    pub(crate) generation: u64,
    pub(crate) salt: u64,
    /// Sequence number of the segment's first frame.
    pub(crate) first_sequence: u64,
    /// Position of the first entry of the segment's first frame.
    pub(crate) base: Lsn,
    pub(crate) snapshot_len: u64,
    pub(crate) snapshot_crc: u32,
    /// Bytes of the whole file, which never becomes shorter.
    pub(crate) segment_len: u64,
    pub(crate) instance: String,
    /// As of the end of the first frame.
    pub(crate) epochs: Epochs,
}

impl SegmentHeader {
    pub(crate) fn seed(&self) -> u32 {
        seed(self.generation, self.salt)
    }

    /// Where the first frame is.
    pub(crate) fn frames_at(&self) -> u64 {
        aligned(SEGMENT_HEADER_LEN as u64 + self.snapshot_len)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for number in [self.generation, self.salt, self.first_sequence, self.base.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.snapshot_len.to_le_bytes());
        out.extend_from_slice(&self.snapshot_crc.to_le_bytes());
        out.extend_from_slice(&(EPOCHS as u32).to_le_bytes());
        out.extend_from_slice(&self.segment_len.to_le_bytes());
        out.push(self.instance.len() as u8);
        out.extend_from_slice(self.instance.as_bytes());
        out.resize(120, 0);
        for epoch in self.epochs {
            out.extend_from_slice(&epoch.0.to_le_bytes());
        }
        out.resize(SEGMENT_HEADER_LEN, 0);
        let crc = crc32c::crc32c(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_LEN) else {
            return Err("shorter than a segment header");
        };
        let mut reader = Reader::new(bytes);
        let cut = |_: Undecodable| "shorter than a segment header";
        if reader.array().map_err(cut)? != SEGMENT_MAGIC {
            return Err("not a segment");
        }
        let version = reader.u32().map_err(cut)?;
        let crc = reader.u32().map_err(cut)?;
        if version != FORMAT_VERSION {
            return Err("not of format version 1, the only one that this release reads");
        }
        let zero_crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &[0; 4]);
        if crc32c::crc32c_append(zero_crc, &bytes[16..]) != crc {
            return Err("the checksum of the segment header does not match");
        }
        Self::fields(&mut reader).map_err(|_| "the segment header contradicts itself")
    }

    fn fields(reader: &mut Reader<'_>) -> Result<Self, Undecodable> {
        let mut header = Self {
            generation: reader.u64()?,
            salt: reader.u64()?,
            first_sequence: reader.u64()?,
            base: Lsn(reader.u64()?),
            snapshot_len: reader.u64()?,
            snapshot_crc: reader.u32()?,
            segment_len: 0,
            instance: String::new(),
            epochs: [Epoch::default(); EPOCHS],
        };
        if reader.u32()? != EPOCHS as u32 {
            return Err(reader.wrong("another number of shards"));
        }
        header.segment_len = reader.u64()?;
        let len = usize::from(reader.byte()?);
        if len > INSTANCE_LEN_MAX {
            return Err(reader.wrong("an instance name too long"));
        }
        let name = reader.take(len)?.to_vec();
        header.instance =
            String::from_utf8(name).map_err(|_| reader.wrong("an instance name in no text"))?;
        reader.take(120 - reader.offset())?;
        for epoch in &mut header.epochs {
            *epoch = Epoch(reader.u64()?);
        }
        Ok(header)
    }
}

pub(crate) fn seed(generation: u64, salt: u64) -> u32 {
    let generation = crc32c::crc32c(&generation.to_le_bytes());
    crc32c::crc32c_append(generation, &salt.to_le_bytes())
}

pub(crate) fn aligned(len: u64) -> u64 {
    len.next_multiple_of(ALIGN as u64)
}

/// A batch as it was read back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) sequence: u64,
    pub(crate) first: Lsn,
    pub(crate) count: u32,
    entries: &'a [u8],
}

/// Makes a frame of `bytes`, whose first [`FRAME_HEADER_LEN`] bytes are kept free and whose rest is
/// `count` entries.
pub(crate) fn seal(bytes: &mut Vec<u8>, seed: u32, sequence: u64, first: Lsn, count: u32) {
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
    let len = u32::try_from(bytes.len()).expect("a batch is bounded");
    bytes[..4].copy_from_slice(&FRAME_MAGIC);
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..16].copy_from_slice(&count.to_le_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    bytes[24..32].copy_from_slice(&first.0.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The length that a frame header claims; `None` if it is none.
pub(crate) fn claimed_len(header: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(header);
    let magic: [u8; 4] = reader.array().ok()?;
    reader.take(4).ok()?;
    let len = reader.u32().ok()? as usize;
    (magic == FRAME_MAGIC && len >= FRAME_HEADER_LEN && len.is_multiple_of(ALIGN)).then_some(len)
}

impl<'a> Frame<'a> {
    /// Reads a whole frame; `None` if these bytes are not one of the segment with this seed.
    pub(crate) fn decode(bytes: &'a [u8], seed: u32) -> Option<Self> {
        let frame = bytes.get(..claimed_len(bytes)?)?;
        let crc = Reader::new(&frame[4..]).u32().ok()?;
        match crc32c::crc32c_append(seed, &frame[8..]) == crc {
            true => Self::checked(frame),
            false => None,
        }
    }

    /// Reads a frame whose checksum is known to match.
    pub(crate) fn checked(frame: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(frame);
        reader.take(12).ok()?;
        Some(Self {
            count: reader.u32().ok()?,
            sequence: reader.u64().ok()?,
            first: Lsn(reader.u64().ok()?),
            entries: &frame[FRAME_HEADER_LEN..],
        })
    }

    /// Position of the entry after the last.
    pub(crate) fn next(&self) -> Lsn {
        Lsn(self.first.0 + u64::from(self.count))
    }

    /// All entries as they stand in the file.
    pub(crate) fn entries_bytes(&self) -> &'a [u8] {
        self.entries
    }

    /// Each entry with its position and its bytes.
    pub(crate) fn entries(
        &self,
    ) -> impl Iterator<Item = Result<(Lsn, Item<'a>, &'a [u8]), Undecodable>> + use<'a> {
        let mut reader = Reader::new(self.entries);
        let first = self.first.0;
        (0..u64::from(self.count)).map(move |index| {
            let (item, bytes) = read_entry(&mut reader)?;
            Ok((Lsn(first + index), item, bytes))
        })
    }
}

/// An entry as it was read back, its records still encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item<'a> {
    Records(Records<'a>),
    Claim(ShardId, Epoch),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Records<'a> {
    pub(crate) txn: TxnId,
    pub(crate) expected: u32,
    pub(crate) count: u32,
    pub(crate) at: Timestamp,
    pub(crate) end: End,
    encoded: &'a [u8],
}

impl Records<'_> {
    pub(crate) fn first(&self) -> Result<Record, Undecodable> {
        codec::read(&mut Reader::new(self.encoded))
    }
}

const OPEN: u8 = 1;
const ENDED: u8 = 2;
const CLAIM: u8 = 3;

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry<'_>) {
    with_len(out, |out| {
        out.push(match entry.end {
            End::Open => OPEN,
            End::Ended => ENDED,
        });
        out.extend_from_slice(&entry.txn.0.to_be_bytes());
        put_varint(out, entry.epoch.0);
        put_varint(out, u64::from(entry.expected));
        put_varint(out, entry.at.0);
        put_varint(out, entry.records.len() as u64);
        entry.records.iter().for_each(|record| codec::encode(record, out));
    });
}

pub(crate) fn put_claim(out: &mut Vec<u8>, shard: ShardId, epoch: Epoch) {
    with_len(out, |out| {
        out.extend([CLAIM, shard.index() as u8]);
        put_varint(out, epoch.0);
    });
}

fn with_len(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    put(out);
    let len = u32::try_from(out.len() - start - 4).expect("an entry is bounded");
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<(Item<'a>, &'a [u8]), Undecodable> {
    let start = reader.clone();
    let len = reader.u32()? as usize;
    let body = reader.take(len)?;
    let bytes = start.clone().take(len + 4)?;
    let item = read_item(body)
        .map_err(|error| Undecodable { offset: start.offset() + 4 + error.offset, ..error })?;
    Ok((item, bytes))
}

fn read_item(body: &[u8]) -> Result<Item<'_>, Undecodable> {
    let mut reader = Reader::new(body);
    let end = match reader.byte()? {
        OPEN => End::Open,
        ENDED => End::Ended,
        CLAIM => {
            let shard = ShardId::of(u64::from(reader.byte()?));
            return Ok(Item::Claim(shard, Epoch(reader.varint()?)));
        }
        _ => return Err(reader.wrong("an entry of an unknown kind")),
    };
    let txn = TxnId(u128::from_be_bytes(reader.array()?));
    reader.varint()?;
    let expected = reader.varint32()?;
    let at = Timestamp(reader.varint()?);
    let count = reader.varint32()?;
    let encoded = reader.take(reader.left())?;
    Ok(Item::Records(Records { txn, expected, count, at, end, encoded }))
}

/// Appends an entry of a transaction together with its position: the form in which entries are
/// kept in memory, in snapshots and in the projection.
pub(crate) fn put_kept(out: &mut Vec<u8>, lsn: Lsn, entry: &[u8]) {
    out.extend_from_slice(&lsn.0.to_le_bytes());
    out.extend_from_slice(entry);
}

/// The entries in what [`put_kept`] wrote.
pub(crate) fn kept(
    bytes: &[u8],
) -> impl Iterator<Item = Result<(Lsn, Records<'_>, &[u8]), Undecodable>> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || {
        (reader.left() > 0).then(|| {
            let lsn = Lsn(reader.u64()?);
            match read_entry(&mut reader)? {
                (Item::Records(records), bytes) => Ok((lsn, records, bytes)),
                (Item::Claim(..), _) => Err(reader.wrong("a claim among a transaction's records")),
            }
        })
    })
}

/// The records in what [`put_kept`] wrote.
pub(crate) fn stored(bytes: &[u8]) -> Result<Vec<Stored>, Undecodable> {
    let mut all = Vec::new();
    for entry in kept(bytes) {
        let (lsn, records, _) = entry?;
        let mut reader = Reader::new(records.encoded);
        for _ in 0..records.count {
            all.push(Stored { lsn, at: records.at, record: codec::read(&mut reader)? });
        }
        if reader.left() > 0 {
            return Err(reader.wrong("more than the entry's records"));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        let mut epochs = [Epoch::default(); EPOCHS];
        epochs[63] = Epoch(u64::MAX);
        SegmentHeader {
            generation: 7,
            salt: 0x0123_4567_89AB_CDEF,
            first_sequence: 40,
            base: Lsn(99),
            snapshot_len: 13,
            snapshot_crc: 5,
            segment_len: 1 << 20,
            instance: "k3m9x2ab".into(),
            epochs,
        }
    }

    #[test]
    fn a_segment_header_reads_back_and_no_flipped_byte_goes_unnoticed() {
        let bytes = header().encode();
        assert_eq!(bytes.len(), SEGMENT_HEADER_LEN);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        for index in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[index] ^= 0x10;
            assert!(SegmentHeader::decode(&flipped).is_err(), "byte {index}");
        }
    }

    #[test]
    fn a_frame_of_another_generation_or_salt_is_no_frame() {
        let mut bytes = vec![0; FRAME_HEADER_LEN];
        put_claim(&mut bytes, ShardId::of(3), Epoch(9));
        seal(&mut bytes, seed(1, 2), 5, Lsn(10), 1);
        let frame = Frame::decode(&bytes, seed(1, 2)).expect("sealed with this seed");
        assert_eq!((frame.sequence, frame.first, frame.next()), (5, Lsn(10), Lsn(11)));
        for entry in frame.entries() {
            let (lsn, item, _) = entry.expect("as it was written");
            assert!(matches!(item, Item::Claim(shard, Epoch(9)) if shard == ShardId::of(3)));
            assert_eq!(lsn, Lsn(10));
        }
        assert!(Frame::decode(&bytes, seed(2, 2)).is_none());
        assert!(Frame::decode(&bytes, seed(1, 3)).is_none());
    }

    #[test]
    fn no_bytes_make_the_reading_of_kept_entries_panic() {
        let record = Record::Commit(unanimous_core::commit::Record::Preparing);
        let (txn, epoch, at) = (TxnId(9), Epoch(300), Timestamp(u64::MAX));
        let records = &[record.clone(), record];
        let entry = Entry { txn, epoch, expected: 7, at, records, end: End::Ended };
        let mut encoded = Vec::new();
        put_entry(&mut encoded, &entry);
        let mut bytes = Vec::new();
        put_kept(&mut bytes, Lsn(5), &encoded);
        put_kept(&mut bytes, Lsn(6), &encoded);
        assert_eq!(stored(&bytes).expect("as it was written").len(), 4);
        for index in 0..bytes.len() {
            for value in 0..=u8::MAX {
                let mut changed = bytes.clone();
                changed[index] = value;
                let _ = stored(&changed);
            }
            assert!(index == 0 || index == bytes.len() / 2 || stored(&bytes[..index]).is_err());
        }
    }
}
