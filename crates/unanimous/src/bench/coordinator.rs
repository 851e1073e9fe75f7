//! Durable decisions a second, in this process, against the two bare loops.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use unanimous_api::{TIMEOUT_MS_DEFAULT, Wait};
use unanimous_core::commit;
use unanimous_core::{Opaque, Outcome};
use unanimous_participants::local::{Local, agree};
use unanimous_server::Resources;
use unanimous_server::driver::{BeginOrder, IfRunning};

use super::loops::{Double, Simple};
use super::{Shape, folder, inside};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::stats::{cpu_of, median};
use crate::table::Table;

const IN_FLIGHT: [usize; 4] = [1, 64, 1_024, 8_192];

/// What one kind of loop did in one setting, one figure for each round.
#[derive(Default)]
struct Figures {
    per_s: Vec<f64>,
    cpu_us: Vec<f64>,
}

impl Figures {
    fn add(&mut self, (per_s, cpu_us): (f64, f64)) {
        self.per_s.push(per_s);
        self.cpu_us.push(cpu_us);
    }
}

#[derive(Default)]
struct Compared {
    simple: Figures,
    double: Figures,
    ours: Figures,
}

pub(crate) async fn run(shape: &Shape, format: Format) -> Result<(), Failure> {
    let (folder, _made) = folder(shape.folder.as_ref())?;
    let in_flight = match shape.in_flight.is_empty() {
        true => IN_FLIGHT.to_vec(),
        false => shape.in_flight.clone(),
    };
    let time = Duration::from_secs(shape.seconds);
    let bytes = bytes_per_transaction(&folder).await?;
    let mut rows = Vec::new();
    for &count in &in_flight {
        let mut compared = Compared::default();
        for _ in 0..shape.rounds {
            compared.simple.add(simple(&folder, count, time, bytes).await?);
            compared.ours.add(ours(&folder, count, time).await?.0);
            compared.double.add(double(&folder, count, time, bytes).await?);
        }
        rows.push((count, compared));
    }
    report(&rows, bytes, format);
    Ok(())
}

