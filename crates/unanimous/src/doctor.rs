//! `unanimous doctor`: whether each configured resource can take part, and what to change if not.
//!
//! The configuration is read as `serve` reads it, and each resource is asked from this process, all
//! at once. Nothing is changed in any of them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use unanimous_participants::{Finding, Fitness, Observer, Resource, Unobserved};
use unanimous_server::Resources;
use unanimous_server::config::{Config, Overrides};

use crate::cli::DoctorArgs;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::table::Table;

/// How long one resource is waited for: a slow answer is worth having, and nobody waits for longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found of one resource.
struct Report {
    name: Arc<str>,
    resource: Arc<dyn Resource>,
    findings: Vec<Finding>,
}

impl Report {
    /// The worst that was found.
    fn fitness(&self) -> Fitness {
        self.findings.iter().map(|finding| finding.fitness).max().unwrap_or(Fitness::Fit)
    }
}

/// Examines the resources that are named, or all.
pub(crate) async fn run(args: DoctorArgs, format: Format) -> Result<(), Failure> {
    let variable = |name| std::env::var(name).ok();
    let overrides = Overrides {
        listen: variable("UNANIMOUS_LISTEN"),
        data: variable("UNANIMOUS_DATA").map(Into::into),
        journal: variable("UNANIMOUS_JOURNAL"),
        journal_password: variable("UNANIMOUS_JOURNAL_PASSWORD"),
        token: variable("UNANIMOUS_TOKEN"),
        ..Overrides::default()
    };
    let config = Config::load(args.config.as_deref(), overrides)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let observer: Arc<dyn Observer> = Arc::new(Unobserved);
    let resources =
        Resources::open(&config, &observer).map_err(|error| Failure::usage(error.to_string()))?;
    let reports = examine(&chosen(&resources, &args.names)?).await;
    match format {
        Format::Json => output::json(&document(&reports)),
        Format::Text if reports.is_empty() => {
            output::line("no resources are configured; add [resources.NAME] to unanimous.toml");
        }
        Format::Text => output::line(&table_of(&reports).text()),
    }
    match reports.iter().any(|report| report.fitness() == Fitness::Unfit) {
        true => Err(Failure::shown()),
        false => Ok(()),
    }
}

type Named<'a> = (&'a Arc<str>, &'a Arc<dyn Resource>);

fn chosen<'a>(resources: &'a Resources, names: &[String]) -> Result<Vec<Named<'a>>, Failure> {
    let unknown = |name: &String| {
        let known: Vec<_> = resources.iter().map(|(name, _)| &**name).collect();
        Failure::usage(format!("no resource {name:?} is configured; known: {}", known.join(", ")))
    };
    match names {
        [] => Ok(resources.iter().collect()),
        names => names.iter().map(|it| resources.get(it).ok_or_else(|| unknown(it))).collect(),
    }
}

async fn examine(chosen: &[Named<'_>]) -> Vec<Report> {
    let start = |&(_, resource): &Named<'_>| tokio::spawn(resource.examine(PATIENCE));
    let under_way: Vec<_> = chosen.iter().map(start).collect();
    let mut reports = Vec::new();
    for (&(name, resource), examining) in chosen.iter().zip(under_way) {
        let findings = examining.await.expect("an examination does not panic");
        let (name, resource) = (Arc::clone(name), Arc::clone(resource));
        reports.push(Report { name, resource, findings });
    }
    reports
}

fn document(reports: &[Report]) -> Value {
    let finding = |it: &Finding| json!({ "subject": it.subject, "fitness": it.fitness.as_str(), "detail": it.detail });
    let report = |it: &Report| {
        json!({
            "name": &*it.name,
            "resource_type": it.resource.kind(),
            "url": it.resource.location(),
            "fitness": it.fitness().as_str(),
            "findings": it.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    };
    json!({ "resources": reports.iter().map(report).collect::<Vec<_>>() })
}

/// A line for each thing to change, and one for a resource where there is none.
fn table_of(reports: &[Report]) -> Table {
    let mut table = Table::new(["RESOURCE", "TYPE", "STATE", "FOUND"]);
    for Report { name, resource, findings } in reports {
        let mut row = |fitness: Fitness, found: String| {
            let kind = resource.kind().to_owned();
            table.row([(**name).to_owned(), kind, fitness.as_str().to_owned(), found]);
        };
        let (fit, to_change): (Vec<_>, Vec<_>) =
            findings.iter().partition(|finding| finding.fitness == Fitness::Fit);
        if to_change.is_empty() {
            let details: Vec<_> = fit.iter().map(|finding| &*finding.detail).collect();
            row(Fitness::Fit, details.join(", "));
        }
        for Finding { subject, fitness, detail } in to_change {
            row(*fitness, format!("{subject}: {detail}"));
        }
    }
    table
}
