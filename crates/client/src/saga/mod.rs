//! A saga as its application sees it: steps that act, each with what undoes it.
//!
//! Either every step has acted in the end, or what was done is undone: [`Error::Compensated`]. A saga
//! that has begun is not forgotten by the coordinator, so whoever has its identity can follow it,
//! cancel it and send it signals, from any process.

mod step;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use unanimous_api::{
    AbortRequest, BeginRequest, Code, Kind, LogView, OutcomeWord, Problem, StepRequest,
    TransactionView, Wait,
};

pub use self::step::Step;
use crate::chance;
use crate::client::Client;
use crate::error::Error;
use crate::repeat::Repeat;
use crate::transaction::{Transaction, view_of};
use crate::transport::{Call, escape};

/// A saga that has not begun.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is begun or run"]
pub struct Saga {
    of: Transaction,
    input: Result<Option<Value>, String>,
    steps: Vec<StepRequest>,
    named: Option<String>,
    delay_ms: Option<u64>,
}

/// A saga that has begun. The coordinator carries it on whether or not this is kept.
#[derive(Clone, Debug)]
pub struct BegunSaga {
    of: Transaction,
    id: String,
}

/// A saga all of whose steps have acted.
#[derive(Clone, Debug, PartialEq)]
pub struct Completed {
    view: TransactionView,
}

impl Saga {
    pub(crate) fn new(client: Client) -> Self {
        let of = Transaction::new(client).of_kind(Kind::Saga);
        Self { of, input: Ok(None), steps: Vec::new(), named: None, delay_ms: None }
    }

    /// What its steps are given: `{{input.user}}` in their templates, and the body of those that have
    /// none of their own.
    pub fn input(mut self, input: &(impl Serialize + ?Sized)) -> Self {
        self.input = serde_json::to_value(input).map(Some).map_err(|error| error.to_string());
        self
    }

    /// The one that the coordinator knows by that name, such as `booking`, or `booking@3` for that version
    /// only. It has its steps already.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.named = Some(name.into());
        self
    }

    /// With one more step. Those that are not after one another act side by side.
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step.into_request());
        self
    }

    /// Milliseconds after which it is undone if it is not past its pivot. As long as it takes unless
    /// set.
    pub fn timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.of = self.of.timeout_ms(timeout_ms);
        self
    }

    /// Milliseconds before its first step.
    pub fn delay_ms(mut self, delay_ms: u64) -> Self {
        self.delay_ms = Some(delay_ms);
        self
    }

    /// Milliseconds that each call on it may take in all, repeats and waiting for its end included.
    /// Unless set, the client's, but at least [`crate::limits::GRACE_MS`] beyond the saga's timeout.
    pub fn deadline_ms(mut self, deadline_ms: u64) -> Self {
        self.of = self.of.deadline_ms(deadline_ms);
        self
    }

    /// The application's own name for it, such as `booking-42`: the same saga with the same key is
    /// carried out once, by whichever process and however often it is begun. A random one unless set.
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

    /// Begins it, and returns as soon as it will not be forgotten.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if its steps make no saga; nothing was begun. [`Error::Unknown`] if the
    /// reply was lost until the deadline: begin the same with the same key.
    pub async fn begin(mut self) -> Result<BegunSaga, Error> {
        let key = self.of.take_key();
        let (call, of) = self.call(&key, Wait::None)?;
        let body = of.client().ask(&call, Repeat::Keyed(&key), of.until()).await;
        let id = match body {
            Ok(body) => view_of(&body, &key)?.id,
            // The key has begun it before, and it is over: whoever waits for it is told how.
            Err(Error::Compensated(view) | Error::NeedsAttention(view) | Error::Mixed(view)) => {
                view.id
            }
            Err(error) => return Err(error),
        };
        Ok(BegunSaga { of, id })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// [`Error::Compensated`] if it was undone, with the step and why; [`Error::NeedsAttention`] if it
    /// goes neither on nor back by itself; [`Error::Unknown`] if its end could not be learned in time:
    /// the same call with the same key finds out.
    pub async fn run(mut self) -> Result<Completed, Error> {
        let key = self.of.take_key();
        let (call, of) = self.call(&key, Wait::Finished)?;
        of.settle(&call, &key).await.map(|view| Completed { view })
    }

    fn call(self, key: &str, wait: Wait) -> Result<(Call, Transaction), Error> {
        let input = self.input.map_err(|why| Error::Usage(format!("the input: {why}")))?;
        let request = BeginRequest {
            kind: Kind::Saga,
            domain: self.of.own_domain(),
            timeout_ms: self.of.own_timeout_ms(),
            wait: Some(wait),
            branches: Vec::new(),
            input,
            saga: self.named,
            steps: self.steps,
            source: None,
            delay_ms: self.delay_ms,
            webhook: self.of.own_webhook(),
        };
        Ok((self.of.post("/v1/transactions".to_owned(), key, &request)?, self.of))
    }
}

