//! Which faults one seed has, and how often.
//!
//! Every seed switches each fault on or off by a coin and then draws its rate (swarm testing, Groce
//! et al., 2012). A history with every fault at once seldom gets far enough to show a rare mistake.

use crate::rng::Rng;

/// The faults of one history. Rates are in permille of the occasions, pauses in milliseconds; zero
/// switches a fault off.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    /// Messages lost.
    pub(crate) drop: u64,
    /// Messages delivered twice.
    pub(crate) duplicate: u64,
    /// Messages delayed for seconds, past the end of most transactions.
    pub(crate) late: u64,
    pub(crate) delay_ms_max: u64,
    pub(crate) flush_ms_max: u64,
    /// Flushes that cover only a part of what was appended.
    pub(crate) short_flush: u64,
    /// Flushes that the disk refuses.
    pub(crate) flush_error: u64,
    /// Appends that are taken but reported as lost against another coordinator.
    pub(crate) retried_append: u64,
    /// Beginnings that find the disk full.
    pub(crate) full: u64,
    pub(crate) crash_every_ms: u64,
    pub(crate) down_ms_max: u64,
    pub(crate) takeover_every_ms: u64,
    pub(crate) pause_every_ms: u64,
    pub(crate) cut_every_ms: u64,
    pub(crate) clock_every_ms: u64,
    /// Calls during which the participant crashes, before or after it wrote.
    pub(crate) participant_crash: u64,
    pub(crate) restore_every_ms: u64,
    pub(crate) operator_every_ms: u64,
    /// Calls answered with "still working".
    pub(crate) working: u64,
    /// Listings of held branches that fail.
    pub(crate) listing_error: u64,
    /// Listings that come back with something missing.
    pub(crate) listing_short: u64,
    pub(crate) vote_no: u64,
    pub(crate) vote_read_only: u64,
    /// So many of the next messages are lost.
    pub(crate) lose_next: u64,
    /// The first prepare of the first branch takes so many milliseconds longer.
    pub(crate) first_prepare_ms: u64,
}

impl Faults {
    /// A network and a disk that do what they should.
    pub(crate) fn none() -> Self {
        Self {
            drop: 0,
            duplicate: 0,
            late: 0,
            delay_ms_max: 1,
            flush_ms_max: 1,
            short_flush: 0,
            flush_error: 0,
            retried_append: 0,
            full: 0,
            crash_every_ms: 0,
            down_ms_max: 1,
            takeover_every_ms: 0,
            pause_every_ms: 0,
            cut_every_ms: 0,
            clock_every_ms: 0,
            participant_crash: 0,
            restore_every_ms: 0,
            operator_every_ms: 0,
            working: 0,
            listing_error: 0,
            listing_short: 0,
            vote_no: 0,
            vote_read_only: 0,
            lose_next: 0,
            first_prepare_ms: 0,
        }
    }

    pub(crate) fn drawn(rng: &mut Rng) -> Self {
        let mut rate = |coin: u64, low: u64, high: u64| match rng.chance(coin) {
            true => rng.range(low, high),
            false => 0,
        };
        Self {
            drop: rate(500, 5, 200),
            duplicate: rate(500, 5, 250),
            late: rate(500, 5, 80),
            delay_ms_max: rate(1_000, 1, 60),
            flush_ms_max: rate(1_000, 1, 40),
            short_flush: rate(300, 50, 500),
            flush_error: rate(250, 5, 60),
            retried_append: rate(250, 5, 80),
            full: rate(150, 20, 300),
            crash_every_ms: rate(700, 150, 3_000),
            down_ms_max: rate(1_000, 5, 800),
            takeover_every_ms: rate(350, 200, 3_000),
            pause_every_ms: rate(250, 300, 2_000),
            cut_every_ms: rate(350, 200, 2_000),
            clock_every_ms: rate(250, 200, 2_000),
            participant_crash: rate(400, 5, 80),
            restore_every_ms: rate(120, 800, 5_000),
            operator_every_ms: rate(250, 300, 3_000),
            working: rate(250, 5, 150),
            listing_error: rate(300, 50, 400),
            listing_short: rate(300, 50, 400),
            vote_no: rate(600, 20, 250),
            vote_read_only: rate(500, 20, 350),
            lose_next: 0,
            first_prepare_ms: 0,
        }
    }
}
