//! Transactions over HTTP: a coordinator and two services that agree at once, each a process.
//!
//! The load generator shares the machine with them, so what a transaction costs the coordinator is
//! told by its own processor time.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::load::{Measured, Once, load, post};
use super::{Shape, folder, process};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::stats::resident_of;
use crate::table::Table;

pub(super) const IN_FLIGHT: [usize; 3] = [1, 16, 64];
const ATOMIC: &str = r#"{"kind":"atomic","branches":[{"resource":"left","body":{"amount":500}},{"resource":"right","body":{"amount":500}}]}"#;

pub(super) const SAGA: &str = r#"{"kind":"saga","steps":[
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
    let transaction = post(&format!("{}/v1/transactions", served.url), kind.body());
    measure(kind.title(), &transaction, pid, shape, format).await
}

/// Keeps more and more of them in flight at the coordinator that is process `pid`, and reports.
pub(super) async fn measure(
    title: &str,
    transaction: &Once,
    pid: u32,
    shape: &Shape,
    format: Format,
) -> Result<(), Failure> {
    let in_flight = match shape.in_flight.is_empty() {
        true => IN_FLIGHT.to_vec(),
        false => shape.in_flight.clone(),
    };
    let time = Duration::from_secs(shape.seconds);
    load(transaction, pid, 16, Duration::from_secs(1)).await?;
    let mut rows = Vec::new();
    for &count in &in_flight {
        let mut measured = Vec::new();
        for _ in 0..shape.rounds {
            measured.push(load(transaction, pid, count, time).await?);
        }
        rows.push((count, measured));
    }
    report(title, &rows, resident_of(pid).unwrap_or_default(), format);
    Ok(())
}

fn report(title: &str, rows: &[(usize, Vec<Measured>)], resident: u64, format: Format) {
    let medians = rows.iter().map(|(count, measured)| {
        let Measured { per_s, p50_ms, p99_ms, cpu_us } = Measured::middle(measured);
        (*count, per_s, p50_ms, p99_ms, cpu_us)
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
            output::line(title);
            output::line(&table.text());
            output::line(&format!("\nresident memory of the coordinator: {} MB", resident >> 20));
        }
    }
}
