//! The processes of a benchmark: this program again, as coordinator and as services.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::lean::{self, Reply};
use crate::demo::child::Ports;
use crate::exit::Failure;
use crate::output;
use crate::serve::when_parent_ends;

pub(super) type HttpClient = Client<HttpConnector, Full<Bytes>>;

const PATIENCE: Duration = Duration::from_secs(20);

/// A client that keeps its connections.
pub(super) fn http_client() -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Sends a request, whose body is JSON if there is one; returns the status and the body, or `None` if
/// nobody answered.
pub(super) async fn send(
    client: &HttpClient,
    method: &str,
    url: &str,
    body: Bytes,
) -> Option<(StatusCode, Bytes)> {
    let mut request = http::Request::builder().method(method).uri(url);
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(body)).ok()?;
    let response = client.request(request).await.ok()?;
    let status = response.status();
    Some((status, response.into_body().collect().await.ok()?.to_bytes()))
}

/// A service that agrees to everything: prints its address and ends with its parent.
pub(super) async fn serve_agreeing() -> Result<(), Failure> {
    output::line(agree_here()?.trim_start_matches("http://"));
    when_parent_ends(|| std::process::exit(0));
    std::future::pending().await
}

/// Starts such a service within this process, with which it ends; returns its address.
pub(super) fn agree_here() -> Result<String, Failure> {
    // A participant that hangs: its caller gives up by itself.
    let hangs = |path: &str| if path.starts_with("/hang/") { Reply::Hang } else { Reply::Agree };
    Ok(format!("http://{}", lean::serve(hangs).map_err(cannot_listen)?))
}

pub(super) fn cannot_listen(error: std::io::Error) -> Failure {
    Failure::not_done(format!("cannot listen: {error}"))
}

/// Starts such a service; returns its process and its address.
pub(super) async fn start_service() -> Result<(Child, String), Failure> {
    let mut child = spawn(&["bench".into(), "service".into()], Stdio::piped())?;
    let out = child.stdout.take().expect("it is piped");
    let line = BufReader::new(out).lines().next_line().await;
    match line {
        Ok(Some(address)) => Ok((child, format!("http://{address}"))),
        Ok(None) | Err(_) => Err(Failure::not_done("a service did not start")),
    }
}

/// A coordinator in a process of its own.
pub(super) struct Served {
    pub(super) child: Child,
    pub(super) url: String,
    /// From the start of the process until it took requests.
    pub(super) ready_after: Duration,
}

/// Starts a coordinator on a data folder, with services by name.
pub(super) async fn start_coordinator(
    data: &Path,
    resources: &[(&str, String)],
) -> Result<Served, Failure> {
    let address = Ports::new().take().await?;
    let config = data.with_extension("toml");
    let sections =
        resources.iter().map(|(name, url)| format!("[resources.{name}]\nurl = {url:?}\n"));
    std::fs::write(&config, sections.collect::<String>())
        .map_err(|error| Failure::not_done(format!("{}: {error}", config.display())))?;
    let arguments = [
        "serve".to_owned(),
        "--with-parent".to_owned(),
        format!("--config={}", config.display()),
        format!("--data={}", data.display()),
        format!("--listen={address}"),
    ];
    let started = Instant::now();
    let child = spawn(&arguments, Stdio::null())?;
    let url = format!("http://{address}");
    let ready_after = until_ready(address, &url, started).await?;
    Ok(Served { child, url, ready_after })
}

async fn until_ready(
    address: SocketAddr,
    url: &str,
    started: Instant,
) -> Result<Duration, Failure> {
    let client = http_client();
    while started.elapsed() < PATIENCE {
        let ready = send(&client, "GET", &format!("{url}/readyz"), Bytes::new()).await;
        if ready.is_some_and(|(status, _)| status == StatusCode::OK) {
            return Ok(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err(Failure::not_done(format!("the coordinator at {address} did not become ready")))
}

fn spawn(arguments: &[String], out: Stdio) -> Result<Child, Failure> {
    let failed =
        |error: std::io::Error| Failure::not_done(format!("cannot start a process: {error}"));
    Command::new(std::env::current_exe().map_err(failed)?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(out)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)
}
