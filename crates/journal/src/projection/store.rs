//! Ended transactions in SQLite.
//!
//! One row per transaction, in the order in which they ended, with all its entries. How far the
//! log is taken in is written in the same SQLite transaction as the rows. The log alone is the
//! truth: a store that cannot be used is set aside and made anew from the segments there are.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension, ToSql, params};
use unanimous_core::id::{Lsn, TxnId};
use unanimous_core::txn::Kind;

use crate::entry::Stored;
use crate::file::layout;
use crate::limits::HISTORY_WAL_PAGES;
use crate::query::{Filter, Status};
use crate::summary::summarize;

/// Raised when tables change: a store of another version is made anew.
const VERSION: i64 = 2;

const TABLES: &str = "
CREATE TABLE progress (one INTEGER PRIMARY KEY, instance TEXT NOT NULL, applied_lsn INTEGER NOT NULL);
CREATE TABLE txn (
    lsn INTEGER PRIMARY KEY,      -- of the last entry, so rows are in the order of ending
    id BLOB NOT NULL,
    status INTEGER,               -- 0 committed, 1 aborted, 2 completed, 3 compensated, NULL not readable
    begun_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    key TEXT,
    entries BLOB NOT NULL,
    shape INTEGER NOT NULL DEFAULT 0    -- 0 atomic, 1 tcc, 2 saga
);
CREATE INDEX txn_by_id ON txn (id, status, begun_at);
CREATE INDEX txn_by_key ON txn (key) WHERE key IS NOT NULL;
CREATE INDEX txn_aborted ON txn (id) WHERE status = 1;
CREATE INDEX txn_of_shape ON txn (id) WHERE shape <> 0;
CREATE TABLE resource (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE part (resource INTEGER NOT NULL, txn BLOB NOT NULL, PRIMARY KEY (resource, txn)) WITHOUT ROWID;
";

/// Makes a store of version 1, which had none but atomic transactions, one of version 2.
const FROM_VERSION_1: &str = "
ALTER TABLE txn ADD COLUMN shape INTEGER NOT NULL DEFAULT 0;
CREATE INDEX txn_of_shape ON txn (id) WHERE shape <> 0;
";

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The file is of no use: make it anew.
    #[error("the history is not usable: {0}")]
    Broken(String),
    /// Try again later.
    #[error("the history is not writable: {0}")]
    Refused(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) => {
                Self::Broken(text)
            }
            // The library's list of codes is not ours to enumerate; anything else may pass.
            Some(_) | None => Self::Refused(text),
        }
    }
}

/// A row to write.
pub(crate) struct Row {
    pub(crate) lsn: Lsn,
    pub(crate) txn: TxnId,
    pub(crate) kept: Vec<u8>,
}

/// The store, as one thread uses it.
pub(crate) struct Store {
    connection: Connection,
}

/// The file of the store in a journal's folder.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("history.sqlite")
}

