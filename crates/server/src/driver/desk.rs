//! Questions to the journal about single transactions and keys, asked for many at once.
//!
//! When a node dies, thousands of requests come again to the others, and each wants to know what became
//! of it. A thread for each of them would take the processors from what lets go of locks; here all who
//! ask meanwhile wait for one.
//!
//! # Invariant
//!
//! Nobody is given an answer to a question that was asked before he came.

use std::sync::Weak;

use tokio::sync::{mpsc, oneshot};
use unanimous_core::id::TxnId;
use unanimous_journal::{JournalError, Stored};

use super::coordinator::Shared;
use crate::limits::ASKED_AT_ONCE;

type Answer<A> = Result<A, JournalError>;
type Asked<Q, A> = (Q, oneshot::Sender<Answer<A>>);

/// Where they are asked.
pub(super) struct Desk {
    txns: mpsc::UnboundedSender<Asked<TxnId, Vec<Stored>>>,
    keys: mpsc::UnboundedSender<Asked<String, Option<TxnId>>>,
}

impl Desk {
    /// Must be called within a tokio runtime.
    pub(super) fn open(shared: &Weak<Shared>) -> Self {
        let (txns, asked) = mpsc::unbounded_channel();
        let reads = Weak::clone(shared);
        tokio::spawn(answer(asked, move |txns: &[TxnId]| {
            reads.upgrade().map(|shared| shared.journal.read_all(txns))
        }));
        let (keys, asked) = mpsc::unbounded_channel();
        let finds = Weak::clone(shared);
        tokio::spawn(answer(asked, move |keys: &[String]| {
            finds.upgrade().map(|shared| shared.journal.find_keys(keys))
        }));
        Self { txns, keys }
    }

    /// All records of a transaction.
    pub(super) async fn read(&self, txn: TxnId) -> Answer<Vec<Stored>> {
        ask(&self.txns, txn).await
    }

    /// The transaction that was begun under a key.
    pub(super) async fn find_key(&self, key: &str) -> Answer<Option<TxnId>> {
        ask(&self.keys, key.to_owned()).await
    }
}

async fn ask<Q, A>(desk: &mpsc::UnboundedSender<Asked<Q, A>>, about: Q) -> Answer<A> {
    let (tell, told) = oneshot::channel();
    // If nobody is there, nobody answers.
    drop(desk.send((about, tell)));
    told.await.unwrap_or_else(|_| Err(JournalError::Failed("the journal has stopped".to_owned())))
}

/// Answers until nobody can ask any more. `look` waits for the journal, which may be gone.
async fn answer<Q: Send + 'static, A: Send + 'static>(
    mut asked: mpsc::UnboundedReceiver<Asked<Q, A>>,
    look: impl Fn(&[Q]) -> Option<Vec<Answer<A>>> + Clone + Send + 'static,
) {
    let mut batch = Vec::new();
    while asked.recv_many(&mut batch, ASKED_AT_ONCE).await > 0 {
        let (about, tell): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let look = look.clone();
        let Ok(Some(answers)) = tokio::task::spawn_blocking(move || look(&about)).await else {
            continue;
        };
        // Who has given up needs no answer.
        tell.into_iter().zip(answers).for_each(|(tell, answer)| drop(tell.send(answer)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn whoever_asks_while_others_are_answered_is_answered_with_the_next() {
        let looks = Arc::new(Mutex::new(Vec::new()));
        let (desk, asked) = mpsc::unbounded_channel();
        let (gate, opened) = std::sync::mpsc::channel::<()>();
        let opened = Arc::new(Mutex::new(opened));
        let seen = Arc::clone(&looks);
        tokio::spawn(answer(asked, move |about: &[u32]| {
            seen.lock().expect("whole").push(about.to_vec());
            opened.lock().expect("whole").recv().expect("the test opens it");
            let even = |it: &u32| it.is_multiple_of(2).then_some(it * 10);
            let failed = || JournalError::Failed("odd".to_owned());
            Some(about.iter().map(|it| even(it).ok_or_else(failed)).collect())
        }));
        let come = |about: u32| {
            let desk = desk.clone();
            tokio::spawn(async move { ask(&desk, about).await })
        };
        let first = come(2);
        while looks.lock().expect("whole").is_empty() {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (3..7).map(come).collect();
        tokio::task::yield_now().await;
        gate.send(()).expect("it waits");
        assert_eq!(first.await.expect("it lives").expect("even"), 20);
        gate.send(()).expect("it waits");
        for (about, told) in (3_u32..).zip(later) {
            match told.await.expect("it lives") {
                Ok(answer) => assert_eq!(answer, about * 10),
                Err(error) => assert!(!about.is_multiple_of(2), "{error}"),
            }
        }
        let looks = looks.lock().expect("whole");
        assert_eq!(looks.len(), 2, "{looks:?}");
    }

    #[tokio::test]
    async fn a_journal_that_is_gone_is_said_to_be() {
        let (desk, asked) = mpsc::unbounded_channel();
        tokio::spawn(answer(asked, |_: &[u32]| None::<Vec<Answer<u32>>>));
        assert!(matches!(ask(&desk, 1).await, Err(JournalError::Failed(_))));
    }
}
