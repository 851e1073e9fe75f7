//! Reading: over connections of its own, so that no list holds up a decision.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use unanimous_core::id::{Epoch, Lsn, ShardId, TxnId};

use super::address::Address;
use super::book::index;
use super::id::Id;
use super::limits::{KEYS, LOGS, PRUNE, PRUNE_REST, READERS};
use super::session::{Session, Trouble, described};
use super::words;
use super::writer::epoch_of;
use crate::codec;
use crate::entry::{OpenTxn, Stored};
use crate::error::JournalError;
use crate::query::{Filter, Page};
use crate::remote::gather::Gather;
use crate::remote::limits::{AGAIN, PATIENCE};
use crate::remote::questions::Answers;
use crate::summary::{Scope, summarize};

const RECORDS: &str = "SELECT txn_id, lsn, at, record FROM txn_log WHERE txn_id = ANY($1)
    ORDER BY txn_id, seq";

const EPOCHS: &str = "SELECT shard, epoch FROM shard WHERE shard = ANY($1)";

const OPEN: &str = "SELECT txn_id, lsn, at, record FROM txn_log
    JOIN distributed_txn USING (txn_id)
    WHERE ended_at IS NULL AND shard = ANY($1) ORDER BY txn_id, seq";

/// The newest transaction of each key, with the place of the key in the list.
const NEWEST: &str = "SELECT place, newest.txn_id
    FROM unnest($1::text[]) WITH ORDINALITY AS asked (key, place)
    CROSS JOIN LATERAL (
        SELECT txn_id FROM distributed_txn WHERE idempotency_key = asked.key
        ORDER BY txn_id DESC LIMIT 1
    ) AS newest";

/// In the order of shards, as the writer locks them.
const CLAIM: &str = "
WITH held AS (
    SELECT shard FROM shard WHERE shard = ANY($1) AND moved_to IS NULL ORDER BY shard FOR UPDATE
)
UPDATE shard SET epoch = epoch + 1, owner = $2, claimed_at = now() FROM held
WHERE shard.shard = held.shard RETURNING shard.shard, epoch";

/// What a former owner of a shard is removing just now is left to it.
const PRUNE_ENDED: &str = "
WITH old AS (
    SELECT txn_id FROM distributed_txn WHERE ended_at < $1 AND shard = ANY($3)
    ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
), log AS (
    DELETE FROM txn_log USING old WHERE txn_log.txn_id = old.txn_id
), parts AS (
    DELETE FROM txn_participant USING old WHERE txn_participant.txn_id = old.txn_id
)
DELETE FROM distributed_txn USING old WHERE distributed_txn.txn_id = old.txn_id
RETURNING 1";

/// Connections for readers, made as they are needed.
pub(super) struct Readers {
    address: Address,
    idle: Idle,
    /// Of lists.
    free: Idle,
    places: Semaphore,
    logs: Gather<TxnId, Log>,
    keys: Gather<String, Option<TxnId>>,
    epochs: Gather<ShardId, Epoch>,
}

/// Connections that nobody uses just now.
type Idle = Mutex<Vec<Session>>;

/// How the server finds what it is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Plan {
    ByKeys,
    Freely,
}

/// What is there of a transaction, or why it cannot be read.
type Log = Result<Vec<Stored>, String>;

pub(super) type Param = Box<dyn ToSql + Sync + Send>;

impl Answers for Readers {
    async fn records(&self, txn: TxnId) -> Result<Vec<Stored>, JournalError> {
        let stored = self.logs.ask(txn, |txns| self.logs_of(txns)).await?;
        stored.map_err(|why| JournalError::Failed(format!("transaction {txn}: {why}")))
    }

    async fn open(&self, shards: &[ShardId]) -> Result<Vec<OpenTxn>, JournalError> {
        let rows = self.ask(OPEN, &[Box::new(numbers(shards))]).await?;
        let open = by_txn(&rows).into_iter();
        Ok(open.map(|(txn, rows)| OpenTxn { txn, records: stored(rows) }).collect())
    }

    async fn epochs_of(&self, shards: Vec<ShardId>) -> Result<Vec<Epoch>, JournalError> {
        let rows = self.ask(EPOCHS, &[Box::new(numbers(&shards))]).await?;
        let epochs = by_shard(&rows);
        let epoch = |shard: &ShardId| epochs.get(&shard.index()).copied().unwrap_or_default();
        Ok(shards.iter().map(epoch).collect())
    }

