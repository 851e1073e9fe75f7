//! MariaDB and MySQL as participants, by XA (X/Open, Distributed Transaction Processing: The XA
//! Specification).
//!
//! A branch is one XA transaction under the branch's name. It writes a row under that name, which is
//! there after it exactly if it has committed.
//!
//! What always holds: yes is said only of a branch that is prepared, and in which no statement
//! failed, because the server would prepare what the others did; work is sent once; a session with a
//! prepared branch is never reset and never used for anything but its end; a branch that is gone is
//! never simply taken for done (see `finish`). It never commits in one phase: after a restart of the
//! coordinator nobody would ask how such a commit went.
//!
//! | file | what |
//! |---|---|
//! | `prepare` | the first phase |
//! | `finish`, `fence` | the second phase, what is in doubt, and the proof of a commit |
//! | `bounds` | how long statements may take, and what ends them |
//! | `holders` | who holds a lock that a branch waits for |
//! | `step` | steps of sagas |
//! | `tie` | which session of the server a branch belongs to |
//! | `errno` | what each error means |
//! | `lexer`, `value`, `tables` | statements, values, and tables that cannot be rolled back |
//! | `xid` | branch names as XA spells them |
//! | `address`, `session`, `pool` | connections |
//! | `read` | queries outside of branches |
//! | `examine` | whether a server can take part |

mod address;
#[cfg(feature = "servers")]
mod alone;
mod bounds;
mod errno;
mod examine;
mod fence;
mod finish;
mod holders;
mod lexer;
mod pool;
mod prepare;
mod read;
mod session;
mod step;
mod tables;
mod tie;
mod value;
mod xid;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use unanimous_core::commit::Phases;
use unanimous_core::id::BranchName;
use unanimous_core::limits::TEXT_LEN_MAX;
use unanimous_core::{Answer, Verb};

use self::address::Address;
use self::pool::{Pool, Waiting};
use self::session::{Broken, NoSession};
use self::tables::Unsafe;
use crate::guard::{Adapter, Contact, Heard, Hearing};
use crate::kept::Sweeper;
use crate::limits::{LOOKING_CONNECTIONS, READING_CONNECTIONS};
use crate::lookout::AtWork;
use crate::open::Settings;
use crate::step::Half;
use crate::{Call, Examining, Listing, Reading, Takes};

/// A MariaDB or MySQL database that takes part.
pub struct MysqlAdapter {
    location: String,
    connections: usize,
    inner: Arc<Inner>,
}

struct Inner {
    first_phase: Pool,
    /// Sessions with a prepared branch each.
    waiting: Waiting,
    /// Connections of its own: it sets locks free that the first phase may be waiting for.
    second_phase: Pool,
    /// For queries that take long and that nothing may wait for.
    reading: Pool,
    /// To see who holds up a branch: another would wait behind it.
    looking: Pool,
    at_work: AtWork,
    begun: Begun,
    tables: Unsafe,
    sweeper: Sweeper,
}

impl MysqlAdapter {
    /// The database that `url` names. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the configuration, for the one who wrote it.
    pub fn new(url: &str, settings: &Settings) -> Result<Self, String> {
        if settings.phases == Phases::One {
            return Err("a database cannot commit in one phase: remove one_phase".to_owned());
        }
        let address = Arc::new(Address::parse(url, settings)?);
        let connections = address.connections;
        let inner = Inner {
            first_phase: Pool::new(Arc::clone(&address), connections),
            waiting: Waiting::new(connections),
            second_phase: Pool::new(Arc::clone(&address), connections.div_ceil(2)),
            reading: Pool::new(Arc::clone(&address), READING_CONNECTIONS),
            looking: Pool::new(Arc::clone(&address), LOOKING_CONNECTIONS),
            at_work: AtWork::default(),
            begun: Begun::default(),
            tables: Unsafe::default(),
            sweeper: Sweeper::default(),
        };
        Ok(Self { location: address.shown(), connections, inner: Arc::new(inner) })
    }

    /// Calls of the first phase that it can make at once.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }
}

impl Adapter for MysqlAdapter {
    fn call(&self, call: Call) -> Hearing {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match call.verb {
                Verb::Prepare => prepare::prepare(&inner, &call).await,
                Verb::Commit | Verb::Rollback => {
                    inner.begun.remove(&call.name);
                    finish::finish(&inner, &call).await
                }
                Verb::CommitOnePhase => {
                    let answer = silent("a database is not committed in one phase");
                    Heard { answer, contact: Contact::Made }
                }
                Verb::Act => step::perform(&inner, &call, Half::first(&call.work)).await,
                Verb::Compensate => step::perform(&inner, &call, Half::Compensate).await,
            }
        })
    }

    fn phases(&self) -> Phases {
        Phases::Two
    }

    fn kind(&self) -> &'static str {
        "mysql"
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
            match timeout(patience, finish::in_doubt(&inner)).await {
                Ok(held) => held.map(Some),
                Err(_) => Err(format!("no list within {} ms", patience.as_millis())),
            }
        })
    }

    fn examine(&self, patience: Duration) -> Examining {
        let inner = Arc::clone(&self.inner);
        let connections = self.connections;
        Box::pin(async move { examine::examine(&inner, connections, patience).await })
    }

    fn read(&self, queries: Vec<String>, patience: Duration) -> Reading {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { read::read(&inner, &queries, patience).await })
    }
}

/// Branches whose work has been sent, and that have not come to an end that is known.
#[derive(Default)]
struct Begun(Mutex<HashSet<BranchName>>);

impl Begun {
    /// Whether it was not among them.
    fn insert(&self, name: &BranchName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone())
    }

    fn remove(&self, name: &BranchName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// What the adapter wants to know again when it finishes a branch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Memo {
    /// The branch has written its proof.
    Fenced,
    /// The application prepared it without a proof.
    Unfenced,
}

impl Memo {
    fn written(self) -> &'static str {
        match self {
            Self::Fenced => "fenced",
            Self::Unfenced => "unfenced",
        }
    }

    fn read(text: &str) -> Self {
        match text {
            "fenced" => Self::Fenced,
            _ => Self::Unfenced,
        }
    }
}

fn silent(seen: &str) -> Answer {
    Answer::Silent(Arc::from(&seen[..seen.floor_char_boundary(TEXT_LEN_MAX)]))
}

/// No connection: nothing was sent.
fn unreached(why: &NoSession) -> Heard {
    Heard { answer: silent(&why.to_string()), contact: Contact::Broken }
}

/// The connection broke while it was asked.
fn failed(what: &str, Broken(seen): Broken) -> Heard {
    Heard { answer: silent(&format!("{what}: {seen}")), contact: Contact::Broken }
}

fn timed_out(call: &Call) -> Heard {
    let seen = format!("no answer within {} ms", call.patience.as_millis());
    Heard { answer: silent(&seen), contact: Contact::TimedOut }
}

#[cfg(test)]
mod tests {
    use super::Memo;

    #[test]
    fn a_memo_reads_back() {
        for memo in [Memo::Fenced, Memo::Unfenced] {
            assert_eq!(Memo::read(memo.written()), memo);
        }
    }
}
