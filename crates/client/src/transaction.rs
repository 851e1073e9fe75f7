//! One transaction as its application sees it: run by the coordinator, or driven step by step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use unanimous_api::{
    AbortRequest, BeginRequest, BranchRequest, Code, CommitRequest, EnlistRequest, EnlistedView,
    Kind, LogView, OutcomeWord, Problem, TIMEOUT_MS_DEFAULT, TransactionView, VoteWord, Wait,
    WebhookRequest, header,
};

use crate::chance;
use crate::client::{Client, in_ms};
use crate::error::Error;
use crate::limits::{ABORT_PATIENCE_MS, GRACE_MS};
use crate::repeat::Repeat;
use crate::transport::{Call, escape};

/// A transaction that has not begun. Settings first; then either branches and [`Run::run`], or
/// [`Transaction::begin`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is begun or run"]
pub struct Transaction {
    client: Client,
    kind: Kind,
    timeout_ms: Option<u64>,
    deadline_ms: Option<u64>,
    wait: Wait,
    key: Option<String>,
    traceparent: Option<String>,
    webhook: Option<WebhookRequest>,
    domain: Option<String>,
}

/// A transaction with its branches, for the coordinator to run.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is run"]
pub struct Run {
    of: Transaction,
    branches: Vec<BranchRequest>,
}

/// A transaction that has begun and that the application drives.
///
/// Dropping it leaves it to the coordinator, which aborts it at its timeout.
#[derive(Clone, Debug)]
pub struct Txn {
    pub(crate) of: Transaction,
    id: String,
    asked: Arc<Asked>,
}

/// What was asked for through a transaction or any clone of it.
#[derive(Debug, Default)]
struct Asked {
    commit: AtomicBool,
    abort: AtomicBool,
}

