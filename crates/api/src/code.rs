//! The stable error codes: one for each thing a caller can do.
//!
//! `docs/error-codes.md` is this table for readers; a test keeps the two alike.

/// A stable error code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    /// The body is not JSON.
    MalformedJson,
    /// A field is unknown, missing or of the wrong type.
    BadField,
    /// A value is outside its bounds.
    OutOfBounds,
    /// A resource is not configured.
    UnknownResource,
    /// The body is too large.
    BodyTooLarge,
    /// There are too many branches.
    TooManyBranches,
    /// Two branches have the same participant name.
    DuplicateParticipant,
    /// The path does not hold a transaction identity.
    NotATransactionId,
    /// A query parameter is unknown or does not parse.
    BadQuery,
    /// The transaction has no such participant.
    UnknownParticipant,
    /// The idempotency key is empty, too long or not printable.
    BadIdempotencyKey,
    /// There is nothing at that path.
    NoSuchPath,
    /// The path does not take that method.
    MethodNotAllowed,
    /// The transaction was aborted.
    Aborted,
    /// The transaction is committed and cannot be aborted any more.
    AlreadyCommitted,
    /// Participants are fixed.
    NotEnlisting,
    /// The idempotency key was used for another request.
    KeyReused,
    /// The first request with that key is still running.
    KeyInUse,
    /// No such transaction.
    UnknownTransaction,
    /// A participant ended against the decision.
    Mixed,
    /// An operator's wish contradicts the journal.
    ContradictsDecision,
    /// An operator cannot commit what is not decided.
    Undecided,
    /// Nothing is left to resolve.
    NothingToResolve,
    /// The only participant was asked to decide.
    Delegated,
    /// The branch belongs to another cluster.
    OtherCluster,
    /// Too much is under way.
    Overloaded,
    /// The journal takes no new transactions.
    JournalFull,
    /// The coordinator is shutting down.
    ShuttingDown,
    /// The token is missing or wrong.
    Unauthorized,
    /// The coordinator itself failed.
    Internal,
}

/// What is known of a code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CodeInfo {
    /// As the wire spells it.
    pub code: &'static str,
    /// The HTTP status it comes with.
    pub http: u16,
    /// What happened, in a few words.
    pub title: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

impl Code {
    /// Every code, in the order of their numbers.
    pub const ALL: [Self; 30] = [
        Self::MalformedJson,
        Self::BadField,
        Self::OutOfBounds,
        Self::UnknownResource,
        Self::BodyTooLarge,
        Self::TooManyBranches,
        Self::DuplicateParticipant,
        Self::NotATransactionId,
        Self::BadQuery,
        Self::UnknownParticipant,
        Self::BadIdempotencyKey,
        Self::NoSuchPath,
        Self::MethodNotAllowed,
        Self::Aborted,
        Self::AlreadyCommitted,
        Self::NotEnlisting,
        Self::KeyReused,
        Self::KeyInUse,
        Self::UnknownTransaction,
        Self::Mixed,
        Self::ContradictsDecision,
        Self::Undecided,
        Self::NothingToResolve,
        Self::Delegated,
        Self::OtherCluster,
        Self::Overloaded,
        Self::JournalFull,
        Self::ShuttingDown,
        Self::Unauthorized,
        Self::Internal,
    ];

