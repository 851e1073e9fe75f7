//! What is asked about many at once: what is there of transactions, and who was begun under keys.

use std::sync::Arc;

use unanimous_core::id::{Epoch, ShardId, TxnId};

use super::engine::Engine;
use super::state::Shared;
use crate::entry::Stored;
use crate::error::JournalError;

/// What a server is asked. Those who ask the same at the same time may share a request.
pub(crate) trait Answers: Send + Sync + 'static {
    /// All records of a transaction.
    fn records(&self, txn: TxnId)
    -> impl Future<Output = Result<Vec<Stored>, JournalError>> + Send;

    /// The epoch of a shard.
    fn epoch(&self, shard: ShardId) -> impl Future<Output = Result<Epoch, JournalError>> + Send;

    /// The newest transaction begun under a key.
    fn find_key(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<Option<TxnId>, JournalError>> + Send;
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
