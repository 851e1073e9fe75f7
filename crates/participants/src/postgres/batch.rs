//! The second phase over a few connections: what has gathered when one is free goes over it at once.
//!
//! Each statement is a transaction of its own, so that one that is refused is none of the others'
//! concern. If the connection breaks, those that were not answered by then are asked about again, each
//! by itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::time::timeout;
use unanimous_core::Answer;

use super::finish::{Said, fate, said, words};
use super::wire::{Broken, Connection};
use super::{Inner, failed, timed_out, unreached};
use crate::Call;
use crate::guard::{Contact, Heard};
use crate::limits::POSTGRES_BATCH;

/// Calls that wait for a connection, first come first served.
#[derive(Default)]
pub(super) struct Queue(Mutex<VecDeque<Asked>>);

/// A call, and who waits for what comes of it.
struct Asked {
    call: Call,
    tell: oneshot::Sender<Heard>,
}

impl Queue {
    fn push(&self, asked: Asked) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(asked);
    }

    /// The first of them, without those for which nobody waits any more.
    fn take(&self, most: usize) -> Vec<Asked> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|asked| !asked.tell.is_closed());
        let count = most.min(waiting.len());
        waiting.drain(..count).collect()
    }
}

/// Makes a call of the second phase, together with others if they wait.
pub(super) async fn finish(inner: &Arc<Inner>, call: &Call) -> Heard {
    let (tell, told) = oneshot::channel();
    inner.finishing.push(Asked { call: call.clone(), tell });
    // By itself, because it may carry the calls of others too. There is one for each call, so that each
    // is carried; one that comes too late finds nothing to do.
    tokio::spawn(carry(Arc::clone(inner)));
    match timeout(call.patience, told).await {
        Ok(Ok(heard)) => heard,
        Ok(Err(_)) => failed(words(call.verb).0, Broken("it was given up".to_owned())),
        Err(_) => timed_out(call),
    }
}

async fn carry(inner: Arc<Inner>) {
    let mut lent = match inner.second_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => {
            for Asked { tell, .. } in inner.finishing.take(1) {
                // Who does not wait any more asks again.
                let _ = tell.send(unreached(&why));
            }
            return;
        }
    };
    let mut batch = VecDeque::from(inner.finishing.take(POSTGRES_BATCH));
    let Some(patience) = batch.iter().map(|asked| asked.call.patience).max() else {
        return inner.second_phase.give_back(lent);
    };
    let carried = timeout(patience, all(&mut lent.connection, &mut batch)).await;
    match carried {
        Ok(Ok(())) => inner.second_phase.give_back(lent),
        Ok(Err(Broken(seen))) => {
            for Asked { call, tell } in batch {
                let _ = tell.send(failed(words(call.verb).0, Broken(seen.clone())));
            }
        }
        // They have given up, each in its time. The connection goes.
        Err(_) => {}
    }
}

/// Sends all of a batch, and tells of each as it is answered. Those that are left were not.
async fn all(connection: &mut Connection, batch: &mut VecDeque<Asked>) -> Result<(), Broken> {
    for Asked { call, .. } in &*batch {
        connection.text(&format!("{} '{}'", words(call.verb).0, call.name))?;
    }
    connection.send().await?;
    let mut gone = VecDeque::new();
    while !batch.is_empty() {
        let answered = connection.answered().await?;
        let Some(Asked { call, tell }) = batch.pop_front() else { break };
        match said(call.verb, answered) {
            Said::Answer(answer) => told(tell, answer),
            Said::Gone => gone.push_back(Asked { call, tell }),
        }
    }
    *batch = gone;
    while let Some(Asked { call, .. }) = batch.front() {
        let answer = fate(connection, call).await?;
        if let Some(Asked { tell, .. }) = batch.pop_front() {
            told(tell, answer);
        }
    }
    Ok(())
}

fn told(tell: oneshot::Sender<Heard>, answer: Answer) {
    // Who does not wait any more asks again.
    let _ = tell.send(Heard { answer, contact: Contact::Made });
}
