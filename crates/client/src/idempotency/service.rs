//! The way of one request: claim its key, carry it out, keep the answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{Request, StatusCode};
use tokio::runtime::Handle;
use tokio::time::sleep;
use tower::Service;
use tracing::Instrument;

use super::answer::{self, Kept, Read};
use super::request::{fingerprint, id, key};
use super::store::{Claim, Claimed, Held, KeyStore, StoreUnavailable};
use super::{IdempotencyLayer, Key, Presence, Rules};
use crate::chance;
use crate::limits::{KEY_ATTEMPTS_MAX, PAUSE_MS_MIN, PRUNE_EVERY_MS, PRUNE_MAX};
use crate::participant::BoxError;
use crate::task::AbortOnDrop;

/// A service whose requests with a key are carried out once.
#[derive(Clone, Debug)]
pub struct Idempotent<I, S> {
    inner: I,
    layer: Arc<IdempotencyLayer<S>>,
}

impl<I, S> Idempotent<I, S> {
    pub(super) fn new(inner: I, layer: IdempotencyLayer<S>) -> Self {
        Self { inner, layer: Arc::new(layer) }
    }
}

impl<I, S, B, R> Service<Request<B>> for Idempotent<I, S>
where
    I: Service<Request<Body>, Response = http::Response<R>> + Clone + Send + 'static,
    I::Future: Send + 'static,
    I::Error: Send + 'static,
    S: KeyStore,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = I::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, I::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), I::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The clone is not ready; what was polled is.
        let inner = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, inner);
        Box::pin(serve(inner, Arc::clone(&self.layer), request))
    }
}

async fn serve<I, S, B, R>(
    mut inner: I,
    layer: Arc<IdempotencyLayer<S>>,
    request: Request<B>,
) -> Result<Response, I::Error>
where
    I: Service<Request<Body>, Response = http::Response<R>> + Send + 'static,
    I::Future: Send + 'static,
    I::Error: Send + 'static,
    S: KeyStore,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let (mut head, body) = request.into_parts();
    let key = match wanted(&layer.rules, &head) {
        Wanted::Key(key) => key,
        Wanted::Nothing => {
            let answered = inner.call(Request::from_parts(head, Body::new(body))).await;
            return answered.map(|response| response.map(Body::new));
        }
        Wanted::Refused(response) => return Ok(*response),
    };
    let body = match answer::read(body, layer.rules.request_bytes_max).await {
        Ok(Read::Whole(body)) => body,
        Ok(Read::TooLarge(_)) => {
            let detail = format!(
                "a request with an idempotency key has at most {} bytes",
                layer.rules.request_bytes_max
            );
            return Ok(answer::problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &detail));
        }
        Err(error) => {
            let detail = format!("the body could not be read: {error}");
            return Ok(answer::problem(StatusCode::BAD_REQUEST, "body_broken", &detail));
        }
    };
    layer.prune_from_now_on();
    let claim = Claim {
        id: id(&(layer.rules.scope)(&head), &key),
        fingerprint: fingerprint(&head, &body),
        owner: chance::key(),
        lease_ms: layer.rules.lease_ms,
        key: key.clone(),
    };
    head.extensions.insert(Key(key));
    let request = Request::from_parts(head, Body::from(body));
    // Of its own: whoever gives up waiting would otherwise leave the work half done.
    match tokio::spawn(once(inner, layer, claim, request).in_current_span()).await {
        Ok(answered) => answered,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Ok(unavailable("the service is shutting down")),
        },
    }
}

/// What a request wants of this layer.
enum Wanted {
    Key(String),
    Nothing,
    Refused(Box<Response>),
}

fn wanted(rules: &Rules, head: &Parts) -> Wanted {
    let refused = |code, detail: &str| {
        Wanted::Refused(Box::new(answer::problem(StatusCode::BAD_REQUEST, code, detail)))
    };
    if !rules.methods.contains(&head.method) {
        return Wanted::Nothing;
    }
    match (key(&head.headers), rules.presence) {
        (Ok(Some(key)), _) => Wanted::Key(key),
        (Ok(None), Presence::Optional) => Wanted::Nothing,
        (Ok(None), Presence::Required) => {
            refused("key_missing", "this request needs the header Idempotency-Key")
        }
        (Err(bad), _) => refused("key_malformed", &format!("Idempotency-Key: {bad}")),
    }
}

