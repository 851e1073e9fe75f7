//! The second phase: `XA COMMIT`, `XA ROLLBACK`, and what it means if a branch is gone.
//!
//! A branch is finished over the session that prepared it while that lives, and over any other
//! after, when the server has let go of it ([`tie`]). That the server knows no such branch says
//! nothing: another session may have it, it may have ended, by us or by hand. Whether it is listed is
//! asked after that answer, and how it ended is told by its proof ([`fence`]).

use tokio::time::{Instant, sleep, timeout};
use unanimous_core::{Answer, HeuristicKind, Opaque, Verb};

use super::errno::{self, Unfinished};
use super::fence::{self, Proof};
use super::session::{Answered, Broken, Refused, Session};
use super::{Inner, Memo, failed, silent, step, tie, timed_out, unreached, xid};
use crate::guard::{Contact, Heard};
use crate::limits::{LET_GO, UNTIE_WAIT};
use crate::{Call, Held, returned};

/// What is known of a branch that this session cannot finish.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Committed,
    RolledBack,
    /// Another session holds it, or is finishing it.
    Busy,
    /// Not known yet: the server is read-only, or does not tell.
    Open,
    /// Not known any more, or never was.
    Forgotten,
}

pub(super) async fn finish(inner: &Inner, call: &Call) -> Heard {
    match timeout(call.patience, ask(inner, call)).await {
        Ok(heard) => heard,
        Err(_) => timed_out(call),
    }
}

async fn ask(inner: &Inner, call: &Call) -> Heard {
    if let Some(mut session) = inner.waiting.take(&call.name) {
        if let Ok(Ok(())) = end(&mut session, call).await {
            inner.first_phase.give_back(session);
            return heard(Answer::Done(Opaque::default()));
        }
        // Without this session any other may finish the branch.
        session.close().await;
    }
    match over_any(inner, call).await {
        Ok(heard) => heard,
        // An idle connection may have broken long ago. A new one tells whether the server is there,
        // and asking twice ends a branch once.
        Err(_) => {
            inner.second_phase.distrust();
            let again = over_any(inner, call).await;
            again.unwrap_or_else(|broken| failed(words(call.verb), broken))
        }
    }
}

/// Finishes a branch over a session that did not prepare it.
async fn over_any(inner: &Inner, call: &Call) -> Result<Heard, Broken> {
    let deadline = Instant::now() + UNTIE_WAIT.min(call.patience / 2);
    let mut was_free = false;
    loop {
        let mut lent = match inner.second_phase.lend().await {
            Ok(lent) => lent,
            Err(why) => return Ok(unreached(&why)),
        };
        let answer = attempt(&mut lent.session, call, &mut was_free).await?;
        // Nobody waits for this session while the server lets go of the branch.
        inner.second_phase.give_back(lent.into_session());
        if answer != Answer::Working || Instant::now() >= deadline {
            return Ok(heard(answer));
        }
        sleep(LET_GO.min(call.patience / 4)).await;
    }
}

fn heard(answer: Answer) -> Heard {
    Heard { answer, contact: Contact::Made }
}

fn words(verb: Verb) -> &'static str {
    match verb {
        Verb::Commit | Verb::CommitOnePhase => "XA COMMIT",
        Verb::Rollback | Verb::Prepare | Verb::Act | Verb::Compensate => "XA ROLLBACK",
    }
}

async fn end(session: &mut Session, call: &Call) -> Answered<()> {
    session.execute(&format!("{} {}", words(call.verb), xid::spelled(&call.name))).await
}

/// Finishes the branch if no session holds it and none did when that was asked before.
async fn attempt(
    session: &mut Session,
    call: &Call,
    was_free: &mut bool,
) -> Result<Answer, Broken> {
    let is_free = !tie::is_held(session, &call.name).await?;
    if is_free && !*was_free {
        *was_free = true;
        return Ok(Answer::Working);
    }
    *was_free = is_free;
    if is_free {
        match end(session, call).await? {
            Ok(()) => return proven(session, call).await,
            Err(refused) if errno::unfinished(&refused) == Unfinished::AskAgain => {
                return Ok(silent(&format!("{}: {refused}", words(call.verb))));
            }
            Err(_) => {}
        }
    }
    let fate = look_into(session, call).await?;
    if fate == Fate::Busy {
        // The session that prepared it may be half dead, and the server would wait for hours.
        tie::cut(session, &call.name).await?;
    }
    Ok(concluded(fate, call.verb))
}

