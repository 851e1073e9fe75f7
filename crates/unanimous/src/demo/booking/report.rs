//! What the reader sees at the end of a demo with bookings: one screen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::super::settle::Ended;
use super::books::Audit;
use super::load::{Load, Told};
use super::plan::{Actor, Manner, Plan};
use super::service::ServiceName;
use crate::output::{count, rupees, span};

/// The whole demo.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    bookings: u64,
    took_ms: u64,
    settled_in_ms: u64,
    /// Sagas that the coordinator has not brought to their end.
    unfinished: u64,
    /// Sagas that wait for an operator.
    stuck: u64,
    made: u64,
    /// By reason.
    refused: BTreeMap<String, u64>,
    cancelled: u64,
    cancelled_too_late: u64,
    asked_twice: u64,
    unknown: u64,
    /// What the first of those who know nothing was told.
    unknown_example: Option<String>,
    booking_ms_median: u64,
    booking_ms_max: u64,
    kills: BTreeMap<&'static str, u64>,
    /// The longest time that one killed process was away.
    outage_ms_max: u64,
    audit: Audit,
    /// The folder, if it was to be kept.
    pub(super) kept: Option<String>,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        load: &Load,
        audit: Audit,
        took: Duration,
        ended: Ended,
    ) -> Self {
        let twice = plan.bookings.iter().filter(|it| it.manner == Manner::AsksTwice);
        let mut report = Self {
            seed: plan.seed,
            bookings: plan.bookings.len() as u64,
            took_ms: ms(took),
            settled_in_ms: ms(ended.took),
            unfinished: ended.unfinished,
            stuck: ended.stuck,
            made: 0,
            refused: BTreeMap::new(),
            cancelled: 0,
            cancelled_too_late: load.too_late,
            asked_twice: twice.count() as u64,
            unknown: 0,
            unknown_example: None,
            booking_ms_median: load.took.get(load.took.len() / 2).copied().map_or(0, ms),
            booking_ms_max: load.took.last().copied().map_or(0, ms),
            kills: load
                .outages
                .iter()
                .map(|(actor, outages)| (actor.as_str(), outages.len() as u64))
                .collect(),
            outage_ms_max: load.outages.values().flatten().copied().map(ms).max().unwrap_or(0),
            audit,
            kept: None,
        };
        for (booking, told) in &load.told {
            match told {
                Told::Made(_) => report.made += 1,
                Told::Cancelled => report.cancelled += 1,
                Told::Refused(kind) => *report.refused.entry(kind.clone()).or_default() += 1,
                Told::Unknown(what) => {
                    report.unknown += 1;
                    report.unknown_example.get_or_insert_with(|| format!("{booking}: {what}"));
                }
            }
        }
        report
    }

    /// Whether the product has kept its promise.
    pub(super) fn is_whole(&self) -> bool {
        self.audit.is_whole() && self.unknown + self.unfinished + self.stuck == 0
    }

    /// One screen.
    pub(super) fn text(&self) -> String {
        let (bookings, seed) = (count(self.bookings), self.seed);
        let mut lines = vec![
            format!(
                "{bookings} bookings, each over three services: a flight and a hotel reserve, a \
                 payment charges, the"
            ),
            "flight tickets, the hotel gives points. Each is a process of its own with its own \
             SQLite file. While"
                .to_owned(),
            format!(
                "users booked, all of them and the coordinator were killed with -9 and started \
                 again. Seed {seed}."
            ),
            String::new(),
        ];
        lines.extend(self.facts());
        lines.push(String::new());
        lines.extend(self.meaning());
        if let Some(folder) = &self.kept {
            lines.push(format!("\nDatabases, journal and logs are in {folder}"));
        }
        lines.join("\n")
    }

    fn facts(&self) -> Vec<String> {
        let audit = &self.audit;
        let seconds = format!("{}.{} s", self.took_ms / 1_000, self.took_ms % 1_000 / 100);
        let refused: u64 = self.refused.values().sum();
        let given_back = |name| count(audit.given_back.get(&name).copied().unwrap_or_default());
        vec![
            format!("BY SAGA  steps, and what undoes each of them, {seconds}"),
            format!("  kill -9       {}", self.killed()),
            format!(
                "  bookings      {} made, {} refused{}, {} cancelled by the user, {} unknown",
                count(self.made),
                count(refused),
                self.kinds(),
                count(self.cancelled),
                count(self.unknown)
            ),
            format!(
                "                {} cancelled too late, and told so; {} asked for twice under one key",
                count(self.cancelled_too_late),
                count(self.asked_twice)
            ),
            format!(
                "  users         waited for {} at the median, {} at the longest",
                span(self.booking_ms_median),
                span(self.booking_ms_max)
            ),
            format!(
                "  undone        {} seats and {} rooms given back, {} refunded",
                given_back(ServiceName::Flight),
                given_back(ServiceName::Hotel),
                rupees(audit.refunded)
            ),
            self.money(),
            format!(
                "  agreement     {} half done, {} done twice or wrongly, {} oversold, {} told other \
                 than done",
                count(audit.half_done),
                count(audit.done_wrongly),
                count(audit.oversold),
                count(audit.lied_about)
            ),
            format!(
                "  at the end    {} sagas unfinished, {} wait for an operator, {} after the load",
                count(self.unfinished),
                count(self.stuck),
                span(self.settled_in_ms)
            ),
        ]
    }

    fn killed(&self) -> String {
        let times = Actor::ALL.map(Actor::as_str).map(|name| (name, self.kills.get(name)));
        let times = times.map(|(name, times)| format!("{name} {}", times.unwrap_or(&0)));
        let total: u64 = self.kills.values().sum();
        let (total, times, away) = (count(total), times.join(", "), span(self.outage_ms_max));
        format!("{total} times: {times}; back within {away}")
    }

    fn kinds(&self) -> String {
        let kinds = self.refused.iter().map(|(kind, times)| format!("{} {kind}", count(*times)));
        let kinds = kinds.collect::<Vec<_>>().join(", ");
        if kinds.is_empty() { kinds } else { format!(" ({kinds})") }
    }

    fn money(&self) -> String {
        let Audit { charged, refunded, left_the_accounts, .. } = self.audit;
        let sign = if charged == refunded + left_the_accounts { "=" } else { "≠" };
        format!(
            "  money         charged {} − refunded {} {sign} {} that left the accounts",
            rupees(charged),
            rupees(refunded),
            rupees(left_the_accounts)
        )
    }

    fn meaning(&self) -> Vec<String> {
        if self.is_whole() {
            let (whole, undone) = (count(self.audit.whole), count(self.audit.undone));
            return vec![
                format!(
                    "EVERY BOOKING IS WHOLE OR UNDONE: {whole} have their seat, room, payment, \
                     ticket and points, of {undone}"
                ),
                "nothing is left. No charge or refund was made twice, nothing was sold twice, and \
                 every user was"
                    .to_owned(),
                "told the truth, whatever died and when. Counted in the services' own files."
                    .to_owned(),
            ];
        }
        let mut lines = vec!["THE PROMISE IS BROKEN.".to_owned()];
        lines.extend(self.audit.example.clone());
        lines.extend(self.unknown_example.clone());
        let (seed, bookings) = (self.seed, self.bookings);
        lines.push(format!(
            "Run it again with --bookings {bookings} --seed {seed} --keep and look at the logs."
        ));
        lines
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
