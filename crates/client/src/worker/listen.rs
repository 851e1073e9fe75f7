//! Connections to a worker: taken one by one, bounded in number, size and patience.
//!
//! When all places are taken, new connections wait in the system's queue. A peer that says nothing,
//! or says it one byte at a time, holds one only for as long as its bounds allow.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http::StatusCode;
use http_body_util::LengthLimitError;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Ending;
use crate::error::root;
use crate::limits::{ACCEPT_PAUSE_MS, CALL_BYTES_MAX, WORKER_HEADER_BYTES_MAX};
use crate::participant::{refusal, with};

/// How much is taken from peers, and how long they are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connections_max: usize,
    pub(super) header_wait: Duration,
    pub(super) body_wait: Duration,
    pub(super) grace: Duration,
}

impl Bounds {
    /// The same routes, which see a body only when all of it has come.
    pub(super) fn bodies_in_time(self, router: Router) -> Router {
        router.layer(from_fn(move |request: Request, next: Next| async move {
            let (head, body) = request.into_parts();
            match whole(body, self.body_wait).await {
                Ok(body) => next.run(Request::from_parts(head, body)).await,
                Err(answer) => answer,
            }
        }))
    }
}

/// A body, or what is answered instead.
async fn whole(body: Body, wait: Duration) -> Result<Body, Response> {
    let (status, kind, detail) =
        match timeout(wait, axum::body::to_bytes(body, CALL_BYTES_MAX)).await {
            Ok(Ok(body)) => return Ok(body.into()),
            Ok(Err(error)) if root(&error).is::<LengthLimitError>() => {
                let detail = format!("the body has more than {CALL_BYTES_MAX} bytes");
                (StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
            }
            Ok(Err(error)) => {
                (StatusCode::BAD_REQUEST, "malformed", format!("the body cannot be read: {error}"))
            }
            Err(_) => {
                let detail = format!("the body did not end within {} ms", wait.as_millis());
                (StatusCode::REQUEST_TIMEOUT, "slow", detail)
            }
        };
    Err(with(status, &refusal(kind, &detail)))
}

/// Serves connections until `stop` is ready, and then those that are at work for as long as is
/// allowed.
pub(super) async fn serve<T>(
    listener: TcpListener,
    app: Router,
    bounds: Bounds,
    stop: impl Future<Output = T>,
) -> Ending {
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_wait)
        .max_buf_size(WORKER_HEADER_BYTES_MAX);
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
            (place, accept(&listener).await)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            Some(_) = connections.join_next() => continue,
            _ = &mut stop => break,
        };
        let app = TowerToHyperService::new(app.clone());
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), app));
        connections.spawn(async move {
            let _place = place;
            // One that breaks is its peer's affair.
            drop(connection.await);
        });
    }
    drop(listener);
    if timeout(bounds.grace, graceful.shutdown()).await.is_ok() {
        return Ending::Finished;
    }
    while connections.try_join_next().is_some() {}
    let calls = connections.len();
    connections.shutdown().await;
    tracing::warn!(calls, "stopped before every call was answered");
    Ending::CutOff(calls)
}

/// The next connection. Errors are of one connection, or pass when others end.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it answers only wait longer.
                drop(stream.set_nodelay(true));
                return stream;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again");
                sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    async fn serve_with(header_wait: Duration, body_wait: Duration) -> SocketAddr {
        let bounds = Bounds { connections_max: 4, header_wait, body_wait, grace: LONG };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let app = bounds.bodies_in_time(Router::new().route("/", post(async || "ok")));
        tokio::spawn(serve(listener, app, bounds, std::future::pending::<()>()));
        address
    }

    /// What is answered to the beginning of a call.
    async fn answer(address: SocketAddr, beginning: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        stream.write_all(beginning.as_bytes()).await.expect("it reads");
        let mut seen = Vec::new();
        let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut seen)).await;
        drop(read.expect("it closes in time"));
        String::from_utf8_lossy(&seen).into_owned()
    }

    #[tokio::test]
    async fn peers_that_stop_in_the_middle_of_a_call_are_cut_off() {
        let address = serve_with(SHORT, LONG).await;
        for beginning in ["", "P", "POST / HTTP/1.1\r\nhost: x\r\n"] {
            let answer = answer(address, beginning).await;
            assert!(!answer.contains("200"), "{beginning:?}: {answer}");
        }
        let address = serve_with(LONG, SHORT).await;
        let half = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n1";
        let answer = answer(address, half).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("slow"), "{answer}");
    }
}
