//! Steps of sagas: one transaction each, with a row that says so written in it.
//!
//! | row of the branch | in `unanimous_barrier` |
//! |---|---|
//! | `act`, with a result | the step was done |
//! | `act`, without | it never was, and will never be: it was compensated before it came |
//! | `compensate` | it was compensated; with a result if there was anything to undo |
//!
//! A local transaction of an application writes the row `act` itself. Who wants to settle whether it has
//! committed writes the row without a result: if that can be, it has not, and never will.
//!
//! The row is written before the work. Whoever comes second waits for the first, and is answered what
//! the first did; the row and the work stay or go together. So a step is done at most once however often it
//! is asked for, and a refusal is true only behind the row: whatever fails before it is silence, because an
//! earlier attempt may have come through.
//!
//! The transaction is one of XA, committed in one phase: in any other a procedure could commit halfway.

use tokio::time::timeout;
use unanimous_core::{Answer, Opaque, Reason};

use super::bounds::{Watch, bounds};
use super::lexer::quoted;
use super::prepare::{Left, Work, json, leave, no, undo, untouchable, values};
use super::session::{Broken, Product, Ran, Refused, Session, Sql};
use super::{Inner, errno, failed, silent, timed_out, unreached, xid};
use crate::guard::Heard;
use crate::kept::{self, Range};
use crate::limits::{FENCE_KEPT, FENCE_SWEEP};
use crate::lookout::{Lookout, Sight};
use crate::statement::StatementResult;
use crate::step::Half;
use crate::{Call, step as contract};

/// Makes the table. Anybody may do so in advance.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS unanimous_barrier (branch VARBINARY(128) NOT NULL, \
     verb VARBINARY(16) NOT NULL, result MEDIUMTEXT CHARACTER SET utf8mb4, \
     asked INT UNSIGNED NOT NULL DEFAULT 0, at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
     PRIMARY KEY (branch, verb)) ENGINE=InnoDB";

/// What is sent before the row: the bounds and the start.
const BEFORE_THE_ROW: [&str; 2] = ["SET", "XA START"];

/// One half of a step, about to be done.
struct Attempt<'a> {
    call: &'a Call,
    half: Half,
    /// Or why it cannot be.
    work: Result<Work<'a>, Reason>,
}

/// What an attempt came to, with the transaction still to be rolled back if there is one.
enum Came {
    To(Answer, Left),
    /// The row is there already.
    Second,
    /// There is no table for it.
    NoTable,
}

/// Whether a compensation has come before its step.
enum Barred {
    No,
    Yes,
}

pub(super) async fn perform(inner: &Inner, call: &Call, half: Half) -> Heard {
    let statements = match half.statements(&call.work) {
        Ok(statements) => statements,
        Err(bad) => return no(Reason::new("statement", &bad.why)),
    };
    inner.sweeper.saw(&call.name);
    let attempt = Attempt { call, half, work: Work::new(&statements) };
    let sight = Sight::new();
    match timeout(call.patience, ask(inner, attempt, &sight)).await {
        Ok(Ok(heard)) => heard,
        Ok(Err(broken)) => {
            inner.first_phase.distrust();
            failed(half.word(), broken)
        }
        Err(_) => timed_out(call),
    }
}

async fn ask(inner: &Inner, mut attempt: Attempt<'_>, sight: &Sight) -> Result<Heard, Broken> {
    // Not of the second phase, whose commits set free what a compensation may be waiting for.
    let mut lent = match inner.first_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => return Ok(unreached(&why)),
    };
    let session = &mut lent.session;
    if let Err(refused) = inner.tables.refresh(session).await? {
        let answer = silent(&format!("the list of tables: {refused}"));
        return Ok(leave(inner, lent, (answer, Left::Outside)).await);
    }
    if let Ok(work) = &attempt.work
        && let Some(reason) = untouchable(inner, work)
    {
        attempt.work = Err(reason);
    }
    let watch = Watch::over(inner, session);
    let lookout = Lookout::post(&inner.at_work, session.number, attempt.call, sight);
    let mut came = watch.beside(&lookout, attempt.make(session, &lookout)).await?;
    if let Came::NoTable = came {
        undo(session, attempt.call).await?;
        let made = session.execute(TABLE).await?;
        came = watch.beside(&lookout, attempt.make(session, &lookout)).await?;
        if let (Came::NoTable, Err(refused)) = (&came, made) {
            came = Came::To(Answer::No(without_table(&refused)), Left::Inside);
        }
    }
    let (answer, left) = match came {
        Came::To(answer, left) => (answer, left),
        Came::NoTable => (silent("the table unanimous_barrier is not there"), Left::Inside),
        Came::Second => {
            undo(session, attempt.call).await?;
            (attempt.saved(session).await?, Left::Outside)
        }
    };
    let left = match left {
        Left::Outside => Left::Outside,
        Left::Inside => undo(session, attempt.call).await?,
    };
    Ok(leave(inner, lent, (answer, left)).await)
}

