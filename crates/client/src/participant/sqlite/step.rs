//! Steps of sagas in the books: the mark of a step and its work, in one savepoint.
//!
//! A mark holds what its step is answered with, so that a repeated call does nothing. What undoes a
//! step that never acted leaves a mark too, which bars the action behind it.

use bytes::Bytes;
use http::HeaderMap;
use rusqlite::{Connection, OptionalExtension, named_params};
use serde_json::Value;
use unanimous_core::barrier::{Mark, Reply, Ruling, rule};
use unanimous_core::id::{BranchName, Timestamp};
use unanimous_core::{Answer, Opaque, Reason, Verb};

use super::books::{Books, damaged, mark, millis, word};
use super::{failed, unavailable};
use crate::limits::{RESULT_BYTES_MAX, STEP_AGE_MS_MAX};
use crate::participant::branch::json;
use crate::participant::steps::StepCall;
use crate::participant::store::StoreError;
use crate::participant::work::No;

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS unanimous_step (
        branch TEXT NOT NULL PRIMARY KEY,
        mark TEXT NOT NULL,
        result BLOB,
        reason_kind TEXT,
        reason_detail TEXT,
        ended_at_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS unanimous_step_ended ON unanimous_step (ended_at_ms);
";

const LOAD: &str = "
    SELECT mark, result, reason_kind, reason_detail FROM unanimous_step WHERE branch = :branch";

const SAVE: &str = "
    INSERT INTO unanimous_step
    VALUES (:branch, :mark, :result, :reason_kind, :reason_detail, :ended_at)
    ON CONFLICT (branch) DO UPDATE SET mark = :mark, result = :result,
        reason_kind = :reason_kind, reason_detail = :reason_detail, ended_at_ms = :ended_at";

const PRUNE: &str = "
    DELETE FROM unanimous_step WHERE branch IN (
        SELECT branch FROM unanimous_step WHERE ended_at_ms < :before
        ORDER BY ended_at_ms LIMIT :limit)";

/// What one path does.
pub(crate) type Deed = dyn Fn(&Connection, &StepCall) -> Result<Value, No> + Send + Sync;

/// One call to a step.
pub(crate) struct Order {
    pub(crate) branch: BranchName,
    /// [`Verb::Act`] or [`Verb::Compensate`].
    pub(crate) verb: Verb,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) now: Timestamp,
}

/// What is kept of one step.
#[derive(Default)]
struct Kept {
    mark: Mark,
    result: Opaque,
    reason: Option<Reason>,
}

impl Books {
    /// Carries out a call, or answers as before.
    pub(super) fn step(&self, order: Order, deed: &Deed) -> Result<Answer, StoreError> {
        let name = order.branch.to_string();
        let kept = self.kept(&name)?;
        let (verb, now) = (order.verb, order.now);
        match rule(kept.mark, verb) {
            Ruling::Repeat(reply) => Ok(answer(verb, reply, &kept)),
            Ruling::Bar(_) if now.since_ms(order.branch.txn.minted_at()) > STEP_AGE_MS_MAX => {
                let days = STEP_AGE_MS_MAX / 86_400_000;
                let detail = format!("after {days} days it is not known any more whether it acted");
                Ok(Answer::No(Reason::new("forgotten", &detail)))
            }
            Ruling::Bar(mark) => {
                self.keep(&name, &Kept { mark, ..Kept::default() }, now)?;
                Ok(Answer::Done(Opaque::default()))
            }
            Ruling::Perform => self.perform(&name, order, &kept, deed),
        }
    }

