//! W3C trace context (Trace Context, level 1): one id through every call and log line.

use std::fmt;
use std::str::FromStr;

use unanimous_core::id::{BranchId, TxnId};

/// The trace that a transaction belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trace {
    trace: u128,
    span: u64,
    flags: u8,
}

/// Not a `traceparent` header that the standard accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotATrace;

const LEN: usize = 25;

impl Trace {
    /// A trace of its own, for a transaction whose client has none: both ids come from the
    /// transaction's.
    pub fn of(txn: TxnId) -> Self {
        Self { trace: txn.0, span: (txn.0 as u64).max(1), flags: 1 }
    }

    /// The span of the calls to one branch, in the same trace.
    #[must_use]
    pub fn child(self, branch: BranchId) -> Self {
        // Odd factors keep different branches apart.
        let step = (u64::from(branch.0) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { span: self.span.wrapping_add(step).max(1), ..self }
    }

    /// As few bytes as it can be kept in.
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..16].copy_from_slice(&self.trace.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.span.to_be_bytes());
        bytes[24] = self.flags;
        bytes
    }

    /// Reads what [`Trace::to_bytes`] wrote; `None` if it did not.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace, rest) = bytes.split_first_chunk()?;
        let (span, rest) = rest.split_first_chunk()?;
        let &[flags] = rest else { return None };
        Some(Self { trace: u128::from_be_bytes(*trace), span: u64::from_be_bytes(*span), flags })
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl FromStr for Trace {
    type Err = NotATrace;

    fn from_str(text: &str) -> Result<Self, NotATrace> {
        let fields: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags, ref rest @ ..] = fields[..] else {
            return Err(NotATrace);
        };
        let hex = |field: &str, len: usize| {
            let digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            (field.len() == len && field.bytes().all(digit)).then_some(()).ok_or(NotATrace)
        };
        for (field, len) in [(version, 2), (trace, 32), (span, 16), (flags, 2)] {
            hex(field, len)?;
        }
        // A later version may have more fields; the first one has not.
        if version == "ff" || (version == "00" && !rest.is_empty()) {
            return Err(NotATrace);
        }
        let trace = u128::from_str_radix(trace, 16).map_err(|_| NotATrace)?;
        let span = u64::from_str_radix(span, 16).map_err(|_| NotATrace)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| NotATrace)?;
        match trace != 0 && span != 0 {
            true => Ok(Self { trace, span, flags }),
            false => Err(NotATrace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_reads_back_as_text_and_as_bytes() {
        let trace: Trace = HEADER.parse().expect("valid");
        assert_eq!(trace.to_string(), HEADER);
        assert_eq!(Trace::from_bytes(&trace.to_bytes()), Some(trace));
        assert_eq!(Trace::from_bytes(&trace.to_bytes()[1..]), None);
    }

    #[test]
    fn a_child_keeps_the_trace_and_has_a_span_of_its_own() {
        let trace: Trace = HEADER.parse().expect("valid");
        let [left, right] = [0, 1].map(|branch| trace.child(BranchId(branch)).to_string());
        assert_eq!(left[..36], HEADER[..36]);
        assert!(left != right && left != HEADER);
    }

    #[test]
    fn what_the_standard_refuses_is_no_trace() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        ] {
            assert_eq!(text.parse::<Trace>(), Err(NotATrace), "{text}");
        }
        let newer = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(newer.parse::<Trace>().is_ok());
    }
}
