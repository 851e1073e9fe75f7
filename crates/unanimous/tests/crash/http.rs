//! Requests that are made once: what a client without the SDK sees.

use std::time::Duration;

use ::http::header::AUTHORIZATION;
use ::http::{HeaderMap, Method, Request};
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;
use unanimous_client::api::{Code, Problem, TransactionView, header};

use crate::coordinator::TOKEN;

/// How long a reply may take: longer than any transaction here.
const REPLY_PATIENCE: Duration = Duration::from_secs(20);

/// Connections to one coordinator.
#[derive(Clone)]
pub(crate) struct Http {
    pool: Client<HttpConnector, Full<Bytes>>,
    server: String,
}

/// A whole reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The transaction that it is about.
    pub(crate) fn view(&self) -> Option<TransactionView> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The code of the problem that it is.
    pub(crate) fn code(&self) -> Option<Code> {
        let problem: Problem = serde_json::from_slice(&self.body).ok()?;
        Code::parse(&problem.code)
    }
}

impl Http {
    pub(crate) fn new(server: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let pool = Client::builder(TokioExecutor::new()).build(connector);
        Self { pool, server: server.to_owned() }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Reply, String> {
        self.call(Method::GET, path, &[], Bytes::new()).await
    }

    /// Asks for the outcome as a participant does that is in doubt.
    pub(crate) async fn inquire(&self, txn: &str, branch: &str) -> Result<Reply, String> {
        let path = format!("/v1/transactions/{txn}");
        self.call(Method::GET, &path, &[(header::BRANCH, branch)], Bytes::new()).await
    }

    /// Makes a request, under an idempotency key if there is one.
    pub(crate) async fn post(
        &self,
        path: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<Reply, String> {
        let key = key.map(|key| (header::IDEMPOTENCY_KEY, key));
        self.call(Method::POST, path, key.as_slice(), body.to_string().into()).await
    }

    /// Asks for a transaction as another node does, under this name.
    pub(crate) async fn begin_as(
        &self,
        txn: &str,
        epoch: u64,
        body: &Value,
    ) -> Result<Reply, String> {
        let name = format!("{txn}@{epoch}");
        let headers = [(header::FORWARDED_BY, "another"), (header::BEGIN_AS, &name)];
        self.call(Method::POST, "/v1/transactions", &headers, body.to_string().into()).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Reply, String> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.server));
        request = request.header(AUTHORIZATION, format!("Bearer {TOKEN}"));
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).expect("tests make whole requests");
        let reply = async {
            let response = self.pool.request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
        };
        timeout(REPLY_PATIENCE, reply).await.unwrap_or_else(|_| Err("no reply in time".to_owned()))
    }
}
