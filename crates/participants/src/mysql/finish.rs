//! The second phase: `XA COMMIT`, `XA ROLLBACK`, and what it means if a branch is gone.
//!
//! A branch is finished over the session that prepared it while that lives, and over any other
//! after. That the server knows no such branch says nothing: another session may have it, it may have
//! ended, by us or by hand. Whether it is listed is asked after that answer, and how it ended is
//! told by its proof ([`fence`]).

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use unanimous_core::{Answer, HeuristicKind, Opaque, Verb};

use super::errno::{self, Unfinished};
use super::fence::{self, Proof};
use super::session::{Answered, Broken, Refused, Session};
use super::{Inner, Memo, failed, silent, timed_out, unreached, xid};
use crate::guard::{Contact, Heard};
use crate::limits::{UNTIE_IDLE_S, UNTIE_WAIT};
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

async fn over_any(inner: &Inner, call: &Call) -> Result<Heard, Broken> {
    let mut lent = match inner.second_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => return Ok(unreached(&why)),
    };
    let answer = over(&mut lent.session, call).await?;
    inner.second_phase.give_back(lent.into_session());
    Ok(heard(answer))
}

fn heard(answer: Answer) -> Heard {
    Heard { answer, contact: Contact::Made }
}

fn words(verb: Verb) -> &'static str {
    match verb {
        Verb::Commit | Verb::CommitOnePhase => "XA COMMIT",
        Verb::Rollback | Verb::Prepare => "XA ROLLBACK",
    }
}

async fn end(session: &mut Session, call: &Call) -> Answered<()> {
    session.execute(&format!("{} {}", words(call.verb), xid::spelled(&call.name))).await
}

/// Finishes a branch over a session that did not prepare it.
async fn over(session: &mut Session, call: &Call) -> Result<Answer, Broken> {
    let deadline = Instant::now() + UNTIE_WAIT.min(call.patience / 2);
    let mut pause = Duration::from_millis(2);
    loop {
        let refused = match end(session, call).await? {
            Ok(()) => return Ok(Answer::Done(Opaque::default())),
            Err(refused) => refused,
        };
        if errno::unfinished(&refused) == Unfinished::AskAgain {
            return Ok(silent(&format!("{}: {refused}", words(call.verb))));
        }
        let fate = look_into(session, call).await?;
        if fate != Fate::Busy {
            return Ok(concluded(fate, call.verb));
        }
        // The connection that prepared it has gone, and the server takes a moment to notice; or it
        // is half dead, and the server would wait for hours.
        untie(session, call).await?;
        if Instant::now() + pause >= deadline {
            return Ok(Answer::Working);
        }
        sleep(pause).await;
        pause *= 2;
    }
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
        (Proof::Missing, Some(Memo::Fenced(_))) => Fate::RolledBack,
        // It never voted yes here. A prepare that still comes is found as an orphan.
        (_, None) if call.verb == Verb::Rollback => Fate::RolledBack,
        (Proof::Missing | Proof::Forgotten, _) => Fate::Forgotten,
    })
}

/// Ends the session that holds the branch, if it has been idle for long: nobody is left to use it.
async fn untie(session: &mut Session, call: &Call) -> Result<(), Broken> {
    let memo = returned::memo(call.returned.bytes());
    let Some(Memo::Fenced(mark)) = memo.as_deref().map(Memo::read) else { return Ok(()) };
    if mark.is_empty() {
        return Ok(());
    }
    let holder = format!(
        "SELECT id FROM information_schema.processlist WHERE id = IS_USED_LOCK('{mark}') \
         AND command = 'Sleep' AND time >= {UNTIE_IDLE_S}"
    );
    if let Ok(Some(id)) = session.first(&holder).await? {
        // It may have gone by itself in between.
        drop(session.execute(&format!("KILL CONNECTION {id}")).await?);
    }
    Ok(())
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
    inner.sweeper.sweep(session).await.map_err(|broken| broken.0)?;
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