/// What an acknowledgement to a session that did not prepare the branch is worth.
async fn proven(session: &mut Session, call: &Call) -> Result<Answer, Broken> {
    Ok(match fence::ask(session, &call.name).await? {
        Proof::Locked => silent(&format!(
            "{} was acknowledged and not carried out, because the connection that prepared the \
             branch was just ending; MariaDB lists the branch again, and it is finished, after a \
             restart of the server",
            words(call.verb)
        )),
        Proof::Committed | Proof::Missing | Proof::Untold | Proof::Forgotten => {
            Answer::Done(Opaque::default())
        }
    })
}

fn concluded(fate: Fate, verb: Verb) -> Answer {
    let commits = matches!(verb, Verb::Commit | Verb::CommitOnePhase);
    match (fate, commits) {
        (Fate::Committed, true) | (Fate::RolledBack, false) => Answer::Done(Opaque::default()),
        (Fate::Committed, false) => Answer::Heuristic(HeuristicKind::Commit),
        (Fate::RolledBack, true) => Answer::Heuristic(HeuristicKind::Rollback),
        (Fate::Forgotten, _) => Answer::Heuristic(HeuristicKind::Hazard),
        (Fate::Busy, _) => Answer::Working,
        (Fate::Open, _) => silent("it is not prepared here, and how it ended is not known yet"),
    }
}

async fn look_into(session: &mut Session, call: &Call) -> Result<Fate, Broken> {
    // A replica has what its primary had some time ago.
    match session.first("SELECT @@global.read_only").await? {
        Ok(Some(read_only)) if read_only == "0" => {}
        Ok(_) | Err(_) => return Ok(Fate::Open),
    }
    match listed(session).await? {
        Ok(names) if names.contains(&call.name.to_string()) => return Ok(Fate::Busy),
        Ok(_) => {}
        Err(_) => return Ok(Fate::Open),
    }
    let memo = returned::memo(call.returned.bytes());
    let proof = fence::ask(session, &call.name).await?;
    Ok(match (proof, memo.as_deref().map(Memo::read)) {
        (Proof::Committed, _) => Fate::Committed,
        (Proof::Locked, _) => Fate::Busy,
        (Proof::Untold, _) => Fate::Open,
        (Proof::Missing, Some(Memo::Fenced)) => Fate::RolledBack,
        // It never voted yes here. A prepare that still comes is found as an orphan.
        (_, None) if call.verb == Verb::Rollback => Fate::RolledBack,
        (Proof::Missing | Proof::Forgotten, _) => Fate::Forgotten,
    })
}

/// Everything that is prepared on the server under names of ours, whole.
pub(super) async fn listed(session: &mut Session) -> Result<Result<Vec<String>, Refused>, Broken> {
    let rows = session.rows("XA RECOVER").await?;
    let line = |row: Vec<Option<Vec<u8>>>| match &*row {
        [Some(format), Some(global_len), Some(_), Some(data)] => {
            xid::read(format, global_len, data)
        }
        _ => None,
    };
    Ok(rows.map(|rows| rows.into_iter().filter_map(line).collect()))
}

/// What is prepared on this server under names that start like ours.
pub(super) async fn in_doubt(inner: &Inner) -> Result<Vec<Held>, String> {
    let lent = inner.second_phase.lend().await;
    let mut lent = lent.map_err(|why| why.to_string())?;
    let session = &mut lent.session;
    let names = listed(session).await.map_err(|broken| broken.0)?;
    let names = names.map_err(|refused| format!("XA RECOVER: {refused}"))?;
    if let Some(old) = inner.sweeper.due() {
        fence::sweep(session, &old).await.map_err(|broken| broken.0)?;
        step::sweep(session, &old).await.map_err(|broken| broken.0)?;
    }
    inner.second_phase.give_back(lent.into_session());
    Ok(names.into_iter().map(|name| Held { name, since: None }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_that_ended_as_decided_is_done_and_any_other_is_named() {
        let done = Answer::Done(Opaque::default());
        assert_eq!(concluded(Fate::Committed, Verb::Commit), done);
        assert_eq!(concluded(Fate::RolledBack, Verb::Rollback), done);
        let rolled_back = Answer::Heuristic(HeuristicKind::Rollback);
        assert_eq!(concluded(Fate::RolledBack, Verb::Commit), rolled_back);
        let committed = Answer::Heuristic(HeuristicKind::Commit);
        assert_eq!(concluded(Fate::Committed, Verb::Rollback), committed);
        let hazard = Answer::Heuristic(HeuristicKind::Hazard);
        assert_eq!(concluded(Fate::Forgotten, Verb::Commit), hazard);
        assert_eq!(concluded(Fate::Busy, Verb::Commit), Answer::Working);
        assert!(matches!(concluded(Fate::Open, Verb::Commit), Answer::Silent(_)));
    }
}
