//! Participants whose work is in SQLite.
//!
//! One thread owns the connection. It takes every call that waits, carries each out in a savepoint
//! of its own, commits them together with one sync of the disk, and answers after that. A call that
//! fails is taken back alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use unanimous_core::Answer;
use unanimous_core::id::Timestamp;

use self::books::Books;
use super::steps::{SqliteDeed, StepOrder};
use super::store::{Call, InDoubt, Store, StoreError};
use super::work::{BoxError, No, Vote, Work};
use crate::limits::{BATCH_LEN_MAX, QUEUE_LEN_MAX};

mod books;
mod step;
#[cfg(test)]
mod tests;

/// What a service does in SQLite.
///
/// Each verb works on the connection it is given, within a transaction that belongs to the store:
/// it may not begin or end one. What it does and the mark of the branch become durable together,
/// so no verb needs to think of repeats: `prepare` runs at most once with a result that is kept,
/// and exactly one of `commit` and `rollback` runs after a yes. Work should be short; calls are
/// carried out one after the other.
pub trait SqliteParticipant: Send + 'static {
    /// Creates what the work needs, each time the file is opened.
    ///
    /// # Errors
    ///
    /// Whatever failed; the store is then not opened.
    fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
        let _ = db;
        Ok(())
    }

    /// Does as much as can be taken back and promises the rest: reserves, stages, checks.
    ///
    /// # Errors
    ///
    /// [`No::Refused`] to vote no, [`No::Failed`] to be asked again. Either takes the work back.
    fn prepare(&self, db: &Connection, work: &Work) -> Result<Vote, No>;

    /// Makes it so.
    ///
    /// # Errors
    ///
    /// Whatever failed. It is taken back and asked again until it succeeds: a yes was a promise.
    fn commit(&self, db: &Connection, work: &Work) -> Result<(), BoxError>;

    /// Takes back what `prepare` did.
    ///
    /// # Errors
    ///
    /// Whatever failed. It is asked again until it succeeds.
    fn rollback(&self, db: &Connection, work: &Work) -> Result<(), BoxError>;
}

/// Work and marks in one SQLite file. Cheap to clone; clones share the connection.
///
/// The file may be read by others at any time, and written by others in short transactions.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    jobs: mpsc::Sender<Job>,
}

/// Something to do within the next commit, or the reason why there is none. Returns how to answer
/// after it.
type Job = Box<dyn FnOnce(Result<&Books, StoreError>) -> Settle + Send>;
type Settle = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Where a crash can happen, for tests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Point {
    /// The call has come, and nothing is done.
    Called,
    /// The work is done, and not committed.
    Worked,
    /// The work is committed, and not answered.
    Committed,
}

/// Whether to crash here.
pub(crate) type Crash = Box<dyn FnMut(Point) -> bool + Send>;

impl SqliteStore {
    /// Opens or creates the file at `path`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if it cannot be opened, is no SQLite file, or is on a file
    /// system without write-ahead logging; [`StoreError::Work`] if the participant's own set-up
    /// failed.
    pub fn open(
        path: impl AsRef<Path>,
        participant: impl SqliteParticipant,
    ) -> Result<Self, StoreError> {
        Self::open_to_crash(path.as_ref(), Box::new(participant), Box::new(|_| false))
    }

    /// The same, crashing where `crash` says: nothing that is not committed survives.
    pub(crate) fn open_to_crash(
        path: &Path,
        participant: Box<dyn SqliteParticipant>,
        crash: Crash,
    ) -> Result<Self, StoreError> {
        let books = Books::open(path, participant)?;
        let (jobs, waiting) = mpsc::channel(QUEUE_LEN_MAX);
        std::thread::Builder::new()
            .name("unanimous-store".to_owned())
            .spawn(move || keep(&books, waiting, crash))
            .map_err(|error| StoreError::Unavailable(error.to_string().into()))?;
        Ok(Self { jobs })
    }

    /// Opens or creates the file at `path` for [`super::Steps`] only: it takes part in no transaction of
    /// two phases. `set_up` creates what the work needs, each time the file is opened.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`].
    pub fn of_steps<E: Into<BoxError>>(
        path: impl AsRef<Path>,
        set_up: impl Fn(&Connection) -> Result<(), E> + Send + 'static,
    ) -> Result<Self, StoreError> {
        Self::open(path, StepsOnly(set_up))
    }

    pub(super) async fn carry_out_step(
        &self,
        order: StepOrder,
        deed: Arc<SqliteDeed>,
    ) -> Result<Answer, StoreError> {
        self.submit(move |books| books.step(&order, &*deed)).await
    }

