//! One question for all who ask the same at the same time: when a node dies, thousands of requests come
//! again at once, and each wants to know what became of it.
//!
//! # Invariant
//!
//! Nobody is given an answer to a question that was sent before he asked.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::JournalError;

/// Those who ask about a `Q`.
pub(crate) struct Gather<Q, A> {
    /// Of how many is asked at once.
    most: usize,
    asked: Mutex<Vec<Asked<Q, A>>>,
    /// Held by the one whose question is under way.
    asking: tokio::sync::Mutex<()>,
}

struct Asked<Q, A> {
    about: Q,
    tell: oneshot::Sender<Result<A, JournalError>>,
}

impl<Q, A> Gather<Q, A> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, asked: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// The answer about one. `ask` asks about many, and gives an answer for each, in their order. Who waits
    /// for it must not be given up: the question that is under way may be the others'.
    pub(crate) async fn ask<F: Future<Output = Result<Vec<A>, JournalError>>>(
        &self,
        about: Q,
        ask: impl Fn(Vec<Q>) -> F,
    ) -> Result<A, JournalError> {
        let (tell, mut told) = oneshot::channel();
        self.asked().push(Asked { about, tell });
        let _asking = self.asking.lock().await;
        loop {
            match told.try_recv() {
                Ok(answer) => return answer,
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err(JournalError::Failed("fewer answers than questions".to_owned()));
                }
            }
            let (about, tell) = self.next();
            match ask(about).await {
                Ok(answers) => tell.into_iter().zip(answers).for_each(|(tell, answer)| {
                    // Who has given up needs no answer.
                    drop(tell.send(Ok(answer)));
                }),
                Err(error) => tell.into_iter().for_each(|tell| {
                    drop(tell.send(Err(error.clone())));
                }),
            }
        }
    }

    fn next(&self) -> (Vec<Q>, Vec<oneshot::Sender<Result<A, JournalError>>>) {
        let mut asked = self.asked();
        let count = asked.len().min(self.most);
        asked.drain(..count).map(|Asked { about, tell }| (about, tell)).unzip()
    }

    fn asked(&self) -> MutexGuard<'_, Vec<Asked<Q, A>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::yield_now;

    use super::*;

    #[test]
    fn whoever_asks_meanwhile_is_answered_by_the_next_question() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("it needs nothing").block_on(async {
            let gather = Arc::new(Gather::new(3));
            let questions = Arc::new(Mutex::new(Vec::new()));
            let askers: Vec<_> = (0..8)
                .map(|about: u32| {
                    let (gather, questions) = (Arc::clone(&gather), Arc::clone(&questions));
                    tokio::spawn(async move {
                        let ask = async |all: Vec<u32>| {
                            questions.lock().expect("whole").push(all.clone());
                            yield_now().await;
                            match all.contains(&6) {
                                true => Err(JournalError::Unreachable("away".to_owned())),
                                false => Ok(all.into_iter().map(|it| it * 10).collect()),
                            }
                        };
                        gather.ask(about, ask).await
                    })
                })
                .collect();
            let mut answers = Vec::new();
            for asker in askers {
                answers.push(asker.await.expect("it does not panic"));
            }
            let questions = questions.lock().expect("whole");
            for (about, answer) in (0..).zip(answers) {
                let with = questions.iter().find(|all| all.contains(&about)).expect("it was asked");
                match answer {
                    Ok(answer) => assert!(answer == about * 10 && !with.contains(&6)),
                    Err(JournalError::Unreachable(why)) => {
                        assert!(why == "away" && with.contains(&6));
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            assert!(questions.len() <= 5, "{questions:?}");
            let mut asked = questions.concat();
            asked.sort_unstable();
            assert_eq!(asked, (0..8).collect::<Vec<u32>>());
        });
    }
}
