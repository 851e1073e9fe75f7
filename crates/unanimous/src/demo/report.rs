//! What the reader sees at the end: one screen that says what happened and what it means.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::books::Audit;
use super::load::{Load, Told};
use super::party::Engine;
use super::plan::Role;
use super::settle::Settled;
use crate::output::{count, rupees, span};

/// The whole demo.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) transfers: u64,
    /// The parties that are databases.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) databases: BTreeMap<Role, Engine>,
    pub(crate) unanimously: Run,
    pub(crate) naively: Run,
    /// The folder, if it was to be kept.
    pub(crate) kept: Option<String>,
}

/// One load with its kills and its books.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    took_ms: u64,
    settled_in_ms: u64,
    /// Transactions that the coordinator has not brought to their end.
    unfinished: u64,
    committed: u64,
    /// By reason.
    refused: BTreeMap<String, u64>,
    unknown: u64,
    /// What the first of those who know nothing was told.
    unknown_example: Option<String>,
    /// Attempts that a crash aborted, by reason. All were made again.
    aborted_and_repeated: BTreeMap<String, u64>,
    kills: BTreeMap<Role, u64>,
    /// The longest time that one killed process was away.
    outage_ms_max: u64,
    audit: Audit,
}

impl Run {
    pub(crate) fn new(load: &Load, audit: Audit, took: Duration, settled: Settled) -> Self {
        let (mut committed, mut unknown, mut refused) = (0, 0, BTreeMap::new());
        let mut unknown_example = None;
        for (transfer, told) in &load.told {
            match told {
                Told::Committed => committed += 1,
                Told::Refused(kind) | Told::Aborted(kind) => {
                    *refused.entry(kind.clone()).or_default() += 1
                }
                Told::Unknown(what) => {
                    unknown += 1;
                    unknown_example.get_or_insert_with(|| format!("{transfer}: {what}"));
                }
            }
        }
        let kills = load.outages.iter().map(|(&role, outages)| (role, outages.len() as u64));
        Self {
            took_ms: ms(took),
            settled_in_ms: ms(settled.took),
            unfinished: settled.unfinished,
            committed,
            refused,
            unknown,
            unknown_example,
            aborted_and_repeated: load.aborted.clone(),
            kills: kills.collect(),
            outage_ms_max: load.outages.values().flatten().copied().map(ms).max().unwrap_or(0),
            audit,
        }
    }

    fn killed(&self, name: impl Fn(Role) -> String) -> String {
        let kinds = self.kills.iter().map(|(&role, times)| format!("{} {times}", name(role)));
        let kinds = kinds.collect::<Vec<_>>().join(", ");
        let total: u64 = self.kills.values().sum();
        format!("{} times: {kinds}; back within {}", count(total), span(self.outage_ms_max))
    }

    fn outcomes(&self) -> String {
        let refused: u64 = self.refused.values().sum();
        let (committed, unknown) = (count(self.committed), count(self.unknown));
        let kinds = kinds(&self.refused);
        format!("{committed} made, {} refused{kinds}, {unknown} unknown", count(refused))
    }

    fn repeats(&self) -> String {
        let aborted: u64 = self.aborted_and_repeated.values().sum();
        let kinds = kinds(&self.aborted_and_repeated);
        format!("{} attempts aborted by a crash{kinds} and safely made again", count(aborted))
    }

    fn books(&self) -> String {
        let [wallet, ledger, audit] = Role::BANKS.map(|role| self.audit.totals[&role]);
        let sign = |left: u64, right: u64| if left == right { "=" } else { "≠" };
        format!(
            "wallet {} {} ledger {} {} audit {}",
            rupees(wallet),
            sign(wallet, ledger),
            rupees(ledger),
            sign(ledger, audit),
            rupees(audit),
        )
    }
}

