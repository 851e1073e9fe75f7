//! A service participant whose answers the test sets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A service whose answers the test sets, and which remembers what it was called for.
#[derive(Clone)]
pub(crate) struct Service {
    script: Arc<Mutex<Script>>,
    hanging: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct Script {
    next: BTreeMap<String, VecDeque<(u16, String)>>,
    always: BTreeMap<String, (u16, String)>,
    calls: Vec<Called>,
}

/// One call that a service got.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub(crate) verb: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Default for Service {
    fn default() -> Self {
        Self { script: Arc::default(), hanging: Arc::new(watch::Sender::new(false)) }
    }
}

impl Service {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("nothing panics while it is held")
    }

    /// Answers `verb` with this status and body from now on; 200 without a body unless set.
    pub(crate) fn answer(&self, verb: &str, status: u16, body: &str) {
        self.script().always.insert(verb.to_owned(), (status, body.to_owned()));
    }

    /// Answers the next call of `verb` so.
    pub(crate) fn answer_next(&self, verb: &str, status: u16, body: &str) {
        let mut script = self.script();
        script.next.entry(verb.to_owned()).or_default().push_back((status, body.to_owned()));
    }

    /// Takes calls and answers none of them, like a stopped process.
    pub(crate) fn hang(&self) {
        self.hanging.send_replace(true);
    }

    /// Goes on, and answers what it was called for.
    pub(crate) fn go_on(&self) {
        self.hanging.send_replace(false);
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<Called> {
        self.script().calls.clone()
    }

    /// The verbs called so far.
    pub(crate) fn verbs(&self) -> Vec<String> {
        self.script().calls.iter().map(|called| called.verb.clone()).collect()
    }

    /// How often a verb was called.
    pub(crate) fn count(&self, verb: &str) -> usize {
        self.script().calls.iter().filter(|called| called.verb == verb).count()
    }

    /// Serves on a free port; returns the URL.
    pub(crate) async fn serve(&self) -> String {
        self.serve_at("127.0.0.1:0").await
    }

    /// Serves at an address; returns the URL.
    pub(crate) async fn serve_at(&self, address: &str) -> String {
        let listener = TcpListener::bind(address).await.expect("a free port");
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
    let headers = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_owned()));
    let headers = headers.collect();
    service.script().calls.push(Called { verb: verb.clone(), headers, body });
    let mut hanging = service.hanging.subscribe();
    hanging.wait_for(|&hanging| !hanging).await.expect("the service lives");
    let mut script = service.script();
    let next = script.next.get_mut(&verb).and_then(VecDeque::pop_front);
    let (status, body) =
        next.or_else(|| script.always.get(&verb).cloned()).unwrap_or((200, String::new()));
    (StatusCode::from_u16(status).expect("a status"), body)
}