    pub(super) async fn prune_steps_before(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.submit(move |books| books.prune_steps(before, limit)).await
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.jobs.is_closed()
    }

    /// Does local work that is no branch of any transaction, in line with the calls, as one local
    /// transaction that is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError::Work`] if `work` failed; nothing of it is left then.
    pub async fn local<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.submit(|books| books.in_users_hands(|db| work(db)).map_err(|error| failed(&*error)))
            .await
    }

    async fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Books) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (tell, told) = oneshot::channel();
        let span = tracing::Span::current();
        let job: Job = Box::new(move |books| {
            let done = books.and_then(|books| {
                books.in_savepoint(|| {
                    catch_unwind(AssertUnwindSafe(|| span.in_scope(|| work(books))))
                        .unwrap_or_else(|_| Err(StoreError::Work("it panicked".into())))
                })
            });
            Box::new(move |committed| {
                // Nobody may be waiting any more.
                let _ = tell.send(committed.and(done));
            })
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Stopped)?;
        told.await.map_err(|_| StoreError::Stopped)?
    }
}

impl Store for SqliteStore {
    async fn carry_out(&self, call: Call) -> Result<Answer, StoreError> {
        self.submit(move |books| books.carry_out(&call)).await
    }

    async fn in_doubt(&self, limit: usize) -> Result<Vec<InDoubt>, StoreError> {
        self.submit(move |books| books.in_doubt(limit)).await
    }

    async fn prune(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.submit(move |books| books.prune(before, limit)).await
    }

    fn is_stopped(&self) -> bool {
        self.has_stopped()
    }
}

/// What a store of steps answers to everything else.
struct StepsOnly<F>(F);

impl<E: Into<BoxError>, F> SqliteParticipant for StepsOnly<F>
where
    F: Fn(&Connection) -> Result<(), E> + Send + 'static,
{
    fn set_up(&self, db: &Connection) -> Result<(), BoxError> {
        (self.0)(db).map_err(Into::into)
    }

    fn prepare(&self, _: &Connection, _: &Work) -> Result<Vote, No> {
        Err(No::refused("steps_only", "this service takes steps of sagas only"))
    }

    fn commit(&self, _: &Connection, _: &Work) -> Result<(), BoxError> {
        Ok(())
    }

    fn rollback(&self, _: &Connection, _: &Work) -> Result<(), BoxError> {
        Ok(())
    }
}

/// The thread that owns the connection. Ends when every handle is gone, or a sync failed.
fn keep(books: &Books, mut waiting: mpsc::Receiver<Job>, crash: Crash) {
    work_off(books, &mut waiting, crash);
    // Dropped only, the queue would keep what is being sent at this moment for as long as there is a
    // handle: whoever waits for an answer has one (tokio-rs/tokio#7714).
    waiting.close();
    while waiting.blocking_recv().is_some() {}
}

fn work_off(books: &Books, waiting: &mut mpsc::Receiver<Job>, mut crash: Crash) {
    while let Some(first) = waiting.blocking_recv() {
        if crash(Point::Called) {
            return;
        }
        let (settles, written) = batch(books, first, waiting);
        if crash(Point::Worked) {
            return;
        }
        let committed = written.and_then(|()| books.commit());
        if crash(Point::Committed) {
            return;
        }
        let fatal = matches!(committed, Err(StoreError::Stopped));
        for settle in settles {
            settle(committed.clone());
        }
        if fatal {
            tracing::error!("a write to the store's disk failed: the store has stopped");
            return;
        }
    }
}

/// Carries out the first call and those that wait behind it, up to the commit.
fn batch(
    books: &Books,
    first: Job,
    waiting: &mut mpsc::Receiver<Job>,
) -> (Vec<Settle>, Result<(), StoreError>) {
    let mut written = books.begin();
    let mut settles = Vec::new();
    let mut next = Some(first);
    while let Some(job) = next {
        settles.push(job(written.clone().map(|()| books)));
        if written.is_ok() && !books.is_open() {
            written = Err(StoreError::Unavailable("the transaction was given up".into()));
        }
        next = match written {
            Ok(()) if settles.len() < BATCH_LEN_MAX => waiting.try_recv().ok(),
            Ok(()) | Err(_) => None,
        };
    }
    (settles, written)
}

fn failed(error: &(dyn std::error::Error + 'static)) -> StoreError {
    StoreError::Work(Arc::from(crate::error::chain(error)))
}

fn unavailable(error: &rusqlite::Error) -> StoreError {
    StoreError::Unavailable(error.to_string().into())
}
