//! What the reader sees at the end of a demo with seats: one screen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::super::settle::Ended;
use super::books::Audit;
use super::load::{Attempt, Load, Told};
use crate::output::count;
use crate::stats::percentile;

/// What the time is held against for which a seat shows reserved that is set free again, 99 in 100
/// times, at half load.
const SHOWN_MS_BOUND: f64 = 20.0;

/// Processor time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Costs {
    pub(super) coordinator: Duration,
    pub(super) services: Duration,
    /// Of this process, which is all users.
    pub(super) users: Duration,
}

impl Costs {
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            coordinator: self.coordinator.saturating_sub(before.coordinator),
            services: self.services.saturating_sub(before.services),
            users: self.users.saturating_sub(before.users),
        }
    }
}

/// The middle value, and the one that 99 in 100 do not exceed.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    p50: f64,
    p99: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        Self { p50: percentile(values, 50.0), p99: percentile(values, 99.0) }
    }
}

/// One load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Phase {
    took_ms: u64,
    attempts: u64,
    pub(super) per_s: f64,
    booked: u64,
    failed: u64,
    user_waited_ms: Spread,
    /// How long the seats of failed attempts showed reserved, by the seats' service's own clock.
    shown_reserved_ms: Spread,
    shown_reserved: u64,
    coordinator_cpu_us: f64,
    /// Of the processor time of all processes, the users included.
    coordinator_cpu_percent: f64,
}

impl Phase {
    pub(super) fn new(load: &Load, costs: Costs, shown: &[f64]) -> Self {
        let attempts = load.attempts.len() as f64;
        let waited: Vec<_> = load.attempts.iter().map(|it| it.took.as_secs_f64() * 1e3).collect();
        let count = |is: fn(&Told) -> bool| load.attempts.iter().filter(|it| is(&it.told)).count();
        let coordinator = costs.coordinator.as_secs_f64();
        let all = (costs.coordinator + costs.services + costs.users).as_secs_f64();
        Self {
            took_ms: load.took.as_millis() as u64,
            attempts: load.attempts.len() as u64,
            per_s: attempts / load.took.as_secs_f64(),
            booked: count(|it| matches!(it, Told::Booked(_))) as u64,
            failed: count(|it| matches!(it, Told::Failed(_))) as u64,
            user_waited_ms: Spread::of(&waited),
            shown_reserved_ms: Spread::of(shown),
            shown_reserved: shown.len() as u64,
            coordinator_cpu_us: coordinator * 1e6 / attempts.max(1.0),
            coordinator_cpu_percent: coordinator * 100.0 / all.max(f64::MIN_POSITIVE),
        }
    }

    fn text(&self, title: &str) -> Vec<String> {
        let Spread { p50, p99 } = self.user_waited_ms;
        let shown = self.shown_reserved_ms;
        vec![
            format!("{title}, {:.1} s", self.took_ms as f64 / 1e3),
            format!(
                "  attempts      {} a second: {} booked, {} failed",
                count(self.per_s as u64),
                count(self.booked),
                count(self.failed)
            ),
            format!("  users         waited {p50:.1} ms at the median, {p99:.1} ms at p99"),
            format!(
                "  inconsistent  seats of {} failed attempts showed reserved for {:.1} ms at the \
                 median, {:.1} ms at p99",
                count(self.shown_reserved),
                shown.p50,
                shown.p99
            ),
            format!(
                "  coordinator   {:.0} µs of processor time an attempt, {:.0} % of what all \
                 processes took",
                self.coordinator_cpu_us, self.coordinator_cpu_percent
            ),
        ]
    }
}

/// The whole demo.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    in_flight: u32,
    full: Phase,
    half: Phase,
    /// By reason.
    failed: BTreeMap<String, u64>,
    unknown: u64,
    /// What the first of those who know nothing was told.
    unknown_example: Option<String>,
    /// Sagas that the coordinator has not brought to their end.
    unfinished: u64,
    /// Sagas that wait for an operator.
    stuck: u64,
    shown_reserved_ms_bound: f64,
    audit: Audit,
    /// The folder, if it was to be kept.
    pub(super) kept: Option<String>,
}

impl Report {
    pub(super) fn new<'a>(
        seed: u64,
        in_flight: u32,
        [full, half]: [Phase; 2],
        attempts: impl Iterator<Item = &'a Attempt>,
        audit: Audit,
        ended: &Ended,
    ) -> Self {
        let (mut failed, mut unknown, mut unknown_example) = (BTreeMap::new(), 0, None);
        for attempt in attempts {
            match &attempt.told {
                Told::Booked(_) => {}
                Told::Failed(kind) => *failed.entry(kind.clone()).or_default() += 1,
                Told::Unknown(what) => {
                    unknown += 1;
                    let booking = Attempt::booking(attempt.number);
                    unknown_example.get_or_insert_with(|| format!("{booking}: {what}"));
                }
            }
        }
        Self {
            seed,
            in_flight,
            full,
            half,
            failed,
            unknown,
            unknown_example,
            unfinished: ended.unfinished,
            stuck: ended.stuck,
            shown_reserved_ms_bound: SHOWN_MS_BOUND,
            audit,
            kept: None,
        }
    }

    /// Whether the product has kept its promise.
    pub(super) fn is_whole(&self) -> bool {
        self.audit.is_whole() && self.unknown + self.unfinished + self.stuck == 0
    }

    /// One screen.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![
            "Seats booked by saga: reserve, charge, ticket, notify, each at a service of its own, \
             a process with"
                .to_owned(),
            format!(
                "an SQLite file, every answer durable. 4 % of the users cannot pay. Seed {}.",
                self.seed
            ),
            String::new(),
        ];
        lines.extend(self.full.text(&format!("FULL LOAD  {} at once", self.in_flight)));
        lines.extend(self.half.text("HALF LOAD"));
        lines.push(String::new());
        lines.extend(self.count());
        if let Some(folder) = &self.kept {
            lines.push(format!("\nDatabases, journal and logs are in {folder}"));
        }
        lines.join("\n")
    }

    fn count(&self) -> Vec<String> {
        let Audit { seats_kept, charged_wrongly, tickets_wrong, otherwise_wrong, .. } = self.audit;
        let kinds = self.failed.iter().map(|(kind, times)| format!("{} {kind}", count(*times)));
        let mut lines = vec![
            format!(
                "{} booked, {} undone ({}), those of the warm-up too: {} seats not free again,",
                count(self.audit.whole),
                count(self.audit.undone),
                kinds.collect::<Vec<_>>().join(", "),
                count(seats_kept)
            ),
            format!(
                "{} charged wrongly, {} without exactly one ticket, {} otherwise wrong.",
                count(charged_wrongly),
                count(tickets_wrong),
                count(otherwise_wrong)
            ),
        ];
        if self.is_whole() {
            let bound = self.shown_reserved_ms_bound;
            let word = match self.half.shown_reserved_ms.p99 < bound {
                true => "below",
                false => "NOT below",
            };
            lines.push(
                "EVERY ATTEMPT IS WHOLE OR UNDONE, counted in the services' own files.".to_owned(),
            );
            lines.push(format!(
                "What others saw of a failed one was gone after {:.1} ms at p99 of half load: {word} \
                 the bound of {bound} ms.",
                self.half.shown_reserved_ms.p99
            ));
        } else {
            lines.push(format!(
                "THE PROMISE IS BROKEN. {} unknown, {} unfinished, {} wait for an operator.",
                count(self.unknown),
                count(self.unfinished),
                count(self.stuck)
            ));
            lines.extend(self.audit.example.clone());
            lines.extend(self.unknown_example.clone());
        }
        lines
    }
}
