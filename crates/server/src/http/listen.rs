//! Connections: taken one by one, bounded in number, size and patience.
//!
//! A peer that says nothing, or says it one byte at a time, holds a connection for no longer than
//! [`HEADER_WAIT`]. When all are taken, new ones wait in the system's queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::Service;
use unanimous_api::Code;

use crate::limits::{
    ACCEPT_PAUSE, CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADER_WAIT, PING_INTERVAL, STREAMS_MAX,
};
use crate::metrics::Metrics;

/// Serves connections until `quitting` is set; returns when the last of them has ended.
pub(crate) async fn listen(
    listener: TcpListener,
    app: Router,
    metrics: Arc<Metrics>,
    mut quitting: watch::Receiver<bool>,
) {
    let builder = builder();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
            (place, accept(&listener).await)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            _ = quitting.wait_for(|&quit| quit) => break,
        };
        let spoke = Arc::new(AtomicBool::new(false));
        let service = {
            let (app, metrics, spoke) = (app.clone(), Arc::clone(&metrics), Arc::clone(&spoke));
            service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                spoke.store(true, Ordering::Relaxed);
                let reply = app.clone().call(request.map(Body::new));
                let metrics = Arc::clone(&metrics);
                async move {
                    let reply = reply.await;
                    if let Ok(reply) = &reply
                        && let Some(&code) = reply.extensions().get::<Code>()
                    {
                        metrics.problem(code);
                    }
                    reply
                }
            })
        };
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _place = place;
            tokio::pin!(connection);
            // The timer of each protocol starts when it is known which one is spoken.
            tokio::select! {
                // A connection that breaks is its peer's affair.
                _ = &mut connection => return,
                () = tokio::time::sleep(HEADER_WAIT) => {}
            }
            if spoke.load(Ordering::Relaxed) {
                let _ = connection.await;
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
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
                tokio::time::sleep(ACCEPT_PAUSE).await;
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
