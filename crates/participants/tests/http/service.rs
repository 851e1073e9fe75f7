//! A service that answers every way a service can.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use unanimous_core::commit::Shape;
use unanimous_core::id::{BranchId, BranchName, ShardId, Timestamp, TxnId};
use unanimous_core::{Opaque, Verb};
use unanimous_participants::{Call, Turn};

/// From a request to the bytes of its reply.
pub(crate) type Replying = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// What the service does with every request.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Sends these bytes.
    Says(Vec<u8>),
    /// Sends these bytes and closes the connection.
    Hangs(Vec<u8>),
    /// Reads, and never answers.
    Stalls,
    /// Sends what this makes of the request, and closes the connection if that breaks off.
    Answers(Replying),
}

/// A service on a free port, and what it was sent.
pub(crate) struct Service {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
    pub(crate) connections: Arc<Mutex<usize>>,
}

impl Service {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/bank/", listener.local_addr().expect("bound"));
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let connections = Arc::<Mutex<usize>>::default();
        let (seen, made) = (Arc::clone(&requests), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *made.lock().expect("not poisoned") += 1;
                tokio::spawn(serve(stream, manner.clone(), Arc::clone(&seen)));
            }
        });
        Self { url, requests, connections }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

async fn serve(mut stream: TcpStream, manner: Manner, seen: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = read_request(&mut stream).await {
        seen.lock().expect("not poisoned").push(request.clone());
        match &manner {
            Manner::Says(bytes) => stream.write_all(bytes).await.expect("the client reads"),
            Manner::Hangs(bytes) => {
                stream.write_all(bytes).await.expect("the client reads");
                return;
            }
            Manner::Stalls => std::future::pending().await,
            Manner::Answers(answer) => {
                let bytes = answer(&request);
                stream.write_all(&bytes).await.expect("the client reads");
                if !is_whole(&bytes) {
                    return;
                }
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.ok().filter(|&read| read > 0)?;
        text += std::str::from_utf8(&chunk[..read]).expect("requests are ascii here");
        if is_whole(text.as_bytes()) {
            return Some(text);
        }
    }
}

fn is_whole(message: &[u8]) -> bool {
    let text = String::from_utf8_lossy(message);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().expect("a number"))
}

pub(crate) fn reply(status: &str, body: &str) -> Manner {
    Manner::Says(replied(status, body))
}

pub(crate) fn replied(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

pub(crate) fn call(verb: Verb) -> Call {
    let txn = TxnId::mint(1_763_700_000_000, ShardId::of(3), 99);
    Call {
        name: BranchName { cluster: "main".to_owned(), txn, branch: BranchId(1) },
        verb,
        shape: Shape::Atomic,
        work: Opaque::new(br#"{"amount":500}"#),
        returned: Opaque::default(),
        attempt: 2,
        trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().expect("a trace"),
        deadline: Timestamp(1_763_700_030_123),
        patience: Duration::from_secs(10),
        is_listed: false,
        turn: Turn::default(),
    }
}
