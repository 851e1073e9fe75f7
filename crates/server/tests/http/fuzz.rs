//! Thousands of requests that are almost right, into the router without a connection: never a panic,
//! never a failure of the server, and a problem document whenever the answer is not a success.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::BodyExt;
use tokio::sync::watch;
use tower::ServiceExt;
use unanimous_api::{Code, Problem};
use unanimous_core::commit::Phases;
use unanimous_core::id::ShardId;
use unanimous_journal::{FileJournal, Options};
use unanimous_participants::local::{Local, agree};
use unanimous_server::driver::{BranchOrder, Coordinator, CoordinatorOptions, Ears};
use unanimous_server::http::{Lights, router};
use unanimous_server::{Invariants, Metrics, Resources};

use crate::common::{TWO, config, text, two_with};

const REQUESTS: usize = 6_000;

/// SplitMix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_of<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }
}

/// What breaks parsers.
const PIECES: [&[u8]; 26] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"0",
    b"18446744073709551616",
    b"\\u0000",
    b"\\ud800",
    b"\xFF",
    b"\0",
    b"\r\n",
    b"/",
    b"%00",
    b"?",
    b"&a=b",
    b"..",
    "\u{202e}".as_bytes(),
    b"\"kind\":\"saga\"",
    b"[[[[[[[[[[[[[[[[[[[[[[[[",
];

fn mutated(chance: &mut Chance, original: &[u8]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        match chance.below(6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            2 => {
                let end = (at + chance.below(20)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + chance.below(60)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = chance.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            _ => {
                let piece = chance.one_of(&PIECES);
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

/// Requests that are right: method, path and body.
struct Corpus(Vec<(&'static str, String, String)>);

impl Corpus {
    fn new(open: &str) -> Self {
        let begin = |body: &str| ("POST", "/v1/transactions".to_owned(), body.to_owned());
        let ask = |verb: &str, body: &str| ("POST", format!("{open}/{verb}"), body.to_owned());
        let get = |path: &str| ("GET", path.to_owned(), String::new());
        Self(vec![
            begin(TWO),
            begin(TWO),
            begin(&two_with(r#""wait":"none","timeout_ms":1000"#)),
            begin(r#"{"kind":"atomic"}"#),
            begin(r#"{"kind":"atomic","branches":[{"resource":"wallet","participant":"p"}]}"#),
            ask("participants", r#"{"participant":"p","resource":"wallet","body":{"a":[1,2.5]}}"#),
            ask("commit", r#"{"votes":{"wallet":"YES","ledger":"READ_ONLY"},"wait":"decided"}"#),
            ask("abort", r#"{"reason":"because","wait":"none"}"#),
            ask("retry", "{}"),
            ask("resolve", r#"{"outcome":"rollback","reason":"because","force":true,"by":"me"}"#),
            get(open),
            get(&format!("{open}/log")),
            get("/v1/transactions?status=COMMITTED&limit=10"),
            get("/v1/transactions?resource=wallet&older_than_ms=5&kind=atomic"),
            get("/v1/resources/wallet/in-doubt"),
            get("/v1/events?transaction=1"),
            get("/errors/UNA0101"),
        ])
    }

    /// A request that is almost right; `None` if it cannot even be written down.
    fn request(&self, chance: &mut Chance) -> Option<Request<Body>> {
        let (method, path, body) = &self.0[chance.below(self.0.len())];
        let method = match chance.below(16) {
            0 => chance.one_of(&["GET", "POST", "DELETE", "HEAD", "BREW"]),
            _ => method,
        };
        let path = match chance.below(4) {
            0 => mutated(chance, path.as_bytes()),
            _ => path.clone().into_bytes(),
        };
        let mut request = Request::new(Body::from(mutated(chance, body.as_bytes())));
        *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
        *request.uri_mut() = String::from_utf8(path).ok()?.parse().ok()?;
        for (name, value) in [
            ("idempotency-key", "order-42"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("unanimous-branch", "una:main:01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10:0"),
            ("origin", "http://127.0.0.1:7070"),
        ] {
            if chance.below(8) == 0 {
                let value = HeaderValue::from_bytes(&mutated(chance, value.as_bytes())).ok()?;
                request.headers_mut().append(HeaderName::from_static(name), value);
            }
        }
        Some(request)
    }
}

fn start(folder: &std::path::Path) -> (Router, watch::Sender<bool>) {
    let ears = Ears::new();
    let journal = FileJournal::open(folder, Options::default(), ears.clone()).expect("it opens");
    let resources = Resources::default()
        .with("wallet", Arc::new(Local::new(agree).in_phases(Phases::One)))
        .with("ledger", Arc::new(Local::new(agree)));
    let options = CoordinatorOptions {
        shards: ShardId::all().collect(),
        cluster: "main".into(),
        drivers: 1,
        call_timeout_ms: 1_000,
        branch_order: BranchOrder::default(),
        contention: Arc::default(),
        open_max: 100_000,
        queue_max: 100_000,
        metrics: Arc::new(Metrics::new()),
        events: unanimous_server::driver::events(),
    };
    let coordinator =
        Coordinator::start(options, Arc::new(journal), ears, resources).expect("it starts");
    let (quit, off) = watch::channel(false);
    let lights = Lights { stopping: off.clone(), quitting: off };
    let config = config(folder, &[]);
    let invariants = Invariants::new(&coordinator, &config);
    (router(coordinator, invariants, &config, lights), quit)
}

async fn ask(app: &Router, request: Request<Body>) -> http::Response<Body> {
    app.clone().oneshot(request).await.expect("a router always answers")
}

#[tokio::test]
async fn requests_that_are_almost_right_break_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (app, _quit) = start(folder.path());
    let begin = Request::post("/v1/transactions").body(r#"{"kind":"atomic"}"#.into());
    let begun = ask(&app, begin.expect("a request")).await.into_body().collect().await;
    let begun = begun.expect("a body").to_bytes();
    let begun: serde_json::Value = serde_json::from_slice(&begun).expect("JSON");
    let corpus = Corpus::new(&format!("/v1/transactions/{}", text(&begun["id"])));

    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for seed in 0..REQUESTS as u64 {
        let Some(request) = corpus.request(&mut Chance(seed)) else { continue };
        let is_head = request.method() == Method::HEAD;
        let shown = format!("seed {seed}: {} {}", request.method(), request.uri());
        let reply = ask(&app, request).await;
        let (head, body) = reply.into_parts();
        let kind = head.headers.get("content-type").map(|kind| kind.to_str().expect("ASCII"));
        assert!(!head.status.is_server_error(), "{shown}: {}", head.status);
        if head.status.is_success() {
            *seen.entry(head.status.to_string()).or_default() += 1;
            continue;
        }
        assert_eq!(kind, Some("application/problem+json"), "{shown}: {}", head.status);
        if !is_head {
            let body = body.collect().await.expect("a body").to_bytes();
            let problem: Problem = serde_json::from_slice(&body).expect("a problem");
            assert!(Code::parse(&problem.code).is_some(), "{shown}: {}", problem.code);
            assert_eq!(problem.http(), head.status.as_u16(), "{shown}");
            *seen.entry(problem.code).or_default() += 1;
        }
    }
    // The requests are worth nothing if all of them fail, or none does, in one way.
    assert!(seen.len() > 15 && seen["200 OK"] > REQUESTS / 50, "{seen:?}");
}