    async fn epoch(&self, shard: ShardId) -> Result<Epoch, JournalError> {
        self.epochs.ask(shard, |shards| self.epochs_of(shards)).await
    }

    async fn find_key(&self, key: &str) -> Result<Option<TxnId>, JournalError> {
        self.keys.ask(words::storable(key), |keys| self.newest_of(keys)).await
    }
}

impl Readers {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            idle: Idle::default(),
            free: Idle::default(),
            places: Semaphore::new(READERS),
            logs: Gather::new(LOGS),
            keys: Gather::new(KEYS),
            epochs: Gather::new(KEYS),
        }
    }

    async fn logs_of(&self, txns: Vec<TxnId>) -> Result<Vec<Log>, JournalError> {
        let ids: Vec<Id> = txns.iter().copied().map(Id).collect();
        let rows = self.ask(RECORDS, &[Box::new(ids)]).await?;
        let logs: BTreeMap<TxnId, &[Row]> = by_txn(&rows).into_iter().collect();
        Ok(txns
            .iter()
            .map(|txn| logs.get(txn).map_or(Ok(Vec::new()), |rows| stored(rows)))
            .collect())
    }

    async fn newest_of(&self, keys: Vec<String>) -> Result<Vec<Option<TxnId>>, JournalError> {
        let mut newest = vec![None; keys.len()];
        for row in self.ask(NEWEST, &[Box::new(keys)]).await? {
            let place = usize::try_from(row.get::<_, i64>(0)).unwrap_or_default();
            newest[place - 1] = Some(row.get::<_, Id>(1).0);
        }
        Ok(newest)
    }

    /// Raises the epochs of shards.
    pub(super) async fn claim(
        &self,
        shards: &[ShardId],
        owner: &str,
    ) -> Result<BTreeMap<usize, Epoch>, JournalError> {
        let rows =
            self.ask(CLAIM, &[Box::new(numbers(shards)), Box::new(owner.to_owned())]).await?;
        Ok(by_shard(&rows))
    }

    /// Removes transactions of these shards that ended before this time.
    pub(super) async fn prune(
        &self,
        before: SystemTime,
        shards: &[ShardId],
    ) -> Result<(), JournalError> {
        let most = usize::try_from(PRUNE).unwrap_or_default();
        let params: [Param; 3] = [Box::new(before), Box::new(PRUNE), Box::new(numbers(shards))];
        while self.ask(PRUNE_ENDED, &params).await?.len() == most {
            sleep(PRUNE_REST).await;
        }
        Ok(())
    }

    /// Part of a list: the newest that the filter shows.
    pub(super) async fn page(&self, filter: &Filter) -> Result<Page, JournalError> {
        let (sql, params) = listing(filter);
        let rows = self.ask_by(Plan::Freely, &sql, &params).await?;
        let mut rows: Vec<_> = by_txn(&rows)
            .into_iter()
            .filter_map(|(txn, rows)| summarize(txn, &stored(rows).ok()?))
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.txn));
        let more = rows.len() > filter.limit;
        rows.truncate(filter.limit);
        let next = if more { rows.last().map(|row| row.txn) } else { None };
        Ok(Page { rows, next })
    }

    /// Runs one statement, on another connection if the first one breaks. One that writes may be
    /// done twice.
    pub(super) async fn ask(&self, sql: &str, params: &[Param]) -> Result<Vec<Row>, JournalError> {
        self.ask_by(Plan::ByKeys, sql, params).await
    }

    async fn ask_by(
        &self,
        plan: Plan,
        sql: &str,
        params: &[Param],
    ) -> Result<Vec<Row>, JournalError> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = "it is slow".to_owned();
        let asking = async {
            let _place = self.places.acquire().await;
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|it| &**it as _).collect();
            let mut pause = Duration::ZERO;
            loop {
                match self.ask_once(plan, sql, &params).await {
                    Ok(rows) => return Ok(rows),
                    Err(Trouble::Again(text)) => seen = text,
                    Err(trouble) => return Err(JournalError::Failed(trouble.text())),
                }
                sleep(pause).await;
                pause = AGAIN[1].min(AGAIN[0].max(pause * 2));
            }
        };
        match timeout_at(deadline, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(JournalError::Unreachable(seen)),
        }
    }

    async fn ask_once(
        &self,
        plan: Plan,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Trouble> {
        let idle = match plan {
            Plan::ByKeys => &self.idle,
            Plan::Freely => &self.free,
        };
        let kept = idle.lock().expect("a push does not panic").pop();
        let session = match kept {
            Some(session) if !session.is_closed() => session,
            Some(_) | None => {
                let opened = Session::open(&self.address).await;
                let opened = opened.map_err(|error| Trouble::Again(described(&error)))?;
                if plan == Plan::Freely {
                    opened.plan_freely().await?;
                }
                opened
            }
        };
        let rows = session.read(sql, params).await?;
        idle.lock().expect("a push does not panic").push(session);
        Ok(rows)
    }

    /// Keeps a connection for the next question.
    pub(super) fn give_back(&self, session: Session) {
        self.idle.lock().expect("a push does not panic").push(session);
    }
}