impl Transaction {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            kind: Kind::Atomic,
            timeout_ms: None,
            deadline_ms: None,
            wait: Wait::default(),
            key: None,
            traceparent: None,
            webhook: None,
            domain: None,
        }
    }

    pub(crate) fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Milliseconds within which it must be decided; undecided for longer, it is aborted.
    /// [`TIMEOUT_MS_DEFAULT`] unless set.
    pub fn timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.timeout_ms = Some(timeout_ms);
        self
    }

    /// Milliseconds that each call on it may take in all, repeats included. Unless set, the
    /// client's, but at least [`GRACE_MS`] beyond the transaction's timeout.
    pub fn deadline_ms(mut self, deadline_ms: u64) -> Self {
        self.deadline_ms = Some(deadline_ms);
        self
    }

    /// What to wait for: every participant's acknowledgement (the default), the decision, or
    /// nothing.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// The application's own name for it, such as `order-42`: the same request with the same key
    /// is carried out once, by whichever process and however often it is made. A random one unless
    /// set.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// W3C trace context to pass on to the coordinator and the participants.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// The domain of the business that it is of, by the name that the coordinator's configuration has
    /// for it. Its transactions have their own part of the journal, or a journal of their own.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// A service to be told how it ended: `POST` to a path below the url of a resource that has a
    /// signing secret.
    pub fn webhook(mut self, resource: impl Into<String>, path: impl Into<String>) -> Self {
        self.webhook = Some(WebhookRequest { resource: resource.into(), path: path.into() });
        self
    }

    /// With a branch at `resource`, whose `prepare` is called with `body`.
    pub fn branch(self, resource: impl Into<String>, body: Value) -> Run {
        Run { of: self, branches: Vec::new() }.branch(resource, body)
    }

    /// With a branch at `resource` under another name, for two branches at one resource.
    pub fn branch_as(
        self,
        participant: impl Into<String>,
        resource: impl Into<String>,
        body: Value,
    ) -> Run {
        Run { of: self, branches: Vec::new() }.branch_as(participant, resource, body)
    }

    /// With these branches as requests have them: of services with a body, of databases with
    /// statements or a body of commands.
    pub fn branches(self, branches: impl IntoIterator<Item = BranchRequest>) -> Run {
        Run { of: self, branches: branches.into_iter().collect() }
    }

    /// Begins it. The application enlists participants, works on them, and commits or aborts.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] if the reply was lost until the deadline; the transaction may have begun,
    /// and is aborted at its timeout.
    pub async fn begin(mut self) -> Result<Txn, Error> {
        let key = self.take_key();
        let (call, until) = (self.begin_call(&key, Vec::new())?, self.until());
        let body = self.client.ask(&call, Repeat::Keyed(&key), until).await?;
        let id = view_of(&body, &key)?.id;
        Ok(Txn { of: self, id, asked: Arc::default() })
    }

    fn begin_call(&self, key: &str, branches: Vec<BranchRequest>) -> Result<Call, Error> {
        let wait = (!branches.is_empty()).then_some(self.wait);
        let timeout_ms = self.timeout_ms;
        let request = BeginRequest {
            kind: self.kind,
            domain: self.domain.clone(),
            timeout_ms,
            wait,
            branches,
            input: None,
            saga: None,
            steps: Vec::new(),
            source: None,
            delay_ms: None,
            webhook: self.webhook.clone(),
        };
        self.post("/v1/transactions".to_owned(), key, &request)
    }

    pub(crate) fn post(
        &self,
        path: String,
        key: &str,
        request: &impl serde::Serialize,
    ) -> Result<Call, Error> {
        let call = Call::post(path, request).with(header::IDEMPOTENCY_KEY, key)?;
        match &self.traceparent {
            Some(traceparent) => call.with(header::TRACEPARENT, traceparent),
            None => Ok(call),
        }
    }

    /// Its key, or a random one.
    pub(crate) fn take_key(&mut self) -> String {
        self.key.take().unwrap_or_else(chance::key)
    }

    pub(crate) fn own_domain(&self) -> Option<String> {
        self.domain.clone()
    }

    pub(crate) fn own_webhook(&self) -> Option<WebhookRequest> {
        self.webhook.clone()
    }

    pub(crate) fn own_timeout_ms(&self) -> Option<u64> {
        self.timeout_ms
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Milliseconds after which it is aborted if it is not decided.
    pub(crate) fn undecided_ms_max(&self) -> u64 {
        self.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT)
    }

    /// What the next attempt at it is begun as.
    pub(crate) fn attempt(mut self, number: u32) -> Self {
        if number > 1 {
            self.key = self.key.map(|key| format!("{key}/{number}"));
        }
        self
    }

    pub(crate) fn until(&self) -> Instant {
        let deadline_ms = self.deadline_ms.unwrap_or_else(|| {
            self.client.deadline_ms().max(self.undecided_ms_max().saturating_add(GRACE_MS))
        });
        in_ms(deadline_ms)
    }

    /// Makes a call that ends in an outcome, and waits for as much of that as is wanted.
    pub(crate) async fn settle(&self, call: &Call, key: &str) -> Result<TransactionView, Error> {
        let until = self.until();
        loop {
            let body = self.client.ask(call, Repeat::Keyed(key), until).await?;
            let view = view_of(&body, key)?;
            match self.follow(view, key, until, |view| is_enough(self.wait, view)).await {
                // It was never decided and a crash of the coordinator took it: the key is free, so
                // the call is as good as new.
                Err(Error::NotFound(_)) => {}
                outcome => return outcome,
            }
        }
    }

    /// Waits until it has ended, or needs an operator.
    pub(crate) async fn follow_to_the_end(
        &self,
        view: TransactionView,
    ) -> Result<TransactionView, Error> {
        self.follow(view, "", self.until(), |view| is_enough(Wait::Finished, view)).await
    }

    /// Asks how the transaction stands until that is enough for the caller.
    async fn follow(
        &self,
        mut view: TransactionView,
        key: &str,
        until: Instant,
        is_enough: impl Fn(&TransactionView) -> bool,
    ) -> Result<TransactionView, Error> {
        let mut pauses = self.client.looks();
        let path = format!("/v1/transactions/{}", escape(&view.id));
        loop {
            if is_enough(&view) {
                return told(view);
            }
            let pause = pauses.next();
            if pause >= until.saturating_duration_since(Instant::now()) {
                return at_deadline(view, key, "not decided by then");
            }
            sleep(pause).await;
            let asked = self.client.ask(&Call::get(path.clone()), Repeat::Reading, until).await;
            match asked.and_then(|body| view_of(&body, key)) {
                Ok(newer) => view = newer,
                Err(error @ Error::NotFound(_)) if view.outcome.is_none() => return Err(error),
                Err(error) => return at_deadline(view, key, &error.to_string()),
            }
        }
    }
}

