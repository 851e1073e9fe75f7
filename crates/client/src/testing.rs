//! For the tests of a participant: every crash and every repeat that it has to survive. [`steps`] has the
//! same for the steps of a saga.
//!
//! A participant that works within the connection it is given cannot get these wrong by itself; one
//! that keeps something elsewhere, or whose `rollback` does not quite undo its `prepare`, does.
//!
//! ```
//! # use rusqlite::{Connection, params};
//! # use unanimous_client::participant::{BoxError, No, SqliteParticipant, Vote, Work};
//! use unanimous_client::testing::{self, State};
//!
//! # struct Seats;
//! # impl SqliteParticipant for Seats {
//! #     fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
//! #         Ok(db.execute_batch("CREATE TABLE IF NOT EXISTS seat (id TEXT PRIMARY KEY, sold INT)")?)
//! #     }
//! #     fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No> {
//! #         let taken = db.execute("INSERT OR IGNORE INTO seat VALUES (?1, 0)", [work.json::<String>()?])?;
//! #         if taken == 1 { Ok(Vote::yes()) } else { Err(No::refused("taken", "the seat is taken")) }
//! #     }
//! #     fn commit(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
//! #         db.execute("UPDATE seat SET sold = 1 WHERE id = ?1", [work.json::<String>()?])?;
//! #         Ok(())
//! #     }
//! #     fn rollback(&self, db: &Connection, work: &Work) -> Result<(), BoxError> {
//! #         db.execute("DELETE FROM seat WHERE id = ?1", [work.json::<String>()?])?;
//! #         Ok(())
//! #     }
//! # }
//! # tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
//! let check = |db: &Connection, state: State| {
//!     let count = |sql| db.query_row(sql, [], |row| row.get::<_, i64>(0));
//!     let held = count("SELECT count(*) FROM seat WHERE sold = 0")?;
//!     let sold = count("SELECT count(*) FROM seat WHERE sold = 1")?;
//!     let expected = match state {
//!         State::Untouched | State::RolledBack => (0, 0),
//!         State::Prepared => (1, 0),
//!         State::Committed => (0, 1),
//!     };
//!     match (held, sold) == expected {
//!         true => Ok(()),
//!         false => Err(format!("{held} held and {sold} sold").into()),
//!     }
//! };
//! let runs = testing::fail_every_step(|| Seats, "B2-31".into(), check).await.expect("survives");
//! println!("survived {runs} histories with crashes");
//! testing::repeat_every_step(|| Seats, "B2-31".into(), check).await.expect("repeats are harmless");
//! # });
//! ```

#[cfg(feature = "idempotency")]
mod keys;
pub mod steps;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tower::ServiceExt;
use unanimous_api::callback::{FinishReply, PrepareReply, ReplyVote};
use unanimous_api::header;
use unanimous_core::Verb;
use unanimous_core::id::{BranchId, BranchName, ShardId, TxnId};

#[cfg(feature = "idempotency")]
pub use self::keys::key_store_suite;
use crate::participant::{BoxError, Point, SqliteParticipant, SqliteStore, callbacks};

/// How far the branch has come when the books are checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Nothing was asked yet, or what was asked was lost whole.
    Untouched,
    /// Voted yes, and waits.
    Prepared,
    /// Committed.
    Committed,
    /// Rolled back, refused, or read-only: nothing of the work is there.
    RolledBack,
}

/// A history after which the participant or its books were not as they must be.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{history}: {what}")]
pub struct Violation {
    /// What was called, and where it crashed.
    pub history: String,
    /// What was found.
    pub what: String,
}

/// Calls with a crash at every point of every one of them, and with every two crashes; each is
/// repeated until it is answered, as a coordinator does. Returns how many histories were played.
///
/// `participant` makes the participant anew for each opening of its file, `body` is what `prepare`
/// is called with, and `check` looks at the books: after every answer, and after every crash whose
/// effect is certain.
///
/// # Errors
///
/// [`Violation`] at the first history that goes wrong.
pub async fn fail_every_step<P: SqliteParticipant>(
    participant: impl Fn() -> P,
    body: Value,
    check: impl Fn(&Connection, State) -> Result<(), BoxError>,
) -> Result<usize, Violation> {
    let subject = Subject { participant: &participant, body: body.to_string(), check: &check };
    let mut runs = 0;
    for story in subject.stories().await? {
        for crashes in crashes(story.len()) {
            let history = format!("{story:?} with crashes {crashes:?}");
            let played = subject.play_with_crashes(story, &crashes).await;
            played.map_err(|what| Violation { history, what: what.to_string() })?;
            runs += 1;
        }
    }
    Ok(runs)
}

