//! etcd's messages, as far as the journal speaks them, in the encoding of Protocol Buffers.
//!
//! Numbers of fields are those of etcd's `rpc.proto` and `kv.proto`, which never change. Unknown
//! fields are skipped, as the encoding wants it.

use super::keys::Span;
use crate::codec::{Reader, Undecodable, put_varint};

const NUMBER: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

/// A message in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    /// Sets a field to a number.
    pub(super) fn number(mut self, field: u64, value: u64) -> Self {
        put_varint(&mut self.0, field << 3 | NUMBER);
        put_varint(&mut self.0, value);
        self
    }

    /// Sets a field to bytes, a text or a message.
    pub(super) fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        put_varint(&mut self.0, field << 3 | BYTES);
        put_varint(&mut self.0, value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

/// What is to be read.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) span: Span,
    /// Zero for all.
    pub(super) limit: u64,
    /// As of then; zero for now.
    pub(super) revision: u64,
    pub(super) want: Want,
}

/// What of each key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Want {
    Values,
    Count,
}

impl Range {
    /// Everything in a span, as it is now.
    pub(super) fn all(span: Span) -> Self {
        Self { span, limit: 0, revision: 0, want: Want::Values }
    }

    /// One key, as it is now.
    pub(super) fn one(key: Vec<u8>) -> Self {
        Self::all(key.into())
    }

    pub(super) fn message(&self) -> Message {
        let message = span(&self.span).number(3, self.limit).number(4, self.revision);
        match self.want {
            Want::Values => message,
            Want::Count => message.number(9, 1),
        }
    }
}

/// A key and, if there are more, where they end. An end that is there and empty would mean every key
/// from the first on.
fn span(span: &Span) -> Message {
    let message = Message::default().bytes(1, &span.from);
    match span.to.is_empty() {
        true => message,
        false => message.bytes(2, &span.to),
    }
}

/// What has to hold for a transaction to take its first way.
#[derive(Clone, Debug)]
pub(super) enum Compare {
    /// A key has this value.
    Value(Vec<u8>, Vec<u8>),
    /// A key is not there.
    Absent(Vec<u8>),
    /// A key is there.
    Present(Vec<u8>),
}

impl Compare {
    fn message(&self) -> Message {
        const TARGET_CREATED: u64 = 1;
        const TARGET_VALUE: u64 = 3;
        const GREATER: u64 = 1;
        match self {
            Self::Value(key, value) => {
                Message::default().number(2, TARGET_VALUE).bytes(3, key).bytes(7, value)
            }
            Self::Absent(key) => {
                Message::default().number(2, TARGET_CREATED).bytes(3, key).number(5, 0)
            }
            Self::Present(key) => Message::default()
                .number(1, GREATER)
                .number(2, TARGET_CREATED)
                .bytes(3, key)
                .number(5, 0),
        }
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Range(Range),
    Put(Vec<u8>, Vec<u8>),
    Delete(Span),
    Txn(Txn),
}

impl Op {
    fn message(&self) -> Message {
        let (field, message) = match self {
            Self::Range(range) => (1, range.message()),
            Self::Put(key, value) => (2, Message::default().bytes(1, key).bytes(2, value)),
            Self::Delete(whole) => (3, span(whole)),
            Self::Txn(txn) => (4, txn.message()),
        };
        Message::default().bytes(field, &message.0)
    }
}

/// All of the first operations if everything compares, else all of the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Txn {
    pub(super) compare: Vec<Compare>,
    pub(super) then: Vec<Op>,
    pub(super) otherwise: Vec<Op>,
}

impl Txn {
    pub(super) fn message(&self) -> Message {
        let mut message = Message::default();
        for compare in &self.compare {
            message = message.bytes(1, &compare.message().0);
        }
        for (field, ops) in [(2, &self.then), (3, &self.otherwise)] {
            for op in ops {
                message = message.bytes(field, &op.message().0);
            }
        }
        message
    }
}

/// A key that was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct KeyValue {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranged {
    pub(super) revision: u64,
    pub(super) found: Vec<KeyValue>,
    /// Keys in the span, also beyond the limit.
    pub(super) count: u64,
    pub(super) more: More,
}

/// Whether a limit has cut something off.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum More {
    Yes,
    #[default]
    No,
}

/// Which way a transaction took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Way {
    Then,
    #[default]
    Otherwise,
}

/// What became of a transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct TxnDone {
    pub(super) revision: u64,
    pub(super) way: Way,
    pub(super) done: Vec<Done>,
}

/// What became of one operation.
#[derive(Clone, Debug)]
pub(super) enum Done {
    Ranged(Ranged),
    Txn(TxnDone),
    /// Something was written or deleted.
    Written,
}

