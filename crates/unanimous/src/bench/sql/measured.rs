//! What transfers cost that go one way, and the measurement of that.
//!
//! Every figure but the latencies is for each transfer that was begun while it was measured. Nobody else
//! uses the servers meanwhile. After each measurement the books of both servers have to be right.

use std::time::Duration;

use tokio::task::block_in_place;

use super::ways::{Way, Ways};
use crate::bench::load::{self, Once};
use crate::exit::Failure;
use crate::stats::{cpu_of, median};

/// A session of PostgreSQL tells what it did at the end of a transaction, but at most once a second.
const TOLD_EVERY: Duration = Duration::from_millis(1_050);

/// One measurement, or the median of several.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) load: load::Measured,
    /// Of this process, which makes the transfers; with the coordinator, if that is within it.
    pub(super) program_cpu_us: f64,
    /// Of both servers.
    pub(super) server_cpu_us: f64,
    /// Of both servers.
    pub(super) server_flushes: f64,
    /// Of the coordinator's journal.
    pub(super) journal_flushes: f64,
}

impl Measured {
    /// Keeps `in_flight` transfers going for a while, and looks what that took.
    pub(super) async fn take(
        ways: &Ways,
        way: Way,
        transfers: &Once,
        in_flight: usize,
        time: Duration,
    ) -> Result<Self, Failure> {
        let before = Spent::so_far(ways, way).await?;
        let load = load::load(transfers, ways.pid(), in_flight, time).await?;
        let after = Spent::so_far(ways, way).await?;
        let flushes_before = (before.begun, before.server_flushes);
        let server_flushes = flushes_since(flushes_before, ways, transfers, in_flight).await?;
        block_in_place(|| ways.banks.check())?;
        let begun = (after.begun - before.begun).max(1) as f64;
        let cpu_us = |after: Duration, before: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / begun
        };
        let journal_flushes = after.journal_flushes.saturating_sub(before.journal_flushes);
        Ok(Self {
            load,
            program_cpu_us: cpu_us(after.program, before.program),
            server_cpu_us: cpu_us(after.servers, before.servers),
            server_flushes,
            journal_flushes: journal_flushes as f64 / begun,
        })
    }

    /// The median of each figure.
    pub(super) fn middle(measured: &[Self]) -> Self {
        let loads: Vec<_> = measured.iter().map(|it| it.load).collect();
        let of =
            |figure: fn(&Self) -> f64| median(&measured.iter().map(figure).collect::<Vec<_>>());
        Self {
            load: load::Measured::middle(&loads),
            program_cpu_us: of(|it| it.program_cpu_us),
            server_cpu_us: of(|it| it.server_cpu_us),
            server_flushes: of(|it| it.server_flushes),
            journal_flushes: of(|it| it.journal_flushes),
        }
    }
}

/// Flushes of the servers for each transfer, since `(transfers, flushes)`, once all sessions have told
/// theirs: what one told late would be counted for the way that comes next.
async fn flushes_since(
    (begun, flushes): (u64, u64),
    ways: &Ways,
    transfers: &Once,
    in_flight: usize,
) -> Result<f64, Failure> {
    tokio::time::sleep(TOLD_EVERY).await;
    // With one more transfer a session tells of those before, and keeps nothing back.
    let telling: Vec<_> = (0..in_flight).map(|_| tokio::spawn(transfers())).collect();
    for told in telling {
        told.await.expect("transfers do not panic")?;
    }
    let flushed = block_in_place(|| ways.banks.flushes())?.saturating_sub(flushes);
    Ok(flushed as f64 / (ways.banks.begun() - begun).max(1) as f64)
}

/// What everybody has used since the start.
struct Spent {
    begun: u64,
    program: Duration,
    servers: Duration,
    server_flushes: u64,
    journal_flushes: u64,
}

impl Spent {
    async fn so_far(ways: &Ways, way: Way) -> Result<Self, Failure> {
        let banks = &ways.banks;
        Ok(Self {
            begun: banks.begun(),
            program: cpu_of(std::process::id()).unwrap_or_default(),
            servers: banks.cpu(),
            server_flushes: block_in_place(|| banks.flushes())?,
            journal_flushes: ways.journal_flushes(way).await?,
        })
    }
}
