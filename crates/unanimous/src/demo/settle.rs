//! After the load: waits until nothing is in doubt any more, with a bound.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use unanimous_api::StatusWord;
use unanimous_client::{Client, Filter};

use super::party::Cast;

/// How long the processes may take until nothing is in doubt, once nothing is killed any more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where transactions stand that have not ended.
const UNFINISHED: [StatusWord; 5] = [
    StatusWord::Initiated,
    StatusWord::Preparing,
    StatusWord::Prepared,
    StatusWord::Committing,
    StatusWord::Aborting,
];

/// How it came out.
pub(super) struct Settled {
    pub(super) took: Duration,
    /// Transactions that had not ended when the patience did.
    pub(super) unfinished: u64,
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

async fn unfinished(client: &Client) -> u64 {
    let mut unfinished = 0;
    for status in UNFINISHED {
        let filter = Filter { status: Some(status), ..Filter::default() };
        unfinished += match client.list(&filter).await {
            Ok(page) => page.transactions.len() as u64,
            // A coordinator that does not answer has something left to do.
            Err(_) => 1,
        };
    }
    unfinished
}
