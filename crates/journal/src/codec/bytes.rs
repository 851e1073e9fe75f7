//! Numbers, texts and lists as bytes.
//!
//! Reading is total: any input gives a value or an error, and never allocates more than a small
//! multiple of the input.

use std::sync::Arc;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub struct Undecodable {
    /// Where reading stopped, counted from the beginning of the input.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Reads from the front of a slice.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    all: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(all: &'a [u8]) -> Self {
        Self { all, offset: 0 }
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn left(&self) -> usize {
        self.all.len() - self.offset
    }

    pub(crate) fn wrong(&self, what: &'static str) -> Undecodable {
        Undecodable { offset: self.offset, what }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Undecodable> {
        if len > self.left() {
            return Err(self.wrong("the input ends too early"));
        }
        let taken = &self.all[self.offset..self.offset + len];
        self.offset += len;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("took N bytes"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Undecodable> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Undecodable> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Undecodable> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Undecodable> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return Err(self.wrong("a number of more than 64 bits"));
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.wrong("a number of more than 64 bits"))
    }

    pub(crate) fn varint16(&mut self) -> Result<u16, Undecodable> {
        u16::try_from(self.varint()?).map_err(|_| self.wrong("a number of more than 16 bits"))
    }

    pub(crate) fn varint32(&mut self) -> Result<u32, Undecodable> {
        u32::try_from(self.varint()?).map_err(|_| self.wrong("a number of more than 32 bits"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Undecodable> {
        let len = self.varint()?;
        let len = usize::try_from(len).map_err(|_| self.wrong("the input ends too early"))?;
        self.take(len)
    }

    pub(crate) fn text(&mut self) -> Result<Arc<str>, Undecodable> {
        let start = self.clone();
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| start.wrong("not UTF-8"))?;
        Ok(Arc::from(text))
    }

    /// A list of items that each take at least one byte, so that its length is bounded by what is
    /// left of the input.
    pub(crate) fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, Undecodable>,
    ) -> Result<Vec<T>, Undecodable> {
        let count = self.varint()?;
        if count > self.left() as u64 {
            return Err(self.wrong("a list longer than the input"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    pub(crate) fn option<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, Undecodable>,
    ) -> Result<Option<T>, Undecodable> {
        match self.byte()? {
            0 => Ok(None),
            1 => item(self).map(Some),
            _ => Err(self.wrong("neither absent nor present")),
        }
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_list<T>(out: &mut Vec<u8>, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    put_varint(out, items.len() as u64);
    items.iter().for_each(|item| put(out, item));
}

pub(crate) fn put_option<T>(
    out: &mut Vec<u8>,
    item: Option<&T>,
    put: impl FnOnce(&mut Vec<u8>, &T),
) {
    match item {
        None => out.push(0),
        Some(item) => {
            out.push(1);
            put(out, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_reads_back_and_one_of_65_bits_is_refused() {
        for value in (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit]).chain([u64::MAX]) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(Reader::new(&out).varint(), Ok(value));
        }
        let mut long = vec![0xFF; 9];
        long.push(0x02);
        assert!(Reader::new(&long).varint().is_err());
        assert!(Reader::new(&[0x80; 11]).varint().is_err());
    }

    #[test]
    fn a_list_that_claims_more_than_there_is_allocates_nothing() {
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        assert!(Reader::new(&out).list(Reader::byte).is_err());
        assert!(Reader::new(&out).bytes().is_err());
    }
}