impl Client {
    /// Begins what is written as a request of the contract, of whichever kind, and waits for as much of
    /// it as its `wait` says; without one until it has ended, if it has anything to run. With a `key` the
    /// same request is carried out once, however often it is made.
    ///
    /// # Errors
    ///
    /// [`Error::Aborted`], [`Error::Compensated`], [`Error::NeedsAttention`] or [`Error::Mixed`] if it
    /// ended so; [`Error::Refused`] if it is not understood, and nothing was begun; [`Error::Unknown`] if
    /// its end could not be learned in time.
    pub async fn run(
        &self,
        request: &BeginRequest,
        key: Option<&str>,
    ) -> Result<TransactionView, Error> {
        let runs = match request.kind {
            Kind::Atomic | Kind::Tcc => !request.branches.is_empty(),
            Kind::Saga => true,
            Kind::Message => false,
        };
        let wait = request.wait.unwrap_or(if runs { Wait::Finished } else { Wait::None });
        let mut of = Transaction::new(self.clone()).of_kind(request.kind).wait(wait);
        of.timeout_ms = request.timeout_ms;
        let key = key.map_or_else(chance::key, str::to_owned);
        let call = of.post("/v1/transactions".to_owned(), &key, request)?;
        of.settle(&call, &key).await
    }
}

/// Whether a view shows as much as the caller waits for.
fn is_enough(wait: Wait, view: &TransactionView) -> bool {
    match wait {
        Wait::None => true,
        Wait::Decided => view.outcome.is_some(),
        // Who waits for an operator waits for very long.
        Wait::Finished => view.status.is_final() || view.needs_attention,
    }
}

/// What a view is to a caller that wants it committed, or completed.
fn told(view: TransactionView) -> Result<TransactionView, Error> {
    match view.outcome {
        Some(OutcomeWord::Committed | OutcomeWord::Completed) | None => Ok(view),
        Some(OutcomeWord::Aborted) => Err(Error::Aborted(Box::new(view))),
        Some(OutcomeWord::Compensated) => Err(Error::Compensated(Box::new(view))),
        Some(OutcomeWord::NeedsAttention) => Err(Error::NeedsAttention(Box::new(view))),
        Some(OutcomeWord::Mixed) => Err(Error::Mixed(Box::new(view))),
    }
}

/// A decision holds whether or not every participant has acknowledged it in time.
fn at_deadline(view: TransactionView, key: &str, cause: &str) -> Result<TransactionView, Error> {
    match view.outcome {
        Some(_) => told(view),
        None => Err(unknown(key, Some(view.id), cause)),
    }
}

pub(crate) fn view_of(body: &[u8], key: &str) -> Result<TransactionView, Error> {
    serde_json::from_slice(body)
        .map_err(|error| unknown(key, None, &format!("the reply is not understood: {error}")))
}

fn unknown(key: &str, id: Option<String>, cause: &str) -> Error {
    Error::Unknown { key: key.to_owned(), id, cause: cause.to_owned() }
}

impl Run {
    /// With one more branch at `resource`, whose `prepare` is called with `body`.
    pub fn branch(self, resource: impl Into<String>, body: Value) -> Self {
        self.with(resource.into(), None, body)
    }

    /// With one more branch at `resource` under another name, for two branches at one resource.
    pub fn branch_as(
        self,
        participant: impl Into<String>,
        resource: impl Into<String>,
        body: Value,
    ) -> Self {
        self.with(resource.into(), Some(participant.into()), body)
    }

    fn with(mut self, resource: String, participant: Option<String>, body: Value) -> Self {
        let body = (!body.is_null()).then_some(body);
        self.branches.push(BranchRequest { resource, participant, body, statements: None });
        self
    }

    /// Runs it: every branch takes effect, or none. Returns the committed transaction; with
    /// [`Wait::None`], the transaction as it stands.
    ///
    /// # Errors
    ///
    /// [`Error::Aborted`] if nothing took effect; [`Error::Mixed`] if a participant broke its
    /// promise; [`Error::Unknown`] if the outcome could not be learned in time: the same call with
    /// the same key finds out.
    pub async fn run(mut self) -> Result<TransactionView, Error> {
        let key = self.of.take_key();
        let call = self.of.begin_call(&key, self.branches)?;
        self.of.settle(&call, &key).await
    }
}

impl Txn {
    /// Its identity.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Adds a participant, and returns the identifier to prepare its branch under. Adding the same
    /// again changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the resource is not configured, or commit or abort was asked for.
    pub async fn enlist(&self, participant: &str, resource: &str) -> Result<String, Error> {
        self.enlist_with(participant, resource, Value::Null).await
    }

    /// The same for a service that the coordinator shall call, with the body of its `prepare`.
    ///
    /// # Errors
    ///
    /// As [`Txn::enlist`].
    pub async fn enlist_with(
        &self,
        participant: &str,
        resource: &str,
        body: Value,
    ) -> Result<String, Error> {
        let key = chance::key();
        let request = EnlistRequest {
            participant: participant.to_owned(),
            resource: resource.to_owned(),
            body: (!body.is_null()).then_some(body),
        };
        let call = self.of.post(self.path("participants"), &key, &request)?;
        let body = self.of.client.ask(&call, Repeat::Keyed(&key), self.of.until()).await?;
        serde_json::from_slice::<EnlistedView>(&body).map(|view| view.branch).map_err(|error| {
            unknown(&key, Some(self.id.clone()), &format!("the reply is not understood: {error}"))
        })
    }

