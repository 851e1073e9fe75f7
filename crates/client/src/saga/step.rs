//! One step of a saga, put together word by word.

use serde_json::Value;
use unanimous_api::{
    CallRequest, ChildRequest, RetryRequest, SignalRequest, StatementRequest, StepRequest,
    TccRequest,
};

/// One step of a saga.
///
/// ```
/// # use serde_json::json;
/// # use unanimous_client::Step;
/// let charge = Step::new("charge")
///     .after(["flight", "hotel"])
///     .calls("payment", "/charge")
///     .body(json!({"user": "{{input.user}}", "amount": "{{input.amount}}"}))
///     .undone_by("payment", "/refund")
///     .state("PaymentPending");
/// # drop(charge);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "it belongs to a saga"]
pub struct Step(StepRequest);

impl Step {
    /// A step by its name, unique within the saga. It needs one of [`Step::calls`], [`Step::runs`],
    /// [`Step::tries`], [`Step::sends`], [`Step::waits_for_signal`], [`Step::pauses_ms`], [`Step::steps`] and
    /// [`Step::saga`].
    pub fn new(name: impl Into<String>) -> Self {
        Self(StepRequest {
            name: name.into(),
            after: Vec::new(),
            action: None,
            tcc: None,
            message: None,
            saga: None,
            compensation: None,
            signal: None,
            pause_ms: None,
            pivot: false,
            retriable: false,
            retry: None,
            timeout_ms: None,
            state: None,
        })
    }

    /// The steps that have to have acted before it does.
    pub fn after<N: Into<String>>(mut self, steps: impl IntoIterator<Item = N>) -> Self {
        self.0.after.extend(steps.into_iter().map(Into::into));
        self
    }

    /// It calls a service: `POST` to a path below the url of `resource`. Texts may hold templates.
    pub fn calls(self, resource: impl Into<String>, path: impl Into<String>) -> Self {
        self.action(service(resource.into(), path.into()))
    }

    /// It runs statements in a database, in one local transaction.
    pub fn runs(
        self,
        resource: impl Into<String>,
        statements: impl IntoIterator<Item = StatementRequest>,
    ) -> Self {
        self.action(database(resource.into(), statements.into_iter().collect()))
    }

    /// What it does, as requests have it: with another method, headers or a path to ask for its state.
    pub fn action(mut self, action: CallRequest) -> Self {
        self.0.action = Some(action);
        self
    }

    /// Instead of a call: a participant of try, confirm and cancel sets something aside. It is
    /// confirmed when the saga can only go on, and cancelled if that is undone.
    pub fn tries(mut self, resource: impl Into<String>) -> Self {
        self.0.tcc = Some(TccRequest { resource: resource.into(), body: None });
        self
    }

    /// A message to a service: announced at the step's turn, sent by `POST` to a path below the url of
    /// `resource` when the saga can only go on, until it is taken, and dropped if the saga is undone.
    pub fn sends(self, resource: impl Into<String>, path: impl Into<String>) -> Self {
        self.message(service(resource.into(), path.into()))
    }

    /// A message, as requests have it: with another method or headers, or statements in a database.
    pub fn message(mut self, message: CallRequest) -> Self {
        self.0.message = Some(message);
        self
    }

    /// Instead of a call: steps of its own. They see each other's results, and nothing of the steps
    /// around them; their `{{input}}` is this, whose texts may hold templates, or the saga's own.
    pub fn steps(mut self, input: Option<Value>, steps: impl IntoIterator<Item = Self>) -> Self {
        let steps = steps.into_iter().map(Self::into_request).collect();
        self.0.saga = Some(ChildRequest { input, saga: None, steps });
        self
    }

    /// The same with the steps of a saga that the coordinator knows by name, such as `refunds` or
    /// `refunds@2`.
    pub fn saga(mut self, name: impl Into<String>, input: Option<Value>) -> Self {
        self.0.saga = Some(ChildRequest { input, saga: Some(name.into()), steps: Vec::new() });
        self
    }

    /// The JSON body of the service's call: the saga's input unless set.
    ///
    /// # Panics
    ///
    /// Before [`Step::calls`], [`Step::sends`] or [`Step::tries`].
    pub fn body(mut self, body: Value) -> Self {
        let call = self.0.action.as_mut().or(self.0.message.as_mut());
        match (call, &mut self.0.tcc) {
            (Some(call), _) => call.body = Some(body),
            (None, Some(tcc)) => tcc.body = Some(body),
            (None, None) => panic!("a body belongs to a call"),
        }
        self
    }

    /// A call to a service undoes it. Its template may name the step's own result, which is `null` if
    /// it is not known whether the step has acted.
    pub fn undone_by(self, resource: impl Into<String>, path: impl Into<String>) -> Self {
        self.compensation(service(resource.into(), path.into()))
    }

    /// Statements in a database undo it, in one local transaction.
    pub fn undone_by_running(
        self,
        resource: impl Into<String>,
        statements: impl IntoIterator<Item = StatementRequest>,
    ) -> Self {
        self.compensation(database(resource.into(), statements.into_iter().collect()))
    }

    /// What undoes it, as requests have it.
    pub fn compensation(mut self, compensation: CallRequest) -> Self {
        self.0.compensation = Some(compensation);
        self
    }

    /// The JSON body of the call that undoes it: the saga's input unless set.
    ///
    /// # Panics
    ///
    /// Before [`Step::undone_by`].
    pub fn undo_body(mut self, body: Value) -> Self {
        self.0.compensation.as_mut().expect("a body belongs to a call").body = Some(body);
        self
    }

    /// Instead of a call: it waits until somebody sends it a signal.
    pub fn waits_for_signal(mut self) -> Self {
        self.0.signal = Some(SignalRequest::default());
        self
    }

    /// The same, for so many milliseconds at most; then the saga is undone.
    pub fn waits_for_signal_ms(mut self, timeout_ms: u64) -> Self {
        self.0.signal = Some(SignalRequest { timeout_ms: Some(timeout_ms) });
        self
    }

    /// Instead of a call: it lets so many milliseconds pass.
    pub fn pauses_ms(mut self, pause_ms: u64) -> Self {
        self.0.pause_ms = Some(pause_ms);
        self
    }

    /// The point of no return: once it has acted, the saga can only go on.
    pub fn pivot(mut self) -> Self {
        self.0.pivot = true;
        self
    }

    /// Asked until it is done.
    pub fn retriable(mut self) -> Self {
        self.0.retriable = true;
        self
    }

    /// When a call that brought no answer is repeated.
    pub fn retry(mut self, retry: RetryRequest) -> Self {
        self.0.retry = Some(retry);
        self
    }

    /// Milliseconds that one call may take.
    pub fn timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.0.timeout_ms = Some(timeout_ms);
        self
    }

    /// What a user is shown from when it acts, such as `PaymentPending`.
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.0.state = Some(state.into());
        self
    }

    pub(crate) fn into_request(self) -> StepRequest {
        self.0
    }
}

fn service(resource: String, path: String) -> CallRequest {
    CallRequest { path: Some(path), ..nothing(resource) }
}

fn database(resource: String, statements: Vec<StatementRequest>) -> CallRequest {
    CallRequest { statements: Some(statements), ..nothing(resource) }
}

fn nothing(resource: String) -> CallRequest {
    CallRequest {
        resource,
        path: None,
        method: None,
        headers: Default::default(),
        body: None,
        status: None,
        statements: None,
        retry: None,
        timeout_ms: None,
    }
}
