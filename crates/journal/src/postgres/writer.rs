//! The one task that writes: takes a batch, makes it durable, says so.
//!
//! # Invariants
//!
//! 1. One batch is one statement and one commit: all of it is there, or nothing.
//! 2. A batch is reported durable only if it was written under epochs that are still ours, and the
//!    batch before it was reported.
//! 3. Whether a batch was written whose answer got lost is looked up before anything else is done.
//! 4. A batch that is refused because somebody else has written ends the journal: from then on
//!    nothing is reported durable, and whoever rests on what was not reported does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Row, Statement};
use unanimous_core::id::{Epoch, ShardId, TxnId};

use super::address::Address;
use super::book::{Books, Log, Rows, WRITE};
use super::id::Id;
use super::session::{Session, Trouble, described};
use crate::entry::Stored;
use crate::error::JournalError;
use crate::remote::limits::AGAIN;
use crate::remote::scribe::{Scribe, Stop, bear};
use crate::remote::state::{Queued, Shared};

/// Waits for whatever may still be writing under our epochs, and for a synchronous standby to have
/// all of that: what a reader sees may not be there yet.
const PROVE: &str = "UPDATE shard SET proved_at = now()
    FROM unnest($1::int[], $2::bigint[]) AS mine (shard, epoch)
    WHERE shard.shard = mine.shard AND shard.epoch = mine.epoch
    RETURNING shard.shard";

const WRITTEN: &str = "SELECT count(*) FROM txn_log
    JOIN unnest($1::uuid[], $2::int[], $3::bigint[]) AS mine (txn_id, seq, lsn)
    USING (txn_id, seq, lsn)";

const HELD: &str = "SELECT txn_id, records FROM distributed_txn WHERE txn_id = ANY($1)";

const EPOCHS: &str = "SELECT shard, epoch FROM shard";

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) address: Address,
    pub(super) books: Books,
    pub(super) desk: Option<Desk>,
}

/// The writer's connection with its statements.
pub(super) struct Desk {
    session: Session,
    write: Statement,
    prove: Statement,
}

/// Whether a batch is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Written {
    Yes,
    No,
}

/// Whether an attempt may have come out that was not heard of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Doubt {
    Yes,
    No,
}

/// Why an attempt did not come out.
enum Setback {
    Trouble(Trouble),
    Failed(JournalError),
}

impl From<Trouble> for Setback {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Scribe for Writer {
    fn adopt(&mut self, txn: TxnId, stored: Vec<Stored>) {
        self.books.adopt(txn, stored);
    }

    async fn write(&mut self, batch: &mut [Queued]) -> Result<usize, Stop> {
        let rows = self.books.enter(batch);
        let (mut doubt, mut pause) = (Doubt::No, AGAIN[0]);
        while let Err(setback) = self.attempt(&rows, doubt).await {
            doubt = Doubt::Yes;
            self.bear(setback, &mut pause).await?;
        }
        Ok(rows.bytes())
    }

    async fn look(&mut self) -> Result<(), Stop> {
        let mut pause = AGAIN[0];
        match self.epochs().await {
            Ok(epochs) => {
                for (shard, epoch) in epochs {
                    self.shared.owned(shard, epoch).map_err(Stop::Failed)?;
                }
                self.shared.set_trouble(None);
                Ok(())
            }
            Err(trouble) => self.bear(trouble.into(), &mut pause).await,
        }
    }
}

impl Writer {
    async fn attempt(&mut self, rows: &Rows, doubt: Doubt) -> Result<(), Setback> {
        let desk = self.desk().await?;
        if doubt == Doubt::Yes && desk.written(rows).await? == Written::Yes {
            return Ok(());
        }
        match desk.session.write(&desk.write, &rows.params()).await {
            Ok(_) => Ok(()),
            // What is in the way may be this batch itself, written by an attempt that was cut off.
            Err(Trouble::Misfit) => match desk.written(rows).await? {
                Written::Yes => Ok(()),
                Written::No => Err(Setback::Failed(desk.conflict(rows).await?)),
            },
            Err(trouble) => Err(trouble.into()),
        }
    }

    async fn epochs(&mut self) -> Result<Vec<(ShardId, Epoch)>, Trouble> {
        let rows = self.desk().await?.session.read(EPOCHS, &[]).await?;
        Ok(rows.iter().map(owner).collect())
    }

