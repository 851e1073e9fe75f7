//! The first phase: work and `PREPARE TRANSACTION` in as few round trips as the vote allows.
//!
//! One round trip if nothing has to be looked at before the vote; two if rows are expected, if the
//! branch may turn out to be read-only, or if another branch waits for its work. Yes is the command tag `PREPARE TRANSACTION` and nothing
//! else: a transaction that has failed answers `ROLLBACK`, without an error.
//!
//! The work of a branch is never sent twice. What is not known after a broken connection is looked
//! up; if that leaves a doubt the vote is lost, and the branch is rolled back by name.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;
use unanimous_core::{Answer, Reason};

use super::keyword::keyword;
use super::sqlstate;
use super::value;
use super::wire::{Answered, Broken, Connection, Executed, Refused};
use super::{Inner, holders, silent, timed_out, unreached};
use crate::guard::{Contact, Heard};
use crate::lookout::{Lookout, Sight};
use crate::statement::{self, Param, Statement};
use crate::{Call, returned};

/// How far a call has come, for when it is cut off.
#[derive(Default)]
struct Progress {
    sent: Sent,
    /// Results and transaction number, once both are known.
    done: Option<(Vec<Value>, String)>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Sent {
    #[default]
    Nothing,
    Work,
    Prepare,
}

/// Statements that change nothing by themselves.
const READERS: [&str; 6] = ["SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN"];

/// Statements that would end the transaction, or outlive it in the session.
const REFUSED: [&str; 17] = [
    "BEGIN",
    "START",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "PREPARE",
    "SAVEPOINT",
    "RELEASE",
    "SET",
    "RESET",
    "DISCARD",
    "COPY",
    "LISTEN",
    "UNLISTEN",
    "DEALLOCATE",
    "EXECUTE",
];

pub(super) async fn prepare(inner: &Inner, call: &Call) -> Heard {
    let statements = match statement::read(&call.work) {
        Ok(statements) => statements,
        Err(why) => return no(Reason::new("statement", &why)),
    };
    if statements.is_empty() {
        return match timeout(call.patience, confirm(inner, call)).await {
            Ok(heard) => heard,
            Err(_) => timed_out(call),
        };
    }
    if let Some(reason) = forbidden(&statements) {
        return no(reason);
    }
    if !inner.begun.insert(&call.name) {
        // An earlier attempt sent the work, and its answer was lost.
        return lost("an earlier attempt was cut off; whether it is prepared is not known");
    }
    let mut progress = Progress::default();
    let sight = Sight::new();
    let working = work(inner, call, &statements, &mut progress, &sight);
    let heard = match timeout(call.patience, working).await {
        Ok(Ok(heard)) => heard,
        Ok(Err(broken)) => cut_off(inner, call, progress, broken.0).await,
        Err(_) => match progress.sent {
            Sent::Nothing => timed_out(call),
            Sent::Work | Sent::Prepare => {
                let why = format!("no answer within {} ms", call.patience.as_millis());
                let why = sight.behind(why);
                Heard { contact: Contact::TimedOut, ..lost(&why) }
            }
        },
    };
    if progress_is_over(&heard.answer) {
        inner.begun.remove(&call.name);
    }
    heard
}

/// Whether nothing of the branch is under way that a repeated call could meet.
fn progress_is_over(answer: &Answer) -> bool {
    match answer {
        Answer::Yes(_) | Answer::ReadOnly(_) | Answer::No(_) | Answer::Silent(_) => true,
        Answer::Lost(_) | Answer::Done(_) | Answer::Heuristic(_) | Answer::Working => false,
    }
}

pub(super) fn heard(answer: Answer) -> Heard {
    Heard { answer, contact: Contact::Made }
}

pub(super) fn no(reason: Reason) -> Heard {
    heard(Answer::No(reason))
}

fn lost(why: &str) -> Heard {
    heard(Answer::Lost(Reason::new("lost", why)))
}

pub(super) fn forbidden(statements: &[Statement]) -> Option<Reason> {
    (1..).zip(statements).find_map(|(number, statement)| {
        let word = keyword(&statement.sql);
        let local = word == "SET" && keyword_is_local(&statement.sql);
        (REFUSED.contains(&&*word) && !local).then(|| {
            let detail = format!(
                "statement {number}: {word} is not for a branch: the coordinator begins and ends it, \
                 and its connection is shared"
            );
            Reason::new("statement", &detail)
        })
    })
}

fn keyword_is_local(sql: &str) -> bool {
    let mut words = sql.split_ascii_whitespace();
    words.any(|word| word.eq_ignore_ascii_case("SET"))
        && words.next().is_some_and(|word| word.eq_ignore_ascii_case("LOCAL"))
}

async fn work(
    inner: &Inner,
    call: &Call,
    statements: &[Statement],
    progress: &mut Progress,
    sight: &Sight,
) -> Result<Heard, Broken> {
    let mut lent = match inner.first_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => return Ok(unreached_first(&why)),
    };
    let connection = &mut lent.connection;
    let params = match texts(inner, connection, statements).await? {
        Ok(params) => params,
        Err(reason) => {
            inner.first_phase.give_back(lent);
            return Ok(no(reason));
        }
    };
    let session = i64::from(connection.process);
    let lookout = Lookout::post(&inner.at_work, session, call, sight);
    begin(connection, lookout.left)?;
    for (statement, params) in statements.iter().zip(&params) {
        connection.statement(&statement.sql, params)?;
    }
    let reads = |statement: &Statement| READERS.contains(&&*keyword(&statement.sql));
    let look_first =
        statements.iter().any(|it| it.expect_rows.is_some()) || statements.iter().all(reads);
    // Who holds up others lets them begin before it prepares.
    let trips = async {
        match look_first || call.turn.holds_up() {
            true => in_two_trips(connection, call, statements, progress).await,
            false => in_one_trip(connection, call, statements.len(), progress).await,
        }
    };
    let answer = match lookout.beside(trips, || holders::look(inner, session)).await? {
        Ok(answer) => answer,
        Err((refused, what)) => {
            if sqlstate::is_wrong_text(&refused) {
                inner.types.forget(statements);
            }
            match sqlstate::is_name_taken(&refused) {
                true => lost("something is prepared under its name already").answer,
                false => {
                    let refused = sqlstate::explained(refused, &lookout);
                    Answer::No(sqlstate::reason(&refused, &what))
                }
            }
        }
    };
    if !connection.is_outside() {
        // A failed transaction holds no locks any more; the connection is not free until it is over.
        let rolled_back = connection.simple("ROLLBACK").await;
        if rolled_back.is_err() {
            return Ok(heard(answer));
        }
    }
    inner.first_phase.give_back(lent);
    Ok(heard(answer))
}

