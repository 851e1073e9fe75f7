//! When a call may be sent again, what its attempts came to, and how long to wait in between.

use std::time::Duration;

use unanimous_api::Problem;

use crate::chance;
use crate::error::Error;
use crate::limits::{CALL_SPREAD, CALLS_SPREAD_MAX, LAST_ATTEMPT_MS};

/// Why a call may be sent again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Repeat<'a> {
    /// It only reads.
    Reading,
    /// It carries this key.
    Keyed(&'a str),
}

/// What the attempts of one call came to so far.
#[derive(Debug)]
pub(crate) enum Seen {
    /// None was sent.
    Nothing(String),
    /// None was taken on.
    TurnedAway(Problem),
    /// One may have been carried out.
    Maybe(String),
}

impl Seen {
    /// One attempt more. What may have been carried out once stays so.
    pub(crate) fn then(self, newer: Self) -> Self {
        match (self, newer) {
            (_, newer @ Self::Maybe(_)) => newer,
            (Self::Maybe(_), Self::Nothing(cause)) => Self::Maybe(cause),
            (Self::Maybe(_), Self::TurnedAway(problem)) => Self::Maybe(problem.detail),
            (Self::Nothing(_) | Self::TurnedAway(_), newer) => newer,
        }
    }

    /// How much time one attempt more is not begun without: cut off by the deadline it would make
    /// unknown what is known to have had no effect.
    pub(crate) fn worth(&self) -> Duration {
        match self {
            Self::Nothing(_) | Self::TurnedAway(_) => Duration::from_millis(LAST_ATTEMPT_MS),
            Self::Maybe(_) => Duration::ZERO,
        }
    }

    pub(crate) fn into_error(self, repeat: Repeat<'_>, server: &str) -> Error {
        match (self, repeat) {
            (Self::TurnedAway(problem), _) => Error::Busy(Box::new(problem)),
            (Self::Maybe(cause), Repeat::Keyed(key)) => {
                Error::Unknown { key: key.to_owned(), id: None, cause }
            }
            (Self::Nothing(cause), _) | (Self::Maybe(cause), Repeat::Reading) => {
                Error::Unreachable { server: server.to_owned(), cause }
            }
        }
    }
}

/// Pauses that double up to a cap, with chance in them.
#[derive(Debug)]
pub(crate) struct Pauses {
    next_ms: u64,
    pause_ms_max: u64,
}

impl Pauses {
    pub(crate) fn new(pause_ms_min: u64, pause_ms_max: u64) -> Self {
        Self { next_ms: pause_ms_min, pause_ms_max }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = Duration::from_millis(chance::jitter(self.next_ms));
        self.next_ms = (self.next_ms * 2).min(self.pause_ms_max);
        pause
    }
}

/// A pause by chance before what was lost with a node is sent to the next one, when so many calls of this
/// client are under way: they come one after the other then, and not all at once to a node that is busy
/// with what the dead one left.
pub(crate) fn spread(calls: usize) -> Duration {
    let longest = CALL_SPREAD.saturating_mul(u32::try_from(calls).unwrap_or(u32::MAX));
    let longest = longest.min(CALLS_SPREAD_MAX).as_micros() as u64;
    Duration::from_micros(chance::below(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_call_goes_on_at_once_and_thousands_are_spread() {
        assert!((0..100).all(|_| spread(1) <= CALL_SPREAD));
        let pauses: Vec<Duration> = (0..1_000).map(|_| spread(100_000)).collect();
        assert!(pauses.iter().all(|&pause| pause <= CALLS_SPREAD_MAX));
        let early = pauses.iter().filter(|&&pause| pause < CALLS_SPREAD_MAX / 2).count();
        assert!((300..700).contains(&early), "{early} of 1000 in the first half");
    }

    #[test]
    fn what_may_have_been_carried_out_once_stays_unknown() {
        let lost = Seen::Maybe("reset".into()).then(Seen::Nothing("refused".into()));
        let error = lost.into_error(Repeat::Keyed("k"), "here");
        assert!(matches!(error, Error::Unknown { key, .. } if key == "k"));
        let never = Seen::Nothing("refused".into()).into_error(Repeat::Keyed("k"), "here");
        assert!(matches!(never, Error::Unreachable { .. }));
    }
}
