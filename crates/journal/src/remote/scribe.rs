//! The loop of the one task that writes, and what ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use unanimous_core::id::TxnId;

use super::Figures;
use super::limits::AGAIN;
use super::state::{Queued, Shared, Work};
use crate::Listener;
use crate::entry::Stored;
use crate::error::JournalError;

/// Makes batches durable on one kind of server.
pub(crate) trait Scribe: Send {
    /// Takes over a transaction that another life left open.
    fn adopt(&mut self, txn: TxnId, stored: Vec<Stored>);

    /// Returns when all of the batch is durable, with its bytes.
    fn write(&mut self, batch: &mut [Queued]) -> impl Future<Output = Result<usize, Stop>> + Send;

    /// Looks whether the shards are still ours, so that a journal that is not used hears of it too.
    fn look(&mut self) -> impl Future<Output = Result<(), Stop>> + Send;
}

/// Why a scribe does not go on.
pub(crate) enum Stop {
    /// The journal is being closed or dropped.
    Over,
    Failed(JournalError),
}

impl From<JournalError> for Stop {
    fn from(error: JournalError) -> Self {
        Self::Failed(error)
    }
}

/// Works until the journal is closed, dropped or fails.
pub(crate) async fn run(
    mut scribe: impl Scribe,
    shared: Arc<Shared>,
    listener: Arc<dyn Listener>,
    figures: Arc<Figures>,
) {
    loop {
        let done = match shared.next_work().await {
            Work::Write(adopted, mut batch) => {
                adopted.into_iter().for_each(|(txn, stored)| scribe.adopt(txn, stored));
                let start = Instant::now();
                scribe.write(&mut batch).await.map(|bytes| {
                    figures.note(start.elapsed(), batch.len(), bytes);
                    listener.flushed(shared.publish(&batch));
                })
            }
            Work::Look => scribe.look().await,
            Work::Finish | Work::Abandon => Err(Stop::Over),
        };
        match done {
            Ok(()) => {}
            Err(Stop::Over) => return shared.stop(),
            Err(Stop::Failed(error)) => {
                let error = Arc::new(error);
                shared.fail(&error);
                return listener.failed(error);
            }
        }
    }
}

/// Notes that the server takes nothing, and waits before it is tried again.
pub(crate) async fn bear(shared: &Shared, text: String, pause: &mut Duration) -> Result<(), Stop> {
    shared.set_trouble(Some(text));
    tokio::time::sleep(*pause).await;
    *pause = AGAIN[1].min(*pause * 2);
    match shared.is_over() {
        true => Err(Stop::Over),
        false => Ok(()),
    }
}