    /// What is known of it.
    pub fn info(self) -> CodeInfo {
        let (code, http, title, remedy) = match self {
            Self::MalformedJson => {
                ("UNA0101", 400, "the body is not JSON", "mend the JSON at the position named")
            }
            Self::BadField => (
                "UNA0102",
                400,
                "a field is unknown, missing or of the wrong type",
                "mend the field named; nothing has been begun",
            ),
            Self::OutOfBounds => (
                "UNA0103",
                422,
                "a value is out of bounds",
                "choose a value within the bounds named",
            ),
            Self::UnknownResource => (
                "UNA0104",
                422,
                "the resource is not configured",
                "add it to the configuration, or use one of those that GET /v1/resources lists",
            ),
            Self::BodyTooLarge => (
                "UNA0105",
                413,
                "the body is too large",
                "send less, or raise body_bytes_max in the configuration",
            ),
            Self::TooManyBranches => {
                ("UNA0106", 422, "too many branches", "split the work; what spans more is a saga")
            }
            Self::DuplicateParticipant => (
                "UNA0107",
                422,
                "two branches have the same participant name",
                "give each branch a participant name of its own",
            ),
            Self::NotATransactionId => {
                ("UNA0108", 400, "not a transaction id", "use the id that begin returned, a UUID")
            }
            Self::BadQuery => (
                "UNA0109",
                400,
                "a query parameter is unknown or does not parse",
                "mend the parameter named",
            ),
            Self::UnknownParticipant => (
                "UNA0110",
                422,
                "the transaction has no such participant",
                "enlist it first, and vote under the name it was enlisted with",
            ),
            Self::BadIdempotencyKey => (
                "UNA0111",
                400,
                "the idempotency key is not usable",
                "send 1 to 255 printable ASCII characters",
            ),
            Self::NoSuchPath => {
                ("UNA0112", 404, "nothing is at that path", "see /openapi.json for what there is")
            }
            Self::MethodNotAllowed => (
                "UNA0113",
                405,
                "the path does not take that method",
                "see /openapi.json for what it takes",
            ),
            Self::Aborted => (
                "UNA0201",
                409,
                "the transaction was aborted",
                "read the reason; if it was a conflict or a timeout, begin a new transaction",
            ),
            Self::AlreadyCommitted => (
                "UNA0202",
                409,
                "the transaction is committed",
                "it cannot be aborted any more; undo it by another transaction",
            ),
            Self::NotEnlisting => (
                "UNA0203",
                409,
                "participants are fixed once commit or abort was asked for",
                "enlist before commit",
            ),
            Self::KeyReused => (
                "UNA0204",
                422,
                "the idempotency key was used for another request",
                "use a new key for a new request, and the same body for a repeated one",
            ),
            Self::KeyInUse => (
                "UNA0205",
                409,
                "the first request with that key is still running",
                "ask again after Retry-After seconds, or with wait",
            ),
            Self::UnknownTransaction => (
                "UNA0206",
                404,
                "no such transaction",
                "it was never begun here, was aborted by a crash before it was told, or has been \
                 forgotten after the retention time; if it was never decided it counts as aborted",
            ),
            Self::Mixed => (
                "UNA0207",
                409,
                "a participant ended against the decision by itself",
                "compare the participants, mend by hand, then resolve it",
            ),
            Self::ContradictsDecision => (
                "UNA0208",
                409,
                "the journal has decided otherwise",
                "resolve with the outcome that was decided, or use force if the branches were \
                 really ended the other way",
            ),
            Self::Undecided => (
                "UNA0209",
                409,
                "the transaction is not decided",
                "only rollback can be resolved before the votes are in",
            ),
            Self::NothingToResolve => {
                ("UNA0210", 409, "nothing is left to resolve", "the transaction has ended")
            }
            Self::Delegated => (
                "UNA0211",
                409,
                "the only participant was asked to decide and has not answered",
                "wait for its answer, or resolve with force after looking at the resource",
            ),
            Self::OtherCluster => (
                "UNA0212",
                421,
                "the branch belongs to another cluster",
                "ask the coordinator that began it; this one cannot speak for it",
            ),
            Self::Overloaded => {
                ("UNA0301", 429, "too much is under way", "try again after Retry-After seconds")
            }
            Self::JournalFull => (
                "UNA0302",
                503,
                "the journal takes no new transactions",
                "make room on its disk; what is decided is safe and goes on",
            ),
            Self::ShuttingDown => {
                ("UNA0303", 503, "the coordinator is shutting down", "try again after the restart")
            }
            Self::Unauthorized => (
                "UNA0401",
                401,
                "the token is missing or wrong",
                "send Authorization: Bearer with the configured token",
            ),
            Self::Internal => (
                "UNA0501",
                500,
                "the coordinator failed",
                "ask for the transaction again; look at the coordinator's log",
            ),
        };
        CodeInfo { code, http, title, remedy }
    }

    /// The code that the wire spells so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.info().code == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        let codes = Code::ALL.map(|code| code.info().code);
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        assert!(Code::ALL.into_iter().all(|code| Code::parse(code.info().code) == Some(code)));
    }
}
