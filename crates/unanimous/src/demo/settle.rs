//! After the load: waits until nothing is in doubt any more, with a bound.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use unanimous_api::StatusWord;
use unanimous_client::{Client, Filter};

use super::party::Cast;

/// How long the processes may take until nothing is in doubt, once nothing is killed any more.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same for scenarios whose calls are repeated until they are answered.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where transactions stand that have not ended.
const UNFINISHED: [StatusWord; 7] = [
    StatusWord::Initiated,
    StatusWord::Preparing,
    StatusWord::Prepared,
    StatusWord::Committing,
    StatusWord::Aborting,
    StatusWord::Running,
    StatusWord::Compensating,
];

/// How it came out.
pub(super) struct Settled {
    pub(super) took: Duration,
    /// Transactions that had not ended when the patience did.
    pub(super) unfinished: u64,
}

/// How the coordinator stood when it had nothing left to do, or the patience was at its end.
pub(super) struct Ended {
    pub(super) took: Duration,
    pub(super) unfinished: u64,
    /// Transactions that wait for an operator.
    pub(super) stuck: u64,
}

/// Waits until no party holds a branch prepared and the coordinator, if there is one, has nothing
/// left to do. Branches that are prepared at the end of the patience, the audit finds.
pub(super) async fn settle(cast: &Cast<'_>, client: Option<&Client>) -> Settled {
    let started = Instant::now();
    loop {
        let unfinished = match client {
            Some(client) => unfinished(client).await,
            None => 0,
        };
        let took = started.elapsed();
        if took > PATIENCE || (unfinished == 0 && cast.is_clear()) {
            return Settled { took, unfinished };
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until the coordinator has nothing left to do.
pub(super) async fn to_the_end(client: &Client) -> Ended {
    let started = Instant::now();
    loop {
        let unfinished = unfinished(client).await;
        let took = started.elapsed();
        if unfinished == 0 || took > LONG_PATIENCE {
            let stuck = standing(client, StatusWord::NeedsAttention).await;
            return Ended { took, unfinished, stuck };
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn unfinished(client: &Client) -> u64 {
    let mut unfinished = 0;
    for status in UNFINISHED {
        unfinished += standing(client, status).await;
    }
    unfinished
}

/// Transactions that stand there. A coordinator that does not answer has something left to do.
async fn standing(client: &Client, status: StatusWord) -> u64 {
    let filter = Filter { status: Some(status), ..Filter::default() };
    client.list(&filter).await.map_or(1, |page| page.transactions.len() as u64)
}
