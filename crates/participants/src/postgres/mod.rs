//! PostgreSQL as a participant, spoken to in its own protocol.
//!
//! A branch is one transaction, prepared under the branch's name and finished by that name over any
//! connection. The drivers at hand hide the command tag, which alone tells whether a transaction was
//! prepared; so this adapter encodes the protocol itself.
//!
//! What always holds: yes is said only of a transaction that is prepared; work is sent once; a branch
//! that is gone is never simply taken for done (see `finish`). It never commits in one phase: after a
//! restart of the coordinator nobody could tell whether such a commit whose answer was lost was
//! carried out.
//!
//! | file | what |
//! |---|---|
//! | `prepare` | the first phase |
//! | `finish`, `batch` | the second phase, and what is in doubt |
//! | `step` | steps of sagas |
//! | `read` | queries outside of branches |
//! | `holders` | who holds a lock that a branch waits for |
//! | `examine` | whether the database can take part at all |
//! | `sqlstate` | what each error means |
//! | `keyword`, `value` | statements and values |
//! | `address`, `login`, `binding`, `wire` | connections |

mod address;
#[cfg(feature = "servers")]
mod alone;
mod batch;
mod binding;
mod examine;
mod finish;
mod holders;
mod keyword;
mod login;
mod prepare;
mod read;
mod sqlstate;
mod step;
mod value;
mod wire;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use unanimous_core::commit::Phases;
use unanimous_core::id::BranchName;
use unanimous_core::limits::TEXT_LEN_MAX;
use unanimous_core::{Answer, Verb};

use self::address::Address;
use self::login::NoConnection;
use self::wire::{Broken, Connection};
use crate::guard::{Adapter, Contact, Heard, Hearing};
use crate::kept::Sweeper;
use crate::limits::{
    LOOKING_CONNECTIONS, POSTGRES_CONNECTIONS_MAX, READING_CONNECTIONS, STATEMENT_TYPES_KEPT_MAX,
};
use crate::lookout::AtWork;
use crate::open::Settings;
use crate::pool::Pool;
use crate::statement::Statement;
use crate::step::Half;
use crate::{Call, Examining, Listing, Reading, Takes, returned};

/// A PostgreSQL database that takes part.
pub struct PostgresAdapter {
    location: String,
    connections: usize,
    inner: Arc<Inner>,
}

struct Inner {
    first_phase: Pool<Connection>,
    /// Connections of its own: it sets locks free that the first phase may be waiting for.
    second_phase: Pool<Connection>,
    finishing: batch::Queue,
    /// For queries that take long and that nothing may wait for.
    reading: Pool<Connection>,
    /// To see who holds up a branch: another would wait behind it.
    looking: Pool<Connection>,
    at_work: AtWork,
    begun: Begun,
    types: Types,
    sweeper: Sweeper,
}

impl PostgresAdapter {
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
            second_phase: Pool::new(Arc::clone(&address), connections.div_ceil(2)),
            finishing: batch::Queue::default(),
            reading: Pool::new(Arc::clone(&address), READING_CONNECTIONS),
            looking: Pool::new(Arc::clone(&address), LOOKING_CONNECTIONS),
            at_work: AtWork::default(),
            begun: Begun::default(),
            types: Types::default(),
            sweeper: Sweeper::default(),
        };
        Ok(Self { location: address.shown(), connections, inner: Arc::new(inner) })
    }

    /// Calls of the first phase that it can make at once.
    pub(crate) fn connections(&self) -> usize {
        self.connections.min(POSTGRES_CONNECTIONS_MAX)
    }
}

impl Adapter for PostgresAdapter {
    fn call(&self, call: Call) -> Hearing {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match call.verb {
                Verb::Prepare => prepare::prepare(&inner, &call).await,
                Verb::Commit | Verb::Rollback => {
                    inner.begun.remove(&call.name);
                    batch::finish(&inner, &call).await
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
        "postgres"
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

    fn is_settled_by_list(&self, call: &Call) -> bool {
        let votes = returned::memo(call.returned.bytes()).is_some();
        call.verb == Verb::Rollback && !votes && !self.inner.begun.has(&call.name)
    }

    fn examine(&self, patience: Duration) -> Examining {
        let (inner, connections) = (Arc::clone(&self.inner), self.connections);
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

    fn has(&self, name: &BranchName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn remove(&self, name: &BranchName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// The types of the placeholders of statements that have had lists as values.
#[derive(Default)]
struct Types(Mutex<HashMap<String, Vec<u32>>>);

impl Types {
    fn get(&self, sql: &str) -> Option<Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned()
    }

    fn keep(&self, sql: &str, types: &[u32]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= STATEMENT_TYPES_KEPT_MAX {
            all.clear();
        }
        all.insert(sql.to_owned(), types.to_vec());
    }

    fn forget(&self, statements: &[Statement]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statements.iter().for_each(|statement| drop(all.remove(&statement.sql)));
    }
}

impl NoConnection {
    /// Whether it may be different later without anybody's help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unheard(_) => true,
            Self::Refused(refused) => sqlstate::may_pass(refused),
            Self::Unable(_) => false,
        }
    }
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheard(seen) => write!(f, "no connection: {seen}"),
            Self::Refused(refused) => write!(f, "no connection: {refused}"),
            Self::Unable(why) => f.write_str(why),
        }
    }
}

fn silent(seen: &str) -> Answer {
    Answer::Silent(Arc::from(&seen[..seen.floor_char_boundary(TEXT_LEN_MAX)]))
}

/// No connection: nothing was sent.
fn unreached(why: &NoConnection) -> Heard {
    let contact = match why {
        NoConnection::Unheard(_) | NoConnection::Refused(_) => Contact::Broken,
        NoConnection::Unable(_) => Contact::Made,
    };
    Heard { answer: silent(&why.to_string()), contact }
}

/// The connection broke while it was asked.
fn failed(what: &str, Broken(seen): Broken) -> Heard {
    Heard { answer: silent(&format!("{what}: {seen}")), contact: Contact::Broken }
}

fn timed_out(call: &Call) -> Heard {
    let seen = format!("no answer within {} ms", call.patience.as_millis());
    Heard { answer: silent(&seen), contact: Contact::TimedOut }
}