/// Calls each of which is made many times: at once, one after the other, after a restart, and once
/// more after the end. Returns how many histories were played. The arguments are those of
/// [`fail_every_step`].
///
/// # Errors
///
/// [`Violation`] at the first history that goes wrong.
pub async fn repeat_every_step<P: SqliteParticipant>(
    participant: impl Fn() -> P,
    body: Value,
    check: impl Fn(&Connection, State) -> Result<(), BoxError>,
) -> Result<usize, Violation> {
    let subject = Subject { participant: &participant, body: body.to_string(), check: &check };
    let stories = subject.stories().await?;
    for story in &stories {
        let history = format!("{story:?} with repeats");
        let played = subject.play_with_repeats(story).await;
        played.map_err(|what| Violation { history, what: what.to_string() })?;
    }
    Ok(stories.len())
}

/// What a coordinator may ask of one branch, in order.
const STORIES: [&[Verb]; 5] = [
    &[Verb::Prepare, Verb::Commit],
    &[Verb::Prepare, Verb::Rollback],
    &[Verb::Rollback, Verb::Prepare],
    &[Verb::Rollback],
    &[Verb::CommitOnePhase],
];

const POINTS: [Point; 3] = [Point::Called, Point::Worked, Point::Committed];

/// Calls made at the same time.
const AT_ONCE: usize = 8;

/// Where to crash: at most twice, each at a point of an attempt that is counted from zero.
fn crashes(calls: usize) -> Vec<Vec<(usize, Point)>> {
    let at = |attempts: usize| {
        (0..attempts).flat_map(|attempt| POINTS.map(move |point| (attempt, point)))
    };
    let singles = at(calls).map(|crash| vec![crash]);
    let doubles = at(calls).flat_map(|first| {
        let later = at(calls + 1).filter(move |second| second.0 > first.0);
        later.map(move |second| vec![first, second])
    });
    std::iter::once(Vec::new()).chain(singles).chain(doubles).collect()
}

struct Subject<'a, P> {
    participant: &'a dyn Fn() -> P,
    body: String,
    check: &'a dyn Fn(&Connection, State) -> Result<(), BoxError>,
}

/// A participant with its file, which is removed at the end.
struct Stage {
    path: PathBuf,
    router: Router,
    armed: Arc<Mutex<Option<Point>>>,
    folder: Arc<TempDir>,
}

/// Status and body.
type Answer = (StatusCode, Bytes);

impl<P: SqliteParticipant> Subject<'_, P> {
    /// The stories that can be told of the work.
    async fn stories(&self) -> Result<Vec<&'static [Verb]>, Violation> {
        let vote = async {
            let stage = self.open(Arc::new(TempDir::new()?))?;
            stage.call(Verb::Prepare, &self.body).await
        };
        let (_, body) = vote.await.map_err(|what| Violation {
            history: "a first prepare".to_owned(),
            what: what.to_string(),
        })?;
        // In one phase, a vote of read-only cannot be told from a commit.
        let stories = STORIES.into_iter();
        Ok(stories.filter(|it| !(is_read_only(&body) && it[0] == Verb::CommitOnePhase)).collect())
    }

    async fn play_with_crashes(
        &self,
        story: &[Verb],
        crashes: &[(usize, Point)],
    ) -> Result<(), BoxError> {
        let mut stage = self.open(Arc::new(TempDir::new()?))?;
        let mut state = State::Untouched;
        self.check(&stage, state)?;
        let mut attempt = 0;
        for &verb in story {
            let verb = instead(verb, state, story);
            let mut is_certain = true;
            let answer = loop {
                let crash = crashes.iter().find(|(at, _)| *at == attempt).map(|(_, point)| *point);
                attempt += 1;
                stage.arm(crash);
                let answer = stage.call(verb, &self.body).await?;
                if crash.is_none() {
                    break answer;
                }
                if answer.0 != StatusCode::SERVICE_UNAVAILABLE {
                    return Err(format!("{verb:?} was answered in spite of a crash").into());
                }
                stage = self.open(stage.folder)?;
                is_certain &= crash != Some(Point::Committed);
                if is_certain {
                    self.check(&stage, state)?;
                }
            };
            state = after(verb, state, &answer)?;
            self.check(&stage, state)?;
        }
        Ok(())
    }

    async fn play_with_repeats(&self, story: &[Verb]) -> Result<(), BoxError> {
        let mut stage = self.open(Arc::new(TempDir::new()?))?;
        let mut state = State::Untouched;
        for &verb in story {
            let verb = instead(verb, state, story);
            let answers = stage.call_at_once(verb, &self.body).await?;
            state = after(verb, state, &answers[0])?;
            self.check(&stage, state)?;
            stage = self.open(stage.folder)?;
            let late = [stage.call(verb, &self.body).await?, stage.call(verb, &self.body).await?];
            if let Some(other) = answers.iter().chain(&late).find(|it| **it != answers[0]) {
                let (first, other) = (show(&answers[0]), show(other));
                return Err(format!("{verb:?} was answered {first}, and then {other}").into());
            }
            self.check(&stage, state)?;
        }
        for &verb in story {
            let verb = instead(verb, state, story);
            let answer = stage.call(verb, &self.body).await?;
            if after(verb, state, &answer)? != state {
                return Err(format!("{verb:?} after the end was {}", show(&answer)).into());
            }
            self.check(&stage, state)?;
        }
        Ok(())
    }

    fn open(&self, folder: Arc<TempDir>) -> Result<Stage, BoxError> {
        let path = folder.path().join("participant.db");
        let armed = Arc::new(Mutex::new(None));
        let crash = {
            let armed = Arc::clone(&armed);
            move |point| {
                let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
                armed.take_if(|at| *at == point).is_some()
            }
        };
        let participant = Box::new((self.participant)());
        let store = SqliteStore::open_to_crash(&path, participant, Box::new(crash))?;
        Ok(Stage { path, router: callbacks(store), armed, folder })
    }

    fn check(&self, stage: &Stage, state: State) -> Result<(), BoxError> {
        let db = Connection::open(&stage.path)?;
        (self.check)(&db, state).map_err(|error| format!("{state:?}: {error}").into())
    }
}

