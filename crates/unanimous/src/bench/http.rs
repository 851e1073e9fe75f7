//! Transactions over HTTP: a coordinator and two services that agree at once, each a process.
//!
//! The load generator shares the machine with them, so what a transaction costs the coordinator is
//! told by its own processor time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use bytes::Bytes;
use serde_json::json;

use super::process::{self, HttpClient};
use super::{Shape, folder};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::stats::{cpu_of, median, percentile, resident_of};
use crate::table::Table;

const IN_FLIGHT: [usize; 3] = [1, 16, 64];
const ATOMIC: &str = r#"{"kind":"atomic","branches":[{"resource":"left","body":{"amount":500}},{"resource":"right","body":{"amount":500}}]}"#;

/// One measurement.
struct Measured {
    per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
}

const SAGA: &str = r#"{"kind":"saga","steps":[
{"name":"reserve","action":{"resource":"left","path":"/reserve"},"compensation":{"resource":"left","path":"/release"}},
{"name":"charge","after":["reserve"],"action":{"resource":"right","path":"/charge"},"compensation":{"resource":"right","path":"/refund"}}]}"#;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// Two branches, in two phases.
    Atomic,
    /// Two steps, one after the other.
    Saga,
}

impl Load {
    fn body(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Atomic => ATOMIC.as_bytes(),
            Self::Saga => SAGA.as_bytes(),
        })
    }

    fn title(self) -> &'static str {
        match self {
            Self::Atomic => {
                "transactions over HTTP, two services, every reply after all four calls\n"
            }
            Self::Saga => "sagas over HTTP, two steps at two services, every step durable\n",
        }
    }
}

pub(super) async fn run(kind: Load, shape: &Shape, format: Format) -> Result<(), Failure> {
    let (folder, _made) = folder(shape.folder.as_ref())?;
    let (_left, left) = process::start_service().await?;
    let (_right, right) = process::start_service().await?;
    let resources = [("left", format!("{left}/agree")), ("right", format!("{right}/agree"))];
    let served = process::start_coordinator(&folder.join("journal"), &resources).await?;
    let pid = served.child.id().ok_or_else(|| Failure::not_done("the coordinator has ended"))?;
    let in_flight = match shape.in_flight.is_empty() {
        true => IN_FLIGHT.to_vec(),
        false => shape.in_flight.clone(),
    };
    let time = Duration::from_secs(shape.seconds);
    load(kind, &served.url, pid, 16, Duration::from_secs(1)).await?;
    let mut rows = Vec::new();
    for &count in &in_flight {
        let mut measured = Vec::new();
        for _ in 0..shape.rounds {
            measured.push(load(kind, &served.url, pid, count, time).await?);
        }
        rows.push((count, measured));
    }
    report(kind, &rows, resident_of(pid).unwrap_or_default(), format);
    Ok(())
}

/// Keeps `count` transactions in flight for a while.
async fn load(
    kind: Load,
    url: &str,
    pid: u32,
    count: usize,
    time: Duration,
) -> Result<Measured, Failure> {
    let client = process::http_client();
    let target = format!("{url}/v1/transactions");
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let cpu_before = cpu_of(pid).unwrap_or_default();
    let started = Instant::now();
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let (client, target) = (client.clone(), target.clone());
            let latencies = Arc::clone(&latencies);
            tokio::spawn(async move {
                let own = one_after_another(&client, kind.body(), &target, started, time).await?;
                latencies.lock().expect("nobody panics").extend(own);
                Ok::<_, Failure>(())
            })
        })
        .collect();
    for client in clients {
        client.await.expect("clients do not panic")?;
    }
    let took = started.elapsed();
    let cpu = cpu_of(pid).unwrap_or_default().saturating_sub(cpu_before);
    let latencies = latencies.lock().expect("nobody panics");
    Ok(Measured {
        per_s: latencies.len() as f64 / took.as_secs_f64(),
        p50_ms: percentile(&latencies, 50.0),
        p99_ms: percentile(&latencies, 99.0),
        cpu_us: cpu.as_secs_f64() * 1e6 / latencies.len().max(1) as f64,
    })
}

/// Milliseconds of each transaction of one client.
async fn one_after_another(
    client: &HttpClient,
    body: Bytes,
    target: &str,
    started: Instant,
    time: Duration,
) -> Result<Vec<f64>, Failure> {
    let mut latencies = Vec::new();
    while started.elapsed() < time {
        let begun = Instant::now();
        let reply = process::send(client, "POST", target, body.clone()).await;
        match reply {
            Some((StatusCode::OK, _)) => latencies.push(begun.elapsed().as_secs_f64() * 1e3),
            Some((status, body)) => {
                let body = String::from_utf8_lossy(&body);
                return Err(Failure::not_done(format!(
                    "the coordinator answered {status}: {body}"
                )));
            }
            None => return Err(Failure::not_done("the coordinator did not answer")),
        }
    }
    Ok(latencies)
}

fn report(kind: Load, rows: &[(usize, Vec<Measured>)], resident: u64, format: Format) {
    let medians = rows.iter().map(|(count, measured)| {
        let of =
            |figure: fn(&Measured) -> f64| median(&measured.iter().map(figure).collect::<Vec<_>>());
        (*count, of(|it| it.per_s), of(|it| it.p50_ms), of(|it| it.p99_ms), of(|it| it.cpu_us))
    });
    match format {
        Format::Json => {
            let rows: Vec<_> = medians
                .map(|(count, per_s, p50_ms, p99_ms, cpu_us)| {
                    json!({
                        "in_flight": count, "transactions_per_s": per_s, "p50_ms": p50_ms,
                        "p99_ms": p99_ms, "coordinator_cpu_us": cpu_us,
                    })
                })
                .collect();
            output::json(&json!({"rows": rows, "coordinator_resident_bytes": resident}));
        }
        Format::Text => {
            let columns = ["in flight", "transactions/s", "p50 ms", "p99 ms", "coordinator CPU µs"];
            let mut table = Table::new(columns);
            for (count, per_s, p50_ms, p99_ms, cpu_us) in medians {
                table.row([
                    count.to_string(),
                    output::count(per_s as u64),
                    format!("{p50_ms:.2}"),
                    format!("{p99_ms:.2}"),
                    format!("{cpu_us:.0}"),
                ]);
            }
            output::line(kind.title());
            output::line(&table.text());
            output::line(&format!("\nresident memory of the coordinator: {} MB", resident >> 20));
        }
    }
}
