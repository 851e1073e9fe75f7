//! A coordinator and service participants inside the test process, on free ports.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use unanimous_core::commit::Phases;
use unanimous_server::Server;
use unanimous_server::config::{Config, Limits, Overrides, ResourceConfig};

/// A service whose answers the test sets, and which remembers what it was called for.
#[derive(Clone, Default)]
pub(crate) struct Service(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    answers: BTreeMap<&'static str, (u16, String)>,
    calls: Vec<Called>,
}

/// One call that a service got.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub(crate) verb: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Service {
    /// Answers `verb` with this status and body from now on; 200 without a body unless set.
    pub(crate) fn answer(&self, verb: &'static str, status: u16, body: &str) {
        self.0.lock().expect("lock").answers.insert(verb, (status, body.to_owned()));
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<Called> {
        self.0.lock().expect("lock").calls.clone()
    }

    /// The verbs called so far.
    pub(crate) fn verbs(&self) -> Vec<String> {
        self.calls().into_iter().map(|called| called.verb).collect()
    }

    /// Serves on a free port; returns the URL.
    pub(crate) async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let app = Router::new().route("/{verb}", post(called)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }
}

async fn called(
    State(service): State<Service>,
    Path(verb): Path<String>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, String) {
    let mut script = service.0.lock().expect("lock");
    let headers = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_owned()));
    script.calls.push(Called { verb: verb.clone(), headers: headers.collect(), body });
    match script.answers.get(&*verb) {
        Some((status, body)) => (StatusCode::from_u16(*status).expect("a status"), body.clone()),
        None => (StatusCode::OK, String::new()),
    }
}

/// A coordinator in this process.
pub(crate) struct Coordinator {
    pub(crate) url: String,
    stop: watch::Sender<bool>,
    running: Option<tokio::task::JoinHandle<()>>,
    pub(crate) data: std::path::PathBuf,
    _folder: Option<tempfile::TempDir>,
}

/// A configuration with these resources, in this folder.
pub(crate) fn config(data: &std::path::Path, resources: &[(&str, &str)]) -> Config {
    let config = Config::parse("", data, Overrides::default(), &|_| None).expect("defaults");
    let resources = resources.iter().map(|&(name, url)| {
        let resource = ResourceConfig { url: url.to_owned(), calls_max: None, phases: Phases::Two };
        (name.to_owned(), resource)
    });
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        data: data.to_owned(),
        resources: resources.collect(),
        limits: Limits { drain_ms: 2_000, ..config.limits.clone() },
        ..config
    }
}

impl Coordinator {
    /// Starts one in a temporary folder.
    pub(crate) async fn start(resources: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut coordinator = Self::start_with(config(folder.path(), resources)).await;
        coordinator._folder = Some(folder);
        coordinator
    }

    /// Starts one with this configuration.
    pub(crate) async fn start_with(config: Config) -> Self {
        let data = config.data.clone();
        let server = Server::start(config).await.expect("it starts");
        let url = format!("http://{}", server.address().expect("bound"));
        let (stop, stopping) = watch::channel(false);
        let running = tokio::spawn(async move { server.run(stopping).await.expect("it runs") });
        Self { url, stop, running: Some(running), data, _folder: None }
    }

    /// Shuts it down as a signal would.
    pub(crate) async fn stop(&mut self) {
        self.stop.send_replace(true);
        self.running.take().expect("stopped once").await.expect("it stops");
    }

    /// Sends a request; returns status, headers and body.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        use http_body_util::BodyExt;
        let mut request =
            http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::from(body.to_owned())).expect("a request");
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
                .build_http::<axum::body::Body>();
        let response = client.request(request).await.expect("it answers");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Reply { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// `POST`s JSON.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body).await
    }

    /// `GET`s.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

/// Waits until `reached` holds, and fails the test if it does not within ten seconds.
pub(crate) async fn eventually(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !reached().await {
        assert!(started.elapsed() < Duration::from_secs(10), "never {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
