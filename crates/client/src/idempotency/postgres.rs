//! Keys in a table in PostgreSQL, for services that run as several processes.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::store::{Claim, Claimed, Held, KeyStore, StoreUnavailable};
use crate::error::chain;
use crate::limits::{KEY_ATTEMPTS_MAX, POOL_PATIENCE_MS};
use crate::pool::PostgresPool;

/// Looked for first, because who may use the table may not be allowed to make it.
const IS_THERE: &str = "SELECT to_regclass('unanimous_key') IS NOT NULL";

/// Two who make it at the same time would otherwise meet in the catalogue.
const SCHEMA: &str = "
    SELECT pg_advisory_xact_lock(6145837412);
    CREATE TABLE IF NOT EXISTS unanimous_key (
        id bytea NOT NULL PRIMARY KEY,
        key text NOT NULL,
        fingerprint bytea NOT NULL,
        owner text NOT NULL,
        expires_at timestamptz NOT NULL,
        answer bytea,
        at timestamptz NOT NULL
    );
    CREATE INDEX IF NOT EXISTS unanimous_key_at ON unanimous_key (at);
";

const CLAIM: &str = "
    INSERT INTO unanimous_key AS kept (id, key, fingerprint, owner, expires_at, at)
    VALUES ($1, $2, $3, $4, clock_timestamp() + $5 * interval '1 millisecond', clock_timestamp())
    ON CONFLICT (id) DO UPDATE
    SET owner = excluded.owner, expires_at = excluded.expires_at, at = excluded.at
    WHERE kept.answer IS NULL AND kept.fingerprint = excluded.fingerprint
        AND (kept.expires_at <= clock_timestamp() OR kept.owner = excluded.owner)";

const FIND: &str = "SELECT fingerprint, answer FROM unanimous_key WHERE id = $1";

const RENEW: &str = "
    UPDATE unanimous_key SET expires_at = clock_timestamp() + $3 * interval '1 millisecond'
    WHERE id = $1 AND owner = $2";

const SETTLE: &str = "
    UPDATE unanimous_key SET answer = $3, at = clock_timestamp() WHERE id = $1 AND owner = $2";

const RELEASE: &str = "DELETE FROM unanimous_key WHERE id = $1 AND owner = $2 AND answer IS NULL";

/// What is being claimed anew just now is left alone.
const PRUNE: &str = "
    DELETE FROM unanimous_key WHERE id = ANY (ARRAY(
        SELECT id FROM unanimous_key
        WHERE at < clock_timestamp() - $1 * interval '1 millisecond'
            AND (answer IS NOT NULL OR expires_at <= clock_timestamp())
        ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED))";

/// Keys in PostgreSQL. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct PostgresKeys {
    pool: PostgresPool,
}

impl PostgresKeys {
    /// Keeps keys in the table `unanimous_key`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`] if the database cannot be reached, or the table cannot be made.
    pub async fn open(pool: PostgresPool) -> Result<Self, StoreUnavailable> {
        let keys = Self { pool };
        let is_there: bool =
            keys.ask(async |db| db.query_one(IS_THERE, &[]).await?.try_get(0)).await?;
        if !is_there {
            keys.ask(async |db| db.batch_execute(SCHEMA).await).await?;
        }
        Ok(keys)
    }

    async fn ask<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreUnavailable> {
        let unavailable = |why: &str| StoreUnavailable(why.into());
        let lent = self.pool.lend().await.map_err(|error| unavailable(&error.to_string()))?;
        let patience = Duration::from_millis(POOL_PATIENCE_MS);
        match timeout(patience, work(&lent.connection)).await {
            Ok(done) => {
                lent.give_back();
                done.map_err(|error| unavailable(&chain(&error)))
            }
            Err(_) => Err(unavailable("it did not answer in time")),
        }
    }
}

impl KeyStore for PostgresKeys {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreUnavailable> {
        let (id, fingerprint, lease_ms) = (&claim.id[..], &claim.fingerprint[..], ms(claim));
        // Whoever stands in the way may go while it is looked at.
        for _ in 0..KEY_ATTEMPTS_MAX {
            let claimed = self.ask(async |db| {
                db.execute_typed(
                    CLAIM,
                    &[
                        (&id, Type::BYTEA),
                        (&claim.key, Type::TEXT),
                        (&fingerprint, Type::BYTEA),
                        (&claim.owner, Type::TEXT),
                        (&lease_ms, Type::FLOAT8),
                    ],
                )
                .await
            });
            if claimed.await? == 1 {
                return Ok(Claimed::Mine);
            }
            let found = self.ask(async |db| db.query_typed_opt(FIND, &[(&id, Type::BYTEA)]).await);
            let Some(row) = found.await? else { continue };
            let (found, answer): (Vec<u8>, Option<Vec<u8>>) = (row.get(0), row.get(1));
            return Ok(match answer {
                _ if found != fingerprint => Claimed::Other,
                Some(answer) => Claimed::Answered(Bytes::from(answer)),
                None => Claimed::Running,
            });
        }
        Err(StoreUnavailable("others claim the key and free it all the time".into()))
    }

    async fn renew(&self, claim: &Claim) -> Result<Held, StoreUnavailable> {
        let (id, lease_ms) = (&claim.id[..], ms(claim));
        let renewed = self.ask(async |db| {
            let (id, owner) = ((&id as _, Type::BYTEA), (&claim.owner as _, Type::TEXT));
            db.execute_typed(RENEW, &[id, owner, (&lease_ms, Type::FLOAT8)]).await
        });
        renewed.await.map(held)
    }

    async fn settle(&self, claim: &Claim, answer: Bytes) -> Result<Held, StoreUnavailable> {
        let (id, answer) = (&claim.id[..], &*answer);
        let settled = self.ask(async |db| {
            let (id, owner) = ((&id as _, Type::BYTEA), (&claim.owner as _, Type::TEXT));
            db.execute_typed(SETTLE, &[id, owner, (&answer, Type::BYTEA)]).await
        });
        settled.await.map(held)
    }

    async fn release(&self, claim: &Claim) -> Result<(), StoreUnavailable> {
        let id = &claim.id[..];
        let released = self.ask(async |db| {
            db.execute_typed(RELEASE, &[(&id, Type::BYTEA), (&claim.owner, Type::TEXT)]).await
        });
        released.await.map(drop)
    }

    async fn prune(&self, kept_ms: u64, limit: usize) -> Result<usize, StoreUnavailable> {
        let (kept_ms, limit) = (kept_ms as f64, limit as i64);
        let pruned = self.ask(async |db| {
            db.execute_typed(PRUNE, &[(&kept_ms, Type::FLOAT8), (&limit, Type::INT8)]).await
        });
        pruned.await.map(|rows| rows as usize)
    }
}

/// Intervals are multiplied by floating numbers in PostgreSQL.
fn ms(claim: &Claim) -> f64 {
    claim.lease_ms as f64
}

fn held(rows: u64) -> Held {
    match rows {
        0 => Held::Lost,
        _ => Held::Yes,
    }
}
