//! The layer for an application's own services, with keys in SQLite: every way a request can repeat.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use common::until;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceExt;
use unanimous_client::idempotency::{
    Claim, Claimed, Held, IdempotencyLayer, Key, KeyStore, SqliteKeys, StoreUnavailable,
};
use unanimous_client::testing::key_store_suite;

/// Counts how often its handlers run, and stops them at a gate.
#[derive(Clone)]
struct Shop {
    runs: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Shop {
    fn new() -> Self {
        Self { runs: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    fn router<S: KeyStore>(&self, layer: IdempotencyLayer<S>) -> Router {
        let order = |shop: Self, body: Bytes| async move {
            let number = shop.runs.fetch_add(1, Ordering::SeqCst) + 1;
            match &*body {
                b"wait" => shop.gate.acquire().await.expect("never closed").forget(),
                b"panic" => panic!("as asked"),
                b"fail" => return StatusCode::BAD_GATEWAY.into_response(),
                b"busy" => return StatusCode::TOO_MANY_REQUESTS.into_response(),
                b"refuse" => return (StatusCode::CONFLICT, "sold out").into_response(),
                b"large" => return "x".repeat(1_000).into_response(),
                _ => {}
            }
            let headers = [("location", format!("/orders/{number}")), ("set-cookie", "a=b".into())];
            (StatusCode::CREATED, headers, format!("order {number}")).into_response()
        };
        let shop = self.clone();
        let handler = move |body: Bytes| order(shop.clone(), body);
        let show = async |Extension(Key(key)): Extension<Key>| key;
        Router::new()
            .route("/orders", post(handler.clone()).put(handler.clone()))
            .route("/offers", post(handler))
            .route("/key", post(show))
            .layer(layer)
    }
}

fn keys(folder: &TempDir) -> SqliteKeys {
    SqliteKeys::open(folder.path().join("keys.db")).expect("opens")
}

fn scene() -> (Shop, Router, TempDir) {
    scene_with(|layer| layer)
}

fn scene_with(
    rules: impl FnOnce(IdempotencyLayer<SqliteKeys>) -> IdempotencyLayer<SqliteKeys>,
) -> (Shop, Router, TempDir) {
    let (shop, folder) = (Shop::new(), TempDir::new().expect("a folder"));
    let router = shop.router(rules(IdempotencyLayer::new(keys(&folder))));
    (shop, router, folder)
}

fn request(path: &str, key: Option<&str>, body: &str) -> Request<Body> {
    let mut request = Request::post(path);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.body(Body::from(body.to_owned())).expect("a request")
}

async fn send(router: &Router, request: Request<Body>) -> (u16, HeaderMap, String) {
    let response: Response = router.clone().oneshot(request).await.expect("always answers");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).expect("text"))
}

async fn order(router: &Router, key: &str, body: &str) -> (u16, String) {
    let (status, _, body) = send(router, request("/orders", Some(key), body)).await;
    (status, body)
}

fn code(body: &str) -> String {
    let problem: Value = serde_json::from_str(body).expect("a problem document");
    problem["code"].as_str().expect("a code").to_owned()
}

#[tokio::test]
async fn sqlite_passes_the_suite_of_key_stores() {
    let folder = TempDir::new().expect("a folder");
    key_store_suite(async || keys(&folder)).await;
}

#[tokio::test]
async fn a_repeat_is_answered_as_before_also_after_a_restart() {
    let (shop, router, folder) = scene();
    let (status, headers, body) = send(&router, request("/orders", Some("a"), "tea")).await;
    assert_eq!(
        (status, &*body, &headers["set-cookie"]),
        (201, "order 1", &"a=b".parse().expect("v"))
    );
    assert!(!headers.contains_key("idempotent-replayed"));
    drop(router);
    let router = shop.router(IdempotencyLayer::new(keys(&folder)));
    for key in ["a", "\"a\""] {
        let (status, headers, body) = send(&router, request("/orders", Some(key), "tea")).await;
        assert_eq!((status, &*body), (201, "order 1"));
        assert_eq!(
            (&headers["location"], &headers["idempotent-replayed"]),
            (&"/orders/1".parse().expect("a value"), &"true".parse().expect("a value"),)
        );
        assert!(!headers.contains_key("set-cookie"), "it was for one caller");
    }
    assert_eq!(order(&router, "b", "tea").await, (201, "order 2".to_owned()));
    assert_eq!(shop.runs(), 2);
}

#[tokio::test]
async fn the_key_of_another_request_is_refused_and_nothing_runs() {
    let (shop, router, _folder) = scene();
    assert_eq!(order(&router, "a", "tea").await.0, 201);
    for (path, body) in [("/orders", "milk"), ("/offers", "tea"), ("/orders?for=ann", "tea")] {
        let (status, headers, body) = send(&router, request(path, Some("a"), body)).await;
        assert_eq!((status, &*code(&body)), (422, "key_reused"));
        assert_eq!(headers["content-type"], "application/problem+json");
    }
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn sixty_four_repeats_at_the_same_time_run_the_handler_once() {
    let (shop, router, _folder) = scene();
    let mut sent = JoinSet::new();
    for _ in 0..64 {
        let router = router.clone();
        sent.spawn(async move { order(&router, "a", "wait").await });
    }
    while sent.len() > 1 {
        let (status, body) = sent.join_next().await.expect("some are left").expect("no panic");
        assert_eq!((status, &*code(&body)), (409, "key_in_use"));
    }
    shop.gate.add_permits(1);
    let first = sent.join_next().await.expect("the first").expect("no panic");
    assert_eq!(first, (201, "order 1".to_owned()));
    assert_eq!(order(&router, "a", "wait").await, first);
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn who_comes_while_the_first_is_under_way_is_told_when_to_come_again() {
    let (shop, router, _folder) = scene();
    let first = tokio::spawn({
        let router = router.clone();
        async move { order(&router, "a", "wait").await }
    });
    until("it has begun", async || shop.runs() == 1).await;
    let (status, headers, _) = send(&router, request("/orders", Some("a"), "wait")).await;
    assert_eq!((status, &headers["retry-after"]), (409, &"1".parse().expect("a value")));
    assert_eq!(order(&router, "a", "other").await.0, 422);
    shop.gate.add_permits(1);
    assert_eq!(first.await.expect("no panic").0, 201);
}

#[tokio::test]
async fn a_caller_that_goes_away_changes_nothing() {
    let (shop, router, _folder) = scene();
    {
        let sent = order(&router, "a", "wait");
        tokio::pin!(sent);
        tokio::select! {
            _ = &mut sent => panic!("it waits at the gate"),
            () = until("it has begun", async || shop.runs() == 1) => {}
        }
    }
    shop.gate.add_permits(1);
    until("it is answered", async || order(&router, "a", "wait").await.0 == 201).await;
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn a_handler_that_panics_or_fails_leaves_the_key_free() {
    let (shop, router, _folder) = scene();
    for (runs, body) in [(1, "fail"), (2, "fail"), (3, "busy"), (4, "busy")] {
        let key = if body == "fail" { "a" } else { "b" };
        assert!(matches!(order(&router, key, body).await.0, 502 | 429));
        assert_eq!(shop.runs(), runs);
    }
    let panicked = tokio::spawn({
        let router = router.clone();
        async move { order(&router, "c", "panic").await }
    });
    assert!(panicked.await.expect_err("it panics").is_panic());
    until("the key is free", async || order(&router, "c", "tea").await.0 == 201).await;
}

#[tokio::test]
async fn a_refusal_is_an_answer_like_any_other() {
    let (shop, router, _folder) = scene();
    for _ in 0..2 {
        assert_eq!(order(&router, "a", "refuse").await, (409, "sold out".to_owned()));
    }
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn an_answer_too_large_to_keep_is_told_once_and_never_made_again() {
    let (shop, router, _folder) = scene_with(|layer| layer.answer_bytes_max(100));
    assert_eq!(order(&router, "a", "large").await, (200, "x".repeat(1_000)));
    let (status, body) = order(&router, "a", "large").await;
    assert_eq!((status, &*code(&body)), (409, "answer_not_kept"));
    assert!(body.contains("200 OK"), "{body}");
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_before_anything_runs() {
    let (shop, router, _folder) = scene_with(|layer| layer.required().request_bytes_max(10));
    let long = "x".repeat(300);
    for (key, body, expected) in [
        (None, "tea", (400, "key_missing")),
        (Some(""), "tea", (400, "key_malformed")),
        (Some(&*long), "tea", (400, "key_malformed")),
        (Some("a"), "more than ten bytes", (413, "too_large")),
    ] {
        let (status, _, body) = send(&router, request("/orders", key, body)).await;
        assert_eq!((status, &*code(&body)), expected);
    }
    assert_eq!(shop.runs(), 0);
    let mut put = request("/orders", None, "more than ten bytes");
    *put.method_mut() = Method::PUT;
    assert_eq!(send(&router, put).await.0, 201, "a PUT is not this layer's");
}

#[tokio::test]
async fn a_request_without_a_key_is_passed_on_unless_one_is_required() {
    let (shop, router, _folder) = scene();
    for _ in 0..2 {
        assert_eq!(send(&router, request("/orders", None, "tea")).await.0, 201);
    }
    assert_eq!(shop.runs(), 2);
    assert_eq!(send(&router, request("/key", Some("a"), "")).await.2, "a");
}

#[tokio::test]
async fn a_key_in_two_scopes_is_two_keys() {
    let caller = |head: &http::request::Parts| {
        let caller = head.headers.get("authorization").map(|value| value.to_str());
        caller.and_then(Result::ok).unwrap_or_default().to_owned()
    };
    let (shop, router, _folder) = scene_with(|layer| layer.scoped_by(caller));
    for (runs, name) in [(1, "ann"), (2, "ben"), (2, "ann")] {
        let mut request = request("/orders", Some("a"), "tea");
        request.headers_mut().insert("authorization", name.parse().expect("a value"));
        assert_eq!(send(&router, request).await.0, 201);
        assert_eq!(shop.runs(), runs);
    }
}

#[tokio::test]
async fn a_handler_that_takes_longer_than_its_lease_keeps_its_claim() {
    let (shop, router, folder) = scene_with(|layer| layer.lease_ms(150));
    let first = tokio::spawn({
        let router = router.clone();
        async move { order(&router, "a", "wait").await }
    });
    until("it has begun", async || shop.runs() == 1).await;
    // As many as would have found it expired three times over.
    let elsewhere = shop.router(IdempotencyLayer::new(keys(&folder)));
    for _ in 0..45 {
        assert_eq!(order(&elsewhere, "a", "wait").await.0, 409);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    shop.gate.add_permits(1);
    assert_eq!(first.await.expect("no panic").0, 201);
    assert_eq!(shop.runs(), 1);
}

/// A store that is away.
#[derive(Clone)]
struct Away;

impl KeyStore for Away {
    async fn claim(&self, _: &Claim) -> Result<Claimed, StoreUnavailable> {
        Err(StoreUnavailable("away".into()))
    }

    async fn renew(&self, _: &Claim) -> Result<Held, StoreUnavailable> {
        Err(StoreUnavailable("away".into()))
    }

    async fn settle(&self, _: &Claim, _: Bytes) -> Result<Held, StoreUnavailable> {
        Err(StoreUnavailable("away".into()))
    }

    async fn release(&self, _: &Claim) -> Result<(), StoreUnavailable> {
        Err(StoreUnavailable("away".into()))
    }

    async fn prune(&self, _: u64, _: usize) -> Result<usize, StoreUnavailable> {
        Err(StoreUnavailable("away".into()))
    }
}

#[tokio::test]
async fn while_the_store_is_away_nothing_is_done() {
    let shop = Shop::new();
    let router = shop.router(IdempotencyLayer::new(Away));
    let (status, headers, body) = send(&router, request("/orders", Some("a"), "tea")).await;
    assert_eq!((status, &*code(&body)), (503, "keys_unavailable"));
    assert!(headers.contains_key("retry-after"));
    assert_eq!(shop.runs(), 0);
}