    /// The connection; a new one if there is none.
    async fn desk(&mut self) -> Result<&Desk, Trouble> {
        if self.desk.as_ref().is_some_and(|desk| desk.session.is_closed()) {
            self.desk = None;
        }
        if self.desk.is_none() {
            let session = Session::open(&self.address).await;
            let session = session.map_err(|error| Trouble::Again(described(&error)))?;
            self.desk = Some(Desk::of(session).await?);
        }
        Ok(self.desk.as_ref().expect("made just now"))
    }

    /// Notes that the database takes nothing, and waits before it is tried again on a new connection.
    async fn bear(&mut self, setback: Setback, pause: &mut Duration) -> Result<(), Stop> {
        let text = match setback {
            Setback::Failed(error) => return Err(Stop::Failed(error)),
            Setback::Trouble(Trouble::Again(text)) => text,
            Setback::Trouble(trouble @ (Trouble::Misfit | Trouble::Refused(_))) => {
                return Err(Stop::Failed(JournalError::Failed(trouble.text())));
            }
        };
        self.desk = None;
        bear(&self.shared, text, pause).await
    }
}

impl Desk {
    /// Makes a connection that can write.
    pub(super) async fn of(session: Session) -> Result<Self, Trouble> {
        let (write, prove) = (session.prepare(WRITE).await?, session.prepare(PROVE).await?);
        Ok(Self { session, write, prove })
    }

    /// Whether the batch is there, durably, and the shards are still ours.
    async fn written(&self, rows: &Rows) -> Result<Written, Setback> {
        let proved = self.session.write(&self.prove, &[&rows.shards, &rows.epochs]).await?;
        if proved.len() < rows.shards.len() {
            return Err(Setback::Failed(self.fenced(rows).await?));
        }
        let Log { txn, seq, lsn, .. } = &rows.log;
        let found = self.session.read(WRITTEN, &[txn, seq, lsn]).await?;
        let count: i64 = found[0].get(0);
        match usize::try_from(count).unwrap_or_default() {
            0 => Ok(Written::No),
            all if all == txn.len() => Ok(Written::Yes),
            some => Err(Setback::Failed(JournalError::Failed(format!(
                "{some} of {} records of one statement are there",
                txn.len()
            )))),
        }
    }

    async fn fenced(&self, rows: &Rows) -> Result<JournalError, Trouble> {
        let found = self.session.read(EPOCHS, &[]).await?;
        let found: BTreeMap<_, _> = found.iter().map(owner).collect();
        let ours = rows.shards.iter().zip(&rows.epochs);
        let ours = ours.map(|(&shard, &epoch)| (shard_of(shard), epoch_of(epoch)));
        let (ours, current) = ours
            .map(|(shard, ours)| (ours, found.get(&shard).copied().unwrap_or_default()))
            .find(|(ours, current)| ours != current)
            .unwrap_or_default();
        Ok(JournalError::Fenced { ours, current })
    }

    /// Which transaction does not hold what it should.
    async fn conflict(&self, rows: &Rows) -> Result<JournalError, Trouble> {
        let txns: Vec<Id> = rows.held_before().map(|(txn, _)| Id(txn)).collect();
        let found = self.session.read(HELD, &[&txns]).await?;
        let found: BTreeMap<_, i32> =
            found.iter().map(|row| (row.get::<_, Id>(0).0, row.get(1))).collect();
        let held = |txn| found.get(&txn).copied().unwrap_or_default();
        let count = |count: i32| u32::try_from(count).unwrap_or_default();
        let wrong = rows.held_before().find(|&(txn, before)| held(txn) != before);
        Ok(match wrong {
            Some((txn, before)) => {
                JournalError::Conflict { txn, expected: count(before), found: count(held(txn)) }
            }
            None => JournalError::Failed("the database refuses a batch that fits".to_owned()),
        })
    }
}

fn owner(row: &Row) -> (ShardId, Epoch) {
    (shard_of(row.get(0)), epoch_of(row.get(1)))
}

fn shard_of(number: i32) -> ShardId {
    ShardId::of(u64::try_from(number).unwrap_or_default())
}

pub(super) fn epoch_of(number: i64) -> Epoch {
    Epoch(u64::try_from(number).unwrap_or_default())
}
