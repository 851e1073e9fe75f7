//! Calls to whichever member answers, as the user that the journal was given.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::address::Address;
use super::proto::{Message, Range, Ranged, Txn, TxnDone, text};
use super::wire::{Fault, Wire};
use crate::codec::Undecodable;
use crate::remote::tls::Tls;

/// Codes of gRPC that etcd answers with.
mod code {
    pub(super) const INVALID_ARGUMENT: u32 = 3;
    pub(super) const PERMISSION_DENIED: u32 = 7;
    pub(super) const FAILED_PRECONDITION: u32 = 9;
    pub(super) const OUT_OF_RANGE: u32 = 11;
    pub(super) const UNIMPLEMENTED: u32 = 12;
    pub(super) const UNAUTHENTICATED: u32 = 16;
}

/// A cluster, over one connection at a time.
pub(super) struct Client {
    address: Address,
    password: Option<String>,
    tls: Option<Tls>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wire: Option<Wire>,
    /// The member that is tried next.
    turn: usize,
    token: Option<Arc<str>>,
}

/// Why a call did not do what it should.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may have been done or not: look, and ask again.
    Again(String),
    /// The revision that was asked for is given up: nothing was done, ask for the present one.
    Compacted,
    /// Nothing was done, and asking again is of no use.
    Refused(Refusal, String),
}

/// What is in the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// Who we are, or whether anybody has to say that.
    Login,
    /// What we may.
    Rights,
    /// What we ask for.
    Request,
}

impl Trouble {
    /// What happened, for people.
    pub(super) fn text(self) -> String {
        match self {
            Self::Again(text) | Self::Refused(_, text) => text,
            Self::Compacted => "the revision is given up".to_owned(),
        }
    }
}

impl From<Undecodable> for Trouble {
    fn from(error: Undecodable) -> Self {
        Self::Again(format!("an answer that cannot be read: {}", error.what))
    }
}

impl Client {
    /// Reads the files for TLS, if it is asked for. Connects to nothing.
    ///
    /// # Errors
    ///
    /// Which file cannot be used, and why.
    pub(super) fn new(address: Address, password: Option<String>) -> Result<Self, String> {
        let tls = address.tls.as_ref().map(|files| Tls::new(files, Some(b"h2"))).transpose()?;
        Ok(Self { address, password, tls, state: Mutex::default() })
    }

    /// Reads one span.
    pub(super) async fn range(&self, range: &Range) -> Result<Ranged, Trouble> {
        Ok(Ranged::decode(&self.call("KV/Range", &range.message()).await?)?)
    }

    /// Does one transaction.
    pub(super) async fn txn(&self, txn: &Txn) -> Result<TxnDone, Trouble> {
        Ok(TxnDone::decode(&self.call("KV/Txn", &txn.message()).await?)?)
    }

    /// Has all revisions before this one given up.
    pub(super) async fn compact(&self, revision: u64) -> Result<(), Trouble> {
        self.call("KV/Compact", &Message::default().number(1, revision)).await.map(drop)
    }

    /// The version of the member that answers.
    pub(super) async fn version(&self) -> Result<String, Trouble> {
        Ok(text(&self.call("Maintenance/Status", &Message::default()).await?, 2)?)
    }

    async fn call(&self, method: &str, message: &Message) -> Result<Bytes, Trouble> {
        let (wire, token) = self.ready().await?;
        let mut answer = wire.call(method, token.as_deref(), &message.0).await;
        if let Err(Fault::Status(code, text)) = &answer
            && token.is_some()
            && is_stale(*code, text)
        {
            // Nothing was done: the member looks at the token first.
            self.state.lock().expect("a change does not panic").token = None;
            let (wire, token) = self.ready().await?;
            answer = wire.call(method, token.as_deref(), &message.0).await;
        }
        answer.map_err(|fault| self.trouble(fault))
    }

    /// A connection, and the proof of who we are.
    async fn ready(&self) -> Result<(Wire, Option<Arc<str>>), Trouble> {
        let (known, mut turn, token) = {
            let mut state = self.state.lock().expect("a change does not panic");
            state.wire.take_if(|wire| wire.is_closed());
            (state.wire.clone(), state.turn, state.token.clone())
        };
        let mut failures = Vec::new();
        let mut wire = known;
        while wire.is_none() {
            let members = &self.address.members;
            if failures.len() == members.len() {
                return Err(Trouble::Again(failures.join("; ")));
            }
            let member = &members[turn % members.len()];
            match Wire::open(member, self.tls.as_ref()).await {
                Ok(opened) => {
                    let mut state = self.state.lock().expect("a change does not panic");
                    (state.wire, state.turn) = (Some(opened.clone()), turn);
                    wire = Some(opened);
                }
                Err(why) => {
                    failures.push(format!("{}: {why}", member.shown()));
                    turn += 1;
                }
            }
        }
        let wire = wire.expect("made just now");
        let Some(user) = self.address.user.as_deref().filter(|_| token.is_none()) else {
            return Ok((wire, token));
        };
        let password = self.password.as_deref().unwrap_or_default();
        let login = Message::default().bytes(1, user.as_bytes()).bytes(2, password.as_bytes());
        let answer = wire.call("Auth/Authenticate", None, &login.0).await;
        let answer = answer.map_err(|fault| self.trouble(fault))?;
        let token: Arc<str> = text(&answer, 2)?.into();
        self.state.lock().expect("a change does not panic").token = Some(Arc::clone(&token));
        Ok((wire, Some(token)))
    }

    /// What a fault means. Another member is tried next if this one may be at fault.
    fn trouble(&self, fault: Fault) -> Trouble {
        let text = match fault {
            Fault::Status(code::OUT_OF_RANGE, _) => return Trouble::Compacted,
            Fault::Status(code, text) => match refused(code, &text) {
                Some(refusal) => return Trouble::Refused(refusal, text),
                None => text,
            },
            Fault::Broken(text) => text,
        };
        let mut state = self.state.lock().expect("a change does not panic");
        let member = &self.address.members[state.turn % self.address.members.len()];
        let text = format!("{}: {text}", member.shown());
        state.wire = None;
        state.turn += 1;
        Trouble::Again(text)
    }
}

/// Whether a member does not take a token any more that was good.
fn is_stale(code: u32, text: &str) -> bool {
    code == code::UNAUTHENTICATED || text.contains("auth store is old")
}

fn refused(code: u32, text: &str) -> Option<Refusal> {
    match code {
        _ if text.contains("user ID or password")
            || text.contains("user name is empty")
            || text.contains("authentication is not enabled") =>
        {
            Some(Refusal::Login)
        }
        code::PERMISSION_DENIED => Some(Refusal::Rights),
        code::INVALID_ARGUMENT if is_stale(code, text) => None,
        code::INVALID_ARGUMENT | code::FAILED_PRECONDITION | code::UNIMPLEMENTED => {
            Some(Refusal::Request)
        }
        _ => None,
    }
}
