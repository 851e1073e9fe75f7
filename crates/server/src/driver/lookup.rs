//! What is known of transactions, whether they are driven here or have ended long ago.
//!
//! An open one is shown by its driver; everything else is read from the journal, as far as no crash
//! can take it back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use unanimous_api::{LogView, TransactionView};
use unanimous_core::Durability;
use unanimous_core::id::{BranchId, Lsn, TxnId};
use unanimous_core::txn::Txn;
use unanimous_journal::{Filter, Journal, JournalError, Page, Stored};

use super::coordinator::Coordinator;
use super::event::Event;
use super::view::{self, Frame};

impl Coordinator {
    /// Shows a transaction, open or ended; `None` if it is not known. `inquirer` is a branch in
    /// doubt that asks: it will be told by the next call too.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    pub async fn show(
        &self,
        txn: TxnId,
        inquirer: Option<BranchId>,
    ) -> Result<Option<TransactionView>, JournalError> {
        let (reply, answer) = oneshot::channel();
        self.send(txn, Event::Show(txn, inquirer, reply));
        if let Ok(Some(view)) = answer.await {
            return Ok(Some(view));
        }
        let records = self.records(txn).await?;
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(None);
        };
        let frame = Frame {
            cluster: &self.shared.cluster,
            resources: &self.shared.resources,
            txn,
            begun_at: first.at,
            updated_at: last.at,
            version: u32::try_from(records.len()).unwrap_or(u32::MAX),
        };
        let machine = Txn::replay(records.iter().map(|stored| &stored.record))
            .map_err(|misfit| JournalError::Failed(misfit.to_string()))?;
        Ok(Some(frame.show(&machine)))
    }

    /// The log of a transaction; empty if it is not known.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    pub async fn log(&self, txn: TxnId) -> Result<LogView, JournalError> {
        let records = self.records(txn).await?;
        Ok(LogView { id: txn.to_string(), events: view::log(&records) })
    }

    /// The records of a transaction, as far as no crash can take them back or change what they say.
    async fn records(&self, txn: TxnId) -> Result<Vec<Stored>, JournalError> {
        let records = self.desk.read(txn).await?;
        let forced = |stored: &&Stored| stored.record.durability() == Durability::Forced;
        if let Some(last) = records.iter().rev().find(forced) {
            self.flushed(last.lsn).await?;
        }
        Ok(records)
    }

    /// Transactions that pass the filter, newest first.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    pub async fn list(&self, filter: Filter) -> Result<Page, JournalError> {
        let page = self.read_journal(move |journal| journal.query(&filter)).await?;
        self.settled().await?;
        Ok(page)
    }

    /// The transaction that was begun under a key and may have ended long ago.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    pub async fn find_key(&self, key: &str) -> Result<Option<TxnId>, JournalError> {
        self.desk.find_key(key).await
    }

    /// The fingerprint of the request that began a transaction.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    pub async fn fingerprint(&self, txn: TxnId) -> Result<Option<[u8; 16]>, JournalError> {
        let records = self.desk.read(txn).await?;
        let key = records.first().and_then(|stored| stored.record.key());
        Ok(key.map(|key| key.fingerprint))
    }

    pub(super) async fn read_journal<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Journal) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let journal = Arc::clone(&self.shared.journal);
        let read = tokio::task::spawn_blocking(move || read(&*journal));
        read.await.unwrap_or_else(|error| Err(JournalError::Failed(error.to_string())))
    }

    /// Waits until everything appended so far is durable.
    pub(super) async fn settled(&self) -> Result<(), JournalError> {
        self.flushed(Lsn(self.shared.appended.load(Ordering::Relaxed))).await
    }

    async fn flushed(&self, lsn: Lsn) -> Result<(), JournalError> {
        let mut flushed = self.ears.flushed.subscribe();
        let mut failed = self.ears.failed.subscribe();
        if self.shared.journal.flushed() >= lsn {
            return Ok(());
        }
        let gone = || JournalError::Failed("the journal has stopped".into());
        tokio::select! {
            flushed = flushed.wait_for(|&flushed| flushed >= lsn) => match flushed {
                Ok(_) => Ok(()),
                Err(_) => Err(gone()),
            },
            _ = failed.wait_for(Option::is_some) => Err(gone()),
        }
    }
}
