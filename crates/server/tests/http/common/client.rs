//! Sends requests, and reads what comes back.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Talks to one coordinator over connections that it keeps.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    http: legacy::Client<HttpConnector, Body>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, http: legacy::Client::builder(TokioExecutor::new()).build_http() }
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<http::Response<hyper::body::Incoming>, legacy::Error> {
        let uri = format!("http://{}{path}", self.address);
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.http.request(request.body(body).expect("a request")).await
    }

    /// Sends a request; `None` if the connection broke before the whole reply had come.
    pub(crate) async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Reply> {
        let response = self.request(method, path, headers, Body::from(body.into())).await.ok()?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.ok()?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Some(Reply { status: parts.status.as_u16(), headers: parts.headers, text })
    }

    /// Sends a request that has to be answered.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        self.try_send(method, path, headers, body).await.expect("it answers")
    }

    /// `POST`s JSON.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_owned()).await
    }

    /// `POST`s JSON under an idempotency key.
    pub(crate) async fn post_keyed(&self, path: &str, key: &str, body: &str) -> Reply {
        self.send("POST", path, &[("idempotency-key", key)], body.to_owned()).await
    }

    /// `GET`s.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    /// Begins a transaction that this client drives; returns the path of it.
    pub(crate) async fn begin(&self) -> String {
        let begun = self.post("/v1/transactions", r#"{"kind":"atomic"}"#).await;
        assert_eq!(begun.status, 201, "{}", begun.text);
        begun.path()
    }

    /// Adds a participant on the resource of the same name; returns its branch.
    pub(crate) async fn enlist(&self, path: &str, name: &str) -> String {
        let body = serde_json::json!({"participant": name, "resource": name}).to_string();
        let enlisted = self.post(&format!("{path}/participants"), &body).await;
        assert_eq!(enlisted.status, 201, "{}", enlisted.text);
        super::text(&enlisted.json()["branch"]).to_owned()
    }

    /// The status of the transaction at this path.
    pub(crate) async fn status(&self, path: &str) -> String {
        super::text(&self.get(path).await.json()["status"]).to_owned()
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn events(&self, path: &str) -> Stream {
        let response = self.request("GET", path, &[], Body::empty()).await.expect("it answers");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Stream { body: response.into_body(), text: String::new() }
    }
}

impl Reply {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The path of the transaction that the body shows.
    pub(crate) fn path(&self) -> String {
        format!("/v1/transactions/{}", super::text(&self.json()["id"]))
    }

    /// Status and code of a problem, which has to be in the form that problems have.
    #[track_caller]
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        let problem: unanimous_api::Problem = serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text));
        assert_eq!(problem.http(), self.status, "{}", self.text);
        assert!(!problem.title.is_empty() && !problem.detail.is_empty(), "{}", self.text);
        assert_eq!(problem.kind, format!("/errors/{}", problem.code));
        (self.status, problem.code)
    }
}

/// A stream of server-sent events.
pub(crate) struct Stream {
    body: hyper::body::Incoming,
    text: String,
}

impl Stream {
    /// The next event's data; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                let data = data.map(|data| serde_json::from_str(data).expect("JSON"));
                self.text = rest.to_owned();
                if data.is_some() {
                    return data;
                }
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame());
            let frame = frame.await.expect("an event comes in time")?;
            let frame = frame.expect("the stream is whole");
            if let Ok(data) = frame.into_data() {
                self.text.push_str(std::str::from_utf8(&data).expect("events are text"));
            }
        }
    }

    /// The statuses from the next event on, up to and including this one.
    pub(crate) async fn statuses_until(&mut self, last: &str) -> Vec<String> {
        let mut statuses = Vec::new();
        while statuses.last().is_none_or(|status| status != last) {
            let event = self.next().await.expect("the stream goes on");
            statuses.push(super::text(&event["status"]).to_owned());
        }
        statuses
    }
}

/// Sends bytes over a connection of their own; returns everything that comes back before the other
/// side closes, or nothing comes for two seconds.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it accepts");
    // The other side may have closed already.
    let _ = stream.write_all(bytes).await;
    let mut seen = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut seen)).await;
    String::from_utf8_lossy(&seen).into_owned()
}