/// An error with what was being done.
pub(super) type Step<T> = Result<Result<T, (Refused, String)>, Broken>;

/// Both bounds end before the call does, so that the server says why; the lock's first.
pub(super) fn begin(connection: &mut Connection, left: Duration) -> Result<(), Broken> {
    let left_ms = left.as_millis();
    let (lock_ms, statement_ms) = ((left_ms * 3 / 4).max(1), (left_ms * 7 / 8).max(1));
    connection.statement("BEGIN", &[])?;
    connection.statement(&format!("SET LOCAL lock_timeout = {lock_ms}"), &[])?;
    connection.statement(&format!("SET LOCAL statement_timeout = {statement_ms}"), &[])
}

async fn in_one_trip(
    connection: &mut Connection,
    call: &Call,
    count: usize,
    progress: &mut Progress,
) -> Step<Answer> {
    connection.statement("SELECT pg_current_xact_id()::text", &[])?;
    connection.statement(&format!("PREPARE TRANSACTION '{}'", call.name), &[])?;
    connection.sync();
    progress.sent = Sent::Prepare;
    connection.send().await?;
    let executed = match answers(connection, count).await? {
        Ok(executed) => executed,
        Err(refused) => return Ok(Err(refused)),
    };
    let number = match connection.executed().await? {
        Ok(number) => number.first.unwrap_or_default(),
        Err(refused) => return after(connection, refused, "its number").await,
    };
    progress.done = Some((values(executed), number));
    let prepared = match connection.executed().await? {
        Ok(prepared) => prepared,
        Err(refused) => return after(connection, refused, "PREPARE TRANSACTION").await,
    };
    ended(connection, prepared, progress).await
}

