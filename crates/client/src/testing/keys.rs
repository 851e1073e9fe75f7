//! What every store of idempotency keys must do, as one suite that all of them run.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::chance;
use crate::idempotency::{Claim, Claimed, Held, KeyStore};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Milliseconds of a claim that does not expire while it is looked at.
const LONG_MS: u64 = 600_000;

/// Claims of one key at the same time.
const AT_ONCE: usize = 64;

/// Runs every check. `again` opens the same store anew, as another process does; nobody else may use it.
///
/// # Panics
///
/// If a check fails.
pub async fn key_store_suite<S: KeyStore>(mut again: impl AsyncFnMut() -> S) {
    let store = again().await;
    claims_are_exclusive(&store).await;
    one_of_many_claims(&store).await;
    answers_are_final(&store, &again().await).await;
    keys_are_freed(&store).await;
    expired_claims_are_taken_over(&store).await;
    renewed_claims_are_not(&store).await;
    old_keys_are_removed(&store).await;
}

fn claim(key: &str, lease_ms: u64) -> Claim {
    let mut id = [0; 32];
    id[..key.len()].copy_from_slice(key.as_bytes());
    Claim { id, key: key.to_owned(), fingerprint: [1; 32], owner: chance::key(), lease_ms }
}

/// The same request, by somebody else.
fn rival(of: &Claim) -> Claim {
    Claim { owner: chance::key(), lease_ms: LONG_MS, ..of.clone() }
}

/// Another request under the same key.
fn stranger(of: &Claim) -> Claim {
    Claim { fingerprint: [2; 32], ..rival(of) }
}

async fn claimed<S: KeyStore>(store: &S, claim: &Claim) -> Claimed {
    store.claim(claim).await.expect("the store is there")
}

async fn settled<S: KeyStore>(store: &S, claim: &Claim, answer: &'static [u8]) -> Held {
    store.settle(claim, Bytes::from_static(answer)).await.expect("the store is there")
}

async fn claims_are_exclusive<S: KeyStore>(store: &S) {
    let first = claim("exclusive", LONG_MS);
    assert_eq!(claimed(store, &first).await, Claimed::Mine);
    assert_eq!(claimed(store, &first).await, Claimed::Mine, "its own claim, made again");
    assert_eq!(claimed(store, &rival(&first)).await, Claimed::Running);
    assert_eq!(claimed(store, &stranger(&first)).await, Claimed::Other);
}

async fn one_of_many_claims<S: KeyStore>(store: &S) {
    let first = claim("many", LONG_MS);
    let mut claims = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (store, claim) = (store.clone(), rival(&first));
        claims.spawn(async move { claimed(&store, &claim).await });
    }
    let came = claims.join_all().await;
    let mine = came.iter().filter(|it| **it == Claimed::Mine).count();
    let running = came.iter().filter(|it| **it == Claimed::Running).count();
    assert_eq!((mine, running), (1, AT_ONCE - 1));
}

async fn answers_are_final<S: KeyStore>(store: &S, reopened: &S) {
    let first = claim("final", LONG_MS);
    let answer = b"an answer \x00\xff\n";
    assert_eq!(claimed(store, &first).await, Claimed::Mine);
    assert_eq!(settled(store, &rival(&first), b"a forgery").await, Held::Lost);
    for _ in 0..2 {
        assert_eq!(settled(store, &first, answer).await, Held::Yes);
    }
    store.release(&first).await.expect("the store is there");
    for store in [store, reopened] {
        let answered = Claimed::Answered(Bytes::from_static(answer));
        assert_eq!(claimed(store, &rival(&first)).await, answered);
        assert_eq!(claimed(store, &stranger(&first)).await, Claimed::Other);
        assert_eq!(settled(store, &rival(&first), b"a forgery").await, Held::Lost);
    }
    let unknown = claim("unknown", LONG_MS);
    assert_eq!(settled(store, &unknown, answer).await, Held::Lost, "nobody claimed it");
}

async fn keys_are_freed<S: KeyStore>(store: &S) {
    let first = claim("freed", LONG_MS);
    assert_eq!(claimed(store, &first).await, Claimed::Mine);
    store.release(&rival(&first)).await.expect("the store is there");
    assert_eq!(claimed(store, &rival(&first)).await, Claimed::Running, "freed by another");
    store.release(&first).await.expect("the store is there");
    assert_eq!(claimed(store, &stranger(&first)).await, Claimed::Mine);
}

async fn expired_claims_are_taken_over<S: KeyStore>(store: &S) {
    let first = claim("expired", 1);
    assert_eq!(claimed(store, &first).await, Claimed::Mine);
    let second = rival(&first);
    until(async || claimed(store, &second).await == Claimed::Mine).await;
    assert_eq!(store.renew(&first).await.expect("the store is there"), Held::Lost);
    assert_eq!(settled(store, &first, b"late").await, Held::Lost);
    store.release(&first).await.expect("the store is there");
    assert_eq!(claimed(store, &rival(&first)).await, Claimed::Running);
    assert_eq!(settled(store, &second, b"in time").await, Held::Yes);
    assert_eq!(settled(store, &first, b"very late").await, Held::Lost);
    let answered = Claimed::Answered(Bytes::from_static(b"in time"));
    assert_eq!(claimed(store, &rival(&first)).await, answered);

    let alone = claim("alone", 1);
    assert_eq!(claimed(store, &alone).await, Claimed::Mine);
    assert_eq!(claimed(store, &stranger(&alone)).await, Claimed::Other, "it may have been done");
    assert_eq!(settled(store, &alone, b"in peace").await, Held::Yes, "nobody took it");
}

async fn renewed_claims_are_not<S: KeyStore>(store: &S) {
    let first = claim("renewed", 1);
    assert_eq!(claimed(store, &first).await, Claimed::Mine);
    let longer = Claim { lease_ms: LONG_MS, ..first.clone() };
    assert_eq!(store.renew(&longer).await.expect("the store is there"), Held::Yes);
    assert_eq!(claimed(store, &rival(&first)).await, Claimed::Running);
}

async fn old_keys_are_removed<S: KeyStore>(store: &S) {
    let (old, abandoned, held) = (claim("old", 1), claim("abandoned", 1), claim("held", LONG_MS));
    for claim in [&old, &abandoned, &held] {
        assert_eq!(claimed(store, claim).await, Claimed::Mine);
    }
    assert_eq!(settled(store, &old, b"old").await, Held::Yes);
    assert_eq!(store.prune(LONG_MS, 100).await.expect("the store is there"), 0);
    assert!(store.prune(0, 1).await.expect("the store is there") <= 1);
    until(async || {
        while store.prune(0, 2).await.expect("the store is there") > 0 {}
        // What is not there any more, nobody can settle.
        settled(store, &old, b"old").await == Held::Lost
            && settled(store, &abandoned, b"old").await == Held::Lost
    })
    .await;
    assert_eq!(claimed(store, &rival(&held)).await, Claimed::Running, "it is under way");
    let taken = rival(&old);
    assert_eq!(claimed(store, &taken).await, Claimed::Mine, "an old key is a new one");
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
