//! The one binary: server, command line and demo.
//!
//! Every command ends with an exit code of the contract: 0 done, 1 what was asked for did not come
//! out, 2 bad usage or configuration, 3 the server cannot be reached. Results go to standard
//! output, as text or, with `--json`, as one JSON document; everything else goes to standard error.

mod bench;
mod cli;
mod demo;
mod doctor;
mod exit;
mod invariant;
mod node;
mod output;
mod remote;
mod resource;
mod serve;
mod sim;
mod stats;
mod table;
mod txn;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};
use exit::Failure;

// A third less processor time per request than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.format();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(format),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let format = cli.format();
    match cli.command {
        Command::Serve(args) => in_runtime(serve::serve(args)),
        Command::Demo(args) => in_runtime(demo::demo(args, format)),
        Command::Txn(args) => in_runtime(txn::run(args, format)),
        Command::Resource(args) => in_runtime(resource::run(args, format)),
        Command::Invariant(args) => in_runtime(invariant::run(args, format)),
        Command::Node(args) => in_runtime(node::run(args, format)),
        Command::Doctor(args) => in_runtime(doctor::run(args, format)),
        Command::Sim(args) => sim::run(&args, format),
        Command::Bench(args) => in_runtime(bench::run(args, format)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "unanimous", &mut script);
            output::write(&script);
            Ok(())
        }
        Command::Bank(args) => in_runtime(demo::bank::run(args)),
        Command::Travel(args) => in_runtime(demo::booking::serve(args)),
        Command::Shop(args) => in_runtime(demo::order::serve(args)),
        Command::Seats(args) => in_runtime(demo::seats::serve(args)),
        Command::Janitor { folder } => {
            demo::child::sweep_after_parent(&folder);
            Ok(())
        }
    }
}

fn in_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::not_done(format!("cannot start threads: {error}")))?;
    let done = runtime.block_on(work);
    // Nothing that is left may hold up the exit: what matters is durable by now.
    runtime.shutdown_background();
    done
}
