//! Exact decimal numbers, as databases write sums of money.

use std::fmt;

/// Digits of a number at most: what fits a machine word of 128 bits, and every sum of money.
const DIGITS_MAX: usize = 38;

/// A decimal number. Two that are equal are the same however they were written.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Decimal {
    /// The digits; the last of them is not zero if any stands behind the point.
    units: i128,
    /// How many of them stand behind the point.
    scale: u32,
}

/// The text is no decimal number, or one of too many digits.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum NotADecimal {
    #[error("{0:?} is no decimal number; cast floating-point numbers to a decimal type")]
    Written(String),
    #[error("a number has more than {DIGITS_MAX} digits")]
    TooLong,
}

impl Decimal {
    pub(super) const ZERO: Self = Self { units: 0, scale: 0 };

    /// Reads what a database writes: digits, a sign before them, a point between them.
    pub(super) fn parse(text: &str) -> Result<Self, NotADecimal> {
        let written = || NotADecimal::Written(text.chars().take(DIGITS_MAX).collect());
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = || whole.bytes().chain(fraction.bytes());
        if all().next().is_none() || !all().all(|byte| byte.is_ascii_digit()) {
            return Err(written());
        }
        let fraction = fraction.trim_end_matches('0');
        let mut units = 0_i128;
        for byte in whole.bytes().chain(fraction.bytes()) {
            let ten = units.checked_mul(10).ok_or(NotADecimal::TooLong)?;
            units = ten.checked_add(i128::from(byte - b'0')).ok_or(NotADecimal::TooLong)?;
        }
        let scale = u32::try_from(fraction.len()).map_err(|_| NotADecimal::TooLong)?;
        let units = if text.starts_with('-') { -units } else { units };
        Ok(Self { units, scale }.shortened())
    }

    pub(super) fn plus(self, other: Self) -> Result<Self, NotADecimal> {
        let scale = self.scale.max(other.scale);
        let units = self.units_at(scale)?.checked_add(other.units_at(scale)?);
        Ok(Self { units: units.ok_or(NotADecimal::TooLong)?, scale }.shortened())
    }

    pub(super) fn minus(self, other: Self) -> Result<Self, NotADecimal> {
        let units = other.units.checked_neg().ok_or(NotADecimal::TooLong)?;
        self.plus(Self { units, ..other })
    }

    /// Whether it is further from zero.
    pub(super) fn exceeds(self, other: Self) -> bool {
        match (self.whole(), other.whole()) {
            // With as large a whole part, the longer fraction leaves room for the other's digits.
            (one, two) if one == two => {
                let scale = self.scale.max(other.scale);
                let size = |it: Self| it.units_at(scale).map_or(u128::MAX, i128::unsigned_abs);
                size(self) > size(other)
            }
            (one, two) => one > two,
        }
    }

    /// What stands before the point, without its sign.
    fn whole(self) -> u128 {
        10_u128.checked_pow(self.scale).map_or(0, |factor| self.units.unsigned_abs() / factor)
    }

    fn units_at(self, scale: u32) -> Result<i128, NotADecimal> {
        let factor = 10_i128.checked_pow(scale - self.scale);
        factor.and_then(|factor| self.units.checked_mul(factor)).ok_or(NotADecimal::TooLong)
    }

    fn shortened(mut self) -> Self {
        while self.scale > 0 && self.units % 10 == 0 {
            self.units /= 10;
            self.scale -= 1;
        }
        self
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.units < 0 { "-" } else { "" };
        let scale = self.scale as usize;
        let digits = format!("{:0>width$}", self.units.unsigned_abs(), width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        match fraction {
            "" => write!(f, "{sign}{whole}"),
            fraction => write!(f, "{sign}{whole}.{fraction}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Decimal {
        Decimal::parse(text).expect("a decimal number")
    }

    #[test]
    fn numbers_are_equal_however_they_are_written_and_no_digit_is_lost() {
        for (one, two) in [("1.50", "1.5"), ("-0", "0.000"), ("007", "+7"), (".5", "0.5")] {
            assert_eq!(of(one), of(two), "{one} {two}");
        }
        assert_ne!(of("0.1000000000000000000001"), of("0.1"));
        for text in ["0", "-1.05", "100", "0.001", "-0.5", "12345678901234567890.123456789"] {
            assert_eq!(of(text).to_string(), text);
        }
    }

    #[test]
    fn sums_and_differences_are_exact() {
        let sum = of("0.1").plus(of("0.2")).expect("in range");
        assert_eq!(sum, of("0.3"));
        assert_eq!(of("10").minus(of("10.000001")).expect("in range").to_string(), "-0.000001");
        assert_eq!(of("5.5").minus(of("5.50")).expect("in range"), Decimal::ZERO);
        assert!(of("-2").exceeds(of("1.5")) && !of("1.5").exceeds(of("-2")));
        assert!(!of("-2").exceeds(of("2")) && of("-2.01").exceeds(of("2")));
        assert!(of("0.1").exceeds(Decimal::ZERO) && !of("2").exceeds(of("-2")));
    }

    #[test]
    fn what_is_no_decimal_number_is_refused_and_so_is_what_is_too_long() {
        for text in ["", "-", ".", "1e3", "NaN", "Infinity", "1,5", "$1", "true", "1.2.3", " 1"] {
            assert!(matches!(Decimal::parse(text), Err(NotADecimal::Written(_))), "{text}");
        }
        let long = "9".repeat(40);
        assert_eq!(Decimal::parse(&long), Err(NotADecimal::TooLong));
        let (big, small) = (of(&"9".repeat(38)), of("0.001"));
        assert_eq!(big.plus(small), Err(NotADecimal::TooLong));
        assert!(big.exceeds(small) && !small.exceeds(big));
    }
}
