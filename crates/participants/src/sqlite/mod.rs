//! SQLite as a participant: a file that the coordinator owns.
//!
//! SQLite cannot prepare, and its one write lock is gone with the process. So a prepared branch is rows in
//! the file itself: how each row that it touches will be, and a hold on it that keeps other programs away,
//! by triggers, also while no coordinator runs. `docs/resources-sqlite.md` says what that means for them.
//!
//! What always holds: yes is said only of what is on disk and has been carried out for trial; every question
//! may be repeated, because the file knows what became of each branch; a branch that is gone is never simply
//! taken for done; only one process at a time owns a file.
//!
//! | file | what |
//! |---|---|
//! | `owner` | the thread that writes, and the questions that wait for it |
//! | `branch` | both phases |
//! | `change`, `shape` | what a branch changes and holds |
//! | `step` | steps of sagas |
//! | `work`, `watch`, `value` | statements, and what they may do |
//! | `read` | queries outside of branches |
//! | `examine` | whether the file can take part at all |
//! | `refusal` | what each error means |
//! | `address`, `file` | where it is, and who has it open |

mod address;
mod branch;
mod change;
mod examine;
mod file;
mod owner;
mod read;
mod refusal;
mod shape;
mod step;
mod value;
mod watch;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use unanimous_core::commit::Phases;
use unanimous_core::id::BranchName;
use unanimous_core::limits::TEXT_LEN_MAX;
use unanimous_core::{Answer, Reason, Verb};

use self::owner::{Ask, Owner, Said};
use self::refusal::Refused;
use crate::acknowledged::Acknowledged;
use crate::cycle::{Circle, Wait, Waits};
use crate::guard::{Adapter, Contact, Heard, Hearing};
use crate::kept::Sweeper;
use crate::limits::SQLITE_HELD_PAUSE;
use crate::open::Settings;
use crate::statement::{self, Statement};
use crate::step::Half;
use crate::{Call, Examining, Finding, Held, Listing, Reading, Takes};

/// A SQLite file that takes part.
pub struct SqliteAdapter {
    location: String,
    inner: Arc<Inner>,
}

struct Inner {
    owner: Arc<Owner>,
    acknowledged: Acknowledged,
    sweeper: Sweeper,
}

impl SqliteAdapter {
    /// The file that `url` names. Opens nothing yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the configuration, for the one who wrote it.
    pub fn new(url: &str, settings: &Settings) -> Result<Self, String> {
        let path = address::parse(url, settings)?;
        let location = format!("sqlite:{}", path.display());
        let inner = Inner {
            owner: Owner::of(&path),
            acknowledged: Acknowledged::default(),
            sweeper: Sweeper::default(),
        };
        Ok(Self { location, inner: Arc::new(inner) })
    }
}

impl Adapter for SqliteAdapter {
    fn call(&self, call: Call) -> Hearing {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match timeout(call.patience, ask(&inner, &call)).await {
                Ok(heard) => heard,
                Err(_) => {
                    let seen = format!("no answer within {} ms", call.patience.as_millis());
                    Heard { answer: silent(&seen), contact: Contact::TimedOut }
                }
            }
        })
    }

    /// The file itself keeps what became of a branch, so one phase is decidable after any crash. What
    /// begins in one phase is asked for until the file answers, so it is not begun with one that is not there.
    fn phases(&self) -> Phases {
        match self.inner.owner.is_open() {
            true => Phases::One,
            false => Phases::Two,
        }
    }

    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn location(&self) -> &str {
        &self.location
    }

    fn takes(&self) -> Takes {
        Takes::Statements
    }

    fn steps(&self) -> bool {
        true
    }

    fn in_doubt(&self, patience: Duration) -> Listing {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match timeout(patience, in_doubt(&inner)).await {
                Ok(held) => held.map(Some),
                Err(_) => Err(format!("no list within {} ms", patience.as_millis())),
            }
        })
    }

    fn examine(&self, patience: Duration) -> Examining {
        let owner = Arc::clone(&self.inner.owner);
        Box::pin(async move {
            let looking = move || examine::examine(owner.path(), patience);
            let found = timeout(patience, tokio::task::spawn_blocking(looking)).await;
            let late = || format!("no answer within {} ms", patience.as_millis());
            match found {
                Ok(found) => found.expect("an examination does not panic"),
                Err(_) => vec![Finding::unfit("file", late())],
            }
        })
    }

    fn read(&self, queries: Vec<String>, patience: Duration) -> Reading {
        let owner = Arc::clone(&self.inner.owner);
        Box::pin(async move {
            let reading = move || read::read(owner.path(), &queries, patience);
            let read = tokio::task::spawn_blocking(reading).await;
            read.expect("a reading does not panic")
        })
    }
}

fn heard(answer: Answer) -> Heard {
    Heard { answer, contact: Contact::Made }
}

