//! Records as bytes, the same in every journal.
//!
//! A record is a kind byte and what that kind says. The kind names the layout too: a layout that
//! was ever written keeps its kind, and is read for ever; a changed one gets the next free kind.
//!
//! | kinds | family |
//! |---|---|
//! | `0x01`–`0x3F` | atomic commit |
//! | `0x40`–`0x7F` | saga |
//! | `0x80`–`0xBF` | message |
//! | `0xC0`–`0xFF` | free |
//!
//! Decoding is total: any bytes give a record or [`Undecodable`], without a panic and with
//! allocations bounded by the input.

mod bytes;
mod commit;
mod saga;

pub use bytes::Undecodable;
pub(crate) use bytes::{Reader, put_varint};

use unanimous_core::txn::Record;

/// Appends the bytes of `record` to `out`.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Commit(record) => commit::encode(record, out),
        Record::Saga(record) => saga::encode(record, out),
    }
}

/// Reads one record from the front of `bytes`, and says how many bytes it took.
///
/// # Errors
///
/// [`Undecodable`] if they do not begin with a record of a known kind.
pub fn decode(bytes: &[u8]) -> Result<(Record, usize), Undecodable> {
    let mut reader = Reader::new(bytes);
    let record = read(&mut reader)?;
    Ok((record, reader.offset()))
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Record, Undecodable> {
    let unknown = reader.wrong("a record of an unknown kind");
    match reader.byte()? {
        kind @ 0x01..=0x3F => commit::decode(kind, reader)?.map(Record::Commit).ok_or(unknown),
        kind @ 0x40..=0x7F => saga::decode(kind, reader)?.map(Record::Saga).ok_or(unknown),
        _ => Err(unknown),
    }
}
