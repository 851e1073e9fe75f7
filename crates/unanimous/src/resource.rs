//! `unanimous resource`: the configured resources as the coordinator sees them.

use serde_json::json;
use unanimous_api::{BranchInDoubt, CheckAnswer, ResourceCheck, ResourceView};
use unanimous_client::Client;

use crate::cli::{Connection, ResourceArgs, ResourceCommand};
use crate::exit::Failure;
use crate::invariant;
use crate::output::{self, Format};
use crate::table::Table;

/// Runs one command.
pub(crate) async fn run(args: ResourceArgs, format: Format) -> Result<(), Failure> {
    let client = crate::remote::connect(&args.connection)?;
    match args.command {
        ResourceCommand::List => list(&client, format).await,
        ResourceCommand::Check { name } => check(&client, &args.connection, name, format).await,
        ResourceCommand::InDoubt { name } => in_doubt(&client, name, format).await,
    }
}

async fn list(client: &Client, format: Format) -> Result<(), Failure> {
    let view = client.resources().await?;
    match format {
        Format::Json => output::json(&view),
        Format::Text if view.resources.is_empty() => {
            output::line("no resources are configured; add [resources.NAME] to unanimous.toml");
        }
        Format::Text => {
            let mut table = Table::new([
                "NAME",
                "TYPE",
                "CIRCUIT",
                "CALLS",
                "PLACES",
                "WAITING",
                "URL",
                "LAST ERROR",
            ]);
            for resource in &view.resources {
                table.row([
                    resource.name.clone(),
                    resource.resource_type.clone(),
                    resource.circuit.clone(),
                    resource.calls.to_string(),
                    resource.places.to_string(),
                    resource.waiting.to_string(),
                    resource.url.clone(),
                    resource.last_error.clone().unwrap_or_default(),
                ]);
            }
            output::line(&table.text());
        }
    }
    Ok(())
}

/// The resource of this name, or all of them.
async fn chosen(client: &Client, name: Option<String>) -> Result<Vec<ResourceView>, Failure> {
    let mut resources = client.resources().await?.resources;
    if let Some(name) = name {
        resources.retain(|resource| resource.name == name);
        if resources.is_empty() {
            return Err(Failure::usage(format!("no resource {name:?} is configured")));
        }
    }
    Ok(resources)
}

async fn check(
    client: &Client,
    connection: &Connection,
    name: Option<String>,
    format: Format,
) -> Result<(), Failure> {
    let mut checks = Vec::new();
    for resource in chosen(client, name.clone()).await? {
        checks.push((client.check(&resource.name).await?, resource));
    }
    let invariants = invariant::check_on(client, connection, name.as_deref()).await?;
    match format {
        Format::Json => {
            let checks: Vec<_> = checks.iter().map(|(check, _)| check).collect();
            output::json(&json!({"resources": checks, "invariants": invariants}));
        }
        Format::Text => {
            output::line(&findings(&checks).text());
            if !invariants.is_empty() {
                output::line(&format!("\n{}", invariant::table_of(&invariants).text()));
            }
        }
    }
    let well = |(check, resource): &(ResourceCheck, ResourceView)| {
        check.findings.is_empty()
            && check.answer != CheckAnswer::Unanswered
            && resource.circuit == "closed"
    };
    match checks.iter().all(well) && invariants.iter().all(invariant::is_well) {
        true => Ok(()),
        false => Err(Failure::shown()),
    }
}

/// A line for each disagreement, and one for a resource without any.
fn findings(checks: &[(ResourceCheck, ResourceView)]) -> Table {
    let mut table = Table::new(["RESOURCE", "CIRCUIT", "HELD", "FINDING", "BRANCH", "DETAIL"]);
    for (check, resource) in checks {
        let row = |held: String, finding: &str, branch: &str, detail: String| {
            let (name, circuit) = (check.name.clone(), resource.circuit.clone());
            [name, circuit, held, finding.to_owned(), branch.to_owned(), detail]
        };
        let held = check.held.to_string();
        match check.answer {
            CheckAnswer::AsksItself => {
                let detail = "it asks the coordinator when it is in doubt".to_owned();
                table.row(row(String::new(), "not compared", "", detail));
            }
            CheckAnswer::Unanswered => {
                let error = check.error.clone().unwrap_or_default();
                table.row(row(String::new(), "unanswered", "", error));
            }
            CheckAnswer::Compared if check.findings.is_empty() => {
                table.row(row(held, "ok", "", String::new()));
            }
            CheckAnswer::Compared => {
                for it in &check.findings {
                    let finding = it.finding.as_str();
                    table.row(row(held.clone(), finding, &it.branch, it.detail.clone()));
                }
            }
        }
    }
    table
}

async fn in_doubt(client: &Client, name: Option<String>, format: Format) -> Result<(), Failure> {
    let names = match name {
        Some(name) => vec![name],
        None => {
            let view = client.resources().await?;
            view.resources.into_iter().map(|resource| resource.name).collect()
        }
    };
    let mut found: Vec<(String, Vec<BranchInDoubt>)> = Vec::new();
    for name in names {
        let branches = client.in_doubt(&name).await?;
        found.push((name, branches));
    }
    match format {
        Format::Json => {
            let by_resource = found.into_iter().map(|(name, branches)| (name, json!(branches)));
            output::json(&serde_json::Map::from_iter(by_resource));
        }
        Format::Text if found.iter().all(|(_, branches)| branches.is_empty()) => {
            output::line("no branch is in doubt");
        }
        Format::Text => output::line(&table_of(&found).text()),
    }
    Ok(())
}

fn table_of(found: &[(String, Vec<BranchInDoubt>)]) -> Table {
    let mut table = Table::new(["RESOURCE", "BRANCH", "STATUS", "SINCE", "ATTEMPTS", "LAST ERROR"]);
    for (name, branches) in found {
        for branch in branches {
            table.row([
                name.clone(),
                branch.branch.clone(),
                branch.status.as_str().to_owned(),
                output::age(branch.since_ms),
                branch.attempts.to_string(),
                branch.last_error.clone().unwrap_or_default(),
            ]);
        }
    }
    table
}
