//! Connections that break at some byte of a question or an answer.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Toward {
    Server,
    Client,
}

/// Passes everything on until it is told to break.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Bytes that still pass toward server and client; below zero, all.
    left: Arc<[AtomicI64; 2]>,
}

impl Proxy {
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let left = Arc::new([AtomicI64::new(-1), AtomicI64::new(-1)]);
        let budget = Arc::clone(&left);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for (index, from, to) in [(0, &client, &server), (1, &server, &client)] {
                    let (from, to) = (clone(from), clone(to));
                    let budget = Arc::clone(&budget);
                    std::thread::spawn(move || pass(from, to, &budget[index]));
                }
            }
        });
        Self { port, left }
    }

    /// Breaks one connection after so many bytes more.
    pub(crate) fn cut(&self, toward: Toward, bytes: i64) {
        self.left[toward as usize].store(bytes, Ordering::SeqCst);
    }

    /// Whether it has broken.
    pub(crate) fn has_cut(&self) -> bool {
        self.left.iter().all(|left| left.load(Ordering::SeqCst) < 0)
    }

    pub(crate) fn heal(&self) {
        self.left.iter().for_each(|left| left.store(-1, Ordering::SeqCst));
    }
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a handle more")
}

fn pass(mut from: TcpStream, mut to: TcpStream, left: &AtomicI64) {
    let mut buffer = [0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let allowed = left.load(Ordering::SeqCst);
        let cut = (0..i64::try_from(count).expect("few")).contains(&allowed);
        let passes = if cut { usize::try_from(allowed).expect("not negative") } else { count };
        if allowed >= 0 {
            left.store(if cut { -1 } else { allowed - passes as i64 }, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..passes]).is_err() || cut {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
