//! The first phase: work and `XA PREPARE` in as few round trips as the vote allows.
//!
//! One round trip if nothing has to be looked at before the vote: the server stops a text of
//! statements at the first that fails. Two if rows are expected or another branch waits for the work,
//! and one more for each statement that answers with rows. A branch that only reads is no XA branch at all, because XA here knows no
//! read-only vote: it runs in a transaction in which the server lets nothing be written.
//!
//! After a statement that failed the server would still prepare what the others did. So every error
//! is a no, and the adapter rolls back. The work of a branch is never sent twice. What is not known
//! after a broken connection is looked up; if that leaves a doubt the vote is lost, and the branch is
//! rolled back by name.

use serde_json::Value;
use tokio::time::timeout;
use unanimous_core::{Answer, Opaque, Reason};

use super::bounds::{Watch, bounds};
use super::lexer::{Lexed, lex};
use super::pool::Lent;
use super::session::{Broken, NoSession, Product, Ran, Refused, Session, Sql};
use super::{Inner, Memo, errno, failed, fence, finish, silent, tie, timed_out, unreached, xid};
use crate::guard::{Contact, Heard};
use crate::lookout::{Lookout, Sight};
use crate::statement::{self, Statement, StatementResult};
use crate::{Call, returned};

/// How far a call has come, for when it is cut off.
#[derive(Default)]
struct Progress {
    sent: Sent,
    ran: Ran,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Sent {
    #[default]
    Nothing,
    Work,
    Prepare,
}

/// What is sent before the statements of a branch: the bounds, the start, the proof.
const BEGINNING: [&str; 3] = ["SET", "XA START", "unanimous_fence"];

/// The statements of a branch with the texts that are sent for them.
pub(super) struct Work<'a> {
    statements: &'a [Statement],
    lexed: Vec<Lexed<'a>>,
    pub(super) texts: Vec<Sql>,
}

impl<'a> Work<'a> {
    pub(super) fn new(statements: &'a [Statement]) -> Result<Self, Reason> {
        let mut work = Self { statements, lexed: Vec::new(), texts: Vec::new() };
        for (number, statement) in (1..).zip(statements) {
            let wrong =
                |why: String| Reason::new("statement", &format!("statement {number}: {why}"));
            let lexed = lex(&statement.sql).map_err(wrong)?;
            if !lexed.is_work() {
                return Err(wrong(format!(
                    "{} is not for a branch: it only reads, changes or calls",
                    lexed.keyword
                )));
            }
            let text = lexed.with(&statement.params).map_err(wrong)?;
            work.texts.push(match lexed.may_return_rows() {
                true => Sql::asking(text),
                false => Sql::new(text),
            });
            work.lexed.push(lexed);
        }
        Ok(work)
    }

    fn only_reads(&self) -> bool {
        self.lexed.iter().all(Lexed::reads)
    }

    /// The first expectation that does not hold.
    pub(super) fn unexpected(&self, results: &[StatementResult]) -> Option<Reason> {
        (1..).zip(self.statements).zip(results).find_map(|((number, statement), result)| {
            let expected = statement.expect_rows?;
            let rows = result.rows_affected;
            (expected != rows).then(|| statement::unexpected(number, rows, expected))
        })
    }
}

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
    let work = match Work::new(&statements) {
        Ok(work) => work,
        Err(reason) => return no(reason),
    };
    if !inner.begun.insert(&call.name) {
        // An earlier attempt sent the work, and its answer was lost.
        return lost("an earlier attempt was cut off; whether it is prepared is not known");
    }
    inner.sweeper.saw(&call.name);
    let mut progress = Progress::default();
    let sight = Sight::new();
    let working = carry_out(inner, call, &work, &mut progress, &sight);
    let heard = match timeout(call.patience, working).await {
        Ok(Ok(heard)) => heard,
        Ok(Err(broken)) => {
            inner.first_phase.distrust();
            cut_off(inner, call, &work, progress, broken.0).await
        }
        Err(_) => match progress.sent {
            Sent::Nothing => timed_out(call),
            Sent::Work | Sent::Prepare => {
                let why = format!("no answer within {} ms", call.patience.as_millis());
                let why = sight.behind(why);
                Heard { contact: Contact::TimedOut, ..lost(&why) }
            }
        },
    };
    if is_over(&heard.answer) {
        inner.begun.remove(&call.name);
    }
    heard
}

