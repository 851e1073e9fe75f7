//! When to call a branch again that gave no answer: capped exponential backoff.
//!
//! Without chance, so that a history replays from its seed; the driver adds jitter by waking later
//! than asked.

use crate::id::Timestamp;
use crate::limits::{RETRY_MS_MAX, RETRY_MS_MIN};

/// The one call a branch can have outstanding, and when to repeat it.
///
/// Volatile by design: after a restart every call is [`Call::Idle`] again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Call {
    /// None is under way; whatever the state asks for is due at once.
    #[default]
    Idle,
    /// Sent, and neither answered nor given up.
    InFlight,
    /// Gave no answer; to be repeated then.
    RetryAt(Timestamp),
}

impl Call {
    /// Whether it is to be made now, if no pause is longer than `pause_max_ms`.
    pub(crate) fn is_due(self, now: Timestamp, pause_max_ms: u64) -> bool {
        match self {
            Self::Idle => true,
            Self::InFlight => false,
            // No pause is that long: the clock was set back since.
            Self::RetryAt(at) => at <= now || at.since_ms(now) > pause_max_ms,
        }
    }

    /// When the driver should wake the machine for this call.
    pub(crate) fn wake_at(self) -> Option<Timestamp> {
        match self {
            Self::Idle | Self::InFlight => None,
            Self::RetryAt(at) => Some(at),
        }
    }
}

/// Milliseconds to wait after `attempts` calls in a row that brought no answer.
pub fn pause_ms(attempts: u32) -> u64 {
    backoff_ms(RETRY_MS_MIN, RETRY_MS_MAX, attempts)
}

/// The same with a first and a longest pause of one's own.
pub(crate) fn backoff_ms(first_ms: u64, longest_ms: u64, attempts: u32) -> u64 {
    let doublings = attempts.saturating_sub(1).min(16);
    first_ms.saturating_mul(1 << doublings).min(longest_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_cap() {
        assert_eq!([1, 2, 3].map(pause_ms), [50, 100, 200]);
        assert_eq!(pause_ms(u32::MAX), RETRY_MS_MAX);
    }
}
