//! What the reader sees at the end of a demo with orders: one screen, the three ways side by side.

use std::collections::BTreeMap;

use serde::Serialize;

use super::books::Audit;
use super::load::{End, Load, RUSH, Told, Way};
use crate::output::{count, rupees};
use crate::stats::percentile;
use crate::table::Table;

/// What one transaction over all three services is usually put at, with its locks held throughout: the
/// slowest of them, round trips, and coordination.
const USUALLY_MS: [u64; 2] = [400, 500];

/// How it went with so many orders at once.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pace {
    orders: u64,
    per_s: f64,
    /// From the order until the customer knew that it is placed, in milliseconds.
    took_ms_p50: f64,
    took_ms_p99: f64,
    /// How long the item's row was locked each time.
    locked_ms_p50: f64,
    locked_ms_p99: f64,
}

impl Pace {
    pub(super) fn new(load: &Load, locked: &[f64]) -> Self {
        let placed = load.ends.iter().filter(|end| end.told == Told::Placed);
        let took: Vec<_> = placed.map(|end| end.took.as_secs_f64() * 1e3).collect();
        Self {
            orders: load.ends.len() as u64,
            per_s: load.ends.len() as f64 / load.took.as_secs_f64(),
            took_ms_p50: percentile(&took, 50.0),
            took_ms_p99: percentile(&took, 99.0),
            locked_ms_p50: percentile(locked, 50.0),
            locked_ms_p99: percentile(locked, 99.0),
        }
    }
}

/// One way.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    way: Way,
    alone: Pace,
    rush: Pace,
    placed: u64,
    /// By reason.
    failed: BTreeMap<String, u64>,
    unknown: u64,
    /// What the first of those who know nothing was told.
    unknown_example: Option<String>,
    /// Transactions that the coordinator has not brought to their end.
    unfinished: u64,
    /// Transactions that wait for an operator.
    stuck: u64,
    audit: Audit,
}

impl Run {
    pub(super) fn new<'a>(
        way: Way,
        [alone, rush]: [Pace; 2],
        ends: impl Iterator<Item = &'a End>,
        audit: Audit,
        [unfinished, stuck]: [u64; 2],
    ) -> Self {
        let mut run = Self {
            way,
            alone,
            rush,
            placed: 0,
            failed: BTreeMap::new(),
            unknown: 0,
            unknown_example: None,
            unfinished,
            stuck,
            audit,
        };
        for end in ends {
            match &end.told {
                Told::Placed => run.placed += 1,
                Told::Failed(kind) => *run.failed.entry(kind.clone()).or_default() += 1,
                Told::Unknown(what) => {
                    run.unknown += 1;
                    let name = &end.order.name;
                    run.unknown_example.get_or_insert_with(|| format!("{name}: {what}"));
                }
            }
        }
        run
    }

    fn balances(&self) -> bool {
        self.audit.balances() && self.unknown + self.unfinished + self.stuck == 0
    }

    /// What the customers saw whose orders failed, those who saw nothing aside.
    fn seen(&self) -> String {
        let seen = self.audit.seen_of_failed.iter().filter(|(saw, _)| *saw != "nothing");
        let seen: Vec<_> = seen.map(|(saw, times)| format!("{} {saw}", count(*times))).collect();
        if seen.is_empty() { "nothing".to_owned() } else { seen.join("; ") }
    }

    fn seen_for(&self) -> String {
        match self.seen() == "nothing" {
            true => "–".to_owned(),
            false => format!("{:.0} ms", self.audit.seen_ms),
        }
    }
}

/// The whole demo.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) orders: u32,
    pub(super) runs: Vec<Run>,
    /// The folder, if it was to be kept.
    pub(super) kept: Option<String>,
}

impl Report {
    /// Whether the product has kept its promise in each way.
    pub(super) fn balances(&self) -> bool {
        self.runs.iter().all(Run::balances)
    }

    /// One screen.
    pub(super) fn text(&self) -> String {
        let orders = count(self.orders.into());
        let mut lines = vec![
            format!(
                "{orders} orders in each of three ways: a card payment (300 ms), a piece of an item \
                 that everybody wants"
            ),
            "(50 ms) and an order row (100 ms), each at a service of its own. Some cannot be \
             delivered, which shows"
                .to_owned(),
            "at the last service only; some cards are declined; some of the card's replies get \
             lost."
                .to_owned(),
            String::new(),
            self.table(),
            String::new(),
        ];
        lines.extend(self.meaning());
        if let Some(folder) = &self.kept {
            lines.push(format!("\nDatabases, journals and logs are in {folder}"));
        }
        lines.join("\n")
    }

    fn table(&self) -> String {
        let titles = Way::ALL.map(Way::title);
        let mut table = Table::new(["", titles[0], titles[1], titles[2]]);
        let mut row = |title: &str, cell: &dyn Fn(&Run) -> String| {
            let mut cells = self.runs.iter().map(cell);
            let mut next = || cells.next().unwrap_or_default();
            table.row([title.to_owned(), next(), next(), next()]);
        };
        let spread = |p50: f64, p99: f64| format!("{p50:.0} / {p99:.0}");
        row("one at a time: took ms, p50 / p99", &|it| {
            spread(it.alone.took_ms_p50, it.alone.took_ms_p99)
        });
        row("  row locked ms, p50 / p99", &|it| {
            spread(it.alone.locked_ms_p50, it.alone.locked_ms_p99)
        });
        row(&format!("{RUSH} at once: took ms, p50 / p99"), &|it| {
            spread(it.rush.took_ms_p50, it.rush.took_ms_p99)
        });
        row("  row locked ms, p50 / p99", &|it| {
            spread(it.rush.locked_ms_p50, it.rush.locked_ms_p99)
        });
        row("  orders a second", &|it| format!("{:.1}", it.rush.per_s));
        row("placed, failed", &|it| {
            let failed: u64 = it.failed.values().sum();
            format!("{}, {}", count(it.placed), count(failed))
        });
        row("who failed saw", &Run::seen);
        row("  for, p50", &Run::seen_for);
        row("replies asked for again", &|it| count(it.audit.repeats));
        row("paid", &|it| rupees(it.audit.paid.cast_unsigned()));
        table.text()
    }

    fn meaning(&self) -> Vec<String> {
        let [from, to] = USUALLY_MS;
        let mut lines = vec![format!(
            "One transaction over all three, with its locks held throughout, is usually put at \
             {from} to {to} ms."
        )];
        if self.balances() {
            lines.push(
                "THE BOOKS BALANCE in each way: every order is paid, sold and placed once, or \
                 nothing of it is left,"
                    .to_owned(),
            );
            lines.push(
                "and its customer was told which. Counted in the services' own files.".to_owned(),
            );
            return lines;
        }
        lines.push("THE PROMISE IS BROKEN.".to_owned());
        for run in self.runs.iter().filter(|run| !run.balances()) {
            let (unknown, unfinished, stuck) = (run.unknown, run.unfinished, run.stuck);
            lines.push(format!(
                "{}: {unknown} unknown, {unfinished} unfinished, {stuck} wait for an operator",
                run.way.title()
            ));
            lines.extend(run.audit.example.clone());
            lines.extend(run.unknown_example.clone());
        }
        lines
    }
}