/// Whether nothing of the branch is under way that a repeated call could meet.
fn is_over(answer: &Answer) -> bool {
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

async fn carry_out(
    inner: &Inner,
    call: &Call,
    work: &Work<'_>,
    progress: &mut Progress,
    sight: &Sight,
) -> Result<Heard, Broken> {
    let mut lent = match inner.first_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => return Ok(unreached_first(&why)),
    };
    let watch = Watch::over(inner, &lent.session);
    let lookout = Lookout::post(&inner.at_work, lent.session.number, call, sight);
    if work.only_reads() {
        let reading = read_only(&mut lent.session, &lookout, work, progress);
        if let Some(answer) = watch.beside(&lookout, reading).await? {
            return Ok(leave(inner, lent, answer).await);
        }
    }
    if let Err(refused) = inner.tables.refresh(&mut lent.session).await? {
        let answer = (Answer::No(errno::reason(&refused, "the list of tables")), Left::Outside);
        return Ok(leave(inner, lent, answer).await);
    }
    if let Some(reason) = untouchable(inner, work) {
        return Ok(leave(inner, lent, (Answer::No(reason), Left::Outside)).await);
    }
    let working = branch(&mut lent.session, (call, &lookout), work, progress);
    let mut answer = watch.beside(&lookout, working).await?;
    if let (Answer::No(reason), Left::Outside) = &answer
        && &*reason.kind == NO_FENCE
    {
        if let Err(refused) = lent.session.execute(fence::TABLE).await? {
            let answer = (Answer::No(without_fence(&refused)), Left::Outside);
            return Ok(leave(inner, lent, answer).await);
        }
        *progress = Progress::default();
        let working = branch(&mut lent.session, (call, &lookout), work, progress);
        answer = watch.beside(&lookout, working).await?;
    }
    if let (Answer::Yes(_), _) = answer {
        // Whoever has to make room is closed, which leaves its branch to any other session.
        drop(inner.waiting.keep(&call.name, lent.into_session()));
        return Ok(heard(answer.0));
    }
    Ok(leave(inner, lent, answer).await)
}

/// The kind of a refusal for want of the table of proofs.
const NO_FENCE: &str = "fence_missing";

/// What a session was left in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Left {
    /// Outside of any transaction.
    Outside,
    /// In a transaction, or it is not known.
    Inside,
}

/// Gives the session back if it can be used again.
pub(super) async fn leave(inner: &Inner, lent: Lent, (answer, left): (Answer, Left)) -> Heard {
    match left {
        Left::Outside => inner.first_phase.give_back(lent.into_session()),
        Left::Inside => lent.into_session().close().await,
    }
    heard(answer)
}

/// Runs the work in a transaction that cannot write. `None` if it wants to.
async fn read_only(
    session: &mut Session,
    lookout: &Lookout<'_>,
    work: &Work<'_>,
    progress: &mut Progress,
) -> Result<Option<(Answer, Left)>, Broken> {
    let mut all = vec![Sql::new(bounds(session.product, lookout.left))];
    all.push(Sql::new("START TRANSACTION READ ONLY"));
    all.extend_from_slice(&work.texts);
    progress.sent = Sent::Work;
    let mut ran = Ran::default();
    session.run(&all, &mut ran).await?;
    let end = if ran.refused.is_some() { "ROLLBACK" } else { "COMMIT" };
    let left = match session.execute(end).await? {
        Ok(()) => Left::Outside,
        Err(_) => Left::Inside,
    };
    let results = &ran.results[ran.results.len().min(2)..];
    Ok(match ran.refused {
        Some(refused) if errno::is_write_in_reader(&refused) && left == Left::Outside => None,
        Some(refused) => {
            let what = format!("statement {}", results.len() + 1);
            let refused = errno::explained(refused, lookout);
            Some((Answer::No(errno::reason(&refused, &what)), left))
        }
        None => Some(match work.unexpected(results) {
            Some(reason) => (Answer::No(reason), left),
            None => (Answer::ReadOnly(Opaque::new(&json(&values(results)))), left),
        }),
    })
}