fn silent(seen: &str) -> Answer {
    Answer::Silent(Arc::from(&seen[..seen.floor_char_boundary(TEXT_LEN_MAX)]))
}

/// The statements of a call; none for a second phase.
fn statements(call: &Call) -> Result<Vec<Statement>, String> {
    match call.verb {
        Verb::Prepare | Verb::CommitOnePhase => statement::read(&call.work),
        Verb::Act => Half::first(&call.work).statements(&call.work).map_err(|bad| bad.why),
        Verb::Compensate => Half::Compensate.statements(&call.work).map_err(|bad| bad.why),
        Verb::Commit | Verb::Rollback => Ok(Vec::new()),
    }
}

async fn ask(inner: &Inner, call: &Call) -> Heard {
    let statements = match statements(call) {
        Ok(statements) => statements,
        Err(why) => return heard(Answer::No(Reason::new("statement", &why))),
    };
    inner.sweeper.saw(&call.name);
    // Work ends before the call does, so that it can be said why it has not come out.
    let begun = Instant::now();
    let (until, deadline) = (begun + call.patience * 7 / 8, begun + call.patience * 3 / 4);
    let mut ends = inner.owner.ends();
    loop {
        ends.mark_unchanged();
        let ask = Ask::Call { call: call.clone(), statements: statements.clone(), until };
        let (why, holder) = match inner.owner.ask(ask).await {
            Said::Held { table, holder } => (in_the_way(&table, holder.as_deref()), holder),
            Said::Refused(why) if why.is_busy() => (why, None),
            said @ (Said::Answer(_)
            | Said::Listed(_)
            | Said::Refused(_)
            | Said::Unopened(_)
            | Said::Unknown(_)) => return concluded(inner, call, said),
        };
        let Ok(_wait) = wait_for(call, holder.as_deref()) else {
            let detail = format!("{}, which waits for this transaction", why.detail);
            return heard(refused(call, &Refused::new("deadlock", detail)));
        };
        if matches!(call.verb, Verb::Commit | Verb::Rollback) || Instant::now() >= deadline {
            return heard(refused(call, &why));
        }
        // Told of an end, or, where somebody has let go by hand, after a while.
        let _ = timeout(SQLITE_HELD_PAUSE, ends.changed()).await;
    }
}

fn in_the_way(table: &str, holder: Option<&str>) -> Refused {
    let holder = holder.unwrap_or("a prepared branch");
    Refused::new("lock_timeout", format!("what is changed in {table} is held by {holder}"))
}

/// A holder that is none of ours waits for nobody that we know.
fn wait_for(call: &Call, holder: Option<&str>) -> Result<Option<Wait<'static>>, Circle> {
    let Some(Ok(holder)) = holder.map(str::parse::<BranchName>) else { return Ok(None) };
    Waits::shared().begin(call.name.txn, holder.txn).map(Some)
}

fn concluded(inner: &Inner, call: &Call, said: Said) -> Heard {
    match said {
        Said::Answer(answer) => {
            if matches!((&answer, call.verb), (Answer::Done(_), Verb::Commit | Verb::Rollback)) {
                inner.acknowledged.heard(&call.name);
            }
            heard(answer)
        }
        Said::Refused(why) => heard(refused(call, &why)),
        Said::Unknown(why) => heard(silent(&why.detail)),
        Said::Unopened(why) if call.verb == Verb::Prepare => heard(refused(call, &why)),
        Said::Unopened(why) => Heard { answer: silent(&why.detail), contact: Contact::Broken },
        Said::Held { .. } | Said::Listed(_) => heard(silent("an answer to another question")),
    }
}

/// Nothing was done. That is final for a vote; whether it is for a step depends on what may still come out.
fn refused(call: &Call, why: &Refused) -> Answer {
    match call.verb {
        Verb::Prepare | Verb::CommitOnePhase => Answer::No(why.reason()),
        Verb::Act | Verb::Compensate if !why.may_pass() && why.kind != "deadlock" => {
            Answer::No(why.reason())
        }
        Verb::Act | Verb::Compensate | Verb::Commit | Verb::Rollback => silent(&why.detail),
    }
}

async fn in_doubt(inner: &Inner) -> Result<Vec<Held>, String> {
    // Asked every few seconds, so what has to be done every few seconds is done here.
    let mut forget = inner.acknowledged.ripe(Instant::now()).unwrap_or_default();
    let mut old = inner.sweeper.due();
    loop {
        let ask = Ask::List { forget, old: old.take() };
        let held = match inner.owner.ask(ask).await {
            Said::Listed(held) => held,
            Said::Refused(why) | Said::Unopened(why) | Said::Unknown(why) => return Err(why.detail),
            Said::Answer(_) | Said::Held { .. } => {
                return Err("an answer to another question".to_owned());
            }
        };
        match inner.acknowledged.ripe(Instant::now()) {
            Some(more) => forget = more,
            None => return Ok(held),
        }
    }
}
