//! Steps of sagas: one ordinary transaction, with a row that says so written in it.
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

use tokio::time::timeout;
use unanimous_core::{Answer, Opaque, Reason};

use super::prepare::{
    Step, after, begin, begun, forbidden, heard, no, texts, unfit, values, worked,
};
use super::wire::{Broken, Connection, Executed, Refused};
use super::{Inner, failed, holders, silent, sqlstate, timed_out, unreached};
use crate::guard::Heard;
use crate::kept::{self, Range};
use crate::limits::{FENCE_KEPT, FENCE_SWEEP};
use crate::lookout::{Lookout, Sight};
use crate::statement::Statement;
use crate::step::Half;
use crate::{Call, step as contract};

/// Makes the table. Anybody may do so in advance.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS unanimous_barrier (branch text COLLATE \"C\" NOT NULL, \
     verb text NOT NULL, result text, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (branch, verb))";

const WRITE: &str = "INSERT INTO unanimous_barrier (branch, verb) VALUES ($1, $2)";
const BAR: &str =
    "INSERT INTO unanimous_barrier (branch, verb) VALUES ($1, 'act') ON CONFLICT DO NOTHING";
/// Fails if the row is not there any more: the work may have changed where tables are looked for.
const KEEP: &str = "WITH kept AS (UPDATE unanimous_barrier SET result = $3 \
     WHERE branch = $1 AND verb = $2 RETURNING 1) SELECT 1 / count(*) FROM kept";
const ASK: &str = "SELECT CASE WHEN result IS NULL THEN 'none' ELSE '=' || result END \
     FROM unanimous_barrier WHERE branch = $1 AND verb = $2";

/// Changes nothing. What an application committed without waiting for the disk can be seen before it is
/// there; a commit that comes after it is there only with it.
const PIN: &str = "UPDATE unanimous_barrier SET at = at WHERE branch = $1 AND verb = $2";

/// A commit is not cut short, and is on disk before it counts.
const BEFORE_COMMIT: &str = "SELECT set_config('statement_timeout', '0', true), \
     CASE WHEN current_setting('synchronous_commit') = 'off' \
     THEN set_config('synchronous_commit', 'on', true) END";

/// What an attempt came to.
enum Came {
    To(Answer),
    /// There is no table for the row.
    NoTable,
}

/// Statements with their values as texts, or why there are none.
type Work<'a> = Result<Vec<(&'a Statement, Vec<Option<String>>)>, Reason>;

pub(super) async fn perform(inner: &Inner, call: &Call, half: Half) -> Heard {
    let statements = match half.statements(&call.work) {
        Ok(statements) => statements,
        Err(bad) => return no(Reason::new("statement", &bad.why)),
    };
    if let Some(reason) = forbidden(&statements) {
        return no(reason);
    }
    inner.sweeper.saw(&call.name);
    let sight = Sight::new();
    match timeout(call.patience, ask(inner, call, half, &statements, &sight)).await {
        Ok(Ok(heard)) => heard,
        Ok(Err(broken)) => failed(half.word(), broken),
        Err(_) => timed_out(call),
    }
}

async fn ask(
    inner: &Inner,
    call: &Call,
    half: Half,
    statements: &[Statement],
    sight: &Sight,
) -> Result<Heard, Broken> {
    // Not of the second phase, whose commits set free what a compensation may be waiting for.
    let mut lent = match inner.first_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => return Ok(unreached(&why)),
    };
    let connection = &mut lent.connection;
    let work = texts(inner, connection, statements).await?;
    let work = work.map(|texts| statements.iter().zip(texts).collect());
    let session = i64::from(connection.process);
    let lookout = Lookout::post(&inner.at_work, session, call, sight);
    let look = || holders::look(inner, session);
    let attempted = attempt(connection, call, half, &work, &lookout);
    let mut came = lookout.beside(attempted, look).await?;
    if let Came::NoTable = came {
        drop(connection.simple("ROLLBACK").await?);
        // Somebody else may be making it just now.
        let made = connection.simple(TABLE).await?;
        let attempted = attempt(connection, call, half, &work, &lookout);
        came = lookout.beside(attempted, look).await?;
        if let (Came::NoTable, Err(refused)) = (&came, made) {
            came = Came::To(Answer::No(without_table(&refused)));
        }
    }
    let answer = match came {
        Came::To(answer) => answer,
        Came::NoTable => silent("the table unanimous_barrier is not there"),
    };
    if matches!(&answer, Answer::No(reason) if &*reason.kind == "data") {
        // The values may have been written for types that have changed since.
        inner.types.forget(statements);
    }
    if !connection.is_outside() && connection.simple("ROLLBACK").await.is_err() {
        return Ok(heard(answer));
    }
    inner.first_phase.give_back(lent);
    Ok(heard(answer))
}