    fn perform(
        &self,
        name: &str,
        order: Order,
        kept: &Kept,
        deed: &Deed,
    ) -> Result<Answer, StoreError> {
        let (verb, now) = (order.verb, order.now);
        let acted = json(&kept.result).unwrap_or(Value::Null);
        let call = StepCall::new(order.branch, order.headers, order.body, acted);
        let next = match self.in_users_hands(|db| deed(db, &call)) {
            Ok(result) if verb == Verb::Act => {
                Kept { mark: Mark::Committed, result: opaque(&result)?, reason: None }
            }
            Ok(_) => Kept { mark: Mark::RolledBack, ..Kept::default() },
            Err(No::Refused { kind, detail }) => {
                self.run("ROLLBACK TO unanimous")?;
                let reason = Reason::new(&kind, &detail);
                // A compensation may be asked for again when somebody has mended what it met.
                if verb != Verb::Act {
                    return Ok(Answer::No(reason));
                }
                Kept { mark: Mark::Refused, reason: Some(reason), ..Kept::default() }
            }
            Err(No::Failed(error)) => return Err(failed(&*error)),
        };
        self.keep(name, &next, now)?;
        match rule(next.mark, verb) {
            Ruling::Repeat(reply) => Ok(answer(verb, reply, &next)),
            Ruling::Perform | Ruling::Bar(_) => {
                unreachable!("{:?} does not follow from {verb:?}", next.mark)
            }
        }
    }

    pub(super) fn prune_steps(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let bounds = named_params! {":before": millis(before), ":limit": limit as i64};
        self.db
            .prepare_cached(PRUNE)
            .and_then(|mut rows| rows.execute(bounds))
            .map_err(|error| unavailable(&error))
    }

    fn kept(&self, name: &str) -> Result<Kept, StoreError> {
        type Row = (String, Option<Vec<u8>>, Option<String>, Option<String>);
        let found: Option<Row> = self
            .db
            .prepare_cached(LOAD)
            .and_then(|mut rows| {
                let row = rows.query_row(named_params! {":branch": name}, |row| row.try_into());
                row.optional()
            })
            .map_err(|error| unavailable(&error))?;
        let Some((word, result, kind, detail)) = found else { return Ok(Kept::default()) };
        Ok(Kept {
            mark: mark(&word).ok_or_else(|| damaged(name))?,
            result: result.map(|bytes| Opaque::new(&bytes)).unwrap_or_default(),
            reason: kind.zip(detail).map(|(kind, detail)| Reason::new(&kind, &detail)),
        })
    }

    fn keep(&self, name: &str, kept: &Kept, now: Timestamp) -> Result<(), StoreError> {
        let result = (!kept.result.is_empty()).then(|| kept.result.bytes());
        let values = named_params! {
            ":branch": name,
            ":mark": word(kept.mark),
            ":result": result,
            ":reason_kind": kept.reason.as_ref().map(|it| &*it.kind),
            ":reason_detail": kept.reason.as_ref().map(|it| &*it.detail),
            ":ended_at": millis(now),
        };
        self.db
            .prepare_cached(SAVE)
            .and_then(|mut rows| rows.execute(values))
            .map(|_| ())
            .map_err(|error| unavailable(&error))
    }
}

fn opaque(result: &Value) -> Result<Opaque, StoreError> {
    if result.is_null() {
        return Ok(Opaque::default());
    }
    let text = result.to_string();
    match text.len() {
        0..=RESULT_BYTES_MAX => Ok(Opaque::new(text.as_bytes())),
        bytes => {
            let what = format!("a result of {bytes} bytes; no more than {RESULT_BYTES_MAX} fit");
            Err(StoreError::Work(what.into()))
        }
    }
}

fn answer(verb: Verb, reply: Reply, kept: &Kept) -> Answer {
    match reply {
        Reply::Done if verb == Verb::Act => Answer::Done(kept.result.clone()),
        Reply::Done => Answer::Done(Opaque::default()),
        Reply::No => Answer::No(kept.reason.clone().unwrap_or_else(|| {
            Reason::new("barred", "the step was compensated before this call came")
        })),
        Reply::Yes | Reply::ReadOnly | Reply::Heuristic(_) => {
            unreachable!("{reply:?} to {verb:?}: a step has one phase")
        }
    }
}