fn kinds(by_kind: &BTreeMap<String, u64>) -> String {
    let kinds = by_kind.iter().map(|(kind, times)| format!("{} {kind}", count(*times)));
    let kinds = kinds.collect::<Vec<_>>().join(", ");
    if kinds.is_empty() { kinds } else { format!(" ({kinds})") }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

impl Report {
    /// Whether the product has kept its promise.
    pub(crate) fn balances(&self) -> bool {
        let run = &self.unanimously;
        run.audit.balances() && run.unknown == 0 && run.unfinished == 0
    }

    /// One screen.
    pub(crate) fn text(&self) -> String {
        let mut lines = self.beginning();
        lines.push(String::new());
        lines.extend(self.with_unanimous());
        lines.push(String::new());
        lines.extend(self.without());
        lines.push(String::new());
        lines.extend(self.meaning());
        if let Some(folder) = &self.kept {
            lines.push(format!("\nDatabases, journal and logs are in {folder}"));
        }
        lines.join("\n")
    }

    fn beginning(&self) -> Vec<String> {
        let (transfers, seed) = (count(self.transfers), self.seed);
        if self.databases.is_empty() {
            return vec![
                format!(
                    "{transfers} transfers, each over three services: a wallet debits the customer, a \
                     ledger credits the"
                ),
                "shop, an audit keeps a record. Each is a process of its own with its own SQLite file. \
                 While the"
                    .to_owned(),
                format!(
                    "transfers ran, processes were killed with -9 and started again. Seed {seed}."
                ),
            ];
        }
        let [wallet, ledger, audit] = Role::BANKS.map(|role| match self.databases.get(&role) {
            Some(engine) => engine.to_string(),
            None => "a service with an SQLite file".to_owned(),
        });
        vec![
            format!(
                "{transfers} transfers, each over three parties: a wallet ({wallet}) debits the customer,"
            ),
            format!("a ledger ({ledger}) credits the shop, an audit ({audit}) keeps a record."),
            format!(
                "While the transfers ran, all of them were killed with -9 and started again. Seed {seed}."
            ),
        ]
    }

    /// A process by its role, and by what it is if that is a database.
    fn name(&self, role: Role) -> String {
        match self.databases.get(&role) {
            Some(engine) => format!("{} ({engine})", role.as_str()),
            None => role.as_str().to_owned(),
        }
    }

    /// What the parties are called: one of them, and all.
    fn nouns(&self) -> [&'static str; 2] {
        match self.databases.is_empty() {
            true => ["service", "services"],
            false => ["party", "parties"],
        }
    }

    /// Where it is not known how long branches were prepared.
    fn unmeasured(&self) -> String {
        let without = |engine: &Engine| match engine {
            Engine::Postgres => false,
            Engine::MariaDb | Engine::Redis => true,
        };
        let engines = self.databases.values().filter(|engine| without(engine));
        let engines = engines.map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        if engines.is_empty() { engines } else { format!("; {engines} cannot tell") }
    }

    fn with_unanimous(&self) -> Vec<String> {
        let run = &self.unanimously;
        let audit = &run.audit;
        vec![
            format!("WITH UNANIMOUS  two-phase commit, {}", seconds(run.took_ms)),
            format!("  kill -9       {}", run.killed(|role| self.name(role))),
            format!("  transfers     {}", run.outcomes()),
            format!("                {}", run.repeats()),
            format!("  books         {}", run.books()),
            format!(
                "  agreement     {} transfers broken, {} told other than booked",
                count(audit.broken),
                count(audit.lied_about)
            ),
            format!(
                "  in doubt      {} branches left prepared, {} transactions unfinished, {} after the load",
                count(audit.left_prepared),
                count(run.unfinished),
                span(run.settled_in_ms)
            ),
            format!(
                "  locks         held for {} at the median, {} at the longest{}",
                span(audit.held_ms_median),
                span(audit.held_ms_max),
                self.unmeasured()
            ),
        ]
    }

    fn without(&self) -> Vec<String> {
        let run = &self.naively;
        let audit = &run.audit;
        let percent = audit.broken * 1_000 / self.transfers.max(1);
        let [party, _] = self.nouns();
        let mut lines = vec![
            format!("WITHOUT  each {party} commits at once, same kills, {}", seconds(run.took_ms)),
            format!("  kill -9       {}", run.killed(|role| self.name(role))),
            format!("  transfers     {}", run.outcomes()),
            format!("  books         {}", run.books()),
            format!(
                "  agreement     {} transfers broken ({}.{} %), {} in them",
                count(audit.broken),
                percent / 10,
                percent % 10,
                rupees(audit.broken_amount)
            ),
        ];
        if let Some(example) = &audit.example {
            lines.push(format!("                {example}"));
        }
        lines
    }

    fn meaning(&self) -> Vec<String> {
        if self.balances() {
            let without = &self.naively.audit;
            let [_, parties] = self.nouns();
            return vec![
                format!(
                    "THE BOOKS BALANCE to the rupee. Every transfer took effect in all three \
                     {parties} or in none,"
                ),
                "and every client was told the truth, whatever died and when. Without a \
                 coordinator, somebody"
                    .to_owned(),
                format!(
                    "would now have to find {} in {} transfers that are in some books and not in \
                     others.",
                    rupees(without.broken_amount),
                    count(without.broken)
                ),
            ];
        }
        let mut lines = vec!["THE PROMISE IS BROKEN.".to_owned()];
        lines.extend(self.unanimously.audit.example.clone());
        lines.extend(self.unanimously.unknown_example.clone());
        lines.push(format!("Run it again with --seed {} --keep and look at the logs.", self.seed));
        lines
    }
}
