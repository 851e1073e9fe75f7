//! Entries as the value of a key: in their place, or apart if they are long.

use unanimous_core::id::Lsn;

use crate::codec::{Reader, Undecodable, put_varint};

const INLINE: u8 = 0;
const APART: u8 = 1;

/// What a value says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Value<'a> {
    /// The entries.
    Inline(&'a [u8]),
    /// They are in so many parts under this position.
    Apart(Lsn, usize),
}

impl<'a> Value<'a> {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Inline(entries) => [&[INLINE], entries].concat(),
            Self::Apart(lsn, parts) => {
                let mut bytes = vec![APART];
                put_varint(&mut bytes, lsn.0);
                put_varint(&mut bytes, parts as u64);
                bytes
            }
        }
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Undecodable> {
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            INLINE => Ok(Self::Inline(&bytes[1..])),
            APART => {
                let lsn = Lsn(reader.varint()?);
                Ok(Self::Apart(lsn, reader.varint32()? as usize))
            }
            _ => Err(reader.wrong("a value of an unknown kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_it_was_written() {
        for value in [Value::Inline(b"entries"), Value::Inline(b""), Value::Apart(Lsn(900), 3)] {
            assert_eq!(Value::decode(&value.encode()).expect("it is whole"), value);
        }
        assert!(Value::decode(b"\x07").is_err() && Value::decode(b"").is_err());
    }
}
