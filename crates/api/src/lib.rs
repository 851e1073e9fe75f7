//! The public contract: what programs outside see, in JSON over HTTP.
//!
//! Wire types only. They are converted to and from the machines' own types at the edge of the
//! server, so that either may change alone. A request refuses fields it does not know; a reply may
//! grow fields, so readers ignore those.

pub mod callback;
mod code;
mod invariant;
mod object;
mod problem;
mod request;
mod saga;
mod view;

pub use code::{Code, CodeInfo, Repeat};
pub use invariant::{InvariantQuery, InvariantResult, InvariantView, InvariantsView};
pub use object::Object;
pub use problem::Problem;
pub use request::{
    AbortRequest, BeginRequest, BranchRequest, CommitRequest, EnlistRequest, Kind, ResolveOutcome,
    ResolveRequest, StatementRequest, VoteWord, Wait, WebhookRequest,
};
pub use saga::{
    AttentionView, CallRequest, ChildRequest, DefinitionView, DefinitionsView, RetryRequest,
    SignalRequest, StepRequest, StepView, StepWord, TccRequest,
};
pub use view::{
    BranchInDoubt, CheckAnswer, CheckFinding, Disagreement, EnlistedView, EventView, LogEvent,
    LogView, NodeView, NodeWord, NodesView, OutcomeWord, ParticipantView, ReasonView,
    ResolutionView, ResourceCheck, ResourceView, ResourcesView, StatusWord, SummaryView,
    TransactionList, TransactionView,
};

/// Where the coordinator listens unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7070";

/// Milliseconds within which a transaction must be decided, unless the request says otherwise.
pub const TIMEOUT_MS_DEFAULT: u64 = 30_000;

/// Longest time a request may give a transaction: one day. Whoever needs longer wants a saga.
pub const TIMEOUT_MS_MAX: u64 = 86_400_000;

/// Bytes of a request body, unless the server is configured otherwise.
pub const BODY_BYTES_MAX_DEFAULT: usize = 256 * 1024;

/// Bytes of an idempotency key.
pub const KEY_LEN_MAX: usize = 255;

/// Transactions on one page of a list.
pub const PAGE_MAX: usize = 1_000;

/// Names of the headers of the contract.
pub mod header {
    /// The client's own name of a request: repeating it does not repeat the work.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// The transaction a participant is called for.
    pub const TRANSACTION: &str = "unanimous-transaction";
    /// The branch a participant is called for, unique for ever: `una:<cluster>:<txn>:<branch>`.
    pub const BRANCH: &str = "unanimous-branch";
    /// Which attempt a call is, counted from one.
    pub const ATTEMPT: &str = "unanimous-attempt";
    /// When what was tried is cancelled unless that was decided before, in milliseconds since the
    /// Unix epoch.
    pub const EXPIRES: &str = "unanimous-expires";
    /// How few phases a commit is asked for in: `one` if there was no prepare.
    pub const PHASES: &str = "unanimous-phases";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// The node that passes a request on: whoever gets it answers, or says that it cannot.
    pub const FORWARDED_BY: &str = "unanimous-forwarded-by";
    /// The name under which a node asks, perhaps again, for a transaction to begin: its identity, `@`,
    /// and the epoch under which alone it may begin.
    pub const BEGIN_AS: &str = "unanimous-begin-as";
    /// Set on the answer of a node that will never begin anything under the name it was given.
    pub const NEVER_BEGUN: &str = "unanimous-never-begun";
    /// Set on the answer of a node that does not drive what was asked for.
    pub const MOVED: &str = "unanimous-moved";
}
