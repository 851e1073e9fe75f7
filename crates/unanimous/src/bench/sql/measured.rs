//! What transfers cost that go one way, and the measurement of that.
//!
//! Every figure but the latencies is for each transfer that was begun while it was measured. Nobody else
//! uses the servers meanwhile. After each measurement the books of both servers have to be right.

use std::time::Duration;

use super::ways::{Way, Ways};
use crate::bench::load::{self, Once};
use crate::exit::Failure;
use crate::stats::{cpu_of, median};

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
        tokio::task::block_in_place(|| ways.banks.check())?;
        let begun = (after.begun - before.begun).max(1) as f64;
        let cpu_us = |after: Duration, before: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / begun
        };
        let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / begun;
        Ok(Self {
            load,
            program_cpu_us: cpu_us(after.program, before.program),
            server_cpu_us: cpu_us(after.servers, before.servers),
            server_flushes: each(after.server_flushes, before.server_flushes),
            journal_flushes: each(after.journal_flushes, before.journal_flushes),
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
            server_flushes: tokio::task::block_in_place(|| banks.flushes())?,
            journal_flushes: ways.journal_flushes(way).await?,
        })
    }
}
