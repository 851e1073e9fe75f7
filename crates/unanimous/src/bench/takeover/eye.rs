//! Looks at the row in its database, to see when the locks of a transfer are gone.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use unanimous_core::id::BranchName;
use unanimous_participants::{Settings, Unobserved, open};

use super::PATIENCE;
use crate::exit::Failure;

/// Between two looks at a lock that is held.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The names of all branches that the wallet holds prepared.
const PREPARED: &str =
    "SELECT coalesce(string_agg(gid, ' '), '') FROM pg_prepared_xacts WHERE database = 'wallet'";

/// A thread of its own with a connection of its own: thousands of clients that notice a kill at once are
/// not to delay what is seen of it.
pub(super) struct Eye {
    asks: mpsc::UnboundedSender<Ask>,
}

enum Ask {
    /// What is prepared now.
    Prepared(oneshot::Sender<Result<Vec<BranchName>, String>>),
    /// When the last of these was gone.
    Gone(Vec<BranchName>, oneshot::Sender<Result<Instant, String>>),
}

impl Eye {
    pub(super) async fn open(url: &str) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::not_done(error.to_string());
        let (asks, asked) = mpsc::unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let url = url.to_owned();
        thread::Builder::new()
            .name("eye".to_owned())
            .spawn(move || runtime.block_on(look(&url, asked)))
            .map_err(failed)?;
        let eye = Self { asks };
        // Connected while there is nothing else to do.
        eye.prepared().await?;
        Ok(eye)
    }

    /// The branches that the wallet holds prepared.
    pub(super) async fn prepared(&self) -> Result<Vec<BranchName>, Failure> {
        self.ask(Ask::Prepared).hear().await
    }

    /// Looks from now on until none of these branches is prepared any more, and tells when that was.
    pub(super) fn gone(&self, branches: Vec<BranchName>) -> Seen<Instant> {
        self.ask(|reply| Ask::Gone(branches, reply))
    }

    fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Ask) -> Seen<T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.asks.send(ask(reply));
        sent.expect("the thread is there as long as this");
        Seen(answer)
    }
}

/// What it will have seen.
pub(super) struct Seen<T>(oneshot::Receiver<Result<T, String>>);

impl<T> Seen<T> {
    pub(super) async fn hear(self) -> Result<T, Failure> {
        self.0.await.expect("it answers").map_err(Failure::not_done)
    }
}

async fn look(url: &str, mut asked: mpsc::UnboundedReceiver<Ask>) {
    let wallet = open("wallet", url, &Settings::default(), Arc::new(Unobserved));
    let prepared = async || {
        let wallet = wallet.as_ref().map_err(ToString::to_string)?;
        let names = wallet.read(vec![PREPARED.to_owned()], PATIENCE).await?;
        let names = names.into_iter().flatten().next().unwrap_or_default();
        Ok(names
            .split_whitespace()
            .filter_map(|name| name.parse().ok())
            .collect::<Vec<BranchName>>())
    };
    let gone = async |branches: Vec<BranchName>| loop {
        let held = prepared().await?;
        if !held.iter().any(|name| branches.contains(name)) {
            return Ok(Instant::now());
        }
        sleep(LOOK_EVERY).await;
    };
    while let Some(ask) = asked.recv().await {
        // Whoever asked may have given up.
        match ask {
            Ask::Prepared(reply) => drop(reply.send(prepared().await)),
            Ask::Gone(branches, reply) => drop(reply.send(gone(branches).await)),
        }
    }
}
