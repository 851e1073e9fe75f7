//! What goes to standard output: text for people, one JSON document for programs.

use std::io::Write;

use serde::Serialize;

/// Who reads the output.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    /// People.
    Text,
    /// Programs.
    Json,
}

/// Writes bytes to standard output.
///
/// Ends the process quietly if nobody reads them any more, as in `unanimous txn list | head`.
pub(crate) fn write(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Writes a line.
pub(crate) fn line(text: &str) {
    write(format!("{text}\n").as_bytes());
}

/// Writes a value as one indented JSON document.
pub(crate) fn json(value: &impl Serialize) {
    line(&serde_json::to_string_pretty(value).expect("our types have string keys only"));
}

/// Writes a value as JSON on one line of a stream.
pub(crate) fn json_line(value: &impl Serialize) {
    line(&serde_json::to_string(value).expect("our types have string keys only"));
}

/// A span of time, in the largest unit that still tells something: `250 ms`, `12 s`, `3 h`.
pub(crate) fn span(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    // Below twice the unit the next smaller one says more.
    let unit = UNITS.into_iter().find(|&(unit_ms, _)| ms >= 2 * unit_ms);
    unit.map_or_else(|| format!("{ms} ms"), |(unit_ms, name)| format!("{} {name}", ms / unit_ms))
}

/// How long ago an instant was, in milliseconds since the Unix epoch.
pub(crate) fn age(at_ms: u64) -> String {
    span(now_ms().saturating_sub(at_ms))
}

/// Now, in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// A number with a comma between each three digits: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    grouped(number, |digits_behind| digits_behind % 3 == 0)
}

/// An amount in rupees, grouped the Indian way: `₹12,34,567`.
pub(crate) fn rupees(amount: u64) -> String {
    let text = grouped(amount, |digits_behind| {
        digits_behind == 3 || (digits_behind > 3 && digits_behind % 2 == 1)
    });
    format!("₹{text}")
}

fn grouped(number: u64, comma_before: impl Fn(usize) -> bool) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && comma_before(digits.len() - index) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rupees_are_grouped_by_thousand_lakh_and_crore() {
        let shown = [0, 999, 1_000, 99_999, 100_000, 1_234_567, 12_345_678].map(rupees);
        let expected =
            ["₹0", "₹999", "₹1,000", "₹99,999", "₹1,00,000", "₹12,34,567", "₹1,23,45,678"];
        assert_eq!(shown, expected);
        assert_eq!([0, 1_000, 1_234_567].map(count), ["0", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_span_is_shown_in_a_unit_that_tells_something() {
        let shown =
            [0, 1_999, 2_000, 119_999, 120_000, 7_200_000, 86_400_000, 172_800_000].map(span);
        let expected = ["0 ms", "1999 ms", "2 s", "119 s", "2 min", "2 h", "24 h", "2 d"];
        assert_eq!(shown, expected);
    }
}
