//! Keeps transactions in flight for a while, and measures what comes of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::lean::Caller;
use crate::exit::Failure;
use crate::stats::{cpu_of, median, percentile};

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) per_s: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Of the coordinator, for each transaction.
    pub(super) cpu_us: f64,
}

impl Measured {
    /// The median of each figure.
    pub(super) fn middle(measured: &[Self]) -> Self {
        let of =
            |figure: fn(&Self) -> f64| median(&measured.iter().map(figure).collect::<Vec<_>>());
        Self {
            per_s: of(|it| it.per_s),
            p50_ms: of(|it| it.p50_ms),
            p99_ms: of(|it| it.p99_ms),
            cpu_us: of(|it| it.cpu_us),
        }
    }
}

/// Runs one transaction to its end.
pub(super) type Once = Arc<dyn Fn() -> Ending + Send + Sync>;
type Ending = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// A transaction as whatever `run` does.
pub(super) fn once<F: Future<Output = Result<(), Failure>> + Send + 'static>(
    run: impl Fn() -> F + Send + Sync + 'static,
) -> Once {
    Arc::new(move || -> Ending { Box::pin(run()) })
}

/// A transaction as one request, which is answered with 200 when it has come out.
pub(super) fn post(target: &str, body: Bytes) -> Once {
    let caller = Caller::new(target);
    once(move || {
        let (caller, body) = (caller.clone(), body.clone());
        async move { post_one(&caller, &body).await }
    })
}

/// Posts one request, which is answered with 200 when what it asks for has come out.
pub(super) async fn post_one(caller: &Caller, body: &[u8]) -> Result<(), Failure> {
    match caller.post(body).await {
        Ok((200, _)) => Ok(()),
        Ok((status, body)) => {
            let body = String::from_utf8_lossy(&body);
            Err(Failure::not_done(format!("the server answered {status}: {body}")))
        }
        Err(error) => Err(Failure::not_done(format!("the server did not answer: {error}"))),
    }
}

/// Keeps `count` transactions in flight for a while, at the coordinator that is process `pid`.
pub(super) async fn load(
    transaction: &Once,
    pid: u32,
    count: usize,
    time: Duration,
) -> Result<Measured, Failure> {
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let cpu_before = cpu_of(pid).unwrap_or_default();
    let started = Instant::now();
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let (transaction, latencies) = (Arc::clone(transaction), Arc::clone(&latencies));
            tokio::spawn(async move {
                let mut own = Vec::new();
                while started.elapsed() < time {
                    let begun = Instant::now();
                    transaction().await?;
                    own.push(begun.elapsed().as_secs_f64() * 1e3);
                }
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
