//! Keys in a SQLite file, by the thread that owns its connection.

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, named_params};

use super::store::{Claim, Claimed, Held, KeyStore, StoreUnavailable};
use crate::participant::{BoxError, SqliteStore, StoreError, now};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS unanimous_key (
        id BLOB NOT NULL PRIMARY KEY,
        key TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        owner TEXT NOT NULL,
        expires_at_ms INTEGER NOT NULL,
        answer BLOB,
        at_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS unanimous_key_at ON unanimous_key (at_ms);
";

const CLAIM: &str = "
    INSERT INTO unanimous_key VALUES (:id, :key, :fingerprint, :owner, :now + :lease, NULL, :now)
    ON CONFLICT (id) DO UPDATE
    SET owner = :owner, expires_at_ms = :now + :lease, at_ms = :now
    WHERE answer IS NULL AND fingerprint = :fingerprint
        AND (expires_at_ms <= :now OR owner = :owner)";

const FIND: &str = "SELECT fingerprint, answer FROM unanimous_key WHERE id = :id";

const RENEW: &str = "
    UPDATE unanimous_key SET expires_at_ms = :now + :lease WHERE id = :id AND owner = :owner";

const SETTLE: &str = "
    UPDATE unanimous_key SET answer = :answer, at_ms = :now WHERE id = :id AND owner = :owner";

const RELEASE: &str =
    "DELETE FROM unanimous_key WHERE id = :id AND owner = :owner AND answer IS NULL";

const PRUNE: &str = "
    DELETE FROM unanimous_key WHERE id IN (
        SELECT id FROM unanimous_key
        WHERE at_ms < :before AND (answer IS NOT NULL OR expires_at_ms <= :now)
        ORDER BY at_ms LIMIT :limit)";

/// Keys in SQLite. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct SqliteKeys {
    store: SqliteStore,
}

impl SqliteKeys {
    /// Opens or creates the file at `path`, for keys only.
    ///
    /// # Errors
    ///
    /// [`StoreError`], as [`SqliteStore::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let store = SqliteStore::of_steps(path, |db| db.execute_batch(SCHEMA))?;
        Ok(Self { store })
    }

    /// Keeps the keys in a file that is open for other work, and makes the table if it is not there.
    ///
    /// # Errors
    ///
    /// [`StoreError`], as [`SqliteStore::local`].
    pub async fn in_store(store: SqliteStore) -> Result<Self, StoreError> {
        store.local(|db| Ok(db.execute_batch(SCHEMA)?)).await?;
        Ok(Self { store })
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T, StoreUnavailable> {
        let done = self.store.local(work).await;
        done.map_err(|error| StoreUnavailable(error.to_string().into()))
    }
}

impl KeyStore for SqliteKeys {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreUnavailable> {
        let claim = claim.clone();
        self.ask(move |db| {
            let claimed = db.prepare_cached(CLAIM)?.execute(named_params! {
                ":id": claim.id,
                ":key": claim.key,
                ":fingerprint": claim.fingerprint,
                ":owner": claim.owner,
                ":lease": millis(claim.lease_ms),
                ":now": now_ms(),
            })?;
            if claimed == 1 {
                return Ok(Claimed::Mine);
            }
            type Row = ([u8; 32], Option<Vec<u8>>);
            let mut rows = db.prepare_cached(FIND)?;
            let found: Option<Row> =
                rows.query_row(named_params! {":id": claim.id}, |row| row.try_into()).optional()?;
            Ok(match found {
                Some((fingerprint, _)) if fingerprint != claim.fingerprint => Claimed::Other,
                Some((_, Some(answer))) => Claimed::Answered(Bytes::from(answer)),
                Some((_, None)) => Claimed::Running,
                None => return Err("what stood in the way of a claim is not there".into()),
            })
        })
        .await
    }

    async fn renew(&self, claim: &Claim) -> Result<Held, StoreUnavailable> {
        let claim = claim.clone();
        self.ask(move |db| {
            let renewed = db.prepare_cached(RENEW)?.execute(named_params! {
                ":id": claim.id,
                ":owner": claim.owner,
                ":lease": millis(claim.lease_ms),
                ":now": now_ms(),
            })?;
            Ok(held(renewed))
        })
        .await
    }

    async fn settle(&self, claim: &Claim, answer: Bytes) -> Result<Held, StoreUnavailable> {
        let claim = claim.clone();
        self.ask(move |db| {
            let settled = db.prepare_cached(SETTLE)?.execute(named_params! {
                ":id": claim.id,
                ":owner": claim.owner,
                ":answer": &*answer,
                ":now": now_ms(),
            })?;
            Ok(held(settled))
        })
        .await
    }

    async fn release(&self, claim: &Claim) -> Result<(), StoreUnavailable> {
        let claim = claim.clone();
        self.ask(move |db| {
            let whose = named_params! {":id": claim.id, ":owner": claim.owner};
            db.prepare_cached(RELEASE)?.execute(whose)?;
            Ok(())
        })
        .await
    }

    async fn prune(&self, kept_ms: u64, limit: usize) -> Result<usize, StoreUnavailable> {
        self.ask(move |db| {
            Ok(db.prepare_cached(PRUNE)?.execute(named_params! {
                ":before": now_ms().saturating_sub(millis(kept_ms)),
                ":now": now_ms(),
                ":limit": limit as i64,
            })?)
        })
        .await
    }
}

fn held(rows: usize) -> Held {
    match rows {
        0 => Held::Lost,
        _ => Held::Yes,
    }
}

fn now_ms() -> i64 {
    millis(now().0)
}

/// Times are far below the sign bit of a column; one that is not counts as the end of time.
fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX / 2)
}
