//! The seam to the database that keys and answers are kept in.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

/// Where keys are claimed, and answers kept.
///
/// Every call is one statement or transaction of its own that is durable when it returns, and harmless
/// when it is made again by the same owner. Times are those of the store's own clock, so that the
/// processes that share it do not have to agree.
pub trait KeyStore: Clone + Send + Sync + 'static {
    /// Takes the key for `claim.owner`, if nobody has it: it is not there, it was claimed for the same
    /// request and that claim has expired, or it is this owner's already.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`]; the key may have been claimed then, or not.
    fn claim(
        &self,
        claim: &Claim,
    ) -> impl Future<Output = Result<Claimed, StoreUnavailable>> + Send;

    /// Prolongs a claim, from now on.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`].
    fn renew(&self, claim: &Claim) -> impl Future<Output = Result<Held, StoreUnavailable>> + Send;

    /// Keeps the answer, if the key is still this owner's.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`]; it may have been kept then, or not.
    fn settle(
        &self,
        claim: &Claim,
        answer: Bytes,
    ) -> impl Future<Output = Result<Held, StoreUnavailable>> + Send;

    /// Forgets the key, if it is still this owner's and has no answer.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`].
    fn release(&self, claim: &Claim) -> impl Future<Output = Result<(), StoreUnavailable>> + Send;

    /// Forgets up to `limit` keys that were claimed or answered more than `kept_ms` ago and are not
    /// claimed now, and says how many.
    ///
    /// # Errors
    ///
    /// [`StoreUnavailable`].
    fn prune(
        &self,
        kept_ms: u64,
        limit: usize,
    ) -> impl Future<Output = Result<usize, StoreUnavailable>> + Send;
}

/// One attempt at a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// SHA-256 of the scope and the key: what the store finds it by.
    pub id: [u8; 32],
    /// The key as the caller wrote it, for people who look into the store.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// Who claims: no two attempts have the same.
    pub owner: String,
    /// Milliseconds until others may take it, unless it is renewed.
    pub lease_ms: u64,
}

/// What came of a claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Claimed {
    /// The key is this owner's: carry the request out.
    Mine,
    /// The same request is being carried out by another owner.
    Running,
    /// The key belongs to another request.
    Other,
    /// The same request was carried out, and answered with this.
    Answered(Bytes),
}

/// Whether a key is still its owner's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Held {
    /// It is.
    Yes,
    /// Its claim has expired, and another owner took it.
    Lost,
}

/// The store did not answer: ask again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the store of idempotency keys is not available: {0}")]
pub struct StoreUnavailable(pub Arc<str>);
