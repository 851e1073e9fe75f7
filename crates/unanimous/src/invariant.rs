//! `unanimous invariant`: what always holds across the configured resources.

use serde_json::json;
use unanimous_api::{InvariantQuery, InvariantResult, InvariantView};
use unanimous_client::Client;

use crate::cli::{Connection, InvariantArgs, InvariantCommand};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::remote;
use crate::table::Table;

/// Runs one command.
pub(crate) async fn run(args: InvariantArgs, format: Format) -> Result<(), Failure> {
    let client = remote::connect(&args.connection)?;
    match args.command {
        InvariantCommand::List => {
            show(&client.invariants().await?.invariants, format);
            Ok(())
        }
        InvariantCommand::Check { name } => {
            let mut invariants = client.invariants().await?.invariants;
            if let Some(name) = name {
                invariants.retain(|invariant| invariant.name == name);
                if invariants.is_empty() {
                    return Err(Failure::usage(format!("no invariant {name:?} is configured")));
                }
            }
            let checked = check(&args.connection, &invariants).await?;
            show(&checked, format);
            match checked.iter().all(is_well) {
                true => Ok(()),
                false => Err(Failure::shown()),
            }
        }
    }
}

/// Checks those that ask the resource of this name, or all of them.
pub(crate) async fn check_on(
    client: &Client,
    connection: &Connection,
    resource: Option<&str>,
) -> Result<Vec<InvariantView>, Failure> {
    let mut invariants = client.invariants().await?.invariants;
    if let Some(name) = resource {
        invariants.retain(|invariant| invariant.queries.iter().any(|it| it.resource == name));
    }
    check(connection, &invariants).await
}

async fn check(
    connection: &Connection,
    invariants: &[InvariantView],
) -> Result<Vec<InvariantView>, Failure> {
    let client = remote::connect_patiently(connection)?;
    let mut checked = Vec::with_capacity(invariants.len());
    for invariant in invariants {
        checked.push(client.check_invariant(&invariant.name).await?);
    }
    Ok(checked)
}

/// Whether nobody has to look at it. That nothing could be said while much was going on is no fault.
pub(crate) fn is_well(invariant: &InvariantView) -> bool {
    match invariant.result {
        InvariantResult::Holds | InvariantResult::Busy | InvariantResult::Unchecked => true,
        InvariantResult::Violated | InvariantResult::Unknown => false,
    }
}

fn show(invariants: &[InvariantView], format: Format) {
    match format {
        Format::Json => output::json(&json!({ "invariants": invariants })),
        Format::Text if invariants.is_empty() => {
            output::line("no invariants are configured; add [invariants.NAME] to unanimous.toml");
        }
        Format::Text => output::line(&table_of(invariants).text()),
    }
}

/// A line for each invariant.
pub(crate) fn table_of(invariants: &[InvariantView]) -> Table {
    let mut table = Table::new([
        "INVARIANT",
        "RELATION",
        "RESULT",
        "DIFFERENCE",
        "VALUES",
        "CHECKED",
        "DETAIL",
    ]);
    for invariant in invariants {
        let value =
            |it: &InvariantQuery| format!("{}={}", it.resource, it.value.as_deref().unwrap_or("?"));
        let values: Vec<_> = invariant.queries.iter().map(value).collect();
        table.row([
            invariant.name.clone(),
            invariant.relation.clone(),
            invariant.result.as_str().to_owned(),
            invariant.difference.clone().unwrap_or_default(),
            values.join(" "),
            invariant.checked_at_ms.map(output::age).unwrap_or_default(),
            invariant.detail.clone().unwrap_or_default(),
        ]);
    }
    table
}
