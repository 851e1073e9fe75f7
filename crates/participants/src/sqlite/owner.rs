//! The one thread that writes to a file, and the questions that wait for it.
//!
//! SQLite blocks, and lets one transaction write at a time. So one thread has the connection, and answers
//! what has gathered while it was busy in one transaction: each question in a savepoint of its own, and one
//! sync for all of them. Nothing is answered before that transaction has committed.
//!
//! Questions are answered in the order in which they were asked. So a repeated question finds what became
//! of the first, and a prepare never comes after the rollback that was asked later.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use rusqlite::ErrorCode;
use tokio::sync::{oneshot, watch};
use unanimous_core::{Answer, Verb};

use super::file::File;
use super::refusal::Refused;
use super::{branch, step};
use crate::kept::Range;
use crate::limits::SQLITE_BATCH_MAX;
use crate::statement::Statement;
use crate::step::Half;
use crate::{Call, Held};

/// Something that is asked of a file.
pub(super) enum Ask {
    /// A call, with its statements, whose work ends by that time.
    Call { call: Call, statements: Vec<Statement>, until: Instant },
    /// What is in doubt, once these branches are forgotten, and those that are too old.
    List { forget: Vec<String>, old: Option<Range> },
}

/// What comes of it.
#[derive(Clone)]
pub(super) enum Said {
    Answer(Answer),
    /// Something in this table is held, by this branch if it is known which one.
    Held {
        table: String,
        holder: Option<String>,
    },
    Listed(Vec<Held>),
    /// Nothing of it was done.
    Refused(Refused),
    /// The file could not be opened; nothing was done.
    Unopened(Refused),
    /// It may have been done.
    Unknown(Refused),
}

/// What comes of it within the transaction.
pub(super) enum Outcome {
    /// What it wrote stays.
    Keep(Said),
    /// It is taken back.
    Undo(Said),
}

struct Job {
    ask: Ask,
    reply: oneshot::Sender<Said>,
}

/// A file, however many adapters of this process use it.
pub(super) struct Owner {
    path: PathBuf,
    /// Begun at the first question.
    jobs: OnceLock<Sender<Job>>,
    /// Raised whenever branches have ended.
    ended: watch::Sender<u64>,
    /// Whether the last question found the file open, or could open it.
    is_open: Arc<AtomicBool>,
}

type Owners = Mutex<HashMap<PathBuf, Weak<Owner>>>;

