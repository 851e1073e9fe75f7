//! The nodes in the table `node`, and the owners in the table `shard`.

use std::sync::Arc;

use tokio_postgres::Row;
use unanimous_core::id::ShardId;

use super::address::Address;
use super::readers::{Param, Readers, numbers};
use super::tables;
use super::writer::epoch_of;
use crate::directory::{Directory, DirectoryError, GiveError, NodeEntry, NodeState, Sight};
use crate::error::JournalError;
use crate::remote::engine::Engine;

const ANNOUNCE: &str = "INSERT INTO node (name, address, incarnation, state, announced_at)
    VALUES ($1, $2, $3, $4, now())
    ON CONFLICT (name) DO UPDATE SET address = excluded.address,
        incarnation = excluded.incarnation, state = excluded.state,
        announced_at = excluded.announced_at
    WHERE node.incarnation IN ($5, excluded.incarnation)
    RETURNING name";

const STANDING: &str = "SELECT name, address, incarnation, state FROM node WHERE name = $1";

const LEAVE: &str = "DELETE FROM node WHERE name = $1 AND incarnation = $2";

/// In one statement, so that it takes one round trip.
const READ: &str =
    "SELECT name, address, incarnation, state, NULL::int, NULL::bigint, NULL FROM node
    UNION ALL SELECT owner, NULL, NULL, NULL, shard, epoch, moved_to FROM shard";

/// Locks them as who writes does, so that a batch is either before or refused.
const GIVE: &str = "
WITH held AS (
    SELECT shard FROM shard WHERE shard = ANY($1) AND moved_to IS NULL ORDER BY shard FOR UPDATE
)
UPDATE shard SET moved_to = $2, epoch = epoch + 1 FROM held
WHERE shard.shard = held.shard RETURNING shard.shard";

const OTHERS: &str = "SELECT moved_to FROM shard WHERE shard = ANY($1) AND moved_to <> $2 LIMIT 1";

const OPEN: &str =
    "SELECT count(*) FROM distributed_txn WHERE ended_at IS NULL AND shard = ANY($1)";

const TAKE_BACK: &str = "UPDATE shard SET moved_to = NULL WHERE shard = ANY($1)";

/// The directory of a journal in a PostgreSQL database.
pub struct PostgresDirectory {
    readers: Arc<Readers>,
    engine: Engine,
}

impl PostgresDirectory {
    /// Opens the directory in the database at `url`, as [`crate::PostgresJournal::open`] has it, and
    /// makes the tables if they are missing.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unusable`] with one line that says what to change.
    pub fn open(url: &str, password: Option<&str>) -> Result<Self, JournalError> {
        let address = Address::parse(url, password).map_err(JournalError::Unusable)?;
        let engine = Engine::start("directory")?;
        let first = address.clone();
        let connecting =
            async move { tables::connect(&first).await.map_err(JournalError::Unusable) };
        let session = engine.run(connecting)?;
        let readers = Readers::new(address);
        readers.give_back(session);
        Ok(Self { readers: Arc::new(readers), engine })
    }
}

impl Directory for PostgresDirectory {
    fn announce(&self, entry: &NodeEntry, replaces: Option<u64>) -> Result<(), DirectoryError> {
        let (readers, entry) = (Arc::clone(&self.readers), entry.clone());
        let announced =
            self.engine.run(async move { announce(&readers, &entry, replaces).await })?;
        announced.map_err(DirectoryError::NameTaken)
    }

    fn leave(&self, name: &str, incarnation: u64) -> Result<(), JournalError> {
        let (readers, name) = (Arc::clone(&self.readers), name.to_owned());
        self.engine.run(async move {
            let params: [Param; 2] = [Box::new(name), Box::new(incarnation.cast_signed())];
            readers.ask(LEAVE, &params).await.map(drop)
        })
    }

    fn read(&self) -> Result<Sight, JournalError> {
        let readers = Arc::clone(&self.readers);
        self.engine.run(async move { sight(&readers.ask(READ, &[]).await?) })
    }

    fn give(&self, shards: &[ShardId], journal: &str) -> Result<(), GiveError> {
        let readers = Arc::clone(&self.readers);
        let (shards, journal) = (numbers(shards), journal.to_owned());
        self.engine.run(async move { Ok(give(&readers, shards, journal).await) })?
    }
}

async fn give(readers: &Readers, shards: Vec<i32>, journal: String) -> Result<(), GiveError> {
    let params: [Param; 2] = [Box::new(shards.clone()), Box::new(journal)];
    if let Some(row) = readers.ask(OTHERS, &params).await?.first() {
        return Err(GiveError::Elsewhere(row.get(0)));
    }
    readers.ask(GIVE, &params).await?;
    // From here on nothing begins in them, so that what is not open now never is again.
    let rows = readers.ask(OPEN, &[Box::new(shards.clone())]).await?;
    let open: i64 = rows.first().map(|row| row.get(0)).unwrap_or_default();
    if open == 0 {
        return Ok(());
    }
    // Those of an earlier attempt that died here are given back as well.
    readers.ask(TAKE_BACK, &[Box::new(shards)]).await?;
    Err(GiveError::Open(usize::try_from(open).unwrap_or(usize::MAX)))
}

/// Writes an entry, or gives the one that is in its way.
async fn announce(
    readers: &Readers,
    entry: &NodeEntry,
    replaces: Option<u64>,
) -> Result<Result<(), NodeEntry>, JournalError> {
    let NodeEntry { name, address, incarnation, state } = entry;
    let params: [Param; 5] = [
        Box::new(name.clone()),
        Box::new(address.clone()),
        Box::new(incarnation.cast_signed()),
        Box::new(state.word()),
        Box::new(replaces.map(u64::cast_signed)),
    ];
    loop {
        if !readers.ask(ANNOUNCE, &params).await?.is_empty() {
            return Ok(Ok(()));
        }
        let standing = readers.ask(STANDING, &[Box::new(name.clone())]).await?;
        let standing = standing.first().map(node).transpose()?;
        // If nothing stands there any more, it is free now.
        if let Some(standing) = standing
            && !standing.yields_to(entry, replaces)
        {
            return Ok(Err(standing));
        }
    }
}

fn sight(rows: &[Row]) -> Result<Sight, JournalError> {
    let mut sight = Sight::default();
    for row in rows {
        match row.get::<_, Option<i32>>(4) {
            None => sight.nodes.push(node(row)?),
            Some(number) => {
                let shard = ShardId::of(u64::try_from(number).unwrap_or_default());
                sight.owners.push((shard, epoch_of(row.get(5)), row.get(0)));
                sight.moved.extend(row.get::<_, Option<String>>(6).map(|journal| (shard, journal)));
            }
        }
    }
    sight.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    sight.owners.sort_by_key(|(shard, _, _)| *shard);
    sight.moved.sort_unstable();
    Ok(sight)
}

fn node(row: &Row) -> Result<NodeEntry, JournalError> {
    let (name, state): (String, String) = (row.get(0), row.get(3));
    let Some(state) = NodeState::of(&state) else {
        return Err(JournalError::Failed(format!("node {name:?} is in the state {state:?}")));
    };
    let incarnation = row.get::<_, i64>(2).cast_unsigned();
    Ok(NodeEntry { name, address: row.get(1), incarnation, state })
}
