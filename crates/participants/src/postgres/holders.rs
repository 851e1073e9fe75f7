//! Who holds the lock that a process of the server waits for, as the server knows it now.
//!
//! One question, in a read-only transaction that ends in time by itself. It follows those who wait in
//! front of each other to those who do not wait. Sessions are told as `pg_stat_activity` shows them to our
//! role, without their statements; what is prepared has no session, and is found by what it has locked.

use serde::Deserialize;

use super::Inner;
use super::login::APPLICATION;
use super::wire::{Connection, Executed};
use crate::limits::{HOLDERS_SEEN_MAX, LOOK_PATIENCE};
use crate::lookout::{Holder, Waits, Who, lasted};

/// Whether a lock of a mode is in the way of another: the table *Conflicting Lock Modes* of PostgreSQL's
/// manual. The names of some modes begin like others.
const IN_THE_WAY: &str = "held.mode ~ CASE wanted.mode \
     WHEN 'AccessShareLock' THEN '^AccessExclusive' \
     WHEN 'RowShareLock' THEN '^(Access)?Exclusive' \
     WHEN 'RowExclusiveLock' THEN '^(ShareLock|ShareRow|Exclusive|AccessExclusive)' \
     WHEN 'ShareUpdateExclusiveLock' THEN '^(Share|Exclusive|AccessExclusive)' \
     WHEN 'ShareLock' THEN 'Exclusive' \
     WHEN 'ShareRowExclusiveLock' THEN '^(RowExclusive|Share|Exclusive|AccessExclusive)' \
     WHEN 'ExclusiveLock' THEN '^(Row|Share|Exclusive|AccessExclusive)' \
     ELSE '^(Access|Row|Share|Exclusive)' END";

/// What tells one thing that can be locked from another.
const THING: [&str; 10] = [
    "locktype",
    "database",
    "relation",
    "page",
    "tuple",
    "virtualxid",
    "transactionid",
    "classid",
    "objid",
    "objsubid",
];

/// One who is in the way.
#[derive(Clone, Debug, Default, Deserialize)]
struct Seen {
    /// None has what is prepared.
    process: Option<i32>,
    /// The identifier of what is prepared.
    gid: Option<String>,
    application: Option<String>,
    role: Option<String>,
    state: Option<String>,
    /// Since it is in this state.
    for_ms: Option<u64>,
    waits: bool,
}

/// Who is in the way of `process`. `None` if that cannot be known.
pub(super) async fn look(inner: &Inner, process: i64) -> Option<Vec<Holder>> {
    let mut lent = inner.looking.lend().await.ok()?;
    let executed = ask(&mut lent.connection, process).await?;
    inner.looking.give_back(lent);
    let seen: Vec<Seen> = serde_json::from_str(&executed.first?).ok()?;
    Some(seen.into_iter().map(|seen| seen.told(inner)).collect())
}

async fn ask(connection: &mut Connection, process: i64) -> Option<Executed> {
    let limit = format!("SET LOCAL statement_timeout = {}", LOOK_PATIENCE.as_millis());
    for sql in ["BEGIN READ ONLY", &limit, &question(process), "ROLLBACK"] {
        connection.statement(sql, &[]).ok()?;
    }
    connection.sync();
    connection.send().await.ok()?;
    for _ in ["BEGIN", "SET"] {
        connection.executed().await.ok()?.ok()?;
    }
    let executed = connection.executed().await.ok()?.ok()?;
    connection.executed().await.ok()?.ok()?;
    connection.ready().await.ok()?.ok()?;
    Some(executed)
}

/// A pooler names processes that are not the server's: only one of ours is looked at.
fn question(process: i64) -> String {
    let columns = |of: &str| THING.map(|column| format!("{of}.{column}")).join(", ");
    let for_ms = |since: &str| {
        format!("greatest(0, extract(epoch FROM clock_timestamp() - {since}) * 1000)::bigint")
    };
    format!(
        "WITH RECURSIVE waiting(pid) AS ( \
             SELECT pid FROM pg_stat_activity \
                 WHERE pid = {process} AND application_name = '{APPLICATION}' \
             UNION SELECT holder FROM waiting, unnest(pg_blocking_pids(pid)) AS holder \
                 WHERE holder > 0), \
         chain AS MATERIALIZED (SELECT pid FROM waiting LIMIT {HOLDERS_SEEN_MAX}), \
         locks AS MATERIALIZED (SELECT * FROM pg_locks), \
         wanted AS (SELECT * FROM locks WHERE NOT granted AND pid IN (SELECT pid FROM chain)), \
         seen AS ( \
             SELECT pid AS process, NULL AS gid, application_name AS application, \
                 usename AS role, state, {} AS for_ms, pid IN (SELECT pid FROM wanted) AS waits \
             FROM chain JOIN pg_stat_activity USING (pid) WHERE pid <> {process} \
             UNION ALL \
             SELECT DISTINCT NULL::int, gid, NULL, owner, NULL, {}, false \
             FROM wanted JOIN locks AS held ON held.granted AND held.pid IS NULL \
                 AND ({}) IS NOT DISTINCT FROM ({}) AND {IN_THE_WAY} \
             JOIN locks AS own ON own.pid IS NULL \
                 AND own.virtualtransaction = held.virtualtransaction \
             JOIN pg_prepared_xacts ON transaction = own.transactionid) \
         SELECT coalesce(json_agg(\"some\"), '[]') \
         FROM (SELECT * FROM seen LIMIT {HOLDERS_SEEN_MAX}) AS \"some\"",
        for_ms("state_change"),
        for_ms("prepared"),
        columns("held"),
        columns("wanted"),
    )
}

impl Seen {
    fn told(self, inner: &Inner) -> Holder {
        let waits = if self.waits { Waits::Yes } else { Waits::No };
        let quoted = |what: &str, name: Option<String>| {
            name.filter(|it| !it.is_empty()).map(|it| format!("{what} {it:?}"))
        };
        let lasted = self.for_ms.map(lasted);
        let state = match (self.state, &lasted) {
            (Some(state), Some(lasted)) => Some(format!("{state} for {lasted}")),
            (state, _) => state,
        };
        let Some(process) = self.process else {
            let gid = self.gid.unwrap_or_default();
            let known = [lasted.map(|it| format!("for {it}")), quoted("role", self.role)];
            return Holder {
                who: Who::Prepared(gid),
                known: known.into_iter().flatten().collect(),
                waits,
            };
        };
        let ours = self.application.as_deref() == Some(APPLICATION);
        let branch = inner.at_work.branch(i64::from(process)).filter(|_| ours);
        let process = format!("process {process}");
        let (who, known) = match branch {
            Some(branch) => (Who::Executing(branch), [Some(process), state, None]),
            None => {
                let application = quoted("application", self.application);
                (Who::Other(process), [application, quoted("role", self.role), state])
            }
        };
        Holder { who, known: known.into_iter().flatten().collect(), waits }
    }
}
