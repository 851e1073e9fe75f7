//! Connections: taken one by one, bounded in number, size and patience.
//!
//! A peer that says nothing, or says it one byte at a time, holds a connection for no longer than
//! [`HEADER_WAIT`]. When all are taken, new ones wait in the system's queue.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tower::Service;
use unanimous_api::Code;

use crate::limits::{
    ACCEPT_PAUSE, CLOSED_FIRST, CONNECTIONS_MAX, CONNECTIONS_OF_FILES, CONNECTIONS_QUEUED,
    HEADER_BYTES_MAX, HEADER_WAIT, PING_INTERVAL, STREAMS_MAX, UNREAD_BYTES_MAX,
};
use crate::metrics::Metrics;

/// How much is taken from peers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    connections_max: usize,
    header_wait: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        let (most, of) = CONNECTIONS_OF_FILES;
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / of * most;
        let connections_max =
            usize::try_from(files).unwrap_or(usize::MAX).clamp(1, CONNECTIONS_MAX);
        Self { connections_max, header_wait: HEADER_WAIT }
    }
}

/// Connections that begin with a request for one path have threads of their own: nothing else that goes
/// on makes them late. Each is for that one request.
#[derive(Clone, Debug)]
pub(crate) struct Apart {
    pub(crate) path: &'static str,
    pub(crate) threads: Handle,
}

/// Listens there. The system's queue holds all who come at once when another node has died.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(CONNECTIONS_QUEUED)
}

