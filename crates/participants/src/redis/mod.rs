//! Redis as a participant: conditional writes on one instance, or on one hash slot of a cluster.
//!
//! Redis cannot prepare, so a library of functions (`functions.lua`, loaded at the first use) does it
//! inside the server: it tries the work out, takes it back, and keeps it with locks on its keys until
//! it is committed. Programs that write to these keys past the functions are not held up by the
//! locks; `docs/resources-redis.md` says what that means.
//!
//! What always holds: yes is said only of work that Redis has kept, synced if its settings are right,
//! and that nothing but such programs can make impossible; every question may be repeated, so a reply
//! that was lost is asked for again; a branch that is gone is never simply taken for done.
//!
//! | file | what |
//! |---|---|
//! | `work` | the body of a branch |
//! | `prepare`, `finish` | the two phases, and what is in doubt |
//! | `functions.lua`, `library` | what runs inside Redis, and how it gets there |
//! | `refusal` | what each error means |
//! | `fitness` | whether the server's settings let it keep a promise |
//! | `address`, `login`, `resp` | connections |

mod address;
#[cfg(feature = "servers")]
mod alone;
mod finish;
mod fitness;
mod library;
mod login;
mod prepare;
mod refusal;
mod resp;
mod work;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use unanimous_core::commit::Phases;
use unanimous_core::limits::TEXT_LEN_MAX;
use unanimous_core::{Answer, Reason, Verb};

use self::address::Address;
use self::login::NoConnection;
use self::resp::{Broken, Connection};
use crate::acknowledged::Acknowledged;
use crate::guard::{Adapter, Contact, Heard, Hearing};
use crate::open::Settings;
use crate::pool::Pool;
use crate::{Call, Examining, Finding, Listing, Takes};

/// A Redis server that takes part.
pub struct RedisAdapter {
    location: String,
    inner: Arc<Inner>,
}

struct Inner {
    address: Arc<Address>,
    first_phase: Pool<Connection>,
    /// Connections of its own: it sets locks free that the first phase may be waiting for.
    second_phase: Pool<Connection>,
    acknowledged: Acknowledged,
}

impl RedisAdapter {
    /// The server that `url` names. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the configuration, for the one who wrote it.
    pub fn new(url: &str, settings: &Settings) -> Result<Self, String> {
        if settings.phases == Phases::One {
            return Err("redis cannot commit in one phase: remove one_phase".to_owned());
        }
        let address = Arc::new(Address::parse(url, settings)?);
        let inner = Inner {
            first_phase: Pool::new(Arc::clone(&address), address.connections),
            second_phase: Pool::new(Arc::clone(&address), address.connections.div_ceil(2)),
            acknowledged: Acknowledged::default(),
            address: Arc::clone(&address),
        };
        Ok(Self { location: address.shown(), inner: Arc::new(inner) })
    }
}

impl Adapter for RedisAdapter {
    fn call(&self, call: Call) -> Hearing {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let asked = async {
                match call.verb {
                    Verb::Prepare => prepare::prepare(&inner, &call).await,
                    Verb::Commit => finish::commit(&inner, &call).await,
                    Verb::Rollback => finish::roll_back(&inner, &call).await,
                    Verb::CommitOnePhase => heard(silent("redis does not commit in one phase")),
                    Verb::Act | Verb::Compensate => {
                        let why = "a resource of this kind takes no steps";
                        heard(Answer::No(Reason::new("unfit", why)))
                    }
                }
            };
            match timeout(call.patience, asked).await {
                Ok(heard) => heard,
                Err(_) => timed_out(&call),
            }
        })
    }

    fn phases(&self) -> Phases {
        Phases::Two
    }

    fn kind(&self) -> &'static str {
        "redis"
    }

    fn location(&self) -> &str {
        &self.location
    }

    fn takes(&self) -> Takes {
        Takes::Commands
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
        let address = Arc::clone(&self.inner.address);
        Box::pin(async move {
            let late = || format!("no answer within {} ms", patience.as_millis());
            match timeout(patience, fitness::examine(&address)).await {
                Ok(findings) => findings,
                Err(_) => vec![Finding::unfit("connection", late())],
            }
        })
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

fn heard(answer: Answer) -> Heard {
    Heard { answer, contact: Contact::Made }
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
