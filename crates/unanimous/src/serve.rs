//! `unanimous serve`: the coordinator as a process.

use std::io::{IsTerminal, Read};
use std::net::SocketAddr;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use unanimous_server::config::{Config, Overrides};
use unanimous_server::{Nodes, Server, StartError};

use crate::cli::{LogFormat, ServeArgs};
use crate::exit::Failure;

/// Runs until a signal, or until the journal fails.
pub(crate) async fn serve(args: ServeArgs) -> Result<(), Failure> {
    start_logging(args.log_format);
    raise_file_limit();
    let overrides = Overrides {
        listen: args.listen,
        data: args.data,
        journal: args.journal,
        journal_password: std::env::var("UNANIMOUS_JOURNAL_PASSWORD").ok(),
        token: std::env::var("UNANIMOUS_TOKEN").ok(),
        node: args.node,
        node_address: args.node_address,
    };
    let config = Config::load(args.config.as_deref(), overrides)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let (stop, stopped) = watch::channel(false);
    if args.with_parent {
        // At once, as if killed: whoever could want what is under way is gone.
        when_parent_ends(|| std::process::exit(0));
    }
    take_all_files();
    stop_at_signals(stop)
        .map_err(|error| Failure::not_done(format!("cannot listen for signals: {error}")))?;
    let ended = match config.journal.is_shared() {
        true => {
            let nodes = Nodes::start(config).await.map_err(refused)?;
            tell(nodes.address());
            nodes.run(stopped).await
        }
        false => {
            let server = Server::start(config).await.map_err(refused)?;
            tell(server.address());
            server.run(stopped).await
        }
    };
    ended.map_err(|error| Failure::not_done(error.to_string()))
}

fn refused(error: StartError) -> Failure {
    Failure::usage(error.to_string())
}

fn tell(address: std::io::Result<SocketAddr>) {
    if let Ok(address) = address {
        tracing::info!(%address, "listening");
    }
}

/// Calls `then` once standard input is closed, which happens when the process that holds its other
/// end ends, however it ends.
pub(crate) fn when_parent_ends(then: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        // Whatever comes is of no interest, and an error is as good as the end.
        while matches!(input.read(&mut [0; 64]), Ok(1..)) {}
        then();
    });
}

/// Each connection is an open file, and many systems start programs with room for 1,024 of them.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays low");
    }
}

fn stop_at_signals(stop: watch::Sender<bool>) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.send_replace(true);
    });
    Ok(())
}

/// As many files as the system lets this process have: each connection is one.
fn take_all_files() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    // Where it may not, it has what it has.
    let _ = setrlimit(Resource::Nofile, files);
}

fn start_logging(format: LogFormat) {
    let filter =
        EnvFilter::try_from_env("UNANIMOUS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
