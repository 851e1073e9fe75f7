//! For the tests of steps of sagas: every failure and every repeat that a saga of them has to survive.
//!
//! A step that works within the connection it is given cannot act twice; one that keeps something
//! elsewhere, or whose compensation does not quite undo its action, does not come out even.
//!
//! ```
//! use rusqlite::Connection;
//! use serde_json::json;
//! use unanimous_client::participant::{BoxError, No, SqliteStore, Steps};
//! use unanimous_client::testing::steps::{Progress, Rehearsed, fail_every_step, repeat_every_step};
//!
//! # tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
//! let folder = tempfile::tempdir().expect("a folder");
//! let open = async || {
//!     // Books of their own for each history.
//!     let path = tempfile::NamedTempFile::new_in(&folder)?.into_temp_path().keep()?;
//!     let store = SqliteStore::of_steps(path, |db| {
//!         db.execute_batch("CREATE TABLE account AS SELECT 100 AS balance, 0 AS seats")
//!     })?;
//!     let reserve = |db: &Connection| db.execute("UPDATE account SET seats = seats + 1", []);
//!     Ok::<_, BoxError>(
//!         Steps::new(store)
//!             .act("/reserve", move |db, _| Ok(reserve(db)?))
//!             .compensate("/release", |db, _| {
//!                 db.execute("UPDATE account SET seats = seats - 1", [])?;
//!                 Ok(())
//!             })
//!             .act("/charge", |db, call| {
//!                 let take = "UPDATE account SET balance = balance - ?1";
//!                 Ok(db.execute(take, [call.json::<i64>()?])?)
//!             }),
//!     )
//! };
//! let saga = [
//!     Rehearsed::step("/reserve", json!(null)).undone_by("/release"),
//!     Rehearsed::step("/charge", json!(30)),
//! ];
//! let check = async |store: &SqliteStore, progress| {
//!     let books = store.local(|db| {
//!         let read = "SELECT balance, seats FROM account";
//!         Ok(db.query_row(read, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?)
//!     });
//!     match (progress, books.await?) {
//!         (Progress::Completed, (70, 1)) | (Progress::Compensated, (100, 0)) => Ok(()),
//!         (Progress::Underway, (70 | 100, 0 | 1)) => Ok(()),
//!         (_, books) => Err(format!("balance and seats are {books:?}").into()),
//!     }
//! };
//! let runs = fail_every_step(&saga, open, check).await.expect("survives");
//! println!("survived {runs} histories with failures");
//! repeat_every_step(&saga, open, check).await.expect("repeats are harmless");
//! # });
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use tokio::task::JoinSet;
use unanimous_core::id::{BranchId, BranchName, ShardId, TxnId};
use unanimous_core::{Answer, Reason};

use super::{AT_ONCE, Violation};
use crate::chance;
use crate::participant::{BoxError, Half, Spoiled, StepOrder, StepStore, Steps, StoreError, now};

/// A step of the saga, with the calls that it makes.
#[derive(Clone, Debug)]
pub struct Rehearsed {
    path: String,
    body: Value,
    undone_by: Option<String>,
}

/// How far the saga has come when the books are checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Any steps may be in effect, each whole or not at all.
    Underway,
    /// Every step has acted.
    Completed,
    /// Every step that had acted is undone.
    Compensated,
}

impl Rehearsed {
    /// A step that calls `path` with `body` in JSON. Without a compensation it is one from which there is
    /// no return: the saga cannot give up any more once it may have acted.
    pub fn step(path: impl Into<String>, body: Value) -> Self {
        Self { path: path.into(), body, undone_by: None }
    }

    /// The path of the compensation. Its body is that of the action.
    #[must_use]
    pub fn undone_by(mut self, path: impl Into<String>) -> Self {
        self.undone_by = Some(path.into());
        self
    }
}