async fn in_two_trips(
    connection: &mut Connection,
    call: &Call,
    statements: &[Statement],
    progress: &mut Progress,
) -> Step<Answer> {
    connection.statement("SELECT pg_current_xact_id_if_assigned()::text", &[])?;
    connection.sync();
    progress.sent = Sent::Work;
    connection.send().await?;
    let executed = match answers(connection, statements.len()).await? {
        Ok(executed) => executed,
        Err(refused) => return Ok(Err(refused)),
    };
    let number = match connection.executed().await? {
        Ok(number) => number.first,
        Err(refused) => return after(connection, refused, "its number").await,
    };
    if let Err(refused) = connection.ready().await? {
        return Ok(Err((refused, "its work".to_owned())));
    }
    if let Some(reason) = unfit(connection, statements.iter(), &executed) {
        return Ok(Ok(Answer::No(reason)));
    }
    let Some(number) = number else {
        return read_only(connection, executed).await;
    };
    progress.done = Some((values(executed), number));
    call.turn.pass();
    connection.statement(&format!("PREPARE TRANSACTION '{}'", call.name), &[])?;
    connection.sync();
    progress.sent = Sent::Prepare;
    connection.send().await?;
    match connection.executed().await? {
        Ok(prepared) => ended(connection, prepared, progress).await,
        Err(refused) => after(connection, refused, "PREPARE TRANSACTION").await,
    }
}

/// Why work that was carried out must not stay.
pub(super) fn unfit<'a>(
    connection: &Connection,
    statements: impl Iterator<Item = &'a Statement>,
    executed: &[Executed],
) -> Option<Reason> {
    let mut numbered = (1..).zip(statements).zip(executed);
    let unexpected = numbered.find_map(|((number, statement), executed)| {
        let rows = executed.result.rows_affected;
        let expected = statement.expect_rows.filter(|&expected| expected != rows)?;
        Some(statement::unexpected(number, rows, expected))
    });
    let ended = || Reason::new("statement", "its work has ended the transaction");
    unexpected.or_else(|| (!connection.is_inside()).then(ended))
}

/// Nothing was written: the transaction has no number, and nothing to keep.
async fn read_only(connection: &mut Connection, executed: Vec<Executed>) -> Step<Answer> {
    Ok(match connection.simple("COMMIT").await? {
        Ok(done) if done.tag == "COMMIT" => {
            let list = serde_json::to_vec(&values(executed)).expect("values are always JSON");
            Ok(Answer::ReadOnly(unanimous_core::Opaque::new(&list)))
        }
        Ok(done) => {
            let detail = format!("COMMIT was answered with {:?}", done.tag);
            Ok(Answer::No(Reason::new("refused", &detail)))
        }
        Err(refused) => Err((refused, "COMMIT".to_owned())),
    })
}

/// The answer to `PREPARE TRANSACTION` is here.
async fn ended(
    connection: &mut Connection,
    prepared: Executed,
    progress: &mut Progress,
) -> Step<Answer> {
    if let Err(refused) = connection.ready().await? {
        return Ok(Err((refused, "PREPARE TRANSACTION".to_owned())));
    }
    let (results, number) = progress.done.take().expect("known before the prepare");
    Ok(Ok(match (&*prepared.tag, connection.unreplicated) {
        ("PREPARE TRANSACTION", false) => Answer::Yes(returned::with_memo(&number, &results)),
        ("PREPARE TRANSACTION", true) => {
            lost("it is prepared on the primary, and no standby has said so in time").answer
        }
        (tag, _) => {
            let detail = format!("PREPARE TRANSACTION was answered with {tag:?}");
            Answer::No(Reason::new("statement", &detail))
        }
    }))
}

/// The answers to the beginning.
pub(super) async fn begun(connection: &mut Connection) -> Step<()> {
    for what in ["BEGIN", "SET lock_timeout", "SET statement_timeout"] {
        if let Err(refused) = connection.executed().await? {
            return after(connection, refused, what).await;
        }
    }
    Ok(Ok(()))
}

/// The answers to the beginning and to each statement.
async fn answers(connection: &mut Connection, count: usize) -> Step<Vec<Executed>> {
    match begun(connection).await? {
        Ok(()) => worked(connection, count).await,
        Err(refused) => Ok(Err(refused)),
    }
}

/// The answers to each statement.
pub(super) async fn worked(connection: &mut Connection, count: usize) -> Step<Vec<Executed>> {
    let mut executed = Vec::with_capacity(count);
    for number in 1..=count {
        match connection.executed().await? {
            Ok(one) => executed.push(one),
            Err(refused) => {
                return after(connection, refused, &format!("statement {number}")).await;
            }
        }
    }
    Ok(Ok(executed))
}

/// Reads to the end of a group that was refused.
pub(super) async fn after<T>(connection: &mut Connection, refused: Refused, what: &str) -> Step<T> {
    // Whatever else comes, the first error is the one that says why.
    drop(connection.ready().await?);
    Ok(Err((refused, what.to_owned())))
}

