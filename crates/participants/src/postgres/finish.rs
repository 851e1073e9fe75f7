//! The second phase: `COMMIT PREPARED`, `ROLLBACK PREPARED`, and what it means if a branch is gone.
//!
//! That a branch is gone says nothing of how it ended: an acknowledgement was lost, or somebody ended
//! it by hand. PostgreSQL knows by the branch's own transaction number, which the vote left as memo.
//! A standby knows nothing, so only a primary is believed.

use unanimous_core::{Answer, HeuristicKind, Opaque, Verb};

use super::sqlstate::{self, Unfinished};
use super::wire::{Broken, Connection, Executed, Refused};
use super::{Inner, silent, step};
use crate::{Call, Held, returned};

/// What the server knows of a branch that is not prepared any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Committed,
    RolledBack,
    /// Not known yet: the server is a standby, or is still at it.
    Open,
    /// Not known any more: it was too long ago, or in another life of the database.
    Forgotten,
}

/// What a server's answer to the second phase says of a branch.
pub(super) enum Said {
    Answer(Answer),
    /// It is not prepared: see [`fate`].
    Gone,
}

/// What ends a branch, and whether it commits.
pub(super) fn words(verb: Verb) -> (&'static str, bool) {
    match verb {
        Verb::Commit | Verb::CommitOnePhase => ("COMMIT PREPARED", true),
        Verb::Rollback | Verb::Prepare | Verb::Act | Verb::Compensate => {
            ("ROLLBACK PREPARED", false)
        }
    }
}

pub(super) fn said(verb: Verb, answered: Result<Executed, Refused>) -> Said {
    let (words, _) = words(verb);
    Said::Answer(match answered {
        Ok(done) if done.tag == words => Answer::Done(Opaque::default()),
        Ok(done) => silent(&format!("{words}: answered with {:?}", done.tag)),
        Err(refused) => match sqlstate::unfinished(&refused) {
            Unfinished::Busy => Answer::Working,
            Unfinished::AskAgain => silent(&format!("{words}: {refused}")),
            Unfinished::Gone => return Said::Gone,
        },
    })
}

/// What became of a branch that is not prepared.
pub(super) async fn fate(connection: &mut Connection, call: &Call) -> Result<Answer, Broken> {
    let (_, commits) = words(call.verb);
    Ok(concluded(look_into(connection, call).await?, commits))
}

fn concluded(fate: Fate, commits: bool) -> Answer {
    match (fate, commits) {
        (Fate::Committed, true) | (Fate::RolledBack, false) => Answer::Done(Opaque::default()),
        (Fate::Committed, false) => Answer::Heuristic(HeuristicKind::Commit),
        (Fate::RolledBack, true) => Answer::Heuristic(HeuristicKind::Rollback),
        (Fate::Forgotten, _) => Answer::Heuristic(HeuristicKind::Hazard),
        (Fate::Open, _) => silent("it is not prepared here, and how it ended is not known yet"),
    }
}

async fn look_into(connection: &mut Connection, call: &Call) -> Result<Fate, Broken> {
    let xid = returned::memo(call.returned.bytes()).and_then(|memo| memo.parse::<u64>().ok());
    let status = match xid {
        Some(xid) => format!("coalesce(pg_xact_status('{xid}'::xid8), 'forgotten')"),
        None => "'unnumbered'".to_owned(),
    };
    let sql = format!(
        "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' \
         WHEN EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = '{}') THEN 'prepared' \
         ELSE {status} END",
        call.name
    );
    let status = match connection.simple(&sql).await? {
        Ok(executed) => executed.first.unwrap_or_default(),
        // The number is in the future: the database is older than the branch.
        Err(Refused { code, .. }) if code == "22023" => return Ok(Fate::Forgotten),
        Err(_) => return Ok(Fate::Open),
    };
    Ok(match &*status {
        "committed" => Fate::Committed,
        "aborted" => Fate::RolledBack,
        "forgotten" => Fate::Forgotten,
        // It never voted yes here. A prepare that still comes is found as an orphan.
        "unnumbered" if call.verb == Verb::Rollback => Fate::RolledBack,
        "unnumbered" => Fate::Forgotten,
        _ => Fate::Open,
    })
}

/// What is prepared in this database under names that start like ours.
pub(super) async fn in_doubt(inner: &Inner) -> Result<Vec<Held>, String> {
    let lent = inner.second_phase.lend().await;
    let mut lent = lent.map_err(|why| why.to_string())?;
    let listed = held(&mut lent.connection).await?;
    if let Some(old) = inner.sweeper.due() {
        step::sweep(&mut lent.connection, &old).await.map_err(|broken| broken.0)?;
    }
    inner.second_phase.give_back(lent);
    Ok(listed)
}

async fn held(connection: &mut Connection) -> Result<Vec<Held>, String> {
    // One text, so that no limit on the rows that are kept can make the list incomplete.
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE \
               (SELECT coalesce(string_agg( \
                    (extract(epoch FROM prepared) * 1000)::bigint || ' ' || gid, E'\\n'), '') \
                FROM pg_prepared_xacts \
                WHERE database = current_database() AND gid LIKE 'una:%') END";
    let executed = connection.simple(sql).await.map_err(|broken| broken.0)?;
    let text = executed.map_err(|refused| refused.to_string())?.first.unwrap_or_default();
    if text == "standby" {
        return Err("the server is a standby: only a primary knows what is prepared".to_owned());
    }
    let line = |line: &str| {
        let (since, name) = line.split_once(' ')?;
        let since = since.parse().ok().map(unanimous_core::id::Timestamp);
        Some(Held { name: name.to_owned(), since })
    };
    Ok(text.lines().filter_map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_that_ended_as_decided_is_done_and_any_other_is_named() {
        let done = Answer::Done(Opaque::default());
        assert_eq!(concluded(Fate::Committed, true), done);
        assert_eq!(concluded(Fate::RolledBack, false), done);
        let rolled_back = Answer::Heuristic(HeuristicKind::Rollback);
        assert_eq!(concluded(Fate::RolledBack, true), rolled_back);
        let committed = Answer::Heuristic(HeuristicKind::Commit);
        assert_eq!(concluded(Fate::Committed, false), committed);
        let hazard = Answer::Heuristic(HeuristicKind::Hazard);
        assert_eq!(concluded(Fate::Forgotten, true), hazard);
        assert!(matches!(concluded(Fate::Open, true), Answer::Silent(_)));
    }
}