impl BegunSaga {
    pub(crate) fn of(client: Client, id: &str) -> Self {
        let of = Transaction::new(client).of_kind(Kind::Saga);
        Self { of, id: id.to_owned() }
    }

    /// Its identity.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How it stands.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the coordinator does not know it.
    pub async fn show(&self) -> Result<TransactionView, Error> {
        self.of.client().show(&self.id).await
    }

    /// What happened to it, oldest first.
    ///
    /// # Errors
    ///
    /// As [`BegunSaga::show`].
    pub async fn log(&self) -> Result<LogView, Error> {
        self.of.client().log(&self.id).await
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// As [`Saga::run`]. After [`Error::Unknown`], call it again.
    pub async fn finished(&self) -> Result<Completed, Error> {
        let view = self.show().await?;
        self.of.follow_to_the_end(view).await.map(|view| Completed { view })
    }

    /// Has everything undone, and returns the saga when it is.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`Code::TooLateToCancel`] if it is past its pivot, or
    /// [`Code::AlreadyCommitted`] if it has completed; [`Error::NeedsAttention`] if a compensation
    /// goes no further by itself.
    pub async fn cancel(&self, reason: &str) -> Result<TransactionView, Error> {
        self.undo(reason, None).await
    }

    /// The same, unless the saga has changed since it was shown with this
    /// [`TransactionView::version`].
    ///
    /// # Errors
    ///
    /// As [`BegunSaga::cancel`], and [`Error::Refused`] with [`Code::VersionChanged`].
    pub async fn cancel_version(
        &self,
        if_version: u32,
        reason: &str,
    ) -> Result<TransactionView, Error> {
        self.undo(reason, Some(if_version)).await
    }

    async fn undo(&self, reason: &str, if_version: Option<u32>) -> Result<TransactionView, Error> {
        let reason = Some(reason.to_owned());
        let request = AbortRequest { reason, if_version, wait: Some(Wait::Finished) };
        let key = chance::key();
        let path = format!("/v1/transactions/{}/abort", escape(&self.id));
        let call = self.of.post(path, &key, &request)?;
        match self.of.settle(&call, &key).await {
            Err(Error::Compensated(view)) => Ok(*view),
            // Canceling was taken on, and did not come out.
            Ok(view) if view.outcome == Some(OutcomeWord::Completed) => {
                let lost = Problem::new(Code::AlreadyCommitted, "it has completed").about(view);
                Err(Error::Refused(Box::new(lost)))
            }
            Err(Error::Unknown { key, cause, .. }) => {
                Err(Error::Unknown { key, id: Some(self.id.clone()), cause })
            }
            other => other,
        }
    }

    /// Sends a step the signal that it waits for, with something that later steps can name as its
    /// result. The first one counts.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`Code::UnknownStep`] if no such step waits for one.
    pub async fn signal(
        &self,
        step: &str,
        payload: &(impl Serialize + ?Sized),
    ) -> Result<TransactionView, Error> {
        let payload = serde_json::to_value(payload)
            .map_err(|error| Error::Usage(format!("the signal to {step}: {error}")))?;
        let key = chance::key();
        let path = format!("/v1/transactions/{}/signals/{}", escape(&self.id), escape(step));
        let call = self.of.post(path, &key, &payload)?;
        let body = self.of.client().ask(&call, Repeat::Keyed(&key), self.of.until()).await?;
        view_of(&body, &key)
    }
}

impl Completed {
    /// Its identity.
    pub fn id(&self) -> &str {
        &self.view.id
    }

    /// All that the coordinator shows of it.
    pub fn view(&self) -> &TransactionView {
        &self.view
    }

    /// What a step returned. No result is read as JSON's `null`.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if there is no such step or its result is of another type.
    pub fn result<T: DeserializeOwned>(&self, step: &str) -> Result<T, Error> {
        let found = self.view.steps.iter().find(|it| it.name == step);
        let found = found.ok_or_else(|| Error::Usage(format!("the saga has no step {step:?}")))?;
        T::deserialize(found.result.as_ref().unwrap_or(&Value::Null))
            .map_err(|error| Error::Usage(format!("the result of step {step}: {error}")))
    }
}
