//! The second phase, what is in doubt, and forgetting what nobody will ask about again.
//!
//! Redis keeps for a week that a branch was committed, so that a repeated commit whose answer was lost
//! is known to be done. That is soon far more than the data itself; so a while after an acknowledgement
//! was heard, its branch is forgotten.

use std::time::Instant;

use unanimous_core::id::Timestamp;
use unanimous_core::{Answer, HeuristicKind, Opaque};

use super::resp::Reply;
use super::{Inner, failed, heard, library, silent, unreached};
use crate::guard::Heard;
use crate::{Call, Held};

pub(super) async fn commit(inner: &Inner, call: &Call) -> Heard {
    let said = match ask(inner, call, "commit").await {
        Ok(said) => said,
        Err(heard) => return heard,
    };
    heard(match said.first().map(String::as_str) {
        Some("DONE") => {
            inner.acknowledged.heard(&call.name);
            done()
        }
        Some("ENDED") => Answer::Heuristic(HeuristicKind::Rollback),
        // It was prepared once, or nobody would commit it: the data is older, or another.
        Some("UNKNOWN") => Answer::Heuristic(HeuristicKind::Hazard),
        _ => silent(&format!("commit: the function said {:?}", said.first())),
    })
}

pub(super) async fn roll_back(inner: &Inner, call: &Call) -> Heard {
    let said = match ask(inner, call, "rollback").await {
        Ok(said) => said,
        Err(heard) => return heard,
    };
    heard(match said.first().map(String::as_str) {
        Some("DONE") => done(),
        Some("ENDED") => Answer::Heuristic(HeuristicKind::Commit),
        _ => silent(&format!("rollback: the function said {:?}", said.first())),
    })
}

fn done() -> Answer {
    Answer::Done(Opaque::default())
}

async fn ask(inner: &Inner, call: &Call, function: &str) -> Result<Vec<String>, Heard> {
    let name = call.name.to_string();
    let mut lent = inner.second_phase.lend().await.map_err(|why| unreached(&why))?;
    let root = inner.address.root();
    let answered = library::call(&mut lent.connection, &root, function, &[&name]).await;
    match answered.map_err(|broken| failed(function, broken))? {
        Ok(reply) => {
            inner.second_phase.give_back(lent);
            Ok(reply.texts())
        }
        // The connection goes: it may be to a server that is not the master any more.
        Err(refused) => Err(heard(silent(&format!("{function}: {refused}")))),
    }
}

/// What is prepared under names that start like ours.
pub(super) async fn in_doubt(inner: &Inner) -> Result<Vec<Held>, String> {
    let lent = inner.second_phase.lend().await;
    let mut lent = lent.map_err(|why| why.to_string())?;
    let root = inner.address.root();
    let listed = library::call(&mut lent.connection, &root, "prepared", &[]).await;
    let listed = listed.map_err(|broken| broken.0)?.map_err(|refused| refused.0)?;
    let Reply::List(listed) = listed else { return Err("the list is none".to_owned()) };
    // Asked every few seconds, so what has to be done every few seconds is done here.
    while let Some(names) = inner.acknowledged.ripe(Instant::now()) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // What is not forgotten now expires by itself.
        let forgotten = library::call(&mut lent.connection, &root, "forget", &names).await;
        if !matches!(forgotten, Ok(Ok(_))) {
            break;
        }
    }
    inner.second_phase.give_back(lent);
    let texts = Reply::List(listed).texts();
    let held = texts.chunks_exact(2).filter(|pair| pair[0].starts_with("una:")).map(|pair| Held {
        name: pair[0].clone(),
        since: pair[1].parse::<f64>().ok().map(|ms| Timestamp(ms as u64)),
    });
    Ok(held.collect())
}