    /// Asks the participants to prepare, and commits if all can.
    ///
    /// # Errors
    ///
    /// As [`Run::run`]. After [`Error::Unknown`], call it again.
    pub async fn commit(&self) -> Result<TransactionView, Error> {
        self.commit_with_votes::<String>([]).await
    }

    /// The same, with the votes of the participants that the application has prepared itself.
    ///
    /// # Errors
    ///
    /// As [`Txn::commit`].
    pub async fn commit_with_votes<N: Into<String>>(
        &self,
        votes: impl IntoIterator<Item = (N, VoteWord)>,
    ) -> Result<TransactionView, Error> {
        let votes: BTreeMap<_, _> =
            votes.into_iter().map(|(name, vote)| (name.into(), vote)).collect();
        let request = CommitRequest { votes, wait: Some(self.of.wait) };
        self.asked.commit.store(true, Ordering::Relaxed);
        self.end("commit", &request).await
    }

    /// The same transaction, with another wait.
    pub(crate) fn waiting(&self, wait: Wait) -> Self {
        let mut other = self.clone();
        other.of.wait = wait;
        other
    }

    /// Once it is decided, waits for the participants that are not among `ended`, if that is what is
    /// waited for.
    #[cfg(any(
        feature = "mysql_async",
        feature = "sqlx-mysql",
        feature = "sqlx-postgres",
        feature = "tokio-postgres"
    ))]
    pub(crate) async fn others(
        &self,
        view: TransactionView,
        ended: &[String],
    ) -> Result<TransactionView, Error> {
        if self.of.wait != Wait::Finished {
            return told(view);
        }
        let is_enough = |view: &TransactionView| {
            let mut all = view.participants.iter();
            is_enough(Wait::Finished, view) || all.all(|it| it.ack || ended.contains(&it.name))
        };
        self.of.follow(view, "", self.of.until(), is_enough).await
    }

    /// Takes everything back, and returns the aborted transaction.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`unanimous_api::Code::AlreadyCommitted`] if commit came first.
    pub async fn abort(&self, reason: &str) -> Result<TransactionView, Error> {
        let request = AbortRequest {
            reason: Some(reason.to_owned()),
            if_version: None,
            wait: Some(self.of.wait),
        };
        self.asked.abort.store(true, Ordering::Relaxed);
        let aborted = self.end("abort", &request).await;
        match aborted {
            Err(Error::Aborted(view)) => Ok(*view),
            Ok(view) if view.outcome == Some(OutcomeWord::Committed) => {
                let lost = Problem::new(Code::AlreadyCommitted, "commit came first").about(view);
                Err(Error::Refused(Box::new(lost)))
            }
            Ok(_) | Err(_) => aborted,
        }
    }

    /// Aborts it if that can be done soon, and leaves it to its timeout otherwise.
    pub(crate) async fn give_up(&self, reason: &str) {
        let patience = Duration::from_millis(ABORT_PATIENCE_MS);
        // Nothing was committed, and nothing will be.
        drop(timeout(patience, self.waiting(Wait::Decided).abort(reason)).await);
    }

    /// How it stands.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if a crash of the coordinator took it: it counts as aborted.
    pub async fn show(&self) -> Result<TransactionView, Error> {
        self.of.client.show(&self.id).await
    }

    /// What happened to it, oldest first.
    ///
    /// # Errors
    ///
    /// As [`Txn::show`].
    pub async fn log(&self) -> Result<LogView, Error> {
        self.of.client.log(&self.id).await
    }

    async fn end(
        &self,
        verb: &str,
        request: &impl serde::Serialize,
    ) -> Result<TransactionView, Error> {
        let key = chance::key();
        let call = self.of.post(self.path(verb), &key, request)?;
        let mut settled = self.of.settle(&call, &key).await;
        if let Err(Error::Unknown { id, .. }) = &mut settled {
            *id = Some(self.id.clone());
        }
        settled
    }

    pub(crate) fn was_asked_to_commit(&self) -> bool {
        self.asked.commit.load(Ordering::Relaxed)
    }

    pub(crate) fn was_asked_to_end(&self) -> bool {
        self.was_asked_to_commit() || self.asked.abort.load(Ordering::Relaxed)
    }

    fn path(&self, verb: &str) -> String {
        format!("/v1/transactions/{}/{verb}", escape(&self.id))
    }
}