/// Plays the saga in every way that it can go on and back, and in each of them every failure of every call
/// once: the service dies before it has committed the work, the answer is lost, an answered call is made
/// again. It gives up at each step: before the call, when it was taken back, and when it was carried out and
/// nobody heard. Every action is repeated late, behind its compensation. Returns how many histories were
/// played.
///
/// `open` makes the steps with new books for each history, and `check` looks at the books: after every
/// call, and at the end.
///
/// # Errors
///
/// [`Violation`] at the first history that goes wrong: the books are not as they must be, a repeated call is
/// answered otherwise than the first, or a step is not done after a few attempts.
pub async fn fail_every_step<S: StepStore>(
    saga: &[Rehearsed],
    open: impl AsyncFn() -> Result<Steps<S>, BoxError>,
    check: impl AsyncFn(&S, Progress) -> Result<(), BoxError>,
) -> Result<usize, Violation> {
    let mut runs = 0;
    for course in courses(saga) {
        for failure in course.failures() {
            let mut run =
                Run { saga, steps: opened(&open).await?, txn: fresh(), calls: 0, failure };
            let played = run.play(&course, &check).await;
            let history = format!("{course} with {failure:?}");
            played.map_err(|what| Violation { history, what: what.to_string() })?;
            runs += 1;
        }
    }
    Ok(runs)
}

/// The same ways, with every call made many times at once, and once more at the end. The arguments are those
/// of [`fail_every_step`].
///
/// # Errors
///
/// As of [`fail_every_step`].
pub async fn repeat_every_step<S: StepStore>(
    saga: &[Rehearsed],
    open: impl AsyncFn() -> Result<Steps<S>, BoxError>,
    check: impl AsyncFn(&S, Progress) -> Result<(), BoxError>,
) -> Result<usize, Violation> {
    let courses = courses(saga);
    for course in &courses {
        let failure = Some(Failure { at: At::EveryCall, kind: Kind::Crowd });
        let mut run = Run { saga, steps: opened(&open).await?, txn: fresh(), calls: 0, failure };
        let played = run.play(course, &check).await;
        let history = format!("{course} with every call made at once {AT_ONCE} times");
        played.map_err(|what| Violation { history, what: what.to_string() })?;
    }
    Ok(courses.len())
}

/// Attempts at a call that nothing is made to happen to.
const ATTEMPTS_MAX: usize = 3;

async fn opened<S: StepStore>(
    open: &impl AsyncFn() -> Result<Steps<S>, BoxError>,
) -> Result<Steps<S>, Violation> {
    let opened = open().await;
    let history = "nothing was called".to_owned();
    opened.map_err(|what| Violation { history, what: what.to_string() })
}

fn fresh() -> TxnId {
    let entropy = u128::from_str_radix(&chance::key(), 16).expect("a key is hexadecimal");
    TxnId::mint(now().0, ShardId::of(0), entropy)
}

/// A way that the saga can go.
#[derive(Clone, Copy, Debug)]
struct Course {
    /// Calls that are made: the actions, and all that is undone.
    calls: usize,
    end: End,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Complete,
    /// It gives up at a step, to which this has happened.
    GivesUp(usize, Last),
}

/// What the saga does not know of the step that it gives up at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Last {
    /// Its call never came.
    Lost,
    /// The service died with it.
    TakenBack,
    /// It acted, and nobody heard.
    Unheard,
}

fn courses(saga: &[Rehearsed]) -> Vec<Course> {
    let mut courses = vec![Course { calls: saga.len(), end: End::Complete }];
    for (at, step) in saga.iter().enumerate() {
        let calls = at + at + 1;
        let gives_up = |last| Course { calls, end: End::GivesUp(at, last) };
        courses.extend([Last::Lost, Last::TakenBack].map(gives_up));
        if step.undone_by.is_none() {
            break;
        }
        courses.push(gives_up(Last::Unheard));
    }
    courses
}

