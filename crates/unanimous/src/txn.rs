//! `unanimous txn`: transactions as the coordinator shows them, and an operator's actions.

use serde_json::json;
use unanimous_api::{
    LogView, OutcomeWord, ParticipantView, ReasonView, ResolveRequest, StepView, SummaryView,
    TransactionView, VoteWord,
};
use unanimous_client::{Client, Filter};

use crate::cli::{ListArgs, ResolveArgs, TxnArgs, TxnCommand};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::table::Table;

/// Runs one command.
pub(crate) async fn run(args: TxnArgs, format: Format) -> Result<(), Failure> {
    let client = crate::remote::connect(&args.connection)?;
    match args.command {
        TxnCommand::List(args) => list(&client, args, format).await,
        TxnCommand::Show { id } => show(&client, &id, format).await,
        TxnCommand::Watch { id } => watch(&client, &id, format).await,
        TxnCommand::Abort { id, reason, if_version } => {
            let view = match if_version {
                None => client.abort(&id, &reason).await?,
                Some(version) => client.begun_saga(&id).cancel_version(version, &reason).await?,
            };
            acted(&view, format);
            Ok(())
        }
        TxnCommand::Signal { id, step, body } => {
            let view = client.begun_saga(&id).signal(&step, &body).await?;
            acted(&view, format);
            Ok(())
        }
        TxnCommand::Retry { id } => {
            let view = client.retry(&id).await?;
            acted(&view, format);
            Ok(())
        }
        TxnCommand::Resolve(args) => resolve(&client, args, format).await,
    }
}

async fn list(client: &Client, args: ListArgs, format: Format) -> Result<(), Failure> {
    let filter = Filter {
        kind: args.kind,
        status: args.status,
        resource: args.resource,
        older_than_ms: args.older_than_ms,
        limit: Some(usize::try_from(args.limit).expect("its range is checked")),
        cursor: args.cursor,
    };
    let page = client.list(&filter).await?;
    match format {
        Format::Json => output::json(&page),
        Format::Text if page.transactions.is_empty() => output::line("no transactions"),
        Format::Text => {
            output::line(&table_of(&page.transactions).text());
            if let Some(cursor) = page.next_cursor {
                output::line(&format!("\nmore: unanimous txn list --cursor {cursor}"));
            }
        }
    }
    Ok(())
}

fn table_of(transactions: &[SummaryView]) -> Table {
    let mut table =
        Table::new(["ID", "KIND", "STATUS", "OUTCOME", "BEGUN", "CHANGED", "RESOURCES", "KEY"]);
    for summary in transactions {
        table.row([
            summary.id.clone(),
            summary.kind.as_str().to_owned(),
            summary.status.as_str().to_owned(),
            outcome_text(summary.outcome),
            format!("{} ago", output::age(summary.initiated_at_ms)),
            format!("{} ago", output::age(summary.updated_at_ms)),
            summary.resources.join(","),
            summary.idempotency_key.clone().unwrap_or_default(),
        ]);
    }
    table
}

async fn show(client: &Client, id: &str, format: Format) -> Result<(), Failure> {
    let view = client.show(id).await?;
    let log = client.log(id).await?;
    match format {
        Format::Json => {
            let mut both = json!(view);
            both["log"] = json!(log.events);
            output::json(&both);
        }
        Format::Text => {
            output::line(&headline(&view));
            let parts = match view.steps.is_empty() {
                true => participants_of(&view.participants),
                false => steps_of(&view.steps),
            };
            output::line(&format!("\n{}", parts.text()));
            output::line(&format!("\n{}", events_of(&log).text()));
        }
    }
    Ok(())
}

fn headline(view: &TransactionView) -> String {
    let mut lines = vec![
        format!("transaction  {}", view.id),
        format!("kind         {}", view.kind.as_str()),
        format!("status       {}{}", view.status.as_str(), attention(view)),
        format!("outcome      {}", outcome_text(view.outcome)),
    ];
    if let Some(state) = &view.state {
        lines.push(format!("state        {state}"));
    }
    for attention in &view.attention {
        lines.push(format!("stuck        {}: {}", attention.step, attention.error));
        lines.extend(attention.actions.iter().map(|it| format!("             {it}")));
    }
    if let Some(reason) = &view.reason {
        lines.push(format!("reason       {}", reason_text(reason)));
    }
    if let Some(resolution) = &view.resolution {
        lines.push(format!("resolved     by {}: {}", resolution.by, resolution.reason));
    }
    if let Some(key) = &view.idempotency_key {
        lines.push(format!("key          {key}"));
    }
    if let Some(webhook) = &view.webhook {
        lines.push(format!("webhook      {webhook}"));
    }
    for statement in view.steps.iter().filter_map(|step| step.statement.as_ref()) {
        lines.push(format!("to be run    {statement}"));
    }
    let timeout = match view.timeout_ms {
        0 => "no timeout".to_owned(),
        timeout_ms => format!("timeout {}", output::span(timeout_ms)),
    };
    lines.push(format!(
        "begun        {} ago, changed {} ago, {timeout}",
        output::age(view.initiated_at_ms),
        output::age(view.updated_at_ms),
    ));
    lines.push(format!("coordinator  {}", view.coordinator));
    lines.iter().map(|line| line.replace(char::is_control, " ")).collect::<Vec<_>>().join("\n")
}

