//! A start with much history and much left open; recovery after kill -9; memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use tokio::sync::Semaphore;
use unanimous_api::{TIMEOUT_MS_MAX, Wait};
use unanimous_core::commit;
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_journal::JournalError;
use unanimous_participants::local::{Local, agree};
use unanimous_server::Resources;
use unanimous_server::driver::{BeginOrder, Coordinator, IfRunning};

use super::process;
use super::{folder, inside};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::stats::{median, resident_of};
use crate::table::Table;

/// Arguments of `unanimous bench startup`.
#[derive(Args, Clone, Debug)]
pub(super) struct StartupArgs {
    /// Transactions that have ended.
    #[arg(long, default_value_t = 1_000_000)]
    finished: usize,
    /// Transactions that are open: decided, with a participant that has not heard of it.
    #[arg(long, default_value_t = 10_000)]
    open: usize,
    /// Starts to measure; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Folder for the journal; a temporary one unless it is given.
    #[arg(long)]
    folder: Option<PathBuf>,
}

struct Filled {
    took: Duration,
    /// Resident memory after each quarter of the transactions.
    resident: Vec<u64>,
}

struct Started {
    ready_after: Duration,
    decided_after: Duration,
    resident: u64,
}

pub(super) async fn run(args: &StartupArgs, format: Format) -> Result<(), Failure> {
    let (folder, _made) = folder(args.folder.as_ref())?;
    let data = folder.join("journal");
    let filled = fill(&data, args).await.map_err(|error| Failure::not_done(error.to_string()))?;
    let (_service, url) = process::start_service().await?;
    let resources = [("fast", format!("{url}/agree")), ("hangs", format!("{url}/hang"))];
    let mut starts = Vec::new();
    for _ in 0..args.rounds {
        starts.push(start(&data, &resources).await?);
    }
    report(args, &filled, &starts, format);
    Ok(())
}

/// Fills a journal the way a coordinator does.
async fn fill(data: &Path, args: &StartupArgs) -> Result<Filled, JournalError> {
    let hangs = |call: &unanimous_participants::Call| match call.verb {
        Verb::Prepare => Answer::Yes(Opaque::default()),
        Verb::Commit | Verb::CommitOnePhase | Verb::Rollback | Verb::Act | Verb::Compensate => {
            Answer::Silent("hangs".into())
        }
    };
    let resources = Resources::default()
        .with("fast", Arc::new(Local::new(agree)))
        .with("hangs", Arc::new(Local::new(hangs)));
    let (coordinator, _) = inside::start(data, resources)?;
    let started = Instant::now();
    let mut resident = Vec::new();
    for _ in 0..4 {
        many(&coordinator, args.finished / 4, ["fast", "fast"], Wait::Finished).await;
        resident.extend(resident_of(std::process::id()));
    }
    let took = started.elapsed();
    many(&coordinator, args.open, ["fast", "hangs"], Wait::Decided).await;
    coordinator.close().await?;
    Ok(Filled { took, resident })
}

/// Runs so many transactions, some at a time.
async fn many(coordinator: &Coordinator, count: usize, resources: [&'static str; 2], wait: Wait) {
    let places = Arc::new(Semaphore::new(1_024));
    for _ in 0..count {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        let branch =
            |name: &str, resource: &str| (name.to_owned(), resource.to_owned(), Opaque::default());
        let outcome = coordinator.run(BeginOrder {
            txn: None,
            shape: commit::Shape::Atomic,
            timeout_ms: TIMEOUT_MS_MAX,
            branches: vec![branch("left", resources[0]), branch("right", resources[1])],
            key: None,
            running: IfRunning::Refuse,
            wait,
            trace: None,
            webhook: None,
        });
        tokio::spawn(async move {
            let outcome = outcome.await.expect("the coordinator answers");
            outcome.expect("nothing refuses");
            drop(place);
        });
    }
    let all = places.acquire_many(1_024).await;
    drop(all.expect("it is never closed"));
}

/// Starts a coordinator, has it decide a new transaction, and kills it with -9 again.
async fn start(data: &Path, resources: &[(&str, String)]) -> Result<Started, Failure> {
    let begun = Instant::now();
    let mut served = process::start_coordinator(data, resources).await?;
    let client = process::http_client();
    let body = r#"{"kind":"atomic","wait":"decided","branches":[
        {"resource":"fast","participant":"left"},{"resource":"fast","participant":"right"}]}"#;
    let target = format!("{}/v1/transactions", served.url);
    let reply = process::send(&client, "POST", &target, Bytes::from_static(body.as_bytes())).await;
    let decided_after = begun.elapsed();
    match reply {
        Some((StatusCode::OK, _)) => {}
        Some((status, body)) => {
            let body = String::from_utf8_lossy(&body);
            return Err(Failure::not_done(format!("the coordinator answered {status}: {body}")));
        }
        None => return Err(Failure::not_done("the coordinator did not answer")),
    }
    let resident = served.child.id().and_then(resident_of).unwrap_or_default();
    // It fails only for a child that is dead already.
    drop(served.child.kill().await);
    Ok(Started { ready_after: served.ready_after, decided_after, resident })
}

fn report(args: &StartupArgs, filled: &Filled, starts: &[Started], format: Format) {
    let ms = |of: fn(&Started) -> Duration| {
        median(&starts.iter().map(|start| of(start).as_secs_f64() * 1e3).collect::<Vec<_>>())
    };
    let (ready_ms, decided_ms) = (ms(|it| it.ready_after), ms(|it| it.decided_after));
    let resident_mb: Vec<u64> = filled.resident.iter().map(|bytes| bytes >> 20).collect();
    let started_mb = starts.iter().map(|start| start.resident >> 20).max().unwrap_or_default();
    match format {
        Format::Json => output::json(&json!({
            "finished": args.finished,
            "open": args.open,
            "fill_s": filled.took.as_secs_f64(),
            "resident_mb_by_quarter": resident_mb,
            "ready_after_ms": ready_ms,
            "first_decision_after_ms": decided_ms,
            "resident_mb_after_start": started_mb,
        })),
        Format::Text => {
            let mut table = Table::new(["figure", "median"]);
            let mut row = |figure: &str, value: String| table.row([figure.to_owned(), value]);
            row("start of the process to ready", format!("{ready_ms:.0} ms"));
            row("kill -9, start to first new decision", format!("{decided_ms:.0} ms"));
            row("resident memory after the start", format!("{started_mb} MB"));
            for (quarter, mb) in (1..).zip(&resident_mb) {
                let count = output::count((args.finished / 4 * quarter) as u64);
                row(&format!("resident memory after {count} transactions"), format!("{mb} MB"));
            }
            output::line(&format!(
                "a journal with {} finished and {} open transactions, filled in {:.1} s\n",
                output::count(args.finished as u64),
                output::count(args.open as u64),
                filled.took.as_secs_f64()
            ));
            output::line(&table.text());
        }
    }
}