impl Owner {
    /// The one that owns the file at this path in this process.
    pub(super) fn of(path: &Path) -> Arc<Self> {
        static OWNERS: LazyLock<Owners> = LazyLock::new(Owners::default);
        let mut owners = OWNERS.lock().unwrap_or_else(PoisonError::into_inner);
        owners.retain(|_, owner| owner.strong_count() > 0);
        if let Some(owner) = owners.get(path).and_then(Weak::upgrade) {
            return owner;
        }
        let path = path.to_owned();
        let owner = Arc::new(Self {
            path: path.clone(),
            jobs: OnceLock::new(),
            ended: watch::Sender::new(0),
            is_open: Arc::default(),
        });
        owners.insert(path, Arc::downgrade(&owner));
        owner
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file was there for the last question.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Tells whenever branches have ended.
    pub(super) fn ends(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    /// Asks, and waits for the answer. Given up, it may still be carried out.
    pub(super) async fn ask(&self, ask: Ask) -> Said {
        let (reply, said) = oneshot::channel();
        let jobs = self.jobs.get_or_init(|| self.begin());
        let gone = || Said::Unknown(Refused::new("resources", "the thread that writes has ended"));
        if jobs.send(Job { ask, reply }).is_err() {
            return gone();
        }
        said.await.unwrap_or_else(|_| gone())
    }

    fn begin(&self) -> Sender<Job> {
        let (jobs, waiting) = channel();
        let writer = Writer {
            path: self.path.clone(),
            file: None,
            ended: self.ended.clone(),
            is_open: Arc::clone(&self.is_open),
        };
        std::thread::Builder::new()
            .name("sqlite".to_owned())
            .spawn(move || writer.serve(&waiting))
            .expect("a process that is up can begin a thread");
        jobs
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    ended: watch::Sender<u64>,
    is_open: Arc<AtomicBool>,
}

/// Why a transaction has not committed.
enum Failure {
    /// It could not begin.
    Unopened(Refused),
    Unbegun(Refused),
    /// This job has ended the whole of it.
    Ended(usize, Said),
    Uncommitted(Refused),
    Uncertain(Refused),
}

impl Writer {
    fn serve(mut self, waiting: &Receiver<Job>) {
        while let Ok(first) = waiting.recv() {
            let mut jobs = vec![first];
            jobs.extend(waiting.try_iter().take(SQLITE_BATCH_MAX - 1));
            // Nobody waits for the answers to these any more.
            jobs.retain(|job| !job.reply.is_closed());
            if !jobs.is_empty() {
                self.answer(jobs);
                self.is_open.store(self.file.is_some(), Ordering::Relaxed);
            }
        }
    }

    fn answer(&mut self, jobs: Vec<Job>) {
        let failure = match self.together(&jobs) {
            Ok(all) => {
                if jobs.iter().any(|job| job.ask.ends()) {
                    self.ended.send_modify(|count| *count += 1);
                }
                return jobs.into_iter().zip(all).for_each(|(job, said)| tell(job, said));
            }
            Err(failure) => failure,
        };
        match failure {
            Failure::Unopened(why) => tell_all(jobs, &Said::Unopened(why)),
            Failure::Unbegun(why) => tell_all(jobs, &Said::Refused(why)),
            Failure::Uncertain(why) => tell_all(jobs, &Said::Unknown(why)),
            Failure::Uncommitted(why) if jobs.len() == 1 || why.is_busy() => {
                tell_all(jobs, &Said::Refused(why));
            }
            // One of them cannot be committed, and the others must not suffer for it.
            Failure::Uncommitted(_) => jobs.into_iter().for_each(|job| self.answer(vec![job])),
            Failure::Ended(culprit, said) => {
                for (index, job) in jobs.into_iter().enumerate() {
                    match index == culprit {
                        true => tell(job, said.clone()),
                        false => self.answer(vec![job]),
                    }
                }
            }
        }
    }

    /// Answers all of them in one transaction.
    fn together(&mut self, jobs: &[Job]) -> Result<Vec<Said>, Failure> {
        let done = match self.opened() {
            Ok(file) => transact(file, jobs),
            Err(why) => Err(Failure::Unopened(why)),
        };
        let (Err(failure), Some(file)) = (&done, &self.file) else { return done };
        if !file.db.is_autocommit() {
            // If that fails too the connection is of no use any more, and is not used.
            if file.db.execute_batch("ROLLBACK").is_err() {
                self.file = None;
                return done;
            }
        }
        file.shapes.borrow_mut().undone();
        if failure.spoils_the_file() {
            self.file = None;
        }
        done
    }

    fn opened(&mut self) -> Result<&File, Refused> {
        // Another file may have been put in its place.
        let current = self.file.take().filter(File::is_current);
        let file = match current {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }
}

impl Failure {
    fn spoils_the_file(&self) -> bool {
        match self {
            Self::Unopened(_) | Self::Uncertain(_) => true,
            Self::Unbegun(why) | Self::Uncommitted(why) => why.spoils_the_file(),
            Self::Ended(_, Said::Refused(why)) => why.spoils_the_file(),
            Self::Ended(..) => false,
        }
    }
}

impl Ask {
    /// Whether what others wait for may be free after it.
    fn ends(&self) -> bool {
        match self {
            Self::Call { call, .. } => matches!(call.verb, Verb::Commit | Verb::Rollback),
            Self::List { .. } => false,
        }
    }
}

fn tell(job: Job, said: Said) {
    // Whoever asked may have gone.
    drop(job.reply.send(said));
}

fn tell_all(jobs: Vec<Job>, said: &Said) {
    jobs.into_iter().for_each(|job| tell(job, said.clone()));
}

fn transact(file: &File, jobs: &[Job]) -> Result<Vec<Said>, Failure> {
    let begun = file.db.execute_batch("BEGIN IMMEDIATE");
    begun.map_err(|error| Failure::Unbegun(Refused::of(&error, "BEGIN IMMEDIATE")))?;
    let mut all = Vec::with_capacity(jobs.len());
    for (index, job) in jobs.iter().enumerate() {
        all.push(one(file, &job.ask).map_err(|said| Failure::Ended(index, said))?);
    }
    file.db.execute_batch("COMMIT").map_err(|error| {
        let why = Refused::of(&error, "COMMIT");
        let code = error.sqlite_error_code();
        let is_known = [Some(ErrorCode::ConstraintViolation), Some(ErrorCode::DatabaseBusy)];
        match is_known.contains(&code) {
            true => Failure::Uncommitted(why),
            false => Failure::Uncertain(why),
        }
    })?;
    file.shapes.borrow_mut().stays();
    Ok(all)
}

/// Answers one question in a savepoint. An error means that the whole transaction has gone with it.
fn one(file: &File, ask: &Ask) -> Result<Said, Said> {
    let savepoint = |sql: &str| {
        let done = file.db.execute_batch(sql);
        done.map_err(|error| Said::Refused(Refused::of(&error, sql)))
    };
    savepoint("SAVEPOINT unanimous_job")?;
    let outcome = match carry_out(file, ask) {
        Ok(outcome) => outcome,
        Err(refused) => Outcome::Undo(Said::Refused(refused)),
    };
    match outcome {
        Outcome::Keep(said) => {
            savepoint("RELEASE unanimous_job")?;
            Ok(said)
        }
        Outcome::Undo(said) if file.db.is_autocommit() => Err(said),
        Outcome::Undo(said) => {
            savepoint("ROLLBACK TO unanimous_job; RELEASE unanimous_job")?;
            file.shapes.borrow_mut().undone();
            Ok(said)
        }
    }
}

fn carry_out(file: &File, ask: &Ask) -> Result<Outcome, Refused> {
    let (call, statements, until) = match ask {
        Ask::List { forget, old } => return branch::list(file, forget, old.as_ref()),
        Ask::Call { call, statements, until } => (call, statements, *until),
    };
    match call.verb {
        Verb::Prepare => branch::prepare(file, call, statements, until),
        Verb::CommitOnePhase => branch::commit_at_once(file, call, statements, until),
        Verb::Commit => branch::commit(file, call),
        Verb::Rollback => branch::roll_back(file, call),
        Verb::Act => step::perform(file, call, Half::first(&call.work), statements, until),
        Verb::Compensate => step::perform(file, call, Half::Compensate, statements, until),
    }
}