/// What is made to happen, and when.
#[derive(Clone, Copy, Debug)]
struct Failure {
    at: At,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// Counted from zero.
    Call(usize),
    EveryCall,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    TakenBack,
    Unheard,
    MadeAgain,
    Crowd,
}

impl Course {
    /// None, each at each call, and each at every call.
    fn failures(self) -> Vec<Option<Failure>> {
        let kinds = [Kind::TakenBack, Kind::Unheard, Kind::MadeAgain];
        let mut failures = vec![None];
        for kind in kinds {
            let each = (0..self.calls).map(|call| Some(Failure { at: At::Call(call), kind }));
            failures.extend(each);
            failures.push(Some(Failure { at: At::EveryCall, kind }));
        }
        failures
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            End::Complete => write!(f, "a saga that completes"),
            End::GivesUp(step, last) => {
                write!(f, "a saga that gives up at step {step}, which was {last:?},")
            }
        }
    }
}

/// One history.
struct Run<'a, S: StepStore> {
    saga: &'a [Rehearsed],
    steps: Steps<S>,
    txn: TxnId,
    calls: usize,
    failure: Option<Failure>,
}

impl<S: StepStore> Run<'_, S> {
    async fn play(
        &mut self,
        course: &Course,
        check: &impl AsyncFn(&S, Progress) -> Result<(), BoxError>,
    ) -> Result<(), BoxError> {
        let saga = self.saga;
        let mut undone = None;
        for (at, step) in saga.iter().enumerate() {
            match course.end {
                End::GivesUp(last, what) if last == at => {
                    self.last(at, what).await?;
                    undone = Some(at);
                    break;
                }
                End::GivesUp(..) | End::Complete => {}
            }
            if let Some(reason) = refusal(&self.call(at, Half::Act).await?) {
                if let Some(stays) = saga[..at].iter().find(|it| it.undone_by.is_none()) {
                    let (path, stays) = (&step.path, &stays.path);
                    let what =
                        format!("{path} refuses ({}), and {stays} cannot be undone", reason.kind);
                    return Err(what.into());
                }
                undone = Some(at);
                break;
            }
            self.check(check, Progress::Underway).await?;
        }
        let Some(last) = undone else {
            return self.check(check, Progress::Completed).await;
        };
        let undoable = |at: &usize| saga[*at].undone_by.is_some();
        for at in (0..=last).rev().filter(undoable) {
            if let Some(reason) = refusal(&self.call(at, Half::Compensate).await?) {
                let path = &saga[at].path;
                return Err(format!("what undoes {path} is refused: {}", reason.kind).into());
            }
            self.check(check, Progress::Underway).await?;
        }
        self.check(check, Progress::Compensated).await?;
        for at in (0..=last).filter(undoable) {
            let late = self.ask(at, Half::Act, None).await;
            if !matches!(late, Ok(Answer::No(_))) {
                let path = &saga[at].path;
                return Err(format!("{path} behind its compensation was answered {late:?}").into());
            }
            self.check(check, Progress::Compensated).await?;
        }
        Ok(())
    }

    /// The step that the saga gives up at.
    async fn last(&self, at: usize, last: Last) -> Result<(), BoxError> {
        match last {
            Last::Lost => {}
            Last::TakenBack => drop(self.ask(at, Half::Act, Some(Spoiled)).await),
            Last::Unheard => drop(self.ask(at, Half::Act, None).await?),
        }
        Ok(())
    }

    /// Makes a call, with what is to happen to it, until it is answered.
    async fn call(&mut self, at: usize, half: Half) -> Result<Answer, BoxError> {
        let number = self.calls;
        self.calls += 1;
        let kind = self.failure.and_then(|failure| match failure.at {
            At::EveryCall => Some(failure.kind),
            At::Call(call) => (call == number).then_some(failure.kind),
        });
        let before = match kind {
            None | Some(Kind::MadeAgain) => None,
            Some(Kind::TakenBack) => {
                // What refuses, or has nothing to undo, is not taken back: then it is an answer.
                self.ask(at, half, Some(Spoiled)).await.ok()
            }
            Some(Kind::Unheard) => Some(self.answered(at, half).await?),
            Some(Kind::Crowd) => Some(self.crowd(at, half).await?),
        };
        let answer = self.answered(at, half).await?;
        let after = match kind {
            Some(Kind::MadeAgain | Kind::Crowd) => Some(self.answered(at, half).await?),
            None | Some(Kind::TakenBack | Kind::Unheard) => None,
        };
        match before.iter().chain(&after).find(|other| **other != answer) {
            Some(other) => {
                let path = &self.saga[at].path;
                let what = format!("{half:?} of {path} was answered {answer:?} and {other:?}");
                Err(what.into())
            }
            None => Ok(answer),
        }
    }

    /// The same call many times at once.
    async fn crowd(&self, at: usize, half: Half) -> Result<Answer, BoxError> {
        let mut calls = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (store, deed) = (self.steps.store().clone(), self.deed(at, half)?);
            let order = self.order(at, half, None);
            calls.spawn(async move { store.step(order, deed).await });
        }
        // Who could not wait for the others is as if it had not been made.
        let answers: Vec<Answer> = calls.join_all().await.into_iter().flatten().collect();
        let first = match answers.first() {
            Some(first) => first.clone(),
            None => self.answered(at, half).await?,
        };
        match answers.iter().find(|other| **other != first) {
            Some(other) => Err(format!("at once it was answered {first:?} and {other:?}").into()),
            None => Ok(first),
        }
    }

    async fn answered(&self, at: usize, half: Half) -> Result<Answer, BoxError> {
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            match self.ask(at, half, None).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        let path = &self.saga[at].path;
        let last = last.map(|error| error.to_string()).unwrap_or_default();
        Err(format!("{half:?} of {path} is not done in {ATTEMPTS_MAX} attempts: {last}").into())
    }

    async fn ask(
        &self,
        at: usize,
        half: Half,
        spoiled: Option<Spoiled>,
    ) -> Result<Answer, StoreError> {
        let deed = self.deed(at, half)?;
        self.steps.store().step(self.order(at, half, spoiled), deed).await
    }

    fn order(&self, at: usize, half: Half, spoiled: Option<Spoiled>) -> StepOrder {
        let branch = BranchId(u16::try_from(at).expect("a saga has few steps"));
        let branch = BranchName { cluster: "test".to_owned(), txn: self.txn, branch };
        let body = Bytes::from(self.saga[at].body.to_string());
        let mut order = StepOrder::new(branch, half, (HeaderMap::new(), body));
        order.spoiled = spoiled;
        order
    }

    fn deed(&self, at: usize, half: Half) -> Result<Arc<S::Deed>, StoreError> {
        let step = &self.saga[at];
        let path = match half {
            Half::Act => Some(&step.path),
            Half::Compensate => step.undone_by.as_ref(),
        };
        let deed = path.and_then(|path| self.steps.deed(path, half));
        let none = || format!("no path of the service is for {half:?} of step {at}");
        deed.ok_or_else(|| StoreError::Work(none().into()))
    }

    async fn check(
        &self,
        check: &impl AsyncFn(&S, Progress) -> Result<(), BoxError>,
        progress: Progress,
    ) -> Result<(), BoxError> {
        let done = check(self.steps.store(), progress).await;
        done.map_err(|error| format!("{progress:?}: {error}").into())
    }
}

/// Why it was refused, unless it was done.
fn refusal(answer: &Answer) -> Option<Reason> {
    match answer {
        Answer::Done(_) => None,
        Answer::No(reason) => Some(reason.clone()),
        Answer::Yes(_)
        | Answer::ReadOnly(_)
        | Answer::Heuristic(_)
        | Answer::Working
        | Answer::Lost(_)
        | Answer::Silent(_) => unreachable!("{answer:?}: a step is done or refused"),
    }
}
