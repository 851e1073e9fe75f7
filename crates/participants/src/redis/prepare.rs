//! The first phase: the work is tried out inside Redis, taken back, and kept with locks on its keys.
//!
//! A repeated question is answered as the first was, so a reply that was lost is not a lost vote. A
//! no is only said where nothing can be prepared any more: after an attempt whose reply was lost the
//! function leaves a tombstone with its refusal, and where it has not run the vote is lost instead.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Opaque, Reason};

use super::resp::{Broken, Refused, Reply};
use super::{Inner, failed, heard, library, refusal, silent, unreached, work};
use crate::Call;
use crate::cycle::{Circle, Wait, Waits};
use crate::guard::Heard;
use crate::limits::{REDIS_LOCK_PAUSE_MAX, REDIS_LOCK_PAUSE_MIN};

/// What the function said.
enum Said {
    Yes(Opaque),
    ReadOnly(Opaque),
    No(Reason),
    Locked { key: String, holder: String },
    Ended(String),
}

pub(super) async fn prepare(inner: &Inner, call: &Call) -> Heard {
    let body = match work::read(&call.work) {
        Ok(body) => body,
        Err(why) => return heard(Answer::No(Reason::new("command", &why))),
    };
    // It ends before the call does, so that the vote can say who holds the lock.
    let deadline = Instant::now() + call.patience * 3 / 4;
    let mut pause = REDIS_LOCK_PAUSE_MIN;
    loop {
        let said = match ask(inner, call, &body).await {
            Ok(said) => said,
            Err(heard) => return heard,
        };
        let answer = match said {
            Said::Yes(results) => Answer::Yes(results),
            Said::ReadOnly(results) => Answer::ReadOnly(results),
            Said::No(reason) => Answer::No(reason),
            Said::Ended(state) => {
                let why = format!("its branch has ended already: {}", state.replace('_', " "));
                Answer::Lost(Reason::new("lost", &why))
            }
            Said::Locked { key, holder } => {
                let detail = format!("{key} is locked by {holder}");
                let Ok(_wait) = wait_for(call, &holder) else {
                    let detail = format!("{detail}, which waits for this transaction");
                    return heard(not_run(call, Reason::new("deadlock", &detail)));
                };
                if Instant::now() + pause < deadline {
                    sleep(pause).await;
                    pause = longer(pause);
                    continue;
                }
                not_run(call, Reason::new("lock_timeout", &detail))
            }
        };
        return heard(answer);
    }
}

/// A holder that is none of ours waits for nobody that we know.
fn wait_for(call: &Call, holder: &str) -> Result<Option<Wait<'static>>, Circle> {
    let Ok(holder) = holder.parse::<BranchName>() else { return Ok(None) };
    Waits::shared().begin(call.name.txn, holder.txn).map(Some)
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(REDIS_LOCK_PAUSE_MAX)
}

/// The vote if the work was not even tried. An earlier attempt may have been, or may still be.
fn not_run(call: &Call, reason: Reason) -> Answer {
    match call.attempt {
        1 => Answer::No(reason),
        _ => Answer::Lost(reason),
    }
}

async fn ask(inner: &Inner, call: &Call, body: &str) -> Result<Said, Heard> {
    let mut lent = inner.first_phase.lend().await.map_err(|why| unreached_first(call, &why))?;
    if let Some(reason) = &lent.connection.unfit {
        return Err(heard(not_run(call, reason.clone())));
    }
    let name = call.name.to_string();
    let attempt = if call.attempt == 1 { "first" } else { "again" };
    let root = inner.address.root();
    let answered =
        library::call(&mut lent.connection, &root, "prepare", &[&name, body, attempt]).await;
    let said = match answered.map_err(|broken| failed("prepare", broken))? {
        Ok(reply) => read(reply).map_err(|broken| failed("prepare", broken))?,
        // The connection may be to a server that has become another: a replica, or one of another slot.
        Err(refused) => return Err(heard(refused_first(call, &refused))),
    };
    inner.first_phase.give_back(lent);
    Ok(said)
}

fn refused_first(call: &Call, refused: &Refused) -> Answer {
    match refusal::may_pass(refused) {
        true => silent(&refused.0),
        false => not_run(call, refusal::reason(refused)),
    }
}

/// No connection for work that was not sent: what needs somebody's help is refused at once.
fn unreached_first(call: &Call, why: &super::login::NoConnection) -> Heard {
    match why {
        super::login::NoConnection::Unheard(_) | super::login::NoConnection::Refused(_) => {
            unreached(why)
        }
        super::login::NoConnection::Unable(why) => {
            heard(not_run(call, Reason::new("configuration", why)))
        }
    }
}

fn read(reply: Reply) -> Result<Said, Broken> {
    let texts = reply.texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Ok(match texts[..] {
        ["YES", results] => Said::Yes(listed(results)?),
        ["READ", results] => Said::ReadOnly(listed(results)?),
        ["NO", "", detail, error] => {
            let Reason { kind, .. } = refusal::reason(&Refused(error.to_owned()));
            Said::No(Reason::new(&kind, detail))
        }
        ["NO", kind, detail, _] => Said::No(Reason::new(kind, detail)),
        ["LOCKED", key, holder] => Said::Locked { key: key.to_owned(), holder: holder.to_owned() },
        ["ENDED", state] => Said::Ended(state.to_owned()),
        _ => return Err(Broken(format!("the function said {:?}", texts.first()))),
    })
}

/// Results as the client gets them. Bytes that are no text have become one in the reply.
fn listed(results: &str) -> Result<Opaque, Broken> {
    match serde_json::from_str::<Vec<Value>>(results) {
        Ok(_) => Ok(Opaque::new(results.as_bytes())),
        Err(error) => Err(Broken(format!("results that are not JSON: {error}"))),
    }
}