/// Renames the store, so that a fresh one takes its place. The latest such file is kept.
pub(crate) fn set_aside(dir: &Path) -> std::io::Result<()> {
    for suffix in ["-wal", "-shm"] {
        let file = dir.join(format!("history.sqlite{suffix}"));
        if file.exists() {
            std::fs::remove_file(file)?;
        }
    }
    match std::fs::rename(path(dir), dir.join("history.sqlite.broken")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

impl Store {
    /// Opens the store of the journal with this name; makes it if it is missing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Broken`] also if it is of another version or another journal.
    pub(crate) fn open(dir: &Path, instance: &str) -> Result<Self, StoreError> {
        let connection = connect(dir)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version == 0 {
            let made = connection.unchecked_transaction()?;
            made.execute_batch(TABLES)?;
            made.execute("INSERT INTO progress VALUES (1, ?1, 0)", [instance])?;
            made.pragma_update(None, "user_version", VERSION)?;
            made.commit()?;
        } else if version == 1 {
            let changed = connection.unchecked_transaction()?;
            changed.execute_batch(FROM_VERSION_1)?;
            changed.pragma_update(None, "user_version", VERSION)?;
            changed.commit()?;
        } else if version != VERSION {
            return Err(StoreError::Broken(format!("it is of version {version}")));
        }
        let store = Self { connection };
        let owner: String =
            store.connection.query_row("SELECT instance FROM progress", [], |row| row.get(0))?;
        match owner == instance {
            true => Ok(store),
            false => Err(StoreError::Broken(format!("it belongs to journal {owner}"))),
        }
    }

    /// Opens a second connection, to read while the first one writes.
    pub(crate) fn reader(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { connection: connect(dir)? })
    }

    /// Everything up to this position is taken in.
    pub(crate) fn applied(&self) -> Result<Lsn, StoreError> {
        let lsn: i64 =
            self.connection.query_row("SELECT applied_lsn FROM progress", [], |row| row.get(0))?;
        Ok(Lsn(lsn as u64))
    }

    /// Writes rows, and that everything up to `applied` is taken in.
    pub(crate) fn write(&mut self, rows: &[Row], applied: Lsn) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO txn VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?;
            let mut number = transaction.prepare_cached(
                "INSERT INTO resource (name) VALUES (?1)
                 ON CONFLICT (name) DO UPDATE SET name = name RETURNING number",
            )?;
            let mut part =
                transaction.prepare_cached("INSERT OR IGNORE INTO part VALUES (?1, ?2)")?;
            let mut numbers = std::collections::HashMap::new();
            for row in rows {
                let id = row.txn.0.to_be_bytes();
                let stored = layout::stored(&row.kept).unwrap_or_default();
                let summary = summarize(row.txn, &stored);
                let ended_at = stored.last().map_or(0, |stored| stored.at.0);
                insert.execute(params![
                    row.lsn.0 as i64,
                    id,
                    summary.as_ref().map(|it| code(it.status)),
                    summary.as_ref().map_or(0, |it| it.begun_at.0 as i64),
                    ended_at as i64,
                    summary.as_ref().and_then(|it| it.key.as_deref()),
                    row.kept,
                    summary.as_ref().map_or(0, |it| kind_code(it.kind)),
                ])?;
                for name in summary.map(|it| it.resources).unwrap_or_default() {
                    let number: i64 = match numbers.get(&name) {
                        Some(&number) => number,
                        None => number.query_row([&name], |row| row.get(0))?,
                    };
                    part.execute(params![number, id])?;
                    numbers.insert(name, number);
                }
            }
            transaction
                .prepare_cached("UPDATE progress SET applied_lsn = ?1")?
                .execute([applied.0 as i64])?;
        }
        Ok(transaction.commit()?)
    }

    /// Makes everything written survive a power loss. Returns whether it came to that: a reader may
    /// have been in the way.
    pub(crate) fn sync(&self) -> Result<Synced, StoreError> {
        let busy: i64 =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        Ok(if busy == 0 { Synced::Yes } else { Synced::NotYet })
    }

    /// Removes at most `limit` transactions that ended before `before_ms`, oldest first. Returns how
    /// many there were.
    pub(crate) fn prune(&mut self, before_ms: u64, limit: usize) -> Result<usize, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut old: Vec<(i64, Vec<u8>, Vec<u8>)> = Vec::new();
        {
            let mut select = transaction.prepare_cached(
                "SELECT lsn, id, entries, ended_at FROM txn ORDER BY lsn LIMIT ?1",
            )?;
            let mut rows = select.query([limit as i64])?;
            while let Some(row) = rows.next()? {
                if row.get::<_, i64>(3)? as u64 >= before_ms {
                    break;
                }
                old.push((row.get(0)?, row.get(1)?, row.get(2)?));
            }
            let mut delete = transaction.prepare_cached("DELETE FROM txn WHERE lsn = ?1")?;
            let mut part = transaction.prepare_cached(
                "DELETE FROM part WHERE txn = ?2
                 AND resource = (SELECT number FROM resource WHERE name = ?1)",
            )?;
            for (lsn, id, entries) in &old {
                delete.execute([lsn])?;
                let stored: Vec<Stored> = layout::stored(entries).unwrap_or_default();
                let summary = to_id(id).and_then(|txn| summarize(txn, &stored));
                for name in summary.map(|it| it.resources).unwrap_or_default() {
                    part.execute(params![name, id])?;
                }
            }
        }
        transaction.commit()?;
        Ok(old.len())
    }

    /// All entries of an ended transaction.
    pub(crate) fn entries(&self, txn: TxnId) -> Result<Option<Vec<u8>>, StoreError> {
        let mut select =
            self.connection.prepare_cached("SELECT entries FROM txn WHERE id = ?1 LIMIT 1")?;
        Ok(select.query_row([txn.0.to_be_bytes()], |row| row.get(0)).optional()?)
    }

    /// The newest ended transaction that was begun under this key.
    pub(crate) fn find_key(&self, key: &str) -> Result<Option<TxnId>, StoreError> {
        let mut select = self
            .connection
            .prepare_cached("SELECT id FROM txn WHERE key = ?1 ORDER BY id DESC LIMIT 1")?;
        let id: Option<Vec<u8>> = select.query_row([key], |row| row.get(0)).optional()?;
        Ok(id.as_deref().and_then(to_id))
    }

    /// Ended transactions that the filter shows, newest first, with their entries.
    pub(crate) fn page(
        &self,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<(TxnId, Vec<u8>)>, StoreError> {
        let mut sql = String::from("SELECT txn.id, txn.entries FROM ");
        sql += match filter.resource {
            None => "txn WHERE status IS NOT NULL",
            Some(_) => {
                "part CROSS JOIN txn ON txn.id = part.txn
                 WHERE part.resource = (SELECT number FROM resource WHERE name = :resource)
                 AND status IS NOT NULL"
            }
        };
        let order = if filter.resource.is_some() { "part.txn" } else { "txn.id" };
        // As literals: the partial index is chosen only if the statement says so.
        sql += match filter.status {
            None => "",
            Some(Status::Committed) => " AND status = 0",
            Some(Status::Aborted) => " AND status = 1",
            Some(Status::Completed) => " AND shape <> 0 AND status = 2",
            Some(Status::Compensated) => " AND shape <> 0 AND status = 3",
            Some(
                Status::Initiated
                | Status::Preparing
                | Status::Committing
                | Status::Aborting
                | Status::Running
                | Status::Compensating
                | Status::NeedsAttention,
            ) => return Ok(Vec::new()),
        };
        sql += match filter.kind {
            None => "",
            Some(Kind::Atomic) => " AND shape = 0",
            Some(Kind::Tcc) => " AND shape <> 0 AND shape = 1",
            Some(Kind::Saga) => " AND shape <> 0 AND shape = 2",
            Some(Kind::Message) => " AND shape <> 0 AND shape = 3",
        };
        let after = filter.after.map(|txn| txn.0.to_be_bytes());
        let before = filter.begun_before.map(|at| i64::try_from(at.0).unwrap_or(i64::MAX));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &limit)];
        if let Some(name) = &filter.resource {
            values.push((":resource", name));
        }
        if let Some(after) = &after {
            sql += &format!(" AND {order} < :after");
            values.push((":after", after));
        }
        if let Some(before) = &before {
            sql += " AND begun_at < :before";
            values.push((":before", before));
        }
        sql += &format!(" ORDER BY {order} DESC LIMIT :limit");
        let mut select = self.connection.prepare_cached(&sql)?;
        let mut rows = select.query(values.as_slice())?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let id: Vec<u8> = row.get(0)?;
            if let Some(txn) = to_id(&id) {
                found.push((txn, row.get(1)?));
            }
        }
        Ok(found)
    }
}

/// Whether what was written survives a power loss.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Synced {
    Yes,
    NotYet,
}

fn connect(dir: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path(dir))?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::Refused(format!("it has journal mode {mode}")));
    }
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", HISTORY_WAL_PAGES)?;
    Ok(connection)
}

fn code(status: Status) -> i64 {
    match status {
        Status::Committed => 0,
        Status::Aborted => 1,
        Status::Completed => 2,
        Status::Compensated => 3,
        Status::Initiated
        | Status::Preparing
        | Status::Committing
        | Status::Aborting
        | Status::Running
        | Status::Compensating
        | Status::NeedsAttention => unreachable!("only ended transactions enter the history"),
    }
}

fn kind_code(kind: Kind) -> i64 {
    match kind {
        Kind::Atomic => 0,
        Kind::Tcc => 1,
        Kind::Saga => 2,
        Kind::Message => 3,
    }
}

fn to_id(bytes: &[u8]) -> Option<TxnId> {
    Some(TxnId(u128::from_be_bytes(bytes.try_into().ok()?)))
}