/// Serves connections until `quitting` is set; returns when the last of them has ended.
pub(crate) async fn listen(
    listener: TcpListener,
    app: Router,
    bounds: Bounds,
    apart: Option<Apart>,
    metrics: Arc<Metrics>,
    mut quitting: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(bounds.connections_max));
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
        let watcher = graceful.watcher();
        let serve = move |stream: TcpStream, builder: Builder<TokioExecutor>| async move {
            let _place = place;
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = watcher.watch(connection);
            tokio::pin!(connection);
            // The timer of each protocol starts when it is known which one is spoken.
            tokio::select! {
                // A connection that breaks is its peer's affair.
                _ = &mut connection => return,
                () = tokio::time::sleep(bounds.header_wait) => {}
            }
            if spoke.load(Ordering::Relaxed) {
                let _ = connection.await;
            }
        };
        let apart = apart.clone();
        tokio::spawn(async move {
            let Some(Apart { path, threads }) = apart else {
                return serve(stream, builder(bounds)).await;
            };
            let begins = timeout(bounds.header_wait, begins_with(&stream, path)).await;
            match begins {
                Ok(true) => {
                    let Ok(stream) = stream.into_std().map(closed_first) else { return };
                    threads.spawn(async move {
                        let mut builder = builder(bounds);
                        builder.http1().keep_alive(false);
                        // One that cannot be served is made again.
                        if let Ok(stream) = TcpStream::from_std(stream) {
                            serve(stream, builder).await;
                        }
                    });
                }
                Ok(false) => serve(stream, builder(bounds)).await,
                // Nothing was said.
                Err(_) => {}
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Whether the first that comes asks for this path. In pieces it may be taken for something else.
async fn begins_with(stream: &TcpStream, path: &str) -> bool {
    let expected = format!("GET {path} ");
    let mut seen = vec![0; expected.len()];
    matches!(stream.peek(&mut seen).await, Ok(count) if seen[..count] == *expected.as_bytes())
}

/// The same connection under a number above those of all others. Of a process that is killed the system
/// closes the highest first: its peer hears of that before a hundred databases' sessions end, which takes
/// a small machine a tenth of a second.
fn closed_first(stream: std::net::TcpStream) -> std::net::TcpStream {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).min(CLOSED_FIRST.0);
    let above = files.saturating_sub(CLOSED_FIRST.1);
    // Where there is none to be had, it is closed in its turn.
    rustix::io::fcntl_dupfd_cloexec(&stream, above as i32).map_or(stream, Into::into)
}

fn builder(bounds: Bounds) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_wait)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_connection_window_size(UNREAD_BYTES_MAX)
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    async fn serve(bounds: Bounds) -> (SocketAddr, watch::Sender<bool>) {
        serve_apart(bounds, &Handle::current()).await
    }

    async fn serve_apart(bounds: Bounds, apart: &Handle) -> (SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let thread = || async { std::thread::current().name().unwrap_or_default().to_owned() };
        let app = Router::new().route("/", get(|| async { "ok" })).route("/apart", get(thread));
        let (quit, quitting) = watch::channel(false);
        let apart = Apart { path: "/apart", threads: apart.clone() };
        let metrics = Arc::new(Metrics::new());
        tokio::spawn(listen(listener, app, bounds, Some(apart), metrics, quitting));
        (address, quit)
    }

    async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        stream.write_all(bytes).await.expect("it reads");
        stream
    }

    /// Everything that comes back before the other side closes.
    async fn heard(mut stream: TcpStream) -> String {
        let mut seen = Vec::new();
        let read = stream.read_to_end(&mut seen);
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        // A connection that is reset is closed too.
        drop(read.expect("it closes in time"));
        String::from_utf8_lossy(&seen).into_owned()
    }

    #[tokio::test]
    async fn peers_that_stop_in_the_middle_are_cut_off() {
        let bounds = Bounds { header_wait: Duration::from_millis(100), ..Bounds::default() };
        let (address, _quit) = serve(bounds).await;
        for begun in [&b""[..], b"G", b"PRI * HTTP/2.0\r\n", &REQUEST[..REQUEST.len() - 1]] {
            let started = Instant::now();
            assert!(!heard(send(address, begun).await).await.contains("200"));
            assert!(started.elapsed() < Duration::from_secs(5));
        }
        let idle = heard(send(address, REQUEST).await).await;
        assert!(idle.starts_with("HTTP/1.1 200"), "{idle}");
    }

    #[tokio::test]
    async fn those_for_whom_there_is_no_place_wait_until_there_is() {
        let bounds = Bounds { connections_max: 2, header_wait: Duration::from_millis(300) };
        let (address, _quit) = serve(bounds).await;
        let _silent = [send(address, b"").await, send(address, b"").await];
        let reply = heard(send(address, REQUEST).await).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }

    #[tokio::test]
    async fn what_is_apart_has_its_own_threads_and_one_request_for_each_connection() {
        let bounds = Bounds { header_wait: Duration::from_millis(300), ..Bounds::default() };
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("elsewhere").enable_all().build();
        let runtime = runtime.expect("there is room for a thread");
        let (address, quit) = serve_apart(bounds, runtime.handle()).await;
        let (apart, usual) = (&b"GET /apart HTTP/1.1\r\nhost: x\r\n\r\n"[..], REQUEST);
        let reply = heard(send(address, &[apart, usual].concat()).await).await;
        assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("elsewhere"), "{reply}");
        assert!(heard(send(address, b"GET /apart HTTP/1.1\r\n").await).await.is_empty());
        quit.send_replace(true);
        runtime.shutdown_background();
    }

    #[test]
    fn what_is_closed_first_has_a_number_above_all_that_is_opened_in_turn() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connect = || std::net::TcpStream::connect(address).expect("it listens");
        let first = closed_first(connect());
        let later: Vec<_> = (0..20).map(|_| connect()).collect();
        assert!(later.iter().all(|it| it.as_raw_fd() < first.as_raw_fd()));
    }

    #[tokio::test]
    async fn idle_connections_end_with_the_server() {
        let (address, quit) = serve(Bounds::default()).await;
        let mut stream = send(address, REQUEST).await;
        let mut seen = [0; 12];
        stream.read_exact(&mut seen).await.expect("an answer");
        quit.send_replace(true);
        heard(stream).await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
