//! Connections that break after every possible byte, in both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use unanimous_core::{Answer, Verb};
use unanimous_participants::Call;
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};

use crate::common::{Shop, done, finish, prepare};

#[derive(Clone, Copy, Debug)]
enum Toward {
    Server,
    Client,
}

/// Passes everything on until it is told to break.
struct Proxy {
    port: u16,
    /// Bytes that still pass toward the server and the client; below zero, all.
    left: Arc<[AtomicI64; 2]>,
}

impl Proxy {
    async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let left = Arc::new([AtomicI64::new(-1), AtomicI64::new(-1)]);
        let shared = Arc::clone(&left);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.expect("it listens");
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

    /// Breaks every connection when this many more bytes have passed in one direction.
    fn cut_after(&self, bytes: i64, toward: Toward) {
        self.mend();
        self.left[toward as usize].store(bytes, Ordering::SeqCst);
    }

    fn mend(&self) {
        self.left.iter().for_each(|left| left.store(-1, Ordering::SeqCst));
    }

    /// Whether it has broken one since it was told to.
    fn has_cut(&self) -> bool {
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

#[tokio::test]
async fn a_vote_that_is_cut_off_after_any_byte_is_asked_for_again_and_counts_once() {
    let Some(shop) = Shop::start(&[]) else { return };
    let proxy = Proxy::start(shop.server.port()).await;
    let direct = shop.resource();
    let mut count = 0;
    for toward in [Toward::Server, Toward::Client] {
        for bytes in 0.. {
            let through = shop.at(&format!("redis://127.0.0.1:{}", proxy.port));
            // A connection is made before the cut counts.
            let warm = prepare(&through, &fresh_name(), shop.read()).await;
            assert!(matches!(warm, Answer::ReadOnly(_)), "{warm:?}");
            proxy.cut_after(bytes, toward);
            let name = fresh_name();
            let answer = prepare(&through, &name, shop.add(1)).await;
            let whole = !proxy.has_cut();
            proxy.mend();
            assert!(matches!(answer, Answer::Yes(_) | Answer::Silent(_)), "{bytes}: {answer:?}");
            let again = Call { attempt: 2, ..call(&name, Verb::Prepare, shop.add(1)) };
            let again = direct.call(again).await;
            assert!(matches!(again, Answer::Yes(_)), "{toward:?} {bytes}: {again:?}");
            assert_eq!(finish(&direct, &name, Verb::Commit).await, done(), "{toward:?} {bytes}");
            count += 1;
            if whole {
                break;
            }
        }
    }
    assert_eq!(shop.counter(), 1_000 + count);
    assert!(shop.prepared().is_empty());
}

#[tokio::test]
async fn a_decision_that_is_cut_off_after_any_byte_is_done_when_it_is_asked_again() {
    let Some(shop) = Shop::start(&[]) else { return };
    let proxy = Proxy::start(shop.server.port()).await;
    let direct = shop.resource();
    let mut count = 0;
    for (verb, added) in [(Verb::Commit, 1), (Verb::Rollback, 0)] {
        for toward in [Toward::Server, Toward::Client] {
            for bytes in 0.. {
                let through = shop.at(&format!("redis://127.0.0.1:{}", proxy.port));
                through.in_doubt(Duration::from_secs(10)).await.expect("a connection is made");
                let name = fresh_name();
                let answer = prepare(&direct, &name, shop.add(1)).await;
                assert!(matches!(answer, Answer::Yes(_)), "{answer:?}");
                proxy.cut_after(bytes, toward);
                let first = finish(&through, &name, verb).await;
                let whole = !proxy.has_cut();
                proxy.mend();
                assert!(matches!(first, Answer::Done(_) | Answer::Silent(_)), "{bytes}: {first:?}");
                assert_eq!(finish(&direct, &name, verb).await, done(), "{toward:?} {bytes}");
                count += added;
                if whole {
                    break;
                }
            }
        }
    }
    assert_eq!(shop.counter(), 1_000 + count);
    assert!(shop.prepared().is_empty());
}
