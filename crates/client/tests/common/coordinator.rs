//! A coordinator of the tests: answers what it is told to, and remembers what it was asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use unanimous_api::{Code, Problem};
use unanimous_client::Client;

/// What to do with one request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answer with that status and body.
    Answer(u16, Value),
    /// Answer with a status, a header and a body.
    AnswerWith(u16, (&'static str, &'static str), Value),
    /// Answer with server-sent events.
    Events(String),
    /// Take it, and close the connection.
    Hang,
    /// Take it, and say nothing.
    Stall,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("readable"))
    }
}

#[derive(Clone, Default)]
struct Script {
    acts: Arc<Mutex<VecDeque<Act>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
}

/// Serves until it is dropped.
pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    script: Script,
    serving: AbortHandle,
}

impl Coordinator {
    /// Does `acts` in order; the last one for ever.
    pub(crate) async fn playing(acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let script = Script::default();
        let connections = Arc::clone(&script.connections);
        let listener = listener.tap_io(move |_| {
            connections.fetch_add(1, Ordering::Relaxed);
        });
        let app = Router::new().fallback(play).with_state(script.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).await.expect("serves");
        });
        let coordinator = Self { address, script, serving: serving.abort_handle() };
        coordinator.play(acts);
        coordinator
    }

    /// Forgets what was to be done, and does `acts`.
    pub(crate) fn play(&self, acts: impl IntoIterator<Item = Act>) {
        *self.script.acts.lock().expect("no panic") = acts.into_iter().collect();
    }

    /// A client that does not wait long.
    pub(crate) fn client(&self) -> Client {
        Client::builder(&format!("http://{}", self.address))
            .pauses_ms(1, 10)
            .reply_timeout_ms(300)
            .deadline_ms(5_000)
            .build()
            .expect("an address")
    }

    /// How many connections were opened so far.
    pub(crate) fn connections(&self) -> usize {
        self.script.connections.load(Ordering::Relaxed)
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().expect("no panic").clone()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn play(State(script): State<Script>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    script.asked.lock().expect("no panic").push(Asked {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    });
    let act = {
        let mut acts = script.acts.lock().expect("no panic");
        match acts.len() {
            1 => acts[0].clone(),
            _ => acts.pop_front().expect("something to do"),
        }
    };
    match act {
        Act::Answer(status, body) => {
            (StatusCode::from_u16(status).expect("a status"), axum::Json(body)).into_response()
        }
        Act::AnswerWith(status, header, body) => {
            (StatusCode::from_u16(status).expect("a status"), [header], axum::Json(body))
                .into_response()
        }
        Act::Events(text) => ([("content-type", "text/event-stream")], text).into_response(),
        // A body that fails takes the connection with it.
        Act::Hang => Response::new(Body::from_stream(futures_util::stream::once(async {
            Err::<Vec<u8>, _>(std::io::Error::other("gone"))
        }))),
        Act::Stall => std::future::pending().await,
    }
}

/// A transaction as a coordinator shows it.
pub(crate) fn view(id: &str, status: &str, outcome: Option<&str>) -> Value {
    json!({
        "id": id, "kind": "atomic", "status": status, "outcome": outcome, "participants": [],
        "timeout_ms": 30000, "initiated_at_ms": 1, "updated_at_ms": 2, "coordinator": "test"
    })
}

/// A problem as a coordinator puts it.
pub(crate) fn problem(code: Code) -> Act {
    let body = serde_json::to_value(Problem::new(code, "as scripted")).expect("json");
    Act::Answer(code.info().http, body)
}

/// The same about a transaction.
pub(crate) fn problem_about(code: Code, view: Value) -> Act {
    let view = serde_json::from_value(view).expect("a view");
    let body = Problem::new(code, "as scripted").about(view);
    Act::Answer(code.info().http, serde_json::to_value(body).expect("json"))
}