pub(super) fn values(executed: Vec<Executed>) -> Vec<Value> {
    let value = |it: Executed| serde_json::to_value(it.result).expect("results are always JSON");
    executed.into_iter().map(value).collect()
}

/// The values of all statements as texts.
pub(super) async fn texts(
    inner: &Inner,
    connection: &mut Connection,
    statements: &[Statement],
) -> Result<Result<Vec<Vec<Option<String>>>, Reason>, Broken> {
    let mut all = Vec::with_capacity(statements.len());
    for (number, statement) in (1..).zip(statements) {
        let what = format!("statement {number}");
        let types = match types(inner, connection, statement).await? {
            Ok(types) => types,
            Err(refused) => return Ok(Err(sqlstate::reason(&refused, &what))),
        };
        let texts = statement.params.iter().enumerate();
        let texts = texts.map(|(at, param)| value::text(param, types.get(at).copied()));
        match texts.collect::<Result<Vec<_>, _>>() {
            Ok(texts) => all.push(texts),
            Err(why) => return Ok(Err(Reason::new("data", &format!("{what}: {why}")))),
        }
    }
    Ok(Ok(all))
}

/// The types of the placeholders, where a list makes it necessary to know them.
async fn types(
    inner: &Inner,
    connection: &mut Connection,
    statement: &Statement,
) -> Answered<Vec<u32>> {
    let has_list = statement.params.iter().any(|param| matches!(param, Param::List(_)));
    if !has_list {
        return Ok(Ok(Vec::new()));
    }
    if let Some(types) = inner.types.get(&statement.sql) {
        return Ok(Ok(types));
    }
    let types = connection.types(&statement.sql).await?;
    if let Ok(types) = &types {
        inner.types.keep(&statement.sql, types);
    }
    Ok(types)
}

/// The connection broke. What was not sent can be sent again; what holds no prepare has rolled back.
async fn cut_off(inner: &Inner, call: &Call, progress: Progress, seen: String) -> Heard {
    let contact = Contact::Broken;
    match (progress.sent, progress.done) {
        (Sent::Nothing, _) => Heard { answer: silent(&seen), contact },
        (Sent::Work, _) => {
            let why = format!("the connection broke while it worked: {seen}");
            Heard { answer: Answer::No(Reason::new("connection", &why)), contact }
        }
        (Sent::Prepare, Some((results, number))) if is_held(inner, call).await => {
            heard(Answer::Yes(returned::with_memo(&number, &results)))
        }
        (Sent::Prepare, _) => {
            let why = format!("the connection broke before the answer came: {seen}");
            Heard { contact, ..lost(&why) }
        }
    }
}

async fn is_held(inner: &Inner, call: &Call) -> bool {
    let number = timeout(call.patience, number_of(inner, call)).await;
    matches!(number, Ok(Ok(Some(_))))
}

/// A branch that the application works in by itself says yes by being prepared.
async fn confirm(inner: &Inner, call: &Call) -> Heard {
    match number_of(inner, call).await {
        Ok(Some(number)) => heard(Answer::Yes(returned::with_memo(&number, &[]))),
        Ok(None) => lost("it has no statements, and no transaction is prepared under its name"),
        Err(heard) => heard,
    }
}

/// The number of the transaction that is prepared under the name, whole.
async fn number_of(inner: &Inner, call: &Call) -> Result<Option<String>, Heard> {
    let lent = inner.second_phase.lend().await;
    let mut lent = lent.map_err(|why| unreached(&why))?;
    // The view has the low half of the number. The whole of it is near the snapshot's end, on either side:
    // who is behind that, and has not ended, does not move it.
    let sql = format!(
        "SELECT (near + ((low - near + 2147483648) & 4294967295) - 2147483648)::text FROM (SELECT \
         pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS near, \
         transaction::text::bigint AS low FROM pg_prepared_xacts \
         WHERE gid = '{}' AND database = current_database()) AS held",
        call.name
    );
    let executed = lent.connection.simple(&sql).await;
    let executed = executed.map_err(|broken| super::failed("pg_prepared_xacts", broken))?;
    inner.second_phase.give_back(lent);
    let executed = executed.map_err(|refused| heard(silent(&refused.to_string())))?;
    Ok(executed.first)
}

/// No connection for work that was not sent: what needs somebody's help is refused at once.
fn unreached_first(why: &super::login::NoConnection) -> Heard {
    match why.may_pass() {
        true => unreached(why),
        false => no(Reason::new("configuration", &why.to_string())),
    }
}
