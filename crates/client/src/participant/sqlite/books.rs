//! The connection: marks and work side by side, in savepoints of one transaction.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, named_params};
use unanimous_core::barrier::Mark;
use unanimous_core::id::Timestamp;
use unanimous_core::{Answer, Decision, Opaque, Reason};

use super::{SqliteParticipant, failed, unavailable};
use crate::limits::BUSY_MS_MAX;
use crate::participant::branch::{Entry, Plan};
use crate::participant::store::{Call, InDoubt, StoreError};
use crate::participant::work::{BoxError, No, Work};

/// Branches are named in the order they began, so new ones go to the end of the table. The two
/// indexes are partial: a branch is in one of them at a time.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS unanimous_branch (
        branch TEXT NOT NULL PRIMARY KEY,
        mark TEXT NOT NULL,
        body BLOB,
        result BLOB,
        reason_kind TEXT,
        reason_detail TEXT,
        prepared_at_ms INTEGER,
        ended_at_ms INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS unanimous_branch_in_doubt
        ON unanimous_branch (prepared_at_ms) WHERE mark = 'prepared';
    CREATE INDEX IF NOT EXISTS unanimous_branch_ended
        ON unanimous_branch (ended_at_ms)
        WHERE mark IN ('read_only', 'refused', 'committed', 'rolled_back');
";

const LOAD: &str = "
    SELECT mark, body, result, reason_kind, reason_detail, prepared_at_ms, ended_at_ms
    FROM unanimous_branch WHERE branch = :branch";

const SAVE: &str = "
    INSERT INTO unanimous_branch
    VALUES (:branch, :mark, :body, :result, :reason_kind, :reason_detail, :prepared_at, :ended_at)
    ON CONFLICT (branch) DO UPDATE SET mark = :mark, body = :body, result = :result,
        reason_kind = :reason_kind, reason_detail = :reason_detail,
        prepared_at_ms = :prepared_at, ended_at_ms = :ended_at";

const IN_DOUBT: &str = "
    SELECT branch, prepared_at_ms FROM unanimous_branch
    WHERE mark = 'prepared' ORDER BY prepared_at_ms LIMIT :limit";

const PRUNE: &str = "
    DELETE FROM unanimous_branch WHERE branch IN (
        SELECT branch FROM unanimous_branch
        WHERE mark IN ('read_only', 'refused', 'committed', 'rolled_back')
            AND ended_at_ms < :before
        ORDER BY ended_at_ms LIMIT :limit)";

/// The savepoint around each call. Participants may have others.
const SAVEPOINT: &str = "unanimous";

pub(super) struct Books {
    pub(super) db: Connection,
    participant: Box<dyn SqliteParticipant>,
    /// Set while the participant has the connection: it may then not end our transaction.
    lent: Arc<AtomicBool>,
}

