//! Transfers between two PostgreSQL servers: what the coordinator adds to bare two-phase commit.
//!
//! The floor is a client that prepares in both servers, each in one round trip, and then commits in
//! both, with no record of the decision anywhere: as fast as it gets, and not safe. Beside it the same
//! transfers through a coordinator in this process, and through one over HTTP.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unanimous_api::{TIMEOUT_MS_DEFAULT, Wait};
use unanimous_core::commit;
use unanimous_core::id::{BranchId, BranchName, ShardId, Timestamp, TxnId};
use unanimous_core::{Answer, Opaque, Outcome, Verb};
use unanimous_participants::guard::Adapter;
use unanimous_participants::postgres::PostgresAdapter;
use unanimous_participants::testing::PrivatePostgres;
use unanimous_participants::{Call, Settings, Trace, Turn, Unobserved, open};
use unanimous_server::Resources;
use unanimous_server::driver::{BeginOrder, Coordinator, IfRunning};

use super::lean::Caller;
use super::load::post_one;
use super::{Shape, folder, inside, process};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::stats::{cpu_of, median, percentile};
use crate::table::Table;

const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];
const ACCOUNTS: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// One measurement.
#[derive(Clone, Copy)]
struct Measured {
    per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of the coordinator alone; zero where that is this process.
    cpu_us: f64,
    /// Of both servers.
    server_cpu_us: f64,
    /// Of both servers.
    flushes: f64,
}

/// Two servers with the same accounts.
struct Banks {
    servers: [PrivatePostgres; 2],
    next: AtomicU64,
}

impl Banks {
    fn start() -> Option<Self> {
        let settings = ["max_connections=700", "max_prepared_transactions=700"];
        let servers = [PrivatePostgres::start(&settings)?, PrivatePostgres::start(&settings)?];
        let rows = format!("SELECT id, 1000000 FROM generate_series(1, {ACCOUNTS}) AS id");
        let table = "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint)";
        for server in &servers {
            server.sql("postgres", &format!("{table}; INSERT INTO account {rows}"));
        }
        Some(Self { servers, next: AtomicU64::new(1) })
    }

    fn urls(&self) -> [String; 2] {
        self.servers.each_ref().map(|server| server.url("postgres", "postgres"))
    }

    /// The statements of one transfer in each server.
    fn transfer(&self) -> [Value; 2] {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        [-1, 1].map(|amount| {
            let account = 1 + number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % ACCOUNTS;
            let sql = "UPDATE account SET balance = balance + $1 WHERE id = $2";
            json!([{"sql": sql, "params": [amount, account]}])
        })
    }

    fn cpu(&self) -> Duration {
        self.servers.iter().map(PrivatePostgres::cpu).sum()
    }

    fn flushes(&self) -> f64 {
        let count = |server: &PrivatePostgres| {
            let count = server.try_sql("postgres", "SELECT wal_sync FROM pg_stat_wal");
            count.ok().and_then(|count| count.parse::<f64>().ok()).unwrap_or_default()
        };
        self.servers.iter().map(count).sum()
    }
}

pub(super) async fn run(shape: &Shape, format: Format) -> Result<(), Failure> {
    let (folder, _made) = folder(shape.folder.as_ref())?;
    let Some(banks) = tokio::task::block_in_place(Banks::start) else {
        return Err(Failure::not_done("PostgreSQL is not installed"));
    };
    let banks = Arc::new(banks);
    let in_flight = match shape.in_flight.is_empty() {
        true => IN_FLIGHT.to_vec(),
        false => shape.in_flight.clone(),
    };
    let [left, right] = banks.urls();
    let resources = [("left", left), ("right", right)];
    let served = process::start_coordinator(&folder.join("journal"), &resources).await?;
    let pid = served.child.id().ok_or_else(|| Failure::not_done("the coordinator has ended"))?;
    let (coordinator, journal) = in_process(&folder.join("own"), &banks)?;
    let caller = Caller::new(&format!("{}/v1/transactions", served.url));
    let mut rows = Vec::new();
    for &count in &in_flight {
        let bare = Arc::new(bare(&banks, count)?);
        let mut measured = [Vec::new(), Vec::new(), Vec::new()];
        // The first round warms up; the limits of the resources settle in it.
        for round in 0..=shape.rounds {
            let time = Duration::from_secs(shape.seconds);
            let floor =
                load(&banks, None, count, time, || by_hand(Arc::clone(&bare), banks.transfer()));
            let floor = floor.await?;
            let over_http = load(&banks, Some(pid), count, time, || {
                over_http(caller.clone(), banks.transfer())
            });
            let over_http = over_http.await?;
            let inside = load(&banks, None, count, time, || {
                inside_this(coordinator.clone(), banks.transfer())
            });
            let inside = inside.await?;
            if round > 0 {
                for (all, one) in measured.iter_mut().zip([floor, over_http, inside]) {
                    all.push(one);
                }
            }
        }
        rows.push((count, measured));
    }
    coordinator.close().await.map_err(|error| Failure::not_done(error.to_string()))?;
    drop(journal);
    report(&rows, format);
    Ok(())
}