fn attention(view: &TransactionView) -> &'static str {
    if view.needs_attention { "  (needs attention: unanimous txn resolve)" } else { "" }
}

fn participants_of(participants: &[ParticipantView]) -> Table {
    let columns = ["PARTICIPANT", "RESOURCE", "VOTE", "ACK", "ATTEMPTS", "LAST ERROR", "BRANCH"];
    let mut table = Table::new(columns);
    for participant in participants {
        let ack = match (&participant.heuristic, participant.ack) {
            (Some(heuristic), _) => format!("heuristic {heuristic}"),
            (None, true) => "yes".to_owned(),
            (None, false) => "no".to_owned(),
        };
        table.row([
            participant.name.clone(),
            participant.resource.clone(),
            vote_text(participant.vote).to_owned(),
            ack,
            participant.attempts.to_string(),
            participant.last_error.clone().unwrap_or_default(),
            participant.branch.clone(),
        ]);
    }
    table
}

fn steps_of(steps: &[StepView]) -> Table {
    let mut table =
        Table::new(["STEP", "AFTER", "RESOURCE", "STATUS", "ATTEMPTS", "LAST ERROR", "BRANCH"]);
    for step in steps {
        let error = step.reason.as_ref().or(step.last_error.as_ref());
        table.row([
            step.name.clone(),
            step.after.join(", "),
            step.resource.clone().unwrap_or_default(),
            step.status.as_str().to_owned(),
            step.attempts.to_string(),
            error.cloned().unwrap_or_default(),
            step.branch.clone(),
        ]);
    }
    table
}

fn events_of(log: &LogView) -> Table {
    let mut table = Table::new(["AFTER", "EVENT", "PARTICIPANT", "DETAIL"]);
    let began_ms = log.events.first().map_or(0, |event| event.at_ms);
    for event in &log.events {
        table.row([
            output::span(event.at_ms.saturating_sub(began_ms)),
            event.event.clone(),
            event.participant.clone().unwrap_or_default(),
            event.detail.clone(),
        ]);
    }
    table
}

async fn watch(client: &Client, id: &str, format: Format) -> Result<(), Failure> {
    // Opened first, so that nothing happens unseen between the two.
    let mut events = client.events(Some(id)).await?;
    let mut view = client.show(id).await?;
    loop {
        step(&view, format);
        if has_ended(&view) {
            return match view.outcome {
                Some(OutcomeWord::Committed | OutcomeWord::Completed) => Ok(()),
                Some(
                    OutcomeWord::Aborted
                    | OutcomeWord::Mixed
                    | OutcomeWord::Compensated
                    | OutcomeWord::NeedsAttention,
                )
                | None => Err(Failure::shown()),
            };
        }
        events.next().await?;
        view = client.show(id).await?;
    }
}

fn step(view: &TransactionView, format: Format) {
    match format {
        Format::Json => output::json_line(view),
        Format::Text => {
            let done = done(view);
            let reason = view.reason.as_ref().map(reason_text).unwrap_or_default();
            let line = format!("{:10}  {done}  {reason}", view.status.as_str());
            output::line(line.replace(char::is_control, " ").trim_end());
        }
    }
}

fn done(view: &TransactionView) -> String {
    if view.steps.is_empty() {
        let acks = view.participants.iter().filter(|participant| participant.ack).count();
        return format!("{acks} of {} acknowledged", view.participants.len());
    }
    let steps = view.steps.iter().map(|step| format!("{} {}", step.name, step.status.as_str()));
    steps.collect::<Vec<_>>().join(", ")
}

fn has_ended(view: &TransactionView) -> bool {
    view.status.is_final() && !view.needs_attention
}

async fn resolve(client: &Client, args: ResolveArgs, format: Format) -> Result<(), Failure> {
    let request = ResolveRequest {
        outcome: args.outcome,
        reason: args.reason,
        force: args.force,
        by: args.by,
    };
    let view = client.resolve(&args.id, &request).await?;
    acted(&view, format);
    Ok(())
}

fn acted(view: &TransactionView, format: Format) {
    match format {
        Format::Json => output::json(view),
        Format::Text => output::line(&headline(view)),
    }
}

fn outcome_text(outcome: Option<OutcomeWord>) -> String {
    outcome.map_or("-", OutcomeWord::as_str).to_owned()
}

fn vote_text(vote: Option<VoteWord>) -> &'static str {
    match vote {
        Some(VoteWord::Yes) => "YES",
        Some(VoteWord::No) => "NO",
        Some(VoteWord::ReadOnly) => "READ_ONLY",
        None => "-",
    }
}

fn reason_text(reason: &ReasonView) -> String {
    let participant = reason.participant.as_ref().or(reason.step.as_ref());
    let participant = participant.map(|name| format!("{name}: "));
    format!("{}{}: {}", participant.unwrap_or_default(), reason.kind, reason.detail)
}
