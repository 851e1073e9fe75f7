//! What the coordinator counts, and the closing line of each transaction.
//!
//! Labels come from closed sets (statuses, outcomes, causes, verbs, error codes) and from the
//! configured resources and invariants, never from a client's text.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use unanimous_api::{Code, InvariantResult, OutcomeWord};
use unanimous_core::id::Timestamp;
use unanimous_core::txn::Kind;
use unanimous_core::{Outcome, Verb};
use unanimous_journal::Stats;
use unanimous_participants::{AnswerKind, Observer};

use crate::driver::Census;
use crate::driver::Closing;
use crate::driver::view::outcome_word;

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
    cause: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct EndedAs {
    outcome: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Told {
    code: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Called {
    resource: String,
    verb: &'static str,
    answer: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Latency {
    resource: String,
    verb: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Held {
    resource: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Watched {
    invariant: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct WatchedAs {
    invariant: String,
    result: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// Counters and gauges of one process.
pub struct Metrics {
    registry: Registry,
    ended: Family<Ended, Counter>,
    open: Family<Status, Gauge>,
    in_flight: Gauge,
    oldest_undecided: Seconds,
    oldest_in_doubt: Seconds,
    overdue: Gauge,
    needs_attention: Gauge,
    pub(crate) quarantined: Counter,
    orphans: Family<Held, Counter>,
    strays: Family<Held, Gauge>,
    invariant_holds: Family<Watched, Gauge>,
    invariant_checks: Family<WatchedAs, Counter>,
    duration: Family<EndedAs, Histogram, fn() -> Histogram>,
    /// The entries of `ended` and `duration` that nearly every transaction needs, at hand.
    committed: Counter,
    committed_duration: Histogram,
    calls: Family<Called, Counter>,
    latency: Family<Latency, Histogram, fn() -> Histogram>,
    problems: Family<Told, Counter>,
    journal: JournalMetrics,
}

/// The journal's own figures, as they were at the last scrape.
#[derive(Default)]
struct JournalMetrics {
    syncs: Counter,
    entries: Counter,
    bytes: Counter,
    sync_time: Counter<f64, AtomicU64>,
    sync_seconds: Seconds,
    batch: Seconds,
    lag: Gauge,
    last: Mutex<Stats>,
}

const STATUSES: [&str; 6] =
    ["INITIATED", "PREPARING", "COMMITTING", "COMMITTED", "ABORTING", "ABORTED"];

/// What every word of a participant counts as that is not among [`CAUSES`], so that labels stay few.
const OTHER_CAUSE: &str = "refused";

/// Causes of an abort that have a label of their own.
const CAUSES: [&str; 9] = [
    "timeout",
    "client",
    "restart",
    "operator",
    "unreachable",
    "overloaded",
    "expectation",
    "contradiction",
    "exhausted",
];

impl Metrics {
    /// Starts at zero.
    #[allow(clippy::new_without_default, reason = "it is never made by default")]
    pub fn new() -> Self {
        let seconds: fn() -> Histogram = || {
            Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0])
        };
        let outcome = OutcomeWord::Committed.as_str();
        let ended = Family::<Ended, Counter>::default();
        let duration = Family::new_with_constructor(seconds);
        let mut metrics = Self {
            registry: Registry::with_prefix("unanimous"),
            committed: ended.get_or_create_owned(&Ended { outcome, cause: "" }),
            committed_duration: duration.get_or_create_owned(&EndedAs { outcome }),
            ended,
            duration,
            open: Family::default(),
            in_flight: Gauge::default(),
            oldest_undecided: Seconds::default(),
            oldest_in_doubt: Seconds::default(),
            overdue: Gauge::default(),
            needs_attention: Gauge::default(),
            quarantined: Counter::default(),
            orphans: Family::default(),
            strays: Family::default(),
            invariant_holds: Family::default(),
            invariant_checks: Family::default(),
            calls: Family::default(),
            latency: Family::new_with_constructor(seconds),
            problems: Family::default(),
            journal: JournalMetrics::default(),
        };
        metrics.register_transactions();
        metrics.register_journal();
        metrics.start_at_zero();
        metrics
    }

    /// What has not happened yet is zero and not missing: alerts see the first time as well.
    fn start_at_zero(&self) {
        let whole = [OutcomeWord::Committed, OutcomeWord::Completed, OutcomeWord::Mixed];
        let undone = [OutcomeWord::Aborted, OutcomeWord::Compensated];
        for outcome in whole.iter().chain(&undone).map(|word| word.as_str()) {
            drop(self.duration.get_or_create(&EndedAs { outcome }));
        }
        for outcome in whole.iter().map(|word| word.as_str()) {
            drop(self.ended.get_or_create(&Ended { outcome, cause: "" }));
        }
        for outcome in undone.iter().map(|word| word.as_str()) {
            for cause in CAUSES.into_iter().chain([OTHER_CAUSE]) {
                drop(self.ended.get_or_create(&Ended { outcome, cause }));
            }
        }
    }

    fn register_transactions(&mut self) {
        let r = &mut self.registry;
        let help = "Transactions that ended, by outcome and by cause of abort";
        r.register("transactions", help, self.ended.clone());
        let help = "Transactions that have not ended, by status";
        r.register("open_transactions", help, self.open.clone());
        let help = "Transactions that have not ended";
        r.register("in_flight", help, self.in_flight.clone());
        let help = "Transactions older than twice their timeout that have not ended; alert on any";
        r.register("overdue_transactions", help, self.overdue.clone());
        let help = "Transactions that wait for an operator; alert on any";
        r.register("attention_transactions", help, self.needs_attention.clone());
        let help = "Transactions set aside because their records cannot be read; alert on any";
        r.register("quarantined_transactions", help, self.quarantined.clone());
        let help = "Prepared branches that nobody knew and that were rolled back, by resource";
        r.register("orphans_rolled_back", help, self.orphans.clone());
        let help = "Prepared branches that contradict the journal, by resource; alert on any";
        r.register("stray_branches", help, self.strays.clone());
        let help = "Whether an invariant held when that could last be said; alert on 0";
        r.register("invariant_holds", help, self.invariant_holds.clone());
        let help = "Checks of invariants, by what came of them";
        r.register("invariant_checks", help, self.invariant_checks.clone());
        let help = "Age of the oldest transaction that is not decided";
        let age = self.oldest_undecided.clone();
        r.register_with_unit("oldest_undecided_age", help, Unit::Seconds, age);
        let help = "Age of the oldest transaction that is decided and that somebody has to hear of";
        let age = self.oldest_in_doubt.clone();
        r.register_with_unit("oldest_in_doubt_age", help, Unit::Seconds, age);
        let help = "Time from begin to end, by outcome";
        let duration = self.duration.clone();
        r.register_with_unit("transaction_duration", help, Unit::Seconds, duration);
        let help = "Calls to participants, by resource, verb and kind of answer";
        r.register("calls", help, self.calls.clone());
        let help = "Time that calls to participants took";
        r.register_with_unit("call_duration", help, Unit::Seconds, self.latency.clone());
        let help = "Requests answered with a problem document, by its code";
        r.register("problems", help, self.problems.clone());
    }

    fn register_journal(&mut self) {
        let (r, journal) = (&mut self.registry, &self.journal);
        r.register("journal_syncs", "Syncs of the journal", journal.syncs.clone());
        let help = "Time spent in syncs of the journal";
        r.register_with_unit("journal_sync", help, Unit::Seconds, journal.sync_time.clone());
        r.register("journal_entries", "Entries made durable", journal.entries.clone());
        let help = "Bytes made durable";
        r.register_with_unit("journal_written", help, Unit::Bytes, journal.bytes.clone());
        let help = "Entries of one sync, on average since the last scrape";
        r.register("journal_batch_entries", help, journal.batch.clone());
        let help = "Time of one sync, on average since the last scrape";
        let sync = journal.sync_seconds.clone();
        r.register_with_unit("journal_sync_time", help, Unit::Seconds, sync);
        let help = "Bytes in the journal that queries do not see without reading it";
        r.register_with_unit("journal_projection_lag", help, Unit::Bytes, journal.lag.clone());
    }

    /// Counts a transaction that has ended, and writes its closing line.
    pub(crate) fn close(&self, closing: &Closing) {
        let outcome = outcome_word(closing.kind(), closing.outcome()).as_str();
        let cause = match closing.cause() {
            "" => "",
            word => CAUSES.into_iter().find(|&cause| cause == word).unwrap_or(OTHER_CAUSE),
        };
        let took = Duration::from_millis(closing.took_ms()).as_secs_f64();
        match (closing.outcome(), closing.kind()) {
            (Outcome::Committed, Kind::Atomic | Kind::Tcc) => {
                self.committed.inc();
                self.committed_duration.observe(took);
            }
            (Outcome::Committed, Kind::Saga | Kind::Message)
            | (Outcome::Aborted | Outcome::Mixed, _) => {
                self.ended.get_or_create(&Ended { outcome, cause }).inc();
                self.duration.get_or_create(&EndedAs { outcome }).observe(took);
            }
        }
        closing.write(outcome);
    }

    /// Counts an orphan that was rolled back.
    pub(crate) fn orphan(&self, resource: &str) {
        self.orphans.get_or_create(&Held { resource: resource.to_owned() }).inc();
    }

    /// Sets how many branches of a resource contradict the journal.
    pub(crate) fn strays(&self, resource: &str, count: usize) {
        self.strays.get_or_create(&Held { resource: resource.to_owned() }).set(count as i64);
    }

    /// An invariant is there, of which nothing can be said yet.
    pub(crate) fn invariant_is_watched(&self, invariant: &str) {
        use InvariantResult::{Busy, Holds, Unknown, Violated};
        for result in [Holds, Violated, Busy, Unknown] {
            let (invariant, result) = (invariant.to_owned(), result.as_str());
            drop(self.invariant_checks.get_or_create(&WatchedAs { invariant, result }));
        }
    }

    /// Counts a check of an invariant. What could not be said leaves the last word on it.
    pub(crate) fn invariant_checked(&self, invariant: &str, result: InvariantResult) {
        let watched = || invariant.to_owned();
        let checks = WatchedAs { invariant: watched(), result: result.as_str() };
        self.invariant_checks.get_or_create(&checks).inc();
        let holds = match result {
            InvariantResult::Holds => 1,
            InvariantResult::Violated => 0,
            InvariantResult::Busy | InvariantResult::Unknown | InvariantResult::Unchecked => return,
        };
        self.invariant_holds.get_or_create(&Watched { invariant: watched() }).set(holds);
    }

    /// Commits that a resource has been called for, whatever came of them.
    pub(crate) fn commits(&self, resource: &str) -> u64 {
        let count = |answer: AnswerKind| {
            let (resource, verb) = (resource.to_owned(), verb_word(Verb::Commit));
            let calls = self.calls.get(&Called { resource, verb, answer: answer.as_str() });
            calls.map_or(0, |calls| calls.get())
        };
        AnswerKind::ALL.into_iter().map(count).sum()
    }

    /// Counts a request that was answered with a problem.
    pub(crate) fn problem(&self, code: Code) {
        self.problems.get_or_create(&Told { code: code.info().code }).inc();
    }

    /// The OpenMetrics text.
    pub(crate) fn scrape(&self, census: &Census, stats: Stats, now: Timestamp) -> String {
        for status in STATUSES {
            let count = census.by_status.get(status).copied().unwrap_or_default();
            self.open.get_or_create(&Status { status }).set(count as i64);
        }
        let age = |since: Option<Timestamp>| {
            since.map_or(0.0, |since| now.since_ms(since) as f64 / 1_000.0)
        };
        self.in_flight.set(census.by_status.values().sum::<u64>() as i64);
        self.oldest_undecided.set(age(census.oldest_undecided));
        self.oldest_in_doubt.set(age(census.oldest_in_doubt));
        self.overdue.set(census.overdue as i64);
        self.needs_attention.set(census.needs_attention as i64);
        self.journal.update(stats);
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}

impl JournalMetrics {
    fn update(&self, stats: Stats) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let syncs = stats.syncs - last.syncs;
        let entries = stats.entries - last.entries;
        self.syncs.inc_by(syncs);
        self.entries.inc_by(entries);
        self.bytes.inc_by(stats.bytes - last.bytes);
        let seconds = (stats.sync_nanos - last.sync_nanos) as f64 / 1e9;
        self.sync_time.inc_by(seconds);
        if syncs > 0 {
            self.sync_seconds.set(seconds / syncs as f64);
            self.batch.set(entries as f64 / syncs as f64);
        }
        self.lag.set(stats.projection_lag_bytes as i64);
        *last = stats;
    }
}

fn verb_word(verb: Verb) -> &'static str {
    match verb {
        Verb::Prepare => "prepare",
        Verb::Commit => "commit",
        Verb::CommitOnePhase => "commit_one_phase",
        Verb::Rollback => "rollback",
        Verb::Act => "act",
        Verb::Compensate => "compensate",
    }
}

impl Observer for Metrics {
    fn called(&self, resource: &str, verb: Verb, took: Duration, answer: AnswerKind) {
        let (resource, verb) = (resource.to_owned(), verb_word(verb));
        let latency = Latency { resource: resource.clone(), verb };
        self.latency.get_or_create(&latency).observe(took.as_secs_f64());
        self.calls.get_or_create(&Called { resource, verb, answer: answer.as_str() }).inc();
    }
}