fn without_table(refused: &Refused) -> Reason {
    let detail = format!(
        "the table that makes repeats harmless is not there and cannot be made: {refused}; run once, in \
         the resource's database: {TABLE}, and let the resource's user SELECT, INSERT, UPDATE and DELETE \
         in it"
    );
    Reason::new("barrier_missing", &detail)
}

async fn attempt(
    connection: &mut Connection,
    call: &Call,
    half: Half,
    work: &Work<'_>,
    lookout: &Lookout<'_>,
) -> Result<Came, Broken> {
    let row = [Some(call.name.to_string()), Some(half.word().to_owned())];
    begin(connection, lookout.left)?;
    connection.statement(WRITE, &row)?;
    match (half, work) {
        (Half::Act, Ok(work)) => send(connection, work)?,
        (Half::Act, Err(_)) | (Half::Settle, _) => {}
        (Half::Compensate, _) => connection.statement(BAR, &row[..1])?,
    }
    connection.sync();
    connection.send().await?;
    let passed = match begun(connection).await? {
        Ok(()) => match connection.executed().await? {
            Ok(_) => Ok(()),
            Err(refused) => after(connection, refused, "unanimous_barrier").await?,
        },
        Err(refused) => Err(refused),
    };
    match passed {
        Ok(()) => {}
        Err((refused, _)) if sqlstate::is_duplicate(&refused) => {
            return saved(connection, half, &row).await.map(Came::To);
        }
        Err((refused, _)) if sqlstate::is_no_table(&refused) => return Ok(Came::NoTable),
        Err((refused, what)) => {
            let refused = sqlstate::explained(refused, lookout);
            return Ok(Came::To(silent(&format!("{what}: {refused}"))));
        }
    }
    let answer = match half {
        Half::Act => match work {
            Ok(work) => carried_out(connection, work, &row).await?,
            Err(reason) => Ok(refused_before(connection, reason).await?),
        },
        Half::Settle => settle(connection, call).await?,
        Half::Compensate => undo(connection, call, work, &row).await?,
    };
    Ok(Came::To(
        answer.unwrap_or_else(|(refused, what)| {
            refusal(&sqlstate::explained(refused, lookout), &what)
        }),
    ))
}

fn send(
    connection: &mut Connection,
    work: &[(&Statement, Vec<Option<String>>)],
) -> Result<(), Broken> {
    work.iter().try_for_each(|(statement, params)| connection.statement(&statement.sql, params))
}

/// What an error behind the row means: nothing was done, for now or for good.
fn refusal(refused: &Refused, what: &str) -> Answer {
    match sqlstate::may_come_out(refused) {
        true => silent(&format!("{what}: {refused}")),
        false => Answer::No(sqlstate::reason(refused, what)),
    }
}

/// The row was the only thing that was sent.
async fn refused_before(connection: &mut Connection, reason: &Reason) -> Result<Answer, Broken> {
    drop(connection.ready().await?);
    Ok(Answer::No(reason.clone()))
}

/// The row was not there: what it would have proved will never be.
async fn settle(connection: &mut Connection, call: &Call) -> Step<Answer> {
    if let Err(refused) = connection.ready().await? {
        return Ok(Err((refused, "unanimous_barrier".to_owned())));
    }
    let barred = commit(connection, Opaque::default(), None).await?;
    Ok(barred.map(|answer| contract::settled(answer, &call.name)))
}

/// Undoes the step if it was done, and sees to it that it never will be if it was not.
async fn undo(
    connection: &mut Connection,
    call: &Call,
    work: &Work<'_>,
    row: &[Option<String>; 2],
) -> Step<Answer> {
    let barred = match connection.executed().await? {
        Ok(executed) => executed.result.rows_affected == 1,
        Err(refused) => return after(connection, refused, "unanimous_barrier").await,
    };
    if let Err(refused) = connection.ready().await? {
        return Ok(Err((refused, "unanimous_barrier".to_owned())));
    }
    if barred && kept::may_be_gone(&call.name) {
        return Ok(Ok(Answer::No(contract::forgotten())));
    }
    if barred {
        return commit(connection, Opaque::default(), None).await;
    }
    match work {
        Ok(work) => {
            send(connection, work)?;
            connection.sync();
            connection.send().await?;
            carried_out(connection, work, row).await
        }
        Err(reason) => Ok(Ok(Answer::No(reason.clone()))),
    }
}