/// Carries the request out, unless somebody else has or does.
async fn once<I, S, R>(
    mut inner: I,
    layer: Arc<IdempotencyLayer<S>>,
    claim: Claim,
    request: Request<Body>,
) -> Result<Response, I::Error>
where
    I: Service<Request<Body>, Response = http::Response<R>>,
    S: KeyStore,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let (store, rules) = (&layer.store, &layer.rules);
    let mut mine = Mine { store, claim: Some(claim.clone()) };
    match insisting(|| store.claim(&claim)).await {
        Ok(Claimed::Mine) => {}
        Ok(elsewhere) => {
            mine.let_go();
            return Ok(instead(elsewhere));
        }
        Err(error) => return Ok(unavailable(&error.to_string())),
    }
    let work = async {
        let (head, body) = inner.call(request).await?.into_parts();
        if !(rules.is_kept)(head.status) {
            return Ok((http::Response::from_parts(head, Body::new(body)), None));
        }
        let (kept, body) = match answer::read(body, rules.answer_bytes_max).await {
            Ok(Read::Whole(body)) => ((Kept::Whole, body.clone()), Body::from(body)),
            Ok(Read::TooLarge(longer)) => ((Kept::Not, Bytes::new()), Body::new(longer)),
            Err(error) => {
                let detail = format!("the answer broke off: {error}");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return Ok((answer::problem(status, "answer_broken", &detail), None));
            }
        };
        let (kept, bytes) = kept;
        let kept = (kept, &*bytes);
        let kept = answer::written(head.status, &head.headers, &rules.kept_headers, kept);
        Ok((http::Response::from_parts(head, body), Some(kept)))
    };
    let (response, kept) = tokio::select! {
        done = work => done?,
        () = renewing(store, &claim) => unreachable!("it goes on until the work is done"),
    };
    let Some(kept) = kept else {
        mine.give_back().await;
        return Ok(response);
    };
    match insisting(|| store.settle(&claim, kept.clone())).await {
        Ok(Held::Yes) => {}
        Ok(Held::Lost) => {
            tracing::warn!(key = claim.key, "another attempt had taken the idempotency key");
        }
        Err(error) => {
            tracing::warn!(key = claim.key, %error, "an answer could not be kept for repeats");
        }
    }
    // What was done is not done again before its claim has expired.
    mine.let_go();
    Ok(response)
}

/// The answer to who has no claim.
fn instead(claimed: Claimed) -> Response {
    match claimed {
        Claimed::Mine => unreachable!("it is carried out"),
        Claimed::Running => {
            let detail = "the first request with this idempotency key is under way";
            answer::later(StatusCode::CONFLICT, "key_in_use", detail)
        }
        Claimed::Other => {
            let detail = "this idempotency key belongs to a request with another method, path, query or body";
            answer::problem(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", detail)
        }
        Claimed::Answered(kept) => answer::replayed(&kept).unwrap_or_else(|| {
            let detail = "the answer that is kept for this idempotency key cannot be read";
            answer::problem(StatusCode::INTERNAL_SERVER_ERROR, "answer_unreadable", detail)
        }),
    }
}

fn unavailable(why: &str) -> Response {
    tracing::warn!(why, "a request with an idempotency key was not carried out");
    let detail = "idempotency keys cannot be looked up now; nothing was done";
    answer::later(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", detail)
}

/// Asks the store until it answers, a few times.
async fn insisting<T, F>(ask: impl Fn() -> F) -> Result<T, StoreUnavailable>
where
    F: Future<Output = Result<T, StoreUnavailable>>,
{
    let mut pause_ms = PAUSE_MS_MIN;
    for _ in 1..KEY_ATTEMPTS_MAX {
        if let Ok(answer) = ask().await {
            return Ok(answer);
        }
        sleep(Duration::from_millis(chance::jitter(pause_ms))).await;
        pause_ms *= 4;
    }
    ask().await
}

/// Renews the claim for as long as it is polled.
async fn renewing<S: KeyStore>(store: &S, claim: &Claim) {
    let mut told = Held::Yes;
    loop {
        sleep(Duration::from_millis((claim.lease_ms / 3).max(1))).await;
        match store.renew(claim).await {
            Ok(Held::Lost) if told == Held::Yes => {
                tracing::warn!(key = claim.key, "an idempotency key was lost while it was in use");
                told = Held::Lost;
            }
            Ok(Held::Yes | Held::Lost) => {}
            Err(error) => tracing::warn!(%error, "the claim of a key could not be renewed"),
        }
    }
}

/// A key that is freed unless it is let go of: also by a panic of the handler.
struct Mine<'a, S: KeyStore> {
    store: &'a S,
    claim: Option<Claim>,
}

impl<S: KeyStore> Mine<'_, S> {
    fn let_go(&mut self) {
        self.claim = None;
    }

    async fn give_back(&mut self) {
        if let Some(claim) = self.claim.take()
            && let Err(error) = insisting(|| self.store.release(&claim)).await
        {
            tracing::warn!(%error, "a key is not free before its claim expires");
        }
    }
}

impl<S: KeyStore> Drop for Mine<'_, S> {
    fn drop(&mut self) {
        // Without a runtime, its claim expires.
        if let Some(claim) = self.claim.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let store = self.store.clone();
            runtime.spawn(async move {
                let _ = insisting(|| store.release(&claim)).await;
            });
        }
    }
}

impl<S: KeyStore> IdempotencyLayer<S> {
    fn prune_from_now_on(&self) {
        self.pruning.get_or_init(|| {
            let task = prune(self.store.clone(), self.rules.retention_ms);
            AbortOnDrop(tokio::spawn(task).abort_handle())
        });
    }
}

async fn prune<S: KeyStore>(store: S, retention_ms: u64) {
    loop {
        loop {
            match store.prune(retention_ms, PRUNE_MAX).await {
                Ok(PRUNE_MAX..) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "old idempotency keys cannot be removed");
                    break;
                }
            }
        }
        sleep(Duration::from_millis(PRUNE_EVERY_MS)).await;
    }
}
