//! The nodes below `node/`, and the owners below `shard/`.
//!
//! An entry is written only over the value that was read, so that of several who write one wins.

use std::sync::Arc;

use unanimous_core::id::{Epoch, ShardId};

use super::address::Address;
use super::claims::Claim;
use super::client::Client;
use super::keys::Keys;
use super::opening;
use super::proto::{Compare, KeyValue, Op, Range, Txn, Way};
use super::readers::Readers;
use crate::directory::{Directory, DirectoryError, GiveError, NodeEntry, NodeState, Sight};
use crate::error::JournalError;
use crate::remote::engine::Engine;
use crate::remote::questions::Answers;

/// The directory of a journal in an etcd cluster.
pub struct EtcdDirectory {
    readers: Arc<Readers>,
    engine: Engine,
}

impl EtcdDirectory {
    /// Opens the directory in the cluster at `url`, as [`crate::EtcdJournal::open`] has it.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unusable`] with one line that says what to change.
    pub fn open(url: &str, password: Option<&str>) -> Result<Self, JournalError> {
        let address = Address::parse(url).map_err(JournalError::Unusable)?;
        let keys = Keys::new(&address.prefix);
        let client = Client::new(address.clone(), password.map(str::to_owned));
        let client =
            client.map_err(|why| JournalError::Unusable(format!("{}: {why}", address.shown)))?;
        let engine = Engine::start("directory")?;
        let readers = Arc::new(Readers::new(client, keys));
        let asked = Arc::clone(&readers);
        engine.run(async move {
            let looked = opening::look(&address, &asked.client, &asked.keys).await;
            looked.map_err(JournalError::Unusable)
        })?;
        Ok(Self { readers, engine })
    }
}

impl Directory for EtcdDirectory {
    fn announce(&self, entry: &NodeEntry, replaces: Option<u64>) -> Result<(), DirectoryError> {
        let (readers, entry) = (Arc::clone(&self.readers), entry.clone());
        let announced =
            self.engine.run(async move { announce(&readers, &entry, replaces).await })?;
        announced.map_err(DirectoryError::NameTaken)
    }

    fn leave(&self, name: &str, incarnation: u64) -> Result<(), JournalError> {
        let (readers, name) = (Arc::clone(&self.readers), name.to_owned());
        self.engine.run(async move { leave(&readers, &name, incarnation).await })
    }

    fn read(&self) -> Result<Sight, JournalError> {
        let readers = Arc::clone(&self.readers);
        self.engine.run(async move { sight(&readers).await })
    }

    fn give(&self, shards: &[ShardId], journal: &str) -> Result<(), GiveError> {
        let readers = Arc::clone(&self.readers);
        let (shards, journal) = (shards.to_vec(), journal.to_owned());
        self.engine.run(async move { Ok(give(&readers, &shards, &journal).await) })?
    }
}

async fn give(readers: &Readers, shards: &[ShardId], journal: &str) -> Result<(), GiveError> {
    restate(readers, shards, |claim| match claim.moved_to() {
        Some(other) if other != journal => Err(GiveError::Elsewhere(other)),
        Some(_) => Ok(None),
        None => Ok(Some(Claim::moved(Epoch(claim.epoch.0 + 1), journal))),
    })
    .await?;
    // From here on nothing begins in them, so that what is not open now never is again.
    let open = readers.open(shards).await?.len();
    if open == 0 {
        return Ok(());
    }
    restate(readers, shards, |claim| Ok(claim.moved_to().map(|_| Claim::unclaimed(claim.epoch))))
        .await?;
    Err(GiveError::Open(open))
}

