//! A connection that breaks after a chosen byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A direction.
#[derive(Clone, Copy, Debug)]
pub enum Toward {
    /// Questions.
    Server,
    /// Answers.
    Client,
}

/// Passes everything on to a server until it is told to break.
pub struct Proxy {
    port: u16,
    /// Bytes that still pass toward the server and the client; below zero, all.
    left: Arc<[AtomicI64; 2]>,
}

impl Proxy {
    /// One before the server at this port of this machine.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let left = Arc::new([AtomicI64::new(-1), AtomicI64::new(-1)]);
        let shared = Arc::clone(&left);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.expect("it listens");
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("it is connected");
                }
                let left = Arc::clone(&shared);
                tokio::spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = pass(from_client, to_server, &left[0]) => {}
                        () = pass(from_server, to_client, &left[1]) => {}
                    }
                });
            }
        });
        Self { port, left }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks every connection when this many more bytes have passed in one direction.
    pub fn cut_after(&self, bytes: i64, toward: Toward) {
        self.mend();
        self.left[toward as usize].store(bytes, Ordering::SeqCst);
    }

    /// Lets everything pass.
    pub fn mend(&self) {
        self.left.iter().for_each(|left| left.store(-1, Ordering::SeqCst));
    }

    /// Whether it has broken one since it was told to.
    pub fn has_cut(&self) -> bool {
        self.left.iter().any(|left| left.load(Ordering::SeqCst) == 0)
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, left: &AtomicI64) {
    let mut bytes = [0; 4_096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let allowed = left.load(Ordering::SeqCst);
        let passed = usize::try_from(allowed).map_or(read, |allowed| allowed.min(read));
        if to.write_all(&bytes[..passed]).await.is_err() {
            return;
        }
        if allowed >= 0 {
            let rest = allowed - passed as i64;
            left.store(rest, Ordering::SeqCst);
            if rest == 0 {
                return;
            }
        }
    }
}
