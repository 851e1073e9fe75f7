//! Transfers that all want one row, repeated by the SDK until their outcome is known.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use unanimous_api::{BranchRequest, StatementRequest};
use unanimous_client::{Client, Error};

use crate::exit::Failure;

/// Milliseconds within which a transfer has to be told, whoever is killed.
pub(super) const DEADLINE_MS: u64 = 600_000;

/// The end of one transfer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: Instant,
    pub(super) took: Duration,
}

/// Everybody who wants the row.
pub(super) struct Crowd {
    moments: Arc<Mutex<Vec<Moment>>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<Result<(), Failure>>,
}

impl Crowd {
    /// Sends so many off, spread over the servers; each makes one transfer after the other.
    pub(super) fn start(servers: &[String], count: usize) -> Result<Self, Failure> {
        let moments = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        let lists = lists(servers);
        let all = lists.iter().map(|servers| {
            // Whoever is last in a long line does not ask again and again where it stands.
            let client = Client::builder(servers).http2_prior_knowledge().pauses_ms(5, 50);
            client.reply_timeout_ms(DEADLINE_MS).deadline_ms(DEADLINE_MS).build()
        });
        let all = all.collect::<Result<Vec<_>, _>>()?;
        for client in all.iter().cycle().take(count) {
            clients.spawn(transfers(client.clone(), Arc::clone(&moments), stopped.clone()));
        }
        Ok(Self { moments, stop, clients })
    }

    /// Transfers that were committed from then on, in their order.
    pub(super) fn since(&self, then: Instant) -> Vec<Moment> {
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let first = moments.partition_point(|it| it.at < then);
        moments[first..].to_vec()
    }

    /// Lets everybody come to an end.
    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.map_err(|error| Failure::not_done(error.to_string()))??;
        }
        Ok(())
    }
}

/// Each of the servers first in as many lists as every other, and each other behind it.
fn lists(servers: &[String]) -> Vec<String> {
    let from = |first: usize| {
        let (before, after) = servers.split_at(first);
        [after, before].concat()
    };
    let both = |mut list: Vec<String>| {
        let forth = list.join(",");
        list[1..].reverse();
        [forth, list.join(",")]
    };
    (0..servers.len()).map(from).flat_map(both).collect()
}

async fn transfers(
    client: Client,
    moments: Arc<Mutex<Vec<Moment>>>,
    stop: watch::Receiver<bool>,
) -> Result<(), Failure> {
    while !*stop.borrow() {
        let begun = Instant::now();
        let transfer = client
            .transaction()
            .timeout_ms(DEADLINE_MS)
            .deadline_ms(DEADLINE_MS)
            .branches(branches());
        match transfer.run().await {
            Ok(_) => {
                let mut moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
                moments.push(Moment { at: Instant::now(), took: begun.elapsed() });
            }
            // Not decided when its node was killed: it is made again.
            Err(Error::Aborted(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A customer pays the merchant: the wallet has the row that everybody wants.
fn branches() -> [BranchRequest; 3] {
    let branch = |resource: &str, sql: &str| BranchRequest {
        resource: resource.to_owned(),
        participant: None,
        body: None,
        statements: Some(vec![StatementRequest {
            sql: sql.to_owned(),
            params: Vec::new(),
            expect_rows: Some(1),
        }]),
    };
    [
        branch("wallet", "UPDATE account SET balance = balance + 1 WHERE id = 1"),
        branch("ledger", "INSERT INTO entry (amount) VALUES (1)"),
        branch("audit", "INSERT INTO entry (amount) VALUES (1)"),
    ]
}