impl Stage {
    fn arm(&self, crash: Option<Point>) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = crash;
    }

    async fn call(&self, verb: Verb, body: &str) -> Result<Answer, BoxError> {
        send(self.router.clone(), request(verb, body)?).await
    }

    async fn call_at_once(&self, verb: Verb, body: &str) -> Result<Vec<Answer>, BoxError> {
        let mut calls = JoinSet::new();
        for _ in 0..AT_ONCE {
            calls.spawn(send(self.router.clone(), request(verb, body)?));
        }
        calls.join_all().await.into_iter().collect()
    }
}

fn request(verb: Verb, body: &str) -> Result<Request<Body>, http::Error> {
    let (path, body) = match verb {
        Verb::Prepare => ("/prepare", body),
        Verb::Commit => ("/commit", ""),
        Verb::CommitOnePhase => ("/commit", body),
        Verb::Rollback => ("/rollback", ""),
        Verb::Act | Verb::Compensate => unreachable!("only the two phases are tested"),
    };
    let txn = TxnId::mint(1, ShardId::of(0), 1);
    let branch = BranchName { cluster: "test".to_owned(), txn, branch: BranchId(0) };
    let mut request = Request::post(path)
        .header(header::TRANSACTION, txn.to_string())
        .header(header::BRANCH, branch.to_string())
        .header(header::ATTEMPT, "1");
    if verb == Verb::CommitOnePhase {
        request = request.header(header::PHASES, "one");
    }
    request.body(Body::from(body.to_owned()))
}

async fn send(router: Router, request: Request<Body>) -> Result<Answer, BoxError> {
    let response = router.oneshot(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

/// The verb that a coordinator calls: it commits only what has voted yes.
fn instead(verb: Verb, state: State, story: &[Verb]) -> Verb {
    let refused = story[0] == Verb::Prepare && state == State::RolledBack;
    match verb {
        Verb::Commit if refused => Verb::Rollback,
        Verb::Prepare
        | Verb::Commit
        | Verb::CommitOnePhase
        | Verb::Rollback
        | Verb::Act
        | Verb::Compensate => verb,
    }
}

/// Where a branch stands after an answer, if that is one it may give.
fn after(verb: Verb, state: State, (status, body): &Answer) -> Result<State, BoxError> {
    let text = String::from_utf8_lossy(body);
    let wrong = || format!("{verb:?} when {state:?} was answered {status} {text}").into();
    let finish = serde_json::from_slice::<FinishReply>(body);
    if finish.is_ok_and(|reply| reply.heuristic.is_some()) {
        return Err(wrong());
    }
    let read_only = is_read_only(body);
    match (*status, verb, state) {
        (StatusCode::OK, Verb::Prepare, State::Untouched | State::Prepared) if !read_only => {
            Ok(State::Prepared)
        }
        (StatusCode::OK, Verb::Prepare, State::Untouched | State::RolledBack) if read_only => {
            Ok(State::RolledBack)
        }
        (StatusCode::OK, Verb::Prepare | Verb::Commit | Verb::CommitOnePhase, State::Committed)
        | (StatusCode::OK, Verb::Commit, State::Prepared)
        | (StatusCode::OK, Verb::CommitOnePhase, State::Untouched) => Ok(State::Committed),
        (StatusCode::CONFLICT, Verb::Prepare | Verb::CommitOnePhase, State::Untouched)
        | (StatusCode::CONFLICT, Verb::Prepare | Verb::CommitOnePhase, State::RolledBack)
        | (
            StatusCode::OK,
            Verb::Rollback,
            State::Untouched | State::Prepared | State::RolledBack,
        ) => Ok(State::RolledBack),
        _ => Err(wrong()),
    }
}

fn is_read_only(body: &[u8]) -> bool {
    let reply = serde_json::from_slice::<PrepareReply>(body);
    reply.is_ok_and(|reply| reply.vote == Some(ReplyVote::ReadOnly))
}

fn show((status, body): &Answer) -> String {
    format!("{status} {}", String::from_utf8_lossy(body))
}
