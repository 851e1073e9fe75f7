//! The nodes in the table `node`, and the owners in the table `shard`.

use std::sync::Arc;

use tokio_postgres::Row;
use unanimous_core::id::ShardId;

use super::address::Address;
use super::readers::{Param, Readers};
use super::tables;
use super::writer::epoch_of;
use crate::directory::{Directory, DirectoryError, NodeEntry, NodeState, Sight};
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
const READ: &str = "SELECT name, address, incarnation, state, NULL::int, NULL::bigint FROM node
    UNION ALL SELECT owner, NULL, NULL, NULL, shard, epoch FROM shard";

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
            }
        }
    }
    sight.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    sight.owners.sort_by_key(|(shard, _, _)| *shard);
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