impl Books {
    pub(super) fn open(
        path: &Path,
        participant: Box<dyn SqliteParticipant>,
    ) -> Result<Self, StoreError> {
        let at = |error: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("{}: {error}", path.display()).into())
        };
        let mut db = Connection::open(path).map_err(|error| at(&error))?;
        let mode = configure(&db).map_err(|error| at(&error))?;
        if mode != "wal" {
            return Err(at(&format!("journal mode is {mode}, write-ahead logging is needed")));
        }
        let lent = Arc::new(AtomicBool::new(false));
        let guard = Arc::clone(&lent);
        db.authorizer(Some(move |context: AuthContext<'_>| {
            match guard.load(Ordering::Relaxed) && ends_a_transaction(&context.action) {
                true => Authorization::Deny,
                false => Authorization::Allow,
            }
        }))
        .map_err(|error| at(&error))?;
        let books = Self { db, participant, lent };
        books.begin().map_err(|error| at(&error))?;
        for schema in [SCHEMA, super::step::SCHEMA] {
            books.db.execute_batch(schema).map_err(|error| at(&error))?;
        }
        books.in_users_hands(|db| books.participant.set_up(db)).map_err(|error| failed(&*error))?;
        books.commit().map_err(|error| at(&error))?;
        Ok(books)
    }

    pub(super) fn begin(&self) -> Result<(), StoreError> {
        self.run("BEGIN IMMEDIATE")
    }

    /// Makes everything since [`Books::begin`] durable, or takes it back.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stopped`] if the disk refused: what it holds is not known until the file is
    /// opened anew.
    pub(super) fn commit(&self) -> Result<(), StoreError> {
        let Err(error) = self.execute("COMMIT") else { return Ok(()) };
        if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
            return Err(StoreError::Stopped);
        }
        if self.is_open() {
            // If this fails too, so does the next begin, and every call says so.
            let _ = self.run("ROLLBACK");
        }
        Err(unavailable(&error))
    }

    /// Whether a transaction is open. SQLite gives it up by itself after some errors.
    pub(super) fn is_open(&self) -> bool {
        !self.db.is_autocommit()
    }

    /// Does `work`, of which nothing is left if it fails.
    pub(super) fn in_savepoint<T>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.run("SAVEPOINT unanimous")?;
        let done = work();
        if done.is_err() && self.is_open() {
            self.run("ROLLBACK TO unanimous")?;
        }
        if self.is_open() {
            self.run("RELEASE unanimous")?;
        }
        done
    }

    /// Lends the connection to code that is not ours.
    pub(super) fn in_users_hands<T>(&self, work: impl FnOnce(&Connection) -> T) -> T {
        let _lent = Lent::of(&self.lent);
        work(&self.db)
    }

    pub(super) fn carry_out(&self, call: &Call) -> Result<Answer, StoreError> {
        let name = call.branch.to_string();
        let mut entry = self.load(&name)?;
        match entry.plan(call.order, call.now) {
            Plan::Answer(answer) => return Ok(answer),
            Plan::Write => {}
            Plan::Prepare => self.prepare(call, &mut entry)?,
            Plan::PrepareAndCommit => {
                self.prepare(call, &mut entry)?;
                if entry.mark == Mark::Prepared {
                    self.end(call, &mut entry, |it, db, work| it.commit(db, work))?;
                }
            }
            Plan::Commit => self.end(call, &mut entry, |it, db, work| it.commit(db, work))?,
            Plan::Rollback => self.end(call, &mut entry, |it, db, work| it.rollback(db, work))?,
        }
        self.save(&name, &entry)?;
        Ok(entry.answer(call.order))
    }

    fn prepare(&self, call: &Call, entry: &mut Entry) -> Result<(), StoreError> {
        let work = Work::new(call.branch.clone(), &call.body);
        match self.in_users_hands(|db| self.participant.prepare(db, &work)) {
            Ok(vote) => {
                if vote.is_read_only() {
                    self.run("ROLLBACK TO unanimous")?;
                }
                entry.voted(vote, call.body.clone(), call.now);
            }
            Err(No::Refused { kind, detail }) => {
                self.run("ROLLBACK TO unanimous")?;
                entry.refused(&kind, &detail, call.now);
            }
            Err(No::Failed(error)) => return Err(failed(&*error)),
        }
        Ok(())
    }

    fn end(
        &self,
        call: &Call,
        entry: &mut Entry,
        verb: impl FnOnce(&dyn SqliteParticipant, &Connection, &Work) -> Result<(), BoxError>,
    ) -> Result<(), StoreError> {
        let work = Work::new(call.branch.clone(), &entry.body);
        self.in_users_hands(|db| verb(&*self.participant, db, &work))
            .map_err(|error| failed(&*error))?;
        entry.ended(call.order, call.now);
        Ok(())
    }

    pub(super) fn in_doubt(&self, limit: usize) -> Result<Vec<InDoubt>, StoreError> {
        let read = || {
            let mut rows = self.db.prepare_cached(IN_DOUBT)?;
            rows.query_map(named_params! {":limit": limit as i64}, |row| {
                Ok((row.get::<_, String>(0)?, Timestamp(row.get::<_, i64>(1)? as u64)))
            })?
            .collect::<Result<Vec<_>, _>>()
        };
        let rows = read().map_err(|error| unavailable(&error))?;
        rows.into_iter()
            .map(|(name, since)| match name.parse() {
                Ok(branch) => Ok(InDoubt { branch, since }),
                Err(_) => Err(damaged(&name)),
            })
            .collect()
    }

    pub(super) fn prune(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let bounds = named_params! {":before": millis(before), ":limit": limit as i64};
        self.db
            .prepare_cached(PRUNE)
            .and_then(|mut rows| rows.execute(bounds))
            .map_err(|error| unavailable(&error))
    }

    fn load(&self, name: &str) -> Result<Entry, StoreError> {
        let found = self
            .db
            .prepare_cached(LOAD)
            .and_then(|mut rows| rows.query_row(named_params! {":branch": name}, entry).optional())
            .map_err(|error| unavailable(&error))?;
        match found {
            None => Ok(Entry::default()),
            Some(Some(entry)) => Ok(entry),
            Some(None) => Err(damaged(name)),
        }
    }

    fn save(&self, name: &str, entry: &Entry) -> Result<(), StoreError> {
        let reason = entry.reason.as_ref();
        let bytes = |bytes: &[u8]| (!bytes.is_empty()).then(|| bytes.to_vec());
        let values = named_params! {
            ":branch": name,
            ":mark": word(entry.mark),
            ":body": bytes(&entry.body),
            ":result": bytes(entry.result.bytes()),
            ":reason_kind": reason.map(|it| &*it.kind),
            ":reason_detail": reason.map(|it| &*it.detail),
            ":prepared_at": entry.prepared_at.map(millis),
            ":ended_at": entry.ended_at.map(millis),
        };
        self.db
            .prepare_cached(SAVE)
            .and_then(|mut rows| rows.execute(values))
            .map(|_| ())
            .map_err(|error| unavailable(&error))
    }

    pub(super) fn run(&self, sql: &str) -> Result<(), StoreError> {
        self.execute(sql).map_err(|error| unavailable(&error))
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.db.prepare_cached(sql)?.execute([]).map(|_| ())
    }
}

