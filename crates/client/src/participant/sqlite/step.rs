//! Steps of sagas in the books: the mark of a step and its work, in one savepoint.
//!
//! A mark holds what its step is answered with, so that a repeated call does nothing. What undoes a
//! step that never acted leaves a mark too, which bars the action behind it.

use rusqlite::{OptionalExtension, named_params};
use serde_json::Value;
use unanimous_core::barrier::{Mark, Reply, Ruling, rule};
use unanimous_core::id::Timestamp;
use unanimous_core::{Answer, Opaque, Reason};

use super::books::{Books, damaged, mark, millis, word};
use super::{failed, unavailable};
use crate::participant::branch::json;
use crate::participant::steps::{Half, SqliteDeed, StepOrder};
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

/// What is kept of one step.
#[derive(Default)]
struct Kept {
    mark: Mark,
    result: Opaque,
    reason: Option<Reason>,
}

impl Books {
    /// Carries out a call, or answers as before.
    pub(super) fn step(&self, order: &StepOrder, deed: &SqliteDeed) -> Result<Answer, StoreError> {
        let name = order.branch.to_string();
        let kept = self.kept(&name)?;
        match rule(kept.mark, order.half.verb()) {
            Ruling::Repeat(reply) => Ok(answer(order.half, reply, &kept)),
            Ruling::Bar(_) if order.may_be_forgotten() => Ok(Answer::No(StepOrder::forgotten())),
            Ruling::Bar(mark) => {
                self.keep(&name, &Kept { mark, ..Kept::default() }, order.now)?;
                Ok(Answer::Done(Opaque::default()))
            }
            Ruling::Perform => self.perform(&name, order, &kept, deed),
        }
    }

    fn perform(
        &self,
        name: &str,
        order: &StepOrder,
        known: &Kept,
        deed: &SqliteDeed,
    ) -> Result<Answer, StoreError> {
        let call = order.call(json(&known.result).unwrap_or(Value::Null));
        let done = order.came(self.in_users_hands(|db| deed(db, &call)));
        let next = match (done, order.half) {
            (Ok(result), Half::Act) => {
                Kept { mark: Mark::Committed, result: StepOrder::kept(&result)?, reason: None }
            }
            (Ok(_), Half::Compensate) => Kept { mark: Mark::RolledBack, ..Kept::default() },
            (Err(No::Refused { kind, detail }), half) => {
                self.run("ROLLBACK TO unanimous")?;
                let reason = Reason::new(&kind, &detail);
                match half {
                    Half::Act => {
                        Kept { mark: Mark::Refused, reason: Some(reason), ..Kept::default() }
                    }
                    // It may be asked for again when somebody has mended what it met.
                    Half::Compensate => return Ok(Answer::No(reason)),
                }
            }
            (Err(No::Failed(error)), _) => return Err(failed(&*error)),
        };
        self.keep(name, &next, order.now)?;
        match rule(next.mark, order.half.verb()) {
            Ruling::Repeat(reply) => Ok(answer(order.half, reply, &next)),
            Ruling::Perform | Ruling::Bar(_) => {
                unreachable!("{:?} does not follow from {:?}", next.mark, order.half)
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

fn answer(half: Half, reply: Reply, kept: &Kept) -> Answer {
    match (reply, half) {
        (Reply::Done, Half::Act) => Answer::Done(kept.result.clone()),
        (Reply::Done, Half::Compensate) => Answer::Done(Opaque::default()),
        (Reply::No, _) => Answer::No(kept.reason.clone().unwrap_or_else(StepOrder::barred)),
        (Reply::Yes | Reply::ReadOnly | Reply::Heuristic(_), _) => {
            unreachable!("{reply:?} to {half:?}: a step has one phase")
        }
    }
}
