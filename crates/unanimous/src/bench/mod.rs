//! `unanimous bench`: what the coordinator costs, as ratios side by side in one run.
//!
//! Machines are noisy, so nothing here is an absolute promise: each figure stands beside a floor that
//! was measured in turn with it, on the same disk, and what counts is the ratio of the medians.

mod coordinator;
mod costs;
mod embedded;
mod etcd;
mod fleet;
mod http;
mod inside;
mod journals;
mod lean;
mod load;
mod loops;
mod peers;
mod process;
mod saga;
mod sql;
mod startup;
mod takeover;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::exit::Failure;
use crate::output::Format;

/// Arguments of `unanimous bench`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  unanimous bench coordinator                 durable decisions a second against bare loops
  unanimous bench embedded --in-flight 1       at a coordinator within a program
  unanimous bench http --seconds 5            over HTTP, with processor time per transaction
  unanimous bench saga --in-flight 16         sagas of two steps, over HTTP and in process
  unanimous bench saga --against dtmrs,restate  the same sagas over HTTP at others, which you install
  unanimous bench sql --in-flight 16           what the coordinator adds to bare two-phase commit
  unanimous bench journals                    a node on PostgreSQL and on etcd, against bare loops
  unanimous bench costs                       protocols side by side, healthy and killed
  unanimous bench takeover --kills 50          how long a row is blocked by a node that is killed
  unanimous bench startup --finished 1000000  restart with much history and much left open")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// In this process, with branches that agree at once, against two bare write loops.
    Coordinator(Shape),
    /// Two-phase commit, a saga and commit by consensus, with participants some milliseconds away:
    /// latency healthy and with the coordinator killed, and for how long something is held.
    Costs(costs::CostsArgs),
    /// At a coordinator within this process, by way of the SDK, with branches that agree at once.
    Embedded(Shape),
    /// Over HTTP with two services that agree at once, each in a process of its own.
    Http(Shape),
    /// In this process on a journal in a database, PostgreSQL and etcd, against bare loops of rows.
    Journals(journals::JournalsArgs),
    /// Sagas of two steps: over HTTP with two services, and in this process with steps that do nothing.
    Saga(saga::SagaArgs),
    /// Transfers between two PostgreSQL servers of its own, and between PostgreSQL and MariaDB: over HTTP,
    /// by SDK and in process, against two-phase commit by hand.
    Sql(sql::SqlArgs),
    /// Start-up, recovery after kill -9 and memory, with much history.
    Startup(startup::StartupArgs),
    /// One row that everybody wants, and the node that has it killed: PostgreSQL, and the journal in a
    /// folder, in PostgreSQL and in etcd.
    Takeover(takeover::TakeoverArgs),
    /// A service that agrees to everything; a part of `http`.
    #[command(hide = true)]
    Service,
}

/// How long and how often to measure.
#[derive(Args, Clone, Debug)]
pub(crate) struct Shape {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3)]
    pub(crate) seconds: u64,
    /// Measurements of each figure; the median counts.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Transactions in flight; may be repeated.
    #[arg(long)]
    pub(crate) in_flight: Vec<usize>,
    /// Folder for the journals; a temporary one unless it is given.
    #[arg(long)]
    pub(crate) folder: Option<PathBuf>,
}

/// Runs one benchmark.
pub(crate) async fn run(args: BenchArgs, format: Format) -> Result<(), Failure> {
    match args.bench {
        Bench::Coordinator(shape) => coordinator::run(&shape, format).await,
        Bench::Costs(args) => costs::run(&args, format).await,
        Bench::Embedded(shape) => embedded::run(&shape, format).await,
        Bench::Http(shape) => http::run(http::Load::Atomic, &shape, format).await,
        Bench::Journals(args) => journals::run(&args, format).await,
        Bench::Saga(args) => saga::run(&args, format).await,
        Bench::Sql(args) => sql::run(&args, format).await,
        Bench::Startup(args) => startup::run(&args, format).await,
        Bench::Takeover(args) => takeover::run(&args, format).await,
        Bench::Service => process::serve_agreeing().await,
    }
}

/// A folder to measure in, and what removes it in the end.
fn folder(wanted: Option<&PathBuf>) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
    match wanted {
        Some(folder) => Ok((folder.clone(), None)),
        None => {
            let made = tempfile::Builder::new().prefix("unanimous-bench-").tempdir();
            let made = made.map_err(|error| Failure::not_done(format!("no folder: {error}")))?;
            Ok((made.path().to_owned(), Some(made)))
        }
    }
}