fn bare(banks: &Banks, count: usize) -> Result<[PostgresAdapter; 2], Failure> {
    let settings = Settings::default();
    let one = |url: &str| {
        let url = format!("{url}?connections={}", count.min(256));
        PostgresAdapter::new(&url, &settings).map_err(Failure::not_done)
    };
    let [left, right] = banks.urls();
    Ok([one(&left)?, one(&right)?])
}

fn in_process(
    data: &std::path::Path,
    banks: &Banks,
) -> Result<(Coordinator, Arc<dyn unanimous_journal::Journal>), Failure> {
    let mut resources = Resources::default();
    for (name, url) in ["left", "right"].into_iter().zip(banks.urls()) {
        let resource = open(name, &url, &Settings::default(), Arc::new(Unobserved));
        let resource = resource.map_err(|error| Failure::not_done(error.to_string()))?;
        resources = resources.with(name, resource);
    }
    inside::start(data, resources).map_err(|error| Failure::not_done(error.to_string()))
}

/// An identity that no transfer before has had.
fn fresh() -> TxnId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    TxnId::mint(1, ShardId::of(0), number)
}

/// Two-phase commit by a client that writes nothing down.
async fn by_hand(banks: Arc<[PostgresAdapter; 2]>, works: [Value; 2]) -> Result<(), Failure> {
    let txn = fresh();
    let call = |index: usize, verb: Verb, work: Opaque, returned: Opaque| {
        let name = BranchName { cluster: "bench".into(), txn, branch: BranchId(index as u16) };
        banks[index].call(Call {
            name,
            verb,
            shape: commit::Shape::Atomic,
            work,
            returned,
            attempt: 1,
            trace: Trace::of(txn),
            deadline: Timestamp(0),
            patience: PATIENCE,
            turn: Turn::default(),
        })
    };
    let [left, right] = works.map(|work| Opaque::new(work.to_string().as_bytes()));
    let votes = tokio::join!(
        call(0, Verb::Prepare, left, Opaque::default()),
        call(1, Verb::Prepare, right, Opaque::default())
    );
    let (left, right) = match (votes.0.answer, votes.1.answer) {
        (Answer::Yes(left), Answer::Yes(right)) => (left, right),
        other => return Err(Failure::not_done(format!("a server did not prepare: {other:?}"))),
    };
    let done = tokio::join!(
        call(0, Verb::Commit, Opaque::default(), left),
        call(1, Verb::Commit, Opaque::default(), right)
    );
    match (done.0.answer, done.1.answer) {
        (Answer::Done(_), Answer::Done(_)) => Ok(()),
        other => Err(Failure::not_done(format!("a server did not commit: {other:?}"))),
    }
}

async fn over_http(caller: Caller, [left, right]: [Value; 2]) -> Result<(), Failure> {
    let body = json!({"kind": "atomic", "branches": [
        {"resource": "left", "statements": left}, {"resource": "right", "statements": right}]});
    post_one(&caller, body.to_string().as_bytes()).await
}

async fn inside_this(coordinator: Coordinator, works: [Value; 2]) -> Result<(), Failure> {
    let branches = ["left", "right"].into_iter().zip(works);
    let branches = branches.map(|(name, work)| {
        (name.to_owned(), name.to_owned(), Opaque::new(work.to_string().as_bytes()))
    });
    let outcome = coordinator.run(BeginOrder {
        txn: None,
        shape: commit::Shape::Atomic,
        timeout_ms: TIMEOUT_MS_DEFAULT,
        branches: branches.collect(),
        key: None,
        running: IfRunning::Refuse,
        wait: Wait::Finished,
        trace: None,
        webhook: None,
    });
    match outcome.await {
        Ok(Ok(Outcome::Committed)) => Ok(()),
        other => Err(Failure::not_done(format!("not committed: {other:?}"))),
    }
}