impl TxnDone {
    /// What the ranges have read, in their order.
    pub(super) fn into_ranges(self) -> Vec<Ranged> {
        let ranged = |done| match done {
            Done::Ranged(ranged) => Some(ranged),
            Done::Txn(_) | Done::Written => None,
        };
        self.done.into_iter().filter_map(ranged).collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut done = Self::default();
        for_each(bytes, |field, value| {
            match (field, value) {
                (1, Value::Bytes(header)) => done.revision = revision(header)?,
                (2, Value::Number(1)) => done.way = Way::Then,
                (3, Value::Bytes(op)) => for_each(op, |field, value| {
                    done.done.push(match (field, value) {
                        (1, Value::Bytes(range)) => Done::Ranged(Ranged::decode(range)?),
                        (4, Value::Bytes(txn)) => Done::Txn(Self::decode(txn)?),
                        (_, Value::Bytes(_) | Value::Number(_)) => Done::Written,
                    });
                    Ok(())
                })?,
                (_, Value::Bytes(_) | Value::Number(_)) => {}
            }
            Ok(())
        })?;
        Ok(done)
    }
}

impl Ranged {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut ranged = Self::default();
        for_each(bytes, |field, value| {
            match (field, value) {
                (1, Value::Bytes(header)) => ranged.revision = revision(header)?,
                (2, Value::Bytes(found)) => ranged.found.push(key_value(found)?),
                (3, Value::Number(1)) => ranged.more = More::Yes,
                (4, Value::Number(count)) => ranged.count = count,
                (_, Value::Bytes(_) | Value::Number(_)) => {}
            }
            Ok(())
        })?;
        Ok(ranged)
    }

    /// The value of the only key that was asked for.
    pub(super) fn into_value(mut self) -> Option<Vec<u8>> {
        self.found.pop().map(|it| it.value)
    }
}

/// The text in a field of a message.
pub(super) fn text(bytes: &[u8], wanted: u64) -> Result<String, Undecodable> {
    let mut text = String::new();
    for_each(bytes, |field, value| {
        match value {
            Value::Bytes(bytes) if field == wanted => {
                text = String::from_utf8_lossy(bytes).into_owned();
            }
            Value::Bytes(_) | Value::Number(_) => {}
        }
        Ok(())
    })?;
    Ok(text)
}

fn key_value(bytes: &[u8]) -> Result<KeyValue, Undecodable> {
    let mut found = KeyValue::default();
    for_each(bytes, |field, value| {
        match (field, value) {
            (1, Value::Bytes(key)) => found.key = key.to_vec(),
            (5, Value::Bytes(value)) => found.value = value.to_vec(),
            (_, Value::Bytes(_) | Value::Number(_)) => {}
        }
        Ok(())
    })?;
    Ok(found)
}

fn revision(header: &[u8]) -> Result<u64, Undecodable> {
    let mut revision = 0;
    for_each(header, |field, value| {
        match (field, value) {
            (3, Value::Number(number)) => revision = number,
            (_, Value::Bytes(_) | Value::Number(_)) => {}
        }
        Ok(())
    })?;
    Ok(revision)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn for_each<'a>(
    bytes: &'a [u8],
    mut give: impl FnMut(u64, Value<'a>) -> Result<(), Undecodable>,
) -> Result<(), Undecodable> {
    let mut reader = Reader::new(bytes);
    while reader.left() > 0 {
        let tag = reader.varint()?;
        let value = match tag & 7 {
            NUMBER => Value::Number(reader.varint()?),
            BYTES => {
                let len = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
                Value::Bytes(reader.take(len)?)
            }
            FIXED_64 => Value::Bytes(reader.take(8)?),
            FIXED_32 => Value::Bytes(reader.take(4)?),
            _ => return Err(reader.wrong("a field of an unknown kind")),
        };
        give(tag >> 3, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_and_a_put_are_written_as_the_protocol_has_them() {
        let txn = Txn {
            compare: vec![Compare::Absent(b"k".to_vec())],
            then: vec![Op::Put(b"k".to_vec(), b"v".to_vec())],
            otherwise: vec![Op::Range(Range::one(b"k".to_vec()))],
        };
        let expected = [
            &[0x0A, 7, 0x10, 1, 0x1A, 1, b'k', 0x28, 0][..],
            &[0x12, 8, 0x12, 6, 0x0A, 1, b'k', 0x12, 1, b'v'],
            &[0x1A, 9, 0x0A, 7, 0x0A, 1, b'k', 0x18, 0, 0x20, 0],
        ];
        assert_eq!(txn.message().0, expected.concat());
    }

    #[test]
    fn an_answer_is_read_and_what_is_unknown_is_skipped() {
        let found = Message::default().bytes(1, b"k").number(2, 7).bytes(5, b"v");
        let header = Message::default().number(1, u64::MAX).number(3, 42);
        let range = Message::default().bytes(2, &found.0).number(3, 1).number(4, 9);
        let op = Message::default().bytes(1, &range.0);
        let put = Message::default().bytes(2, b"");
        let answer = Message::default()
            .bytes(1, &header.0)
            .number(2, 1)
            .bytes(3, &op.0)
            .bytes(3, &put.0)
            .bytes(99, b"later");
        let done = TxnDone::decode(&answer.0).expect("it is whole");
        assert_eq!((done.revision, done.way, done.done.len()), (42, Way::Then, 2));
        let ranged = done.into_ranges().remove(0);
        assert_eq!((ranged.count, ranged.more), (9, More::Yes));
        assert_eq!(ranged.into_value().as_deref(), Some(&b"v"[..]));
        for cut in 1..answer.0.len() {
            // No panic, whatever arrives.
            drop(TxnDone::decode(&answer.0[..cut]));
        }
    }
}