pub(super) fn json(values: &[Value]) -> Vec<u8> {
    serde_json::to_vec(values).expect("values are always JSON")
}

pub(super) fn values(results: &[StatementResult]) -> Vec<Value> {
    let value = |it: &StatementResult| serde_json::to_value(it).expect("results are always JSON");
    results.iter().map(value).collect()
}

/// Runs the work as a branch, up to its vote.
async fn branch(
    session: &mut Session,
    (call, lookout): (&Call, &Lookout<'_>),
    work: &Work<'_>,
    progress: &mut Progress,
) -> Result<(Answer, Left), Broken> {
    let xid = xid::spelled(&call.name);
    let (bounds, tie) = (bounds(session.product, lookout.left), tie::make(&call.name));
    let mut all = vec![Sql::new(format!("{bounds}, {tie}"))];
    all.push(Sql::new(format!("XA START {xid}")));
    all.push(Sql::new(fence::write(&call.name)));
    all.extend_from_slice(&work.texts);
    let mut end = Vec::new();
    if session.product == Product::MariaDb {
        // Nothing must cut the vote short, or the commit that comes over the same session.
        end.push(Sql::new("SET max_statement_time = 0"));
    }
    end.push(Sql::new(format!("XA END {xid}")));
    end.push(Sql::new(format!("XA PREPARE {xid}")));
    // Who holds up others lets them begin before it prepares.
    let look_first =
        call.turn.holds_up() || work.statements.iter().any(|it| it.expect_rows.is_some());
    progress.sent = if look_first { Sent::Work } else { Sent::Prepare };
    if !look_first {
        all.append(&mut end);
    }
    session.run(&all, &mut progress.ran).await?;
    if let Some(refused) = progress.ran.refused.take() {
        let refused = errno::explained(refused, lookout);
        return after(session, call, &refused, progress.ran.results.len(), work).await;
    }
    if look_first {
        if let Some(reason) = work.unexpected(&progress.ran.results[BEGINNING.len()..]) {
            return Ok((Answer::No(reason), undo(session, call).await?));
        }
        call.turn.pass();
        progress.sent = Sent::Prepare;
        session.run(&end, &mut progress.ran).await?;
        if let Some(refused) = progress.ran.refused.take() {
            let refused = errno::explained(refused, lookout);
            return after(session, call, &refused, progress.ran.results.len(), work).await;
        }
    }
    Ok((Answer::Yes(vote(work, progress)), Left::Inside))
}

fn vote(work: &Work<'_>, progress: &Progress) -> Opaque {
    let results = &progress.ran.results[BEGINNING.len()..][..work.texts.len()];
    returned::with_memo(Memo::Fenced.written(), &values(results))
}

/// What it means that the server refused the statement after the first `done` ones.
async fn after(
    session: &mut Session,
    call: &Call,
    refused: &Refused,
    done: usize,
    work: &Work<'_>,
) -> Result<(Answer, Left), Broken> {
    let left = undo(session, call).await?;
    let what = match (BEGINNING.get(done), done - done.min(BEGINNING.len())) {
        (Some(what), _) => (*what).to_owned(),
        (None, index) if index < work.texts.len() => format!("statement {}", index + 1),
        (None, _) => "XA PREPARE".to_owned(),
    };
    let answer = match BEGINNING.get(done) {
        Some(&"XA START") if errno::is_name_taken(refused) => {
            lost("there is a branch under its name already").answer
        }
        Some(&"unanimous_fence") if errno::is_duplicate(refused) => {
            lost("a branch has committed under its name already").answer
        }
        Some(&"unanimous_fence") if errno::is_no_table(refused) => {
            Answer::No(Reason::new(NO_FENCE, &refused.to_string()))
        }
        Some(_) | None => Answer::No(errno::reason(refused, &what)),
    };
    Ok((answer, left))
}

/// Rolls back what has not been prepared. If that is not acknowledged, the server does it when the
/// session is closed.
pub(super) async fn undo(session: &mut Session, call: &Call) -> Result<Left, Broken> {
    let xid = xid::spelled(&call.name);
    // A deadlock has ended it already; and it may not have been started.
    drop(session.execute(&format!("XA END {xid}")).await?);
    Ok(match session.execute(&format!("XA ROLLBACK {xid}")).await? {
        Ok(()) => Left::Outside,
        Err(_) => Left::Inside,
    })
}

/// Why the work must not be begun: it names a table that cannot be rolled back.
pub(super) fn untouchable(inner: &Inner, work: &Work<'_>) -> Option<Reason> {
    (1..).zip(&work.lexed).find_map(|(number, lexed)| {
        let table = inner.tables.named_in(lexed)?;
        let detail = format!(
            "statement {number} names {table}, a table that cannot be rolled back; convert it with \
             ALTER TABLE … ENGINE=InnoDB"
        );
        Some(Reason::new("unsupported", &detail))
    })
}

fn without_fence(refused: &Refused) -> Reason {
    let reason = errno::reason(refused, "unanimous_fence");
    if &*reason.kind == "read_only_resource" {
        return reason;
    }
    let detail = format!(
        "the table that proves commits is not there and cannot be made: {refused}; run once, in the \
         resource's database: {}, and let the resource's user SELECT, INSERT and DELETE in it",
        fence::TABLE
    );
    Reason::new(NO_FENCE, &detail)
}

/// The connection broke. What was not sent can be sent again; what is not prepared has rolled back.
async fn cut_off(
    inner: &Inner,
    call: &Call,
    work: &Work<'_>,
    progress: Progress,
    seen: String,
) -> Heard {
    let contact = Contact::Broken;
    let knows_results = progress.ran.results.len() >= BEGINNING.len() + work.texts.len();
    match progress.sent {
        Sent::Nothing => Heard { answer: silent(&seen), contact },
        Sent::Work => {
            let why = format!("the connection broke while it worked: {seen}");
            Heard { answer: Answer::No(Reason::new("connection", &why)), contact }
        }
        Sent::Prepare if knows_results && is_held(inner, call).await => {
            heard(Answer::Yes(vote(work, &progress)))
        }
        Sent::Prepare => {
            let why = format!("the connection broke before the answer came: {seen}");
            Heard { contact, ..lost(&why) }
        }
    }
}

async fn is_held(inner: &Inner, call: &Call) -> bool {
    let listed = async {
        let mut lent = inner.second_phase.lend().await.ok()?;
        let names = finish::listed(&mut lent.session).await.ok()?;
        inner.second_phase.give_back(lent.into_session());
        Some(names.ok()?.contains(&call.name.to_string()))
    };
    matches!(timeout(call.patience, listed).await, Ok(Some(true)))
}

/// A branch that the application works in by itself says yes by being prepared.
async fn confirm(inner: &Inner, call: &Call) -> Heard {
    let mut lent = match inner.second_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => return unreached(&why),
    };
    match look_for(&mut lent.session, call).await {
        Ok(answer) => {
            inner.second_phase.give_back(lent.into_session());
            heard(answer)
        }
        Err(broken) => failed("XA RECOVER", broken),
    }
}

async fn look_for(session: &mut Session, call: &Call) -> Result<Answer, Broken> {
    let names = match finish::listed(session).await? {
        Ok(names) => names,
        Err(refused) => return Ok(silent(&format!("XA RECOVER: {refused}"))),
    };
    if !names.contains(&call.name.to_string()) {
        let why = "it has no statements, and no transaction is prepared under its name";
        return Ok(lost(why).answer);
    }
    let memo = match fence::is_written(session, &call.name).await? {
        true => Memo::Fenced,
        false => Memo::Unfenced,
    };
    Ok(Answer::Yes(returned::with_memo(memo.written(), &[])))
}

/// No connection for work that was not sent: what needs somebody's help is refused at once.
fn unreached_first(why: &NoSession) -> Heard {
    match why.may_pass() {
        true => unreached(why),
        false => no(Reason::new("configuration", &why.to_string())),
    }
}
