//! Other transaction managers, at the same work as ours on the same machine.
//!
//! None of them is a dependency of anything here: each is a program that somebody has installed, found
//! by an environment variable. What is not there is said with how to get it.

mod dtmrs;
mod restate;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::http::{IN_FLIGHT, SAGA};
use super::load::{Measured, Once, load, post};
use super::process::{self, HttpClient};
use super::{Shape, folder};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::table::Table;

/// How long a peer may take to take requests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Load before anything is measured.
const WARM_UP: Duration = Duration::from_secs(2);

/// A transaction manager that can be measured against.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Peer {
    /// From crates.io, with its default store, SQLite.
    Dtmrs,
    /// Its server and TypeScript SDK from npm, with 2 and with 24 partitions.
    Restate,
}

/// Somebody who runs sagas of two steps, each a call over HTTP.
struct Contestant {
    title: String,
    once: Once,
    /// The server's process.
    pid: u32,
    /// Whoever ends when this goes.
    _children: Vec<Child>,
}

/// Measures ours and each peer, in turn.
pub(super) async fn run(peers: &[Peer], shape: &Shape, format: Format) -> Result<(), Failure> {
    let (folder, _made) = folder(shape.folder.as_ref())?;
    // Before anything is measured.
    for peer in peers {
        match peer {
            Peer::Dtmrs => drop(dtmrs::program()?),
            Peer::Restate => drop(restate::home()?),
        }
    }
    let mut contestants = vec![ours(&folder).await?];
    for peer in peers {
        match peer {
            Peer::Dtmrs => contestants.push(dtmrs::start(&folder).await?),
            Peer::Restate => {
                for partitions in [2, 24] {
                    contestants.push(restate::start(&folder, partitions).await?);
                }
            }
        }
    }
    let rows = measure(&contestants, shape).await?;
    report(&contestants, &rows, format);
    Ok(())
}

async fn ours(folder: &Path) -> Result<Contestant, Failure> {
    // Within this process, as those of dtmrs are.
    let (left, right) = (process::agree_here()?, process::agree_here()?);
    let resources = [("left", format!("{left}/agree")), ("right", format!("{right}/agree"))];
    let served = process::start_coordinator(&folder.join("journal"), &resources).await?;
    let pid = served.child.id().ok_or_else(|| Failure::not_done("the coordinator has ended"))?;
    Ok(Contestant {
        title: "unanimous".to_owned(),
        once: post(&format!("{}/v1/transactions", served.url), SAGA.into()),
        pid,
        _children: vec![served.child],
    })
}

/// How each contestant did with so many in flight.
type Row = (usize, Vec<Measured>);

/// In turn, so that whatever else the machine does falls on all of them. Those whose turn it is not have
/// nothing to do.
async fn measure(contestants: &[Contestant], shape: &Shape) -> Result<Vec<Row>, Failure> {
    let in_flight = match shape.in_flight.is_empty() {
        true => IN_FLIGHT.to_vec(),
        false => shape.in_flight.clone(),
    };
    for Contestant { once, pid, .. } in contestants {
        load(once, *pid, 16, WARM_UP).await?;
    }
    let time = Duration::from_secs(shape.seconds);
    let mut rows = Vec::new();
    for count in in_flight {
        let mut measured = vec![Vec::new(); contestants.len()];
        for _ in 0..shape.rounds {
            for (Contestant { once, pid, .. }, all) in contestants.iter().zip(&mut measured) {
                all.push(load(once, *pid, count, time).await?);
            }
        }
        rows.push((count, measured.iter().map(|all| Measured::middle(all)).collect()));
    }
    Ok(rows)
}

fn report(contestants: &[Contestant], rows: &[Row], format: Format) {
    let mut table = Table::new([
        "in flight",
        "",
        "sagas/s",
        "unanimous to it",
        "p50 ms",
        "p99 ms",
        "server CPU µs",
    ]);
    let mut lines = Vec::new();
    for (count, measured) in rows {
        for (Contestant { title, .. }, it) in contestants.iter().zip(measured) {
            let ratio = measured[0].per_s / it.per_s;
            lines.push(json!({
                "in_flight": count, "who": title, "sagas_per_s": it.per_s,
                "ratio_of_unanimous": ratio, "p50_ms": it.p50_ms, "p99_ms": it.p99_ms,
                "server_cpu_us": it.cpu_us,
            }));
            table.row([
                count.to_string(),
                title.clone(),
                output::count(it.per_s as u64),
                format!("{ratio:.1}x"),
                format!("{:.2}", it.p50_ms),
                format!("{:.2}", it.p99_ms),
                format!("{:.0}", it.cpu_us),
            ]);
        }
    }
    match format {
        Format::Json => output::json(&json!({"rows": lines})),
        Format::Text => {
            output::line("sagas of two steps over HTTP, from submitted to finished\n");
            output::line(&table.text());
        }
    }
}

/// Starts a program that ends with this one, and says which process it is.
async fn start(
    program: &Path,
    arguments: &[String],
    variables: &[(&str, String)],
    folder: &Path,
) -> Result<(Child, u32), Failure> {
    // A shell between, because a foreign program does not look whether its parent lives.
    const TEND: &str = "\"$0\" \"$@\" >log 2>&1 & echo $!; exec >&-; read -r _; kill -9 $!";
    let failed = |error: std::io::Error| {
        Failure::not_done(format!("{} does not start: {error}", program.display()))
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut child = Command::new("sh")
        .args(["-c", TEND])
        .arg(program)
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let out = child.stdout.take().expect("it is piped");
    let line = BufReader::new(out).lines().next_line().await.map_err(failed)?;
    match line.and_then(|line| line.parse().ok()) {
        Some(pid) => Ok((child, pid)),
        None => Err(Failure::not_done(format!("{} does not start", program.display()))),
    }
}

/// Waits until a request is answered with success.
async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) -> Result<(), Failure> {
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < deadline {
        if is_so().await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(Failure::not_done(format!("{what} does not become ready")))
}

async fn is_up(client: &HttpClient, url: &str) -> bool {
    let reply = process::send(client, "GET", url, bytes::Bytes::new()).await;
    reply.is_some_and(|(status, _)| status.is_success())
}