/// Marks the connection as lent until it is dropped, also by a panic.
struct Lent<'a>(&'a AtomicBool);

impl<'a> Lent<'a> {
    fn of(lent: &'a AtomicBool) -> Self {
        lent.store(true, Ordering::Relaxed);
        Self(lent)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn ends_a_transaction(action: &AuthAction<'_>) -> bool {
    let AuthAction::Savepoint { savepoint_name, .. } = action else {
        return matches!(action, AuthAction::Transaction { .. });
    };
    savepoint_name.eq_ignore_ascii_case(SAVEPOINT)
}

/// Answers with the journal mode that came of it.
fn configure(db: &Connection) -> rusqlite::Result<String> {
    db.busy_timeout(Duration::from_millis(BUSY_MS_MAX))?;
    db.set_prepared_statement_cache_capacity(64);
    let mode = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    // Anything less may lose a yes with the power.
    db.pragma_update(None, "synchronous", "full")?;
    Ok(mode)
}

/// `None` if the row cannot have been written by us.
fn entry(row: &Row<'_>) -> rusqlite::Result<Option<Entry>> {
    let Some(mark) = mark(&row.get::<_, String>(0)?) else { return Ok(None) };
    let bytes = |index| row.get::<_, Option<Vec<u8>>>(index).map(Option::unwrap_or_default);
    let reason = match (row.get::<_, Option<String>>(3)?, row.get::<_, Option<String>>(4)?) {
        (Some(kind), Some(detail)) => Some(Reason::new(&kind, &detail)),
        (None, _) | (_, None) => None,
    };
    let time =
        |index| row.get::<_, Option<i64>>(index).map(|at| at.map(|at_ms| Timestamp(at_ms as u64)));
    Ok(Some(Entry {
        mark,
        body: Bytes::from(bytes(1)?),
        result: Opaque::new(&bytes(2)?),
        reason,
        prepared_at: time(5)?,
        ended_at: time(6)?,
    }))
}

pub(super) fn word(mark: Mark) -> &'static str {
    match mark {
        Mark::Absent => unreachable!("what is written has a mark"),
        Mark::Prepared => "prepared",
        Mark::ReadOnly => "read_only",
        Mark::Refused => "refused",
        Mark::Committed => "committed",
        Mark::RolledBack => "rolled_back",
        Mark::Heuristic(Decision::Commit) => "heuristic_commit",
        Mark::Heuristic(Decision::Abort) => "heuristic_rollback",
    }
}

pub(super) fn mark(word: &str) -> Option<Mark> {
    Some(match word {
        "prepared" => Mark::Prepared,
        "read_only" => Mark::ReadOnly,
        "refused" => Mark::Refused,
        "committed" => Mark::Committed,
        "rolled_back" => Mark::RolledBack,
        "heuristic_commit" => Mark::Heuristic(Decision::Commit),
        "heuristic_rollback" => Mark::Heuristic(Decision::Abort),
        _ => return None,
    })
}

/// Times are far below the sign bit of a column; one that is not counts as the end of time.
pub(super) fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

pub(super) fn damaged(name: &str) -> StoreError {
    StoreError::Unavailable(format!("the mark of branch {name} cannot be read").into())
}
