//! After the load: waits until nothing is in doubt any more, with a bound.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use unanimous_api::StatusWord;
use unanimous_client::{Client, Filter};

use super::plan::Role;
use super::{book_path, books};

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

/// What to look at.
pub(super) struct Settling<'a> {
    /// The coordinator, if there is one.
    pub(super) client: Option<Client>,
    /// Where the services' files are.
    pub(super) folder: &'a Path,
}

/// How it came out.
pub(super) struct Settled {
    pub(super) took: Duration,
    /// Transactions that had not ended when the patience did.
    pub(super) unfinished: u64,
}

impl Settling<'_> {
    /// Waits until no service holds a branch prepared and the coordinator has nothing left to do.
    /// Branches that are prepared at the end of the patience, the audit finds.
    pub(super) async fn wait(&self) -> Settled {
        let started = Instant::now();
        loop {
            let unfinished = self.unfinished().await;
            let took = started.elapsed();
            if took > PATIENCE || (unfinished == 0 && self.nothing_prepared()) {
                return Settled { took, unfinished };
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn nothing_prepared(&self) -> bool {
        let prepared = Role::BANKS.map(|role| books::prepared(&book_path(self.folder, role)));
        prepared.iter().all(|prepared| matches!(prepared, Ok(0)))
    }

    async fn unfinished(&self) -> u64 {
        let Some(client) = &self.client else { return 0 };
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
}
