//! What many histories add up to.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use crate::oracle::Violation;

/// Sums over histories, to see that they visit the hard places. `Display` is one line.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Histories run.
    pub seeds: u64,
    /// Things that happened in them.
    pub events: u64,
    /// Transactions begun.
    pub txns: u64,
    /// Transactions that ended committed.
    pub committed: u64,
    /// Transactions that ended aborted.
    pub aborted: u64,
    /// Transactions with a branch that ended against the decision.
    pub mixed: u64,
    /// Crashes of coordinators and participants.
    pub crashes: u64,
    /// Times that a coordinator took a shard over, or its first one.
    pub claims: u64,
    /// Records appended.
    pub records: u64,
    /// Records that a crash took back.
    pub lost_records: u64,
    /// Histories in which a rule was broken.
    pub violations: u64,
    /// Wall-clock time.
    pub elapsed: Duration,
    /// The first broken rules, by seed.
    pub found: Vec<(u64, Violation)>,
}

/// How many violations are kept in full.
const FOUND_MAX: usize = 10;

impl Totals {
    pub(crate) fn keep(&mut self, seed: u64, violation: Violation) {
        self.violations += 1;
        self.found.push((seed, violation));
        self.found.sort_by_key(|(seed, _)| *seed);
        self.found.truncate(FOUND_MAX);
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.txns += other.txns;
        self.committed += other.committed;
        self.aborted += other.aborted;
        self.mixed += other.mixed;
        self.crashes += other.crashes;
        self.claims += other.claims;
        self.records += other.records;
        self.lost_records += other.lost_records;
        self.violations += other.violations;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.found.extend(other.found);
        self.found.sort_by_key(|(seed, _)| *seed);
        self.found.truncate(FOUND_MAX);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, events, txns, committed, aborted, mixed, .. } = self;
        let Self { crashes, claims, lost_records, .. } = self;
        let rate = *seeds as f64 / self.elapsed.as_secs_f64().max(1e-9);
        write!(
            f,
            "seeds={seeds} events={events} txns={txns} committed={committed} aborted={aborted} \
             mixed={mixed} crashes={crashes} claims={claims} lost_records={lost_records} violations={} \
             seeds/s={rate:.0}",
            self.violations
        )
    }
}