/// Keeps `count` transfers in flight for a while.
async fn load<F: Future<Output = Result<(), Failure>> + Send + 'static>(
    banks: &Banks,
    coordinator: Option<u32>,
    count: usize,
    time: Duration,
    transfer: impl Fn() -> F,
) -> Result<Measured, Failure> {
    let used = || coordinator.and_then(cpu_of).unwrap_or_default();
    let latencies = Mutex::new(Vec::new());
    let before = (used(), banks.cpu(), banks.flushes());
    let started = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    let timed = || {
        let transfer = transfer();
        async move {
            let begun = Instant::now();
            transfer.await.map(|()| begun.elapsed().as_secs_f64() * 1e3)
        }
    };
    for _ in 0..count {
        running.spawn(timed());
    }
    while let Some(ended) = running.join_next().await {
        latencies.lock().expect("nobody panics").push(ended.expect("transfers do not panic")?);
        if started.elapsed() < time {
            running.spawn(timed());
        }
    }
    let took = started.elapsed().as_secs_f64();
    let latencies = latencies.into_inner().expect("nobody panics");
    let transfers = latencies.len().max(1) as f64;
    let each_us = |now: Duration, before: Duration| {
        now.saturating_sub(before).as_secs_f64() * 1e6 / transfers
    };
    Ok(Measured {
        per_s: transfers / took,
        p50_ms: percentile(&latencies, 50.0),
        p99_ms: percentile(&latencies, 99.0),
        cpu_us: each_us(used(), before.0),
        server_cpu_us: each_us(banks.cpu(), before.1),
        flushes: (banks.flushes() - before.2) / transfers,
    })
}

fn middle(measured: &[Measured]) -> Measured {
    let of =
        |figure: fn(&Measured) -> f64| median(&measured.iter().map(figure).collect::<Vec<_>>());
    Measured {
        per_s: of(|it| it.per_s),
        p50_ms: of(|it| it.p50_ms),
        p99_ms: of(|it| it.p99_ms),
        cpu_us: of(|it| it.cpu_us),
        server_cpu_us: of(|it| it.server_cpu_us),
        flushes: of(|it| it.flushes),
    }
}

const WAYS: [&str; 3] = ["by hand, unsafe", "over HTTP", "in process"];

fn report(rows: &[(usize, [Vec<Measured>; 3])], format: Format) {
    let mut lines = Vec::new();
    let mut table = Table::new([
        "in flight",
        "",
        "transfers/s",
        "to floor",
        "p50 ms",
        "p99 ms",
        "coordinator CPU µs",
        "server CPU µs",
        "flushes",
    ]);
    for (count, measured) in rows {
        let medians = measured.each_ref().map(|all| middle(all));
        for (way, it) in WAYS.iter().zip(medians) {
            let ratio = it.per_s / medians[0].per_s;
            lines.push(json!({
                "in_flight": count, "way": way, "transfers_per_s": it.per_s,
                "ratio_to_floor": ratio, "p50_ms": it.p50_ms, "p99_ms": it.p99_ms,
                "coordinator_cpu_us": it.cpu_us, "server_cpu_us": it.server_cpu_us,
                "flushes_per_transfer": it.flushes,
            }));
            table.row([
                count.to_string(),
                (*way).to_owned(),
                output::count(it.per_s as u64),
                format!("{ratio:.2}x"),
                format!("{:.2}", it.p50_ms),
                format!("{:.2}", it.p99_ms),
                if it.cpu_us > 0.0 { format!("{:.0}", it.cpu_us) } else { "–".to_owned() },
                format!("{:.0}", it.server_cpu_us),
                format!("{:.2}", it.flushes),
            ]);
        }
    }
    match format {
        Format::Json => output::json(&json!({"rows": lines})),
        Format::Text => {
            output::line("transfers between two PostgreSQL servers on this machine\n");
            output::line(&table.text());
        }
    }
}