/// Runs `count` clients for a while; returns what they did in a second, and the microseconds of
/// processor time, their own included, that each transaction took.
pub(super) async fn measure<F: Future<Output = ()> + Send>(
    count: usize,
    time: Duration,
    transaction: impl Fn() -> F + Clone + Send + 'static,
) -> (f64, f64) {
    let own = std::process::id();
    let cpu_before = cpu_of(own).unwrap_or_default();
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let (transaction, done) = (transaction.clone(), Arc::clone(&done));
        let client = async move {
            while started.elapsed() < time {
                transaction().await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        clients.push(tokio::spawn(client));
    }
    for client in clients {
        client.await.expect("clients do not panic");
    }
    let done = done.load(Ordering::Relaxed) as f64;
    let cpu = cpu_of(own).unwrap_or_default().saturating_sub(cpu_before);
    (done / started.elapsed().as_secs_f64(), cpu.as_secs_f64() * 1e6 / done.max(1.0))
}

async fn simple(
    folder: &Path,
    count: usize,
    time: Duration,
    bytes: usize,
) -> Result<(f64, f64), Failure> {
    let (simple, thread) = Simple::start(&folder.join("simple")).map_err(no_file)?;
    let simple = Arc::new(simple);
    let shared = Arc::clone(&simple);
    let rate = measure(count, time, move || {
        let simple = Arc::clone(&shared);
        async move { simple.transaction(bytes).await }
    });
    let rate = rate.await;
    drop(simple);
    thread.join().expect("the writer does not panic");
    Ok(rate)
}

async fn double(
    folder: &Path,
    count: usize,
    time: Duration,
    bytes: usize,
) -> Result<(f64, f64), Failure> {
    let (double, thread) = Double::start(&folder.join("double")).map_err(no_file)?;
    let shared = double.clone();
    let rate = measure(count, time, move || {
        let double = shared.clone();
        async move { double.transaction(bytes).await }
    });
    let rate = rate.await;
    double.stop();
    thread.join().expect("the writer does not panic");
    Ok(rate)
}

/// The coordinator's rate, and the bytes that it wrote for each transaction.
async fn ours(folder: &Path, count: usize, time: Duration) -> Result<((f64, f64), usize), Failure> {
    let data = folder.join("journal");
    let failed = |error: unanimous_journal::JournalError| Failure::not_done(error.to_string());
    let resources = Resources::default()
        .with("left", Arc::new(Local::new(agree)))
        .with("right", Arc::new(Local::new(agree)));
    let (coordinator, journal) = inside::start(&data, resources).map_err(failed)?;
    let before = journal.stats();
    let shared = coordinator.clone();
    let rate = measure(count, time, move || {
        let outcome = shared.run(order());
        async move {
            let outcome = outcome.await.expect("the coordinator answers");
            assert_eq!(outcome.expect("nothing refuses"), Outcome::Committed);
        }
    });
    let rate = rate.await;
    coordinator.close().await.map_err(failed)?;
    let after = journal.stats();
    let transactions = (rate.0 * time.as_secs_f64()).max(1.0);
    let bytes = (after.bytes - before.bytes) as f64 / transactions;
    drop((coordinator, journal));
    std::fs::remove_dir_all(&data).map_err(no_file)?;
    Ok((rate, bytes as usize))
}

/// A transaction of two branches, `left` and `right`.
pub(super) fn order() -> BeginOrder {
    let branch = |name: &str| (name.to_owned(), name.to_owned(), Opaque::default());
    BeginOrder {
        txn: None,
        shape: commit::Shape::Atomic,
        timeout_ms: TIMEOUT_MS_DEFAULT,
        branches: vec![branch("left"), branch("right")],
        key: None,
        running: IfRunning::Refuse,
        wait: Wait::Finished,
        trace: None,
        webhook: None,
    }
}

/// With so many in flight that what a batch adds to each transaction hardly counts.
async fn bytes_per_transaction(folder: &Path) -> Result<usize, Failure> {
    Ok(ours(folder, 1_024, Duration::from_secs(1)).await?.1)
}

fn no_file(error: std::io::Error) -> Failure {
    Failure::not_done(format!("cannot write: {error}"))
}

fn report(rows: &[(usize, Compared)], bytes: usize, format: Format) {
    match format {
        Format::Json => {
            let rows = rows.iter().map(|(count, Compared { simple, double, ours })| {
                json!({
                    "in_flight": count,
                    "simple_loop_per_s": simple.per_s,
                    "double_buffer_per_s": double.per_s,
                    "coordinator_per_s": ours.per_s,
                    "coordinator_cpu_us": ours.cpu_us,
                    "ratio_to_simple": median(&ours.per_s) / median(&simple.per_s),
                    "ratio_to_double": median(&ours.per_s) / median(&double.per_s),
                })
            });
            let rows: Vec<_> = rows.collect();
            output::json(&json!({"bytes_per_transaction": bytes, "rows": rows}));
        }
        Format::Text => {
            let mut table = Table::new([
                "in flight",
                "coordinator/s",
                "CPU µs",
                "simple loop/s",
                "CPU µs",
                "double buffer/s",
                "CPU µs",
                "to simple",
                "to double",
            ]);
            for (count, Compared { simple, double, ours }) in rows {
                let [own, plain, quick] =
                    [ours, simple, double].map(|figures| median(&figures.per_s));
                let cpu_us = |figures: &Figures| format!("{:.1}", median(&figures.cpu_us));
                table.row([
                    count.to_string(),
                    output::count(own as u64),
                    cpu_us(ours),
                    output::count(plain as u64),
                    cpu_us(simple),
                    output::count(quick as u64),
                    cpu_us(double),
                    format!("{:.2}x", own / plain),
                    format!("{:.2}x", own / quick),
                ]);
            }
            output::line(&format!(
                "durable decisions in one process, two branches each, {bytes} bytes a transaction\n"
            ));
            output::line(&table.text());
        }
    }
}
