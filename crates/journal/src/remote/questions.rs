//! What is asked about many at once: what is there of transactions, and who was begun under keys.

use std::sync::Arc;

use unanimous_core::id::{Epoch, ShardId, TxnId};

use super::engine::Engine;
use super::state::Shared;
use crate::entry::{OpenTxn, Stored};
use crate::error::JournalError;

/// What a server is asked. Those who ask the same at the same time may share a request.
pub(crate) trait Answers: Send + Sync + 'static {
    /// All records of a transaction.
    fn records(&self, txn: TxnId)
    -> impl Future<Output = Result<Vec<Stored>, JournalError>> + Send;

    /// The transactions of these shards that have not ended, oldest first.
    fn open(
        &self,
        shards: &[ShardId],
    ) -> impl Future<Output = Result<Vec<OpenTxn>, JournalError>> + Send;

    /// The epochs of shards.
    fn epochs_of(
        &self,
        shards: Vec<ShardId>,
    ) -> impl Future<Output = Result<Vec<Epoch>, JournalError>> + Send;

    /// The epoch of a shard, for many who ask at the same time.
    fn epoch(&self, shard: ShardId) -> impl Future<Output = Result<Epoch, JournalError>> + Send;

    /// The newest transaction begun under a key.
    fn find_key(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<Option<TxnId>, JournalError>> + Send;
}

/// What is open in shards that were claimed under these epochs.
///
/// # Errors
///
/// [`JournalError::Fenced`] if somebody else has claimed one of them since.
pub(crate) async fn open(
    readers: &impl Answers,
    claimed: &[(ShardId, Epoch)],
) -> Result<Vec<OpenTxn>, JournalError> {
    let shards: Vec<ShardId> = claimed.iter().map(|it| it.0).collect();
    let open = readers.open(&shards).await?;
    // Asked last: what was read before is of this owner or of those before it.
    let epochs = readers.epochs_of(shards).await?;
    match claimed.iter().zip(epochs).find(|((_, ours), current)| ours != current) {
        None => Ok(open),
        Some((&(_, ours), current)) => Err(JournalError::Fenced { ours, current }),
    }
}

/// What is there of each transaction, in their order.
pub(crate) fn read_all(
    engine: &Engine,
    shared: &Arc<Shared>,
    readers: &Arc<impl Answers>,
    txns: &[TxnId],
) -> Vec<Result<Vec<Stored>, JournalError>> {
    let last = txns.iter().map(|&txn| shared.last_of(txn)).max();
    let flushed = last.map_or(Ok(()), |last| shared.wait_flushed(last));
    engine.run_all(txns.iter().map(|&txn| {
        let (shared, readers) = (Arc::clone(shared), Arc::clone(readers));
        let ready = flushed.clone().and_then(|()| shared.reachable());
        async move {
            ready?;
            let stored = readers.records(txn).await?;
            if stored.is_empty() {
                // Absent means something only if nobody else can have begun it.
                shared.absent(txn.shard(), readers.epoch(txn.shard()).await?)?;
            }
            Ok(shared.placed(stored))
        }
    }))
}

/// Who was begun under each key, in their order.
pub(crate) fn find_keys(
    engine: &Engine,
    shared: &Arc<Shared>,
    readers: &Arc<impl Answers>,
    keys: &[String],
) -> Vec<Result<Option<TxnId>, JournalError>> {
    engine.run_all(keys.iter().cloned().map(|key| {
        let (shared, readers) = (Arc::clone(shared), Arc::clone(readers));
        async move {
            // What is not durable yet is known here only.
            if let Some(txn) = shared.find_key(&key) {
                return Ok(Some(txn));
            }
            shared.reachable()?;
            readers.find_key(&key).await
        }
    }))
}
