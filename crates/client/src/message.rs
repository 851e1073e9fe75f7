//! A message as its application sees it: steps that act once a local transaction has committed, and
//! never if it has not.
//!
//! The message is announced before the local transaction. That then runs [`Announced::statement`]
//! besides its own work, and afterwards the application says what came of it. If it cannot, because
//! it died or the network did, the coordinator finds out in the database, by the row which that
//! statement writes.

use serde::Serialize;
use serde_json::Value;
use unanimous_api::{
    AbortRequest, BeginRequest, Code, CommitRequest, Kind, OutcomeWord, Problem, TransactionView,
    Wait,
};

use crate::chance;
use crate::client::Client;
use crate::error::Error;
use crate::repeat::Repeat;
use crate::saga::Step;
use crate::transaction::{Transaction, view_of};
use crate::transport::escape;

/// A message that is not announced.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is announced"]
pub struct Message {
    of: Transaction,
    source: String,
    input: Result<Option<Value>, String>,
    steps: Vec<Step>,
}

/// A message that is announced. What becomes of it is decided by the local transaction, whether or
/// not this is kept.
#[derive(Clone, Debug)]
pub struct Announced {
    of: Transaction,
    id: String,
    statement: String,
}

impl Message {
    pub(crate) fn new(client: Client, source: &str) -> Self {
        let of = Transaction::new(client).of_kind(Kind::Message);
        Self { of, source: source.to_owned(), input: Ok(None), steps: Vec::new() }
    }

    /// What its steps are given: `{{input.user}}` in their templates, and the body of those that have
    /// none of their own.
    pub fn input(mut self, input: &(impl Serialize + ?Sized)) -> Self {
        self.input = serde_json::to_value(input).map(Some).map_err(|error| error.to_string());
        self
    }

    /// With one more step. Each is asked until it is done, and those that are not after one another
    /// act side by side.
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Milliseconds after which the coordinator looks by itself whether the local transaction has
    /// committed. If it has not by then, it cannot any more.
    pub fn timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.of = self.of.timeout_ms(timeout_ms);
        self
    }

    /// Milliseconds that each call on it may take in all, repeats and waiting for its end included.
    pub fn deadline_ms(mut self, deadline_ms: u64) -> Self {
        self.of = self.of.deadline_ms(deadline_ms);
        self
    }

    /// The application's own name for it: announced twice under the same key it is one message. A
    /// random one unless set.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.of = self.of.key(key);
        self
    }

    /// W3C trace context to pass on to the coordinator and the steps.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.of = self.of.traceparent(traceparent);
        self
    }

    /// The domain of the business that it is of, by the name that the coordinator's configuration has
    /// for it. Its transactions have their own part of the journal, or a journal of their own.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.of = self.of.domain(domain);
        self
    }

    /// A service to be told how it ended: `POST` to a path below the url of a resource that has a
    /// signing secret.
    pub fn webhook(mut self, resource: impl Into<String>, path: impl Into<String>) -> Self {
        self.of = self.of.webhook(resource, path);
        self
    }

    /// Announces it, before the local transaction.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if source and steps make no message, or if the key has announced it before
    /// and its local transaction is settled; [`Error::Unknown`] if the reply was lost until the
    /// deadline: announce the same with the same key.
    pub async fn announce(mut self) -> Result<Announced, Error> {
        let key = self.of.take_key();
        let request = BeginRequest {
            kind: Kind::Message,
            domain: self.of.own_domain(),
            timeout_ms: self.of.own_timeout_ms(),
            wait: None,
            branches: Vec::new(),
            input: self.input.map_err(|why| Error::Usage(format!("the input: {why}")))?,
            saga: None,
            steps: self.steps.into_iter().map(Step::into_request).collect(),
            source: Some(self.source),
            delay_ms: None,
            webhook: self.of.own_webhook(),
        };
        let call = self.of.post("/v1/transactions".to_owned(), &key, &request)?;
        let body = self.of.client().ask(&call, Repeat::Keyed(&key), self.of.until()).await?;
        let view = view_of(&body, &key)?;
        match view.steps.first().and_then(|source| source.statement.clone()) {
            Some(statement) => Ok(Announced { of: self.of, id: view.id, statement }),
            None => {
                let late = "its local transaction is settled already";
                let problem = Problem::new(Code::AlreadyCommitted, late).about(view);
                Err(Error::Refused(Box::new(problem)))
            }
        }
    }
}

impl Announced {
    /// Its identity.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the local transaction runs besides its own work, in the database of the source. If it
    /// fails because the row is there already, the coordinator has settled that this transaction does
    /// not commit.
    pub fn statement(&self) -> &str {
        &self.statement
    }

    /// How it stands.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the coordinator does not know it.
    pub async fn show(&self) -> Result<TransactionView, Error> {
        self.of.client().show(&self.id).await
    }

    /// Says that the local transaction has committed, and returns as soon as it is certain that the
    /// steps will act.
    ///
    /// # Errors
    ///
    /// [`Error::Aborted`] if the coordinator has settled before that it does not commit. After any
    /// other error the coordinator finds out by itself.
    pub async fn committed(&self) -> Result<TransactionView, Error> {
        self.tell_committed(Wait::Decided).await
    }

    /// The same, and returns when every step has acted.
    ///
    /// # Errors
    ///
    /// As [`Announced::committed`].
    pub async fn committed_and_done(&self) -> Result<TransactionView, Error> {
        self.tell_committed(Wait::Finished).await
    }

    async fn tell_committed(&self, wait: Wait) -> Result<TransactionView, Error> {
        let request = CommitRequest { wait: Some(wait), ..CommitRequest::default() };
        let key = chance::key();
        let path = format!("/v1/transactions/{}/commit", escape(&self.id));
        let call = self.of.post(path, &key, &request)?;
        self.of.clone().wait(wait).settle(&call, &key).await
    }

    /// Says that the local transaction will not commit. The database is asked all the same, so that
    /// a commit which got through counts.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`Code::AlreadyCommitted`] if it has committed.
    pub async fn abort(&self, reason: &str) -> Result<TransactionView, Error> {
        let reason = Some(reason.to_owned());
        let request = AbortRequest { reason, if_version: None, wait: Some(Wait::Finished) };
        let key = chance::key();
        let path = format!("/v1/transactions/{}/abort", escape(&self.id));
        let call = self.of.post(path, &key, &request)?;
        match self.of.settle(&call, &key).await {
            Err(Error::Aborted(view)) => Ok(*view),
            Ok(view) if view.outcome == Some(OutcomeWord::Committed) => {
                let lost = Problem::new(Code::AlreadyCommitted, "it has committed").about(view);
                Err(Error::Refused(Box::new(lost)))
            }
            other => other,
        }
    }
}
