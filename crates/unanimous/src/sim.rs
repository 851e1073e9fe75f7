//! `unanimous sim`: seeded histories with crashes, and what the oracles say of them.

use std::ops::Range;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use unanimous_sim::model::{Explored, explore_all};
use unanimous_sim::{
    Depth, Placed, Row, Shape, Totals, Violation, museum, placements, run_seeds, trace,
};

use crate::cli::{SimArgs, SimShape};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::table::Table;

/// Times that each deliberate bug is looked for, with other seeds each time.
const VISITS: u64 = 5;

/// Seeds after which a deliberate bug counts as not caught.
const VISIT_SEEDS_MAX: u64 = 50_000;

/// Runs what was asked for; fails if a rule was broken, or a deliberate bug was not caught.
pub(crate) fn run(args: &SimArgs, format: Format) -> Result<(), Failure> {
    let shape = match args.shape {
        SimShape::Atomic => Shape::Atomic,
        SimShape::Tcc => Shape::Tcc,
        SimShape::Saga => Shape::Saga,
        SimShape::Nodes => Shape::Nodes,
        SimShape::Mixed => Shape::Mixed,
    };
    let threads =
        args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let whole = if args.museum {
        show_museum(&museum(VISITS, VISIT_SEEDS_MAX, threads), format)
    } else if args.models {
        show_models(&explore_all(), format)
    } else if args.placements {
        show_placements(&placements(Depth::Double, threads), format)
    } else if let Some(seed) = args.seed.filter(|_| args.trace) {
        show_trace(&trace(seed, shape), format)
    } else {
        let seeds = match (&args.seeds, args.seed) {
            (Some(seeds), _) => seeds.clone(),
            (None, Some(seed)) => seed..seed.saturating_add(1),
            (None, None) => return Err(Failure::usage("name the seeds, such as --seeds 0..20000")),
        };
        show_totals(&totals(seeds, shape, threads), shape, format)
    };
    match whole {
        Whole::Yes => Ok(()),
        Whole::No => Err(Failure::shown()),
    }
}

/// Whether everything was as it has to be.
enum Whole {
    Yes,
    No,
}

impl Whole {
    fn if_none_of(broken: u64) -> Self {
        if broken == 0 { Self::Yes } else { Self::No }
    }
}

fn totals(seeds: Range<u64>, shape: Shape, threads: usize) -> Totals {
    let bar =
        ProgressBar::with_draw_target(Some(seeds.end - seeds.start), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("  {bar:32} {pos}/{len} seeds, {per_sec}, {eta} left");
    bar.set_style(style.expect("a good template"));
    let totals = run_seeds(seeds, shape, threads, |done| bar.set_position(done));
    bar.finish_and_clear();
    totals
}

fn show_totals(totals: &Totals, shape: Shape, format: Format) -> Whole {
    match format {
        Format::Json => output::json(&totals_json(totals)),
        Format::Text => {
            for (seed, violation) in &totals.found {
                output::line(&format!("seed {seed}: {violation}"));
                output::line(&format!(
                    "  replay: unanimous sim --seed {seed} --shape {shape} --trace"
                ));
            }
            output::line(&totals.to_string());
        }
    }
    Whole::if_none_of(totals.violations)
}

fn totals_json(totals: &Totals) -> Value {
    let found = totals
        .found
        .iter()
        .map(|(seed, violation)| json!({ "seed": seed, "violation": violation_json(violation) }));
    json!({
        "seeds": totals.seeds,
        "events": totals.events,
        "transactions": totals.txns,
        "committed": totals.committed,
        "aborted": totals.aborted,
        "mixed": totals.mixed,
        "crashes": totals.crashes,
        "claims": totals.claims,
        "records": totals.records,
        "lost_records": totals.lost_records,
        "violations": totals.violations,
        "elapsed_ms": u64::try_from(totals.elapsed.as_millis()).unwrap_or(u64::MAX),
        "found": found.collect::<Vec<_>>(),
    })
}

fn violation_json(violation: &Violation) -> Value {
    json!({ "rule": violation.rule, "at_ms": violation.at_ms, "what": violation.what })
}

fn show_trace((history, violation): &(String, Option<Violation>), format: Format) -> Whole {
    match format {
        Format::Json => output::json(&json!({
            "history": history.lines().collect::<Vec<_>>(),
            "violation": violation.as_ref().map(violation_json),
        })),
        Format::Text => {
            output::line(history.trim_end());
            match violation {
                Some(violation) => output::line(&format!("\nVIOLATION  {violation}")),
                None => output::line("\nno rule was broken"),
            }
        }
    }
    Whole::if_none_of(violation.iter().len() as u64)
}

fn show_museum(rows: &[Row], format: Format) -> Whole {
    match format {
        Format::Json => output::json(&rows.iter().map(row_json).collect::<Vec<_>>()),
        Format::Text => {
            let mut table = Table::new(["BUG", "SEEDS (MEDIAN)", "CAUGHT BY", "MISTAKE"]);
            for row in rows {
                table.row([
                    row.exhibit.to_string(),
                    row.median().map_or_else(|| "not caught".to_owned(), output::count),
                    row.rule.to_owned(),
                    row.exhibit.mistake().to_owned(),
                ]);
            }
            output::line(&table.text());
        }
    }
    Whole::if_none_of(rows.iter().filter(|row| !row.is_caught()).count() as u64)
}

fn row_json(row: &Row) -> Value {
    json!({
        "bug": row.exhibit.to_string(),
        "mistake": row.exhibit.mistake(),
        "caught": row.is_caught(),
        "median_seeds": row.median(),
        "rule": row.rule,
    })
}

fn show_models(models: &[(&str, Explored)], format: Format) -> Whole {
    match format {
        Format::Json => {
            let rows = models.iter().map(|(model, explored)| {
                json!({
                    "model": model,
                    "states": explored.states,
                    "steps": explored.steps,
                    "blocked": explored.blocked,
                    "broken": explored.broken.as_ref().map(|it| it.rule),
                })
            });
            output::json(&rows.collect::<Vec<_>>());
        }
        Format::Text => {
            let mut table = Table::new(["MODEL", "STATES", "STEPS", "BLOCKED", "BROKEN"]);
            for (model, explored) in models {
                table.row([
                    (*model).to_owned(),
                    output::count(explored.states as u64),
                    output::count(explored.steps as u64),
                    output::count(explored.blocked as u64),
                    explored.broken.as_ref().map_or("-", |it| it.rule).to_owned(),
                ]);
            }
            output::line(&table.text());
        }
    }
    let wrong = |it: &Explored| it.broken.is_some() || it.blocked > 0;
    Whole::if_none_of(models.iter().filter(|(_, it)| wrong(it)).count() as u64)
}

fn show_placements(placed: &[Placed], format: Format) -> Whole {
    match format {
        Format::Json => {
            let rows = placed.iter().map(|placed| {
                json!({ "scenario": placed.scenario, "totals": totals_json(&placed.totals) })
            });
            output::json(&rows.collect::<Vec<_>>());
        }
        Format::Text => {
            let mut table = Table::new(["SCENARIO", "PLACEMENTS", "CRASHES", "VIOLATIONS"]);
            for Placed { scenario, totals } in placed {
                table.row([
                    (*scenario).to_owned(),
                    output::count(totals.seeds),
                    output::count(totals.crashes),
                    output::count(totals.violations),
                ]);
            }
            output::line(&table.text());
        }
    }
    Whole::if_none_of(placed.iter().map(|placed| placed.totals.violations).sum())
}
