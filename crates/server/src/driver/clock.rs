//! Time that never jumps while the process runs.
//!
//! Deadlines are wall-clock time because they outlive a restart, but between two restarts only the
//! monotonic clock moves them: a correction of the system's clock expires nothing early.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use unanimous_core::id::Timestamp;

/// The wall clock as it was at the start, plus the time since.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started_at: Timestamp,
    started: Instant,
}

impl Clock {
    /// Reads the wall clock once.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_at = Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX));
        Self { started_at, started: Instant::now() }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now(&self) -> Timestamp {
        let elapsed = self.started.elapsed().as_millis();
        self.started_at.after_ms(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// The monotonic instant of a timestamp; now if it has passed.
    pub fn instant(&self, at: Timestamp) -> Instant {
        Instant::now() + std::time::Duration::from_millis(at.since_ms(self.now()))
    }
}