/// The statement of a list, which asks for one more than is shown.
fn listing(filter: &Filter) -> (String, Vec<Param>) {
    let mut sql = String::from("SELECT txn_id FROM distributed_txn WHERE status IS NOT NULL");
    // As literals: a partial index is chosen only if the statement says so.
    sql += match filter.scope() {
        Scope::All => "",
        Scope::Open => " AND ended_at IS NULL",
        Scope::Ended => " AND ended_at IS NOT NULL",
    };
    if let Some(status) = filter.status {
        sql += &format!(" AND status = '{}'", words::status(status));
    }
    if let Some(kind) = filter.kind {
        sql += &format!(" AND kind = '{}'", words::kind(kind));
    }
    let mut params: Vec<Param> = Vec::new();
    let mut and = |condition: &str, param: Param| {
        params.push(param);
        sql += " AND ";
        sql += &condition.replace('?', &format!("${}", params.len()));
    };
    if let Some(resource) = &filter.resource {
        let condition = "txn_id IN (SELECT txn_id FROM txn_participant
            WHERE resource = ? OR compensation_resource = ?)";
        and(condition, Box::new(words::shown(resource)));
    }
    if let Some(before) = filter.begun_before {
        and("initiated_at < ?", Box::new(words::time(before)));
    }
    if let Some(after) = filter.after {
        and("txn_id < ?", Box::new(Id(after)));
    }
    let limit = i64::try_from(filter.limit.saturating_add(1)).unwrap_or(i64::MAX);
    params.push(Box::new(limit));
    let sql = format!(
        "SELECT txn_id, lsn, at, record FROM ({sql} ORDER BY txn_id DESC LIMIT ${}) AS page
         JOIN txn_log USING (txn_id) ORDER BY txn_id, seq",
        params.len()
    );
    (sql, params)
}

pub(super) fn numbers(shards: &[ShardId]) -> Vec<i32> {
    shards.iter().map(|shard| index(shard.index())).collect()
}

/// Of rows with a shard and its epoch.
fn by_shard(rows: &[Row]) -> BTreeMap<usize, Epoch> {
    let shard = |row: &Row| usize::try_from(row.get::<_, i32>(0)).unwrap_or_default();
    rows.iter().map(|row| (shard(row), epoch_of(row.get(1)))).collect()
}

/// Rows of one transaction stand together.
fn by_txn(rows: &[Row]) -> Vec<(TxnId, &[Row])> {
    let id = |row: &Row| row.get::<_, Id>(0).0;
    rows.chunk_by(|a, b| id(a) == id(b)).map(|rows| (id(&rows[0]), rows)).collect()
}

fn stored(rows: &[Row]) -> Log {
    let one = |row: &Row| {
        let (lsn, bytes): (i64, &[u8]) = (row.get(1), row.get(3));
        let (record, len) = codec::decode(bytes).map_err(|error| error.to_string())?;
        if len < bytes.len() {
            return Err("more than a record in a column".to_owned());
        }
        let lsn = Lsn(u64::try_from(lsn).unwrap_or_default());
        Ok(Stored { lsn, at: words::timestamp(row.get(2)), record })
    };
    rows.iter().map(one).collect()
}
