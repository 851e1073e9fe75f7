//! What readings of several databases say of an invariant. Nothing is asked or waited for here.
//!
//! Values of several databases are not one state: a transaction that has committed in one of them and
//! not yet in the next makes them differ, and that is right. The coordinator knows when it commits
//! on them. A reading during which it did not is *quiet*, and is one state as far as its transactions
//! go; what others write, it does not know. So:
//!
//! 1. A quiet reading that adds up: the invariant holds.
//! 2. Two readings that are off by the same, one of them quiet: it is violated.
//! 3. Otherwise it is read again, [`INVARIANT_READINGS_MAX`] times in all.
//! 4. Then, if any reading added up and no quiet one was off, it holds; if not, it cannot be said.
//!
//! That the same difference is seen again and again is no proof without a quiet reading: under load,
//! with equal amounts, the same number of transactions may be half done each time.

use super::decimal::{Decimal, NotADecimal};
use crate::limits::INVARIANT_READINGS_MAX;

/// How the values of an invariant's queries belong together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Relation {
    /// All are the same.
    Equal,
    /// Their sum is zero.
    SumZero,
    /// Each is zero.
    Zero,
}

impl Relation {
    /// Every relation.
    pub const ALL: [Self; 3] = [Self::Equal, Self::SumZero, Self::Zero];

    /// As the configuration and views spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::SumZero => "sum_zero",
            Self::Zero => "zero",
        }
    }

    /// What has to be zero, each.
    pub(super) fn off_by(self, values: &[Decimal]) -> Result<Vec<Decimal>, NotADecimal> {
        match self {
            Self::Equal => match values {
                [first, others @ ..] => others.iter().map(|it| first.minus(*it)).collect(),
                [] => Ok(Vec::new()),
            },
            Self::SumZero => {
                let sum = values.iter().try_fold(Decimal::ZERO, |sum, it| sum.plus(*it))?;
                Ok(vec![sum])
            }
            Self::Zero => Ok(values.to_vec()),
        }
    }
}

/// What was committed on the databases while they were read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Motion {
    /// Nothing that is in more than one of them.
    Quiet,
    /// A transaction was half done, before or after.
    HalfDone(String),
    /// Transactions began and ended meanwhile.
    Passing,
}

/// The values as they were read once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Reading {
    /// As the databases wrote them; NULL is zero.
    pub(super) values: Vec<String>,
    /// What has to be zero, each.
    pub(super) off_by: Vec<Decimal>,
    pub(super) motion: Motion,
}

impl Reading {
    pub(super) fn is_quiet(&self) -> bool {
        self.motion == Motion::Quiet
    }

    /// Whether the values belong together as they should.
    fn adds_up(&self) -> bool {
        self.off_by.iter().all(|off| *off == Decimal::ZERO)
    }

    /// The difference that is furthest from zero.
    pub(super) fn difference(&self) -> Decimal {
        let further = |a: Decimal, b: &Decimal| if b.exceeds(a) { *b } else { a };
        self.off_by.iter().fold(Decimal::ZERO, further)
    }
}

/// What is to be said of an invariant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Holds,
    Violated,
    /// It cannot be said: too much was going on.
    Busy,
}

/// What was concluded, and from which reading.
pub(super) type Conclusion = (Verdict, usize);

/// What the readings so far say; `None` if one more is wanted.
pub(super) fn conclude(readings: &[Reading]) -> Option<Conclusion> {
    let exact = |it: &Reading| it.is_quiet() && it.adds_up();
    if let Some(at) = readings.iter().position(exact) {
        return Some((Verdict::Holds, at));
    }
    let off = |it: &Reading| it.is_quiet() && !it.adds_up();
    let again = |it: &Reading| readings.iter().filter(|other| other.off_by == it.off_by).count();
    if let Some(at) = readings.iter().position(|it| off(it) && again(it) > 1) {
        return Some((Verdict::Violated, at));
    }
    if readings.len() < INVARIANT_READINGS_MAX {
        return None;
    }
    match readings.iter().rposition(Reading::adds_up) {
        Some(at) if !readings.iter().any(off) => Some((Verdict::Holds, at)),
        Some(_) | None => Some((Verdict::Busy, readings.len() - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).expect("a decimal number")
    }

    /// `q` and the difference for a quiet reading, `m` for one while something moved.
    fn reading(text: &str) -> Reading {
        let motion = match &text[..1] {
            "q" => Motion::Quiet,
            _ => Motion::Passing,
        };
        Reading { values: Vec::new(), off_by: vec![decimal(&text[1..])], motion }
    }

    #[test]
    fn readings_are_believed_as_far_as_they_were_quiet() {
        use Verdict::{Busy, Holds, Violated};
        for (readings, expected) in [
            // Nothing moves.
            ("q0", Some((Holds, 0))),
            ("q5", None),
            ("q5 q5", Some((Violated, 0))),
            ("q5 q0", Some((Holds, 1))),
            ("q5 q6", None),
            ("q5 q6 q7", Some((Busy, 2))),
            // Everything moves: no difference is a proof, however often it is seen.
            ("m5", None),
            ("m5 m5", None),
            ("m5 m5 m5", Some((Busy, 2))),
            ("m1 m2 m3", Some((Busy, 2))),
            ("m0", None),
            ("m0 m5 m-5", Some((Holds, 0))),
            ("m0 m0 m0", Some((Holds, 2))),
            // A quiet reading among others.
            ("m5 q0", Some((Holds, 1))),
            ("m5 q5", Some((Violated, 1))),
            ("q5 m5", Some((Violated, 0))),
            ("q5 m6", None),
            ("q5 m6 m5", Some((Violated, 0))),
            ("q5 m6 m7", Some((Busy, 2))),
            ("m6 q5 q5", Some((Violated, 1))),
            ("m0 q5", None),
            ("m0 q5 m6", Some((Busy, 2))),
            ("m0 q5 q5", Some((Violated, 1))),
        ] {
            let read: Vec<Reading> = readings.split(' ').map(reading).collect();
            assert_eq!(conclude(&read), expected, "{readings}");
        }
        assert_eq!(conclude(&[]), None);
    }

    #[test]
    fn each_relation_says_what_has_to_be_zero() {
        let off = |relation: Relation, values: &[&str]| {
            let values: Vec<Decimal> = values.iter().map(|it| decimal(it)).collect();
            let off_by = relation.off_by(&values).expect("in range");
            let reading = Reading { values: Vec::new(), off_by, motion: Motion::Quiet };
            (reading.adds_up(), reading.difference().to_string())
        };
        for (relation, values, adds_up, difference) in [
            (Relation::Equal, &["100.10", "100.1"][..], true, "0"),
            (Relation::Equal, &["100", "99.5"], false, "0.5"),
            (Relation::Equal, &["99.5", "100"], false, "-0.5"),
            (Relation::Equal, &["7", "7", "9"], false, "-2"),
            (Relation::Equal, &["7", "9", "7"], false, "-2"),
            (Relation::SumZero, &["5", "-3", "-2.0"], true, "0"),
            (Relation::SumZero, &["5", "-3"], false, "2"),
            (Relation::SumZero, &["0"], true, "0"),
            (Relation::Zero, &["0", "0.00"], true, "0"),
            (Relation::Zero, &["5", "-5"], false, "5"),
            (Relation::Zero, &["1", "-7"], false, "-7"),
        ] {
            assert_eq!(off(relation, values), (adds_up, difference.to_owned()), "{values:?}");
        }
    }
}
