//! Finds how many calls at once a resource gets most done with.
//!
//! A database with too few calls at once idles between them, one with too many loses its time to
//! locks and switches. Where the best number lies depends on the machine, the work and the hour, so
//! it is looked for all the time: a window of calls at one limit, then a step, and on in the same
//! direction as long as more gets done. Where a step changes nothing, fewer is better: what
//! waits here holds no locks.

use std::time::Duration;

use crate::limits::{WINDOW_CALLS, WINDOW_MAX, WINDOW_MIN};

/// The fewest calls at once.
const LIMIT_MIN: usize = 2;

/// A step is this part of the limit, and at least one.
const STEP_PART: usize = 8;

/// Rates that differ by less are taken for equal.
const NOISE: f64 = 0.03;

/// Looks for the best limit.
#[derive(Debug)]
pub(crate) struct Climb {
    limit: usize,
    limit_max: usize,
    direction: Direction,
    /// Calls a second in the window before.
    before: Option<f64>,
    window: Window,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Direction {
    Up,
    Down,
}

#[derive(Debug, Default)]
struct Window {
    began: Duration,
    calls: u32,
    /// Calls that ended while others waited for a place.
    crowded: u32,
}

/// Whether others wait for a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Crowd {
    None,
    Waiting,
}

impl Climb {
    /// Starts with the most that is allowed.
    pub(crate) fn new(limit_max: usize) -> Self {
        Self {
            limit: limit_max,
            limit_max,
            direction: Direction::Down,
            before: None,
            window: Window::default(),
        }
    }

    /// A call was answered. Returns the limit from now on.
    pub(crate) fn answered(&mut self, now: Duration, crowd: Crowd) -> usize {
        self.window.calls += 1;
        self.window.crowded += u32::from(crowd == Crowd::Waiting);
        let took = now.saturating_sub(self.window.began);
        let full = self.window.calls >= WINDOW_CALLS && took >= WINDOW_MIN;
        if full || took >= WINDOW_MAX {
            self.step(took);
            self.window = Window { began: now, ..Window::default() };
        }
        self.limit
    }

    fn step(&mut self, took: Duration) {
        let Window { calls, crowded, .. } = self.window;
        if calls < WINDOW_CALLS / 8 || crowded < calls - calls / 8 {
            // The limit was not what held the calls up, or there were too few to tell.
            self.before = None;
            return;
        }
        let rate = f64::from(calls) / took.as_secs_f64();
        self.direction = match self.before {
            Some(before) if rate < before * (1.0 - NOISE) => self.direction.turned(),
            Some(before) if rate <= before * (1.0 + NOISE) => Direction::Down,
            Some(_) | None => self.direction,
        };
        if self.limit <= LIMIT_MIN {
            self.direction = Direction::Up;
        } else if self.limit >= self.limit_max {
            self.direction = Direction::Down;
        }
        self.before = Some(rate);
        let step = (self.limit / STEP_PART).max(1);
        self.limit = match self.direction {
            Direction::Up => (self.limit + step).min(self.limit_max),
            Direction::Down => (self.limit - step).max(LIMIT_MIN.min(self.limit_max)),
        };
    }
}

impl Direction {
    fn turned(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs windows against a resource that does `rate(limit)` calls a second, with a disturbance of
    /// 2 %; returns the mean limit and the mean rate of the second half.
    fn run(limit_max: usize, start: usize, rate: impl Fn(usize) -> f64) -> (f64, f64) {
        let mut climb = Climb { limit: start, ..Climb::new(limit_max) };
        let (mut now, mut limits, mut rates) = (Duration::ZERO, 0.0, 0.0);
        let windows = 400;
        for window in 0..windows {
            let limit = climb.limit;
            let disturbed = rate(limit) * (1.0 + 0.02 * f64::from((window * 7 % 5) - 2) / 2.0);
            let began = climb.window.began;
            while climb.window.began == began {
                now += Duration::from_secs_f64(1.0 / disturbed);
                climb.answered(now, Crowd::Waiting);
            }
            if window >= windows / 2 {
                limits += limit as f64 / f64::from(windows / 2);
                rates += rate(limit) / f64::from(windows / 2);
            }
        }
        (limits, rates)
    }

    /// A pair of databases that does most with 14 at once.
    fn databases(limit: usize) -> f64 {
        let limit = limit as f64;
        if limit <= 14.0 { 350.0 * limit } else { (4_900.0 - 32.0 * (limit - 14.0)).max(1_000.0) }
    }

    #[test]
    fn from_far_too_many_and_from_far_too_few_it_comes_to_what_does_most() {
        for start in [2, 14, 64, 256] {
            let (limit, rate) = run(256, start, databases);
            assert!((9.0..24.0).contains(&limit), "from {start}: {limit} at once");
            assert!(rate > 0.9 * 4_900.0, "from {start}: {rate}/s");
        }
    }

    #[test]
    fn where_more_at_once_changes_nothing_it_lets_few_in() {
        let (limit, rate) = run(256, 256, |limit| 1_000.0 * (limit.min(8) as f64) / 8.0);
        assert!(limit < 14.0, "{limit}");
        assert!(rate > 900.0, "{rate}");
    }

    #[test]
    fn where_more_is_better_it_lets_all_in() {
        let (limit, _) = run(64, 64, |limit| 10.0 * limit as f64);
        assert!(limit > 50.0, "{limit}");
    }

    #[test]
    fn a_limit_that_holds_nobody_up_stays() {
        let mut climb = Climb::new(16);
        for call in 1..100_000_u32 {
            let limit = climb.answered(Duration::from_micros(u64::from(call) * 100), Crowd::None);
            assert_eq!(limit, 16);
        }
    }

    #[test]
    fn one_at_once_stays_one() {
        let (limit, _) = run(1, 1, |_| 1_000.0);
        assert!((limit - 1.0).abs() < 0.01, "{limit}");
    }
}