/// The statements are sent; what comes of them is kept with the row.
async fn carried_out(
    connection: &mut Connection,
    work: &[(&Statement, Vec<Option<String>>)],
    row: &[Option<String>; 2],
) -> Step<Answer> {
    let executed: Vec<Executed> = match worked(connection, work.len()).await? {
        Ok(executed) => executed,
        Err(refused) => return Ok(Err(refused)),
    };
    if let Err(refused) = connection.ready().await? {
        return Ok(Err((refused, "its work".to_owned())));
    }
    if let Some(reason) = unfit(connection, work.iter().map(|(statement, _)| *statement), &executed)
    {
        return Ok(Ok(Answer::No(reason)));
    }
    let result = serde_json::to_string(&values(executed)).expect("values are always JSON");
    let kept = [row[0].clone(), row[1].clone(), Some(result.clone())];
    commit(connection, Opaque::new(result.as_bytes()), Some(&kept)).await
}

async fn commit(
    connection: &mut Connection,
    result: Opaque,
    kept: Option<&[Option<String>; 3]>,
) -> Step<Answer> {
    if let Some(kept) = kept {
        connection.statement(KEEP, kept)?;
    }
    connection.statement(BEFORE_COMMIT, &[])?;
    connection.statement("COMMIT", &[])?;
    connection.sync();
    connection.send().await?;
    if kept.is_some()
        && let Err(refused) = connection.executed().await?
    {
        return after(connection, refused, "its result in unanimous_barrier").await;
    }
    if let Err(refused) = connection.executed().await? {
        return after(connection, refused, "its settings").await;
    }
    let done = match connection.executed().await? {
        Ok(done) => done,
        Err(refused) => return after(connection, refused, "COMMIT").await,
    };
    if let Err(refused) = connection.ready().await? {
        return Ok(Err((refused, "COMMIT".to_owned())));
    }
    Ok(Ok(match (&*done.tag, connection.unreplicated) {
        ("COMMIT", false) => Answer::Done(result),
        ("COMMIT", true) => {
            silent("it is committed on the primary, and no standby has said so in time")
        }
        (tag, _) => {
            let detail = format!("COMMIT was answered with {tag:?}");
            Answer::No(Reason::new("statement", &detail))
        }
    }))
}

/// What the attempt that came first has done.
async fn saved(
    connection: &mut Connection,
    half: Half,
    row: &[Option<String>; 2],
) -> Result<Answer, Broken> {
    if let Err(refused) = connection.simple("ROLLBACK").await? {
        return Ok(silent(&format!("ROLLBACK: {refused}")));
    }
    let pins: &[(&str, &[Option<String>])] = match half {
        Half::Settle => &[(BEFORE_COMMIT, &[]), (PIN, row)],
        Half::Act | Half::Compensate => &[],
    };
    for (sql, params) in pins {
        connection.statement(sql, params)?;
    }
    connection.statement(ASK, row)?;
    connection.sync();
    connection.send().await?;
    for _ in pins {
        if let Err(refused) = connection.executed().await? {
            drop(connection.ready().await?);
            return Ok(silent(&format!("unanimous_barrier: {refused}")));
        }
    }
    let executed = connection.executed().await?;
    let ready = connection.ready().await?;
    let said = executed.and_then(|executed| ready.map(|()| executed.first));
    Ok(match (said, half) {
        (Ok(Some(text)), _) if text.starts_with('=') => {
            Answer::Done(Opaque::new(&text.as_bytes()[1..]))
        }
        (Ok(Some(_)), Half::Act) => Answer::No(contract::barred()),
        (Ok(Some(_)), Half::Settle) => Answer::No(contract::not_committed()),
        (Ok(Some(_)), Half::Compensate) => Answer::Done(Opaque::default()),
        (Ok(None), _) => silent("what an earlier attempt did is not there to be read"),
        (Err(refused), _) => silent(&format!("unanimous_barrier: {refused}")),
    })
}

/// Removes some of the rows that are too old to be asked for.
pub(super) async fn sweep(connection: &mut Connection, old: &Range) -> Result<(), Broken> {
    let (from, before) = old;
    let (kept_s, rows_max) = (FENCE_KEPT.as_secs(), FENCE_SWEEP.1);
    let removal = format!(
        "DELETE FROM unanimous_barrier WHERE ctid = ANY (ARRAY(SELECT ctid FROM unanimous_barrier \
         WHERE branch COLLATE \"C\" >= '{from}' AND branch COLLATE \"C\" < '{before}' \
         AND at < now() - interval '{kept_s} seconds' LIMIT {rows_max}))"
    );
    // What is in the way, or not allowed, is tried again next time.
    connection.simple(&removal).await.map(drop)
}