/// Writes what is to stand at some shards instead of what stands there, in one step for all of them.
async fn restate(
    readers: &Readers,
    shards: &[ShardId],
    new: impl Fn(&Claim) -> Result<Option<Claim>, GiveError>,
) -> Result<(), GiveError> {
    let keys = &readers.keys;
    loop {
        let mut claims = readers.standing(keys.meta()).await?.claims;
        let mut request = Txn::default();
        for &shard in shards {
            let (key, standing) = (keys.shard(shard), claims.remove(&shard));
            request.compare.push(match &standing {
                Some(claim) => Compare::Value(key.clone(), claim.value.clone()),
                None => Compare::Absent(key.clone()),
            });
            let claim = new(&standing.unwrap_or_default())?;
            request.then.extend(claim.map(|claim| Op::Put(key, claim.value)));
        }
        if readers.txn(&request).await?.way == Way::Then {
            return Ok(());
        }
    }
}

/// Writes an entry, or gives the one that is in its way.
async fn announce(
    readers: &Readers,
    entry: &NodeEntry,
    replaces: Option<u64>,
) -> Result<Result<(), NodeEntry>, JournalError> {
    let key = readers.keys.node(&entry.name);
    loop {
        let found = readers.range(&Range::one(key.clone())).await?.into_value();
        let compare = match found {
            None => Compare::Absent(key.clone()),
            Some(value) => {
                let standing = read(&entry.name, &value)?;
                if !standing.yields_to(entry, replaces) {
                    return Ok(Err(standing));
                }
                Compare::Value(key.clone(), value)
            }
        };
        let then = vec![Op::Put(key.clone(), written(entry))];
        let request = Txn { compare: vec![compare], then, otherwise: Vec::new() };
        if readers.txn(&request).await?.way == Way::Then {
            return Ok(Ok(()));
        }
    }
}

async fn leave(readers: &Readers, name: &str, incarnation: u64) -> Result<(), JournalError> {
    let key = readers.keys.node(name);
    while let Some(value) = readers.range(&Range::one(key.clone())).await?.into_value()
        && read(name, &value)?.incarnation == incarnation
    {
        let compare = vec![Compare::Value(key.clone(), value)];
        let then = vec![Op::Delete(key.clone().into())];
        readers.txn(&Txn { compare, then, otherwise: Vec::new() }).await?;
    }
    Ok(())
}

async fn sight(readers: &Readers) -> Result<Sight, JournalError> {
    let keys = &readers.keys;
    let spans = [keys.nodes(), keys.shards()];
    let then = spans.map(|span| Op::Range(Range::all(span))).into();
    let mut found = readers.txn(&Txn { then, ..Txn::default() }).await?.into_ranges().into_iter();
    let mut next = || found.next().unwrap_or_default().found.into_iter();
    let node =
        |KeyValue { key, value }: KeyValue| read(keys.to_node(&key).unwrap_or_default(), &value);
    let nodes = next().map(node).collect::<Result<_, _>>()?;
    let mut owners: Vec<_> = ShardId::all().map(|shard| (shard, Claim::default())).collect();
    let mut moved = Vec::new();
    for KeyValue { key, value } in next() {
        if let Some(shard) = keys.to_shard(&key) {
            let claim = Claim::read(value);
            moved.extend(claim.moved_to().map(|journal| (shard, journal)));
            owners[shard.index()].1 = claim;
        }
    }
    let owner = |(shard, claim): (ShardId, Claim)| (shard, claim.epoch, claim.owner());
    Ok(Sight { nodes, owners: owners.into_iter().map(owner).collect(), moved })
}

/// An entry as a value: `incarnation state address`.
fn written(entry: &NodeEntry) -> Vec<u8> {
    let NodeEntry { name: _, address, incarnation, state } = entry;
    format!("{incarnation:016x} {} {address}", state.word()).into_bytes()
}

fn read(name: &str, value: &[u8]) -> Result<NodeEntry, JournalError> {
    let parse = || {
        let mut words = std::str::from_utf8(value).ok()?.splitn(3, ' ');
        let incarnation = u64::from_str_radix(words.next()?, 16).ok()?;
        let state = NodeState::of(words.next()?)?;
        let address = words.next()?.to_owned();
        Some(NodeEntry { name: name.to_owned(), address, incarnation, state })
    };
    parse().ok_or_else(|| {
        let text = String::from_utf8_lossy(value);
        JournalError::Failed(format!("node {name:?} holds {text:?}, which no node writes"))
    })
}
