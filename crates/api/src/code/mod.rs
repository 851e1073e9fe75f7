//! The stable error codes: one for each thing a caller can do.
//!
//! What is known of each is in `table`. `docs/error-codes.md` is that table for readers; a test
//! keeps the two alike. A code never changes its meaning and is never given out twice.

mod table;

/// A stable error code, in the order of their numbers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Code {
    /// The body is not JSON.
    MalformedJson,
    /// A field is unknown, missing, repeated or of the wrong type.
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
    /// A query parameter is unknown, repeated or does not parse.
    BadQuery,
    /// The transaction has no such participant.
    UnknownParticipant,
    /// The idempotency key is empty, too long, repeated or not printable.
    BadIdempotencyKey,
    /// There is nothing at that path.
    NoSuchPath,
    /// The path does not take that method.
    MethodNotAllowed,
    /// The body did not come in time.
    SlowBody,
    /// The resource cannot take part in a transaction of that kind.
    UnfitResource,
    /// An invariant is not configured.
    UnknownInvariant,
    /// The steps of a saga wait for each other.
    CyclicSaga,
    /// The saga has no such step.
    UnknownStep,
    /// Two steps have the same name.
    DuplicateStep,
    /// A template does not read, or names what it cannot have.
    BadTemplate,
    /// Steps that make no saga.
    BadSaga,
    /// A source and steps that make no message.
    BadMessage,
    /// No saga of that name and version is configured.
    UnknownSaga,
    /// No node of that name is known.
    UnknownNode,
    /// A saga that is known by name is a child of itself.
    SagaWithinItself,
    /// A domain is not configured.
    UnknownDomain,
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
    /// The saga was undone.
    Compensated,
    /// The saga cannot be undone any more.
    TooLateToCancel,
    /// The transaction has changed since.
    VersionChanged,
    /// A transaction of that kind does not take what was asked.
    NotForKind,
    /// Too much is under way.
    Overloaded,
    /// The journal takes no new transactions.
    JournalFull,
    /// The coordinator is shutting down.
    ShuttingDown,
    /// Nobody drives that part of the transactions now.
    NoOwner,
    /// The token is missing or wrong.
    Unauthorized,
    /// A web page of another site sent the request.
    ForeignOrigin,
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
    /// Whether repeating the request helps.
    pub repeat: Repeat,
    /// What happened, in a few words.
    pub title: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Whether repeating a request as it is may bring another answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Repeat {
    /// After the seconds that the reply's `Retry-After` says.
    Later,
    /// Something has to be changed first.
    Useless,
}

impl Code {
    /// Every code, in the order of their numbers.
    pub const ALL: [Self; table::ROWS.len()] = {
        let mut all = [Self::Internal; table::ROWS.len()];
        let mut index = 0;
        while index < all.len() {
            all[index] = table::ROWS[index].0;
            assert!(all[index] as usize == index, "the table has the order of the enum");
            index += 1;
        }
        all
    };

    /// What is known of it.
    pub fn info(self) -> CodeInfo {
        table::ROWS[self as usize].1
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

    #[test]
    fn every_code_comes_with_a_status_of_an_error() {
        for code in Code::ALL {
            assert!((400..600).contains(&code.info().http), "{code:?}");
        }
    }
}