fn without_table(refused: &Refused) -> Reason {
    let detail = format!(
        "the table that makes repeats harmless is not there and cannot be made: {refused}; run once, in \
         the resource's database: {TABLE}, and let the resource's user SELECT, INSERT, UPDATE and DELETE \
         in it"
    );
    Reason::new("barrier_missing", &detail)
}

/// What an error behind the row means: nothing was done, for now or for good.
fn refusal(refused: &Refused, what: &str) -> Came {
    let answer = match errno::may_come_out(refused) {
        true => silent(&format!("{what}: {refused}")),
        false => Answer::No(errno::reason(refused, what)),
    };
    Came::To(answer, Left::Inside)
}

impl Attempt<'_> {
    fn is_row(&self) -> String {
        format!("branch = '{}' AND verb = '{}'", self.call.name, self.half.word())
    }

    async fn make(&self, session: &mut Session, lookout: &Lookout<'_>) -> Result<Came, Broken> {
        let (name, verb) = (&self.call.name, self.half.word());
        let mut all = vec![Sql::new(bounds(session.product, lookout.left))];
        all.push(Sql::new(format!("XA START {}", xid::spelled(name))));
        let row = format!("INTO unanimous_barrier (branch, verb) VALUES ('{name}',");
        all.push(Sql::new(format!("INSERT {row} '{verb}')")));
        match (self.half, &self.work) {
            (Half::Compensate, _) => all.push(Sql::new(format!("INSERT IGNORE {row} 'act')"))),
            (Half::Act, Ok(work)) => all.extend_from_slice(&work.texts),
            (Half::Act, Err(_)) | (Half::Settle, _) => {}
        }
        let mut ran = Ran::default();
        session.run(&all, &mut ran).await?;
        let (done, refused) = (ran.results.len(), ran.refused.take());
        if let Some(refused) = refused {
            let refused = errno::explained(refused, lookout);
            return Ok(match (done.checked_sub(BEFORE_THE_ROW.len() + 1), self.half) {
                (Some(_), Half::Compensate | Half::Settle) => {
                    refusal(&refused, "unanimous_barrier")
                }
                (Some(index), Half::Act) => refusal(&refused, &format!("statement {}", index + 1)),
                (None, _) if done == BEFORE_THE_ROW.len() => self.before(&refused),
                (None, _) => {
                    let what = BEFORE_THE_ROW[done];
                    Came::To(silent(&format!("{what}: {refused}")), Left::Inside)
                }
            });
        }
        let after_the_row = ran.results.split_off(BEFORE_THE_ROW.len() + 1);
        match self.half {
            Half::Act => self.carried_out(session, &after_the_row).await,
            Half::Settle => {
                // The row was not there: what it would have proved will never be.
                let came = self.commit(session, None).await?;
                Ok(match came {
                    Came::To(answer, left) => {
                        Came::To(contract::settled(answer, &self.call.name), left)
                    }
                    Came::Second | Came::NoTable => came,
                })
            }
            Half::Compensate => {
                let barred = match after_the_row[0].rows_affected {
                    0 => Barred::No,
                    _ => Barred::Yes,
                };
                self.undo_step(session, lookout, barred).await
            }
        }
    }

    /// What it means that the row could not be written.
    fn before(&self, refused: &Refused) -> Came {
        if errno::is_duplicate(refused) {
            Came::Second
        } else if errno::is_no_table(refused) {
            Came::NoTable
        } else {
            Came::To(silent(&format!("unanimous_barrier: {refused}")), Left::Inside)
        }
    }

    /// Undoes the step if it was done; if it was not, it never will be.
    async fn undo_step(
        &self,
        session: &mut Session,
        lookout: &Lookout<'_>,
        barred: Barred,
    ) -> Result<Came, Broken> {
        match barred {
            Barred::Yes if kept::may_be_gone(&self.call.name) => {
                return Ok(Came::To(Answer::No(contract::forgotten()), Left::Inside));
            }
            Barred::Yes => return self.commit(session, None).await,
            Barred::No => {}
        }
        let mut ran = Ran::default();
        if let Ok(work) = &self.work {
            session.run(&work.texts, &mut ran).await?;
        }
        match ran.refused {
            Some(refused) => {
                let what = format!("statement {}", ran.results.len() + 1);
                Ok(refusal(&errno::explained(refused, lookout), &what))
            }
            None => self.carried_out(session, &ran.results).await,
        }
    }

    /// The work has come out; what came of it is kept with the row.
    async fn carried_out(
        &self,
        session: &mut Session,
        results: &[StatementResult],
    ) -> Result<Came, Broken> {
        let refused = match &self.work {
            Ok(work) => work.unexpected(results),
            Err(reason) => Some(reason.clone()),
        };
        match refused {
            Some(reason) => Ok(Came::To(Answer::No(reason), Left::Inside)),
            None => self.commit(session, Some(json(&values(results)))).await,
        }
    }

    async fn commit(&self, session: &mut Session, result: Option<Vec<u8>>) -> Result<Came, Broken> {
        let xid = xid::spelled(&self.call.name);
        let mut all = Vec::new();
        if session.product == Product::MariaDb {
            // Nothing must cut the commit short.
            all.push(Sql::new("SET max_statement_time = 0"));
        }
        if let Some(result) = &result {
            let mut keep = "UPDATE unanimous_barrier SET result = ".to_owned();
            quoted(&String::from_utf8_lossy(result), &mut keep);
            all.push(Sql::new(format!("{keep} WHERE {}", self.is_row())));
        }
        all.push(Sql::new(format!("XA END {xid}")));
        all.push(Sql::new(format!("XA COMMIT {xid} ONE PHASE")));
        let mut ran = Ran::default();
        session.run(&all, &mut ran).await?;
        Ok(match ran.refused {
            // Whether it has committed the next attempt sees by the row.
            Some(refused) => {
                Came::To(silent(&format!("XA COMMIT ONE PHASE: {refused}")), Left::Inside)
            }
            None => {
                let result = Opaque::new(&result.unwrap_or_default());
                Came::To(Answer::Done(result), Left::Outside)
            }
        })
    }

    /// What the attempt that came first has done.
    async fn saved(&self, session: &mut Session) -> Result<Answer, Broken> {
        let is_row = self.is_row();
        // A commit can be seen a moment before it is on disk. One that comes after it is there only with it.
        let asked = format!("UPDATE unanimous_barrier SET asked = asked + 1 WHERE {is_row}");
        if let Err(refused) = session.execute(&asked).await? {
            return Ok(silent(&format!("unanimous_barrier: {refused}")));
        }
        let ask = format!(
            "SELECT CASE WHEN result IS NULL THEN 'none' ELSE CONCAT('=', result) END \
             FROM unanimous_barrier WHERE {is_row}"
        );
        Ok(match session.first(&ask).await? {
            Ok(Some(text)) if text.starts_with('=') => {
                Answer::Done(Opaque::new(&text.as_bytes()[1..]))
            }
            Ok(Some(_)) => match self.half {
                Half::Act => Answer::No(contract::barred()),
                Half::Settle => Answer::No(contract::not_committed()),
                Half::Compensate => Answer::Done(Opaque::default()),
            },
            Ok(None) => silent("what an earlier attempt did is not there to be read"),
            Err(refused) => silent(&format!("unanimous_barrier: {refused}")),
        })
    }
}

/// Removes some of the rows that are too old to be asked for.
pub(super) async fn sweep(session: &mut Session, (from, before): &Range) -> Result<(), Broken> {
    let kept_s = FENCE_KEPT.as_secs();
    let old = format!(
        "WHERE branch >= '{from}' AND branch < '{before}' AND at < NOW() - INTERVAL {kept_s} SECOND"
    );
    // Looked for first, because a removal that finds nothing would still lock where it looked.
    let any = session.first(&format!("SELECT branch FROM unanimous_barrier {old} LIMIT 1")).await?;
    let Ok(Some(_)) = any else { return Ok(()) };
    // What is in the way, or not allowed, is tried again next time.
    let removal = format!("DELETE FROM unanimous_barrier {old} LIMIT {}", FENCE_SWEEP.1);
    session.execute(&removal).await.map(drop)
}
