//! A worker on the network: where it listens, what it lets in, and how it stops.

mod common;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, UNIX_EPOCH};

use common::{Wallet, branch, until};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use unanimous_client::participant::{BranchName, Service, SqliteStore, Steps};
use unanimous_client::{BindError, Client, Ending, Worker};
use unanimous_core::id::{BranchId, ShardId, TxnId};

/// A worker that runs until it is told to stop.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ending: JoinHandle<Ending>,
}

impl Running {
    async fn start(worker: Worker) -> Self {
        let bound = worker.bind("127.0.0.1:0").await.expect("a free port");
        let address = bound.address();
        let (stop, stopping) = oneshot::channel();
        Self { address, stop, ending: tokio::spawn(bound.run_until(stopping)) }
    }

    async fn stop(self) -> Ending {
        self.stop.send(()).expect("it runs");
        self.ending.await.expect("it does not panic")
    }

    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("it accepts");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        stream
    }

    /// All that is answered until the worker closes the connection.
    async fn ask(&self, request: &str) -> String {
        heard(self.send(request).await).await
    }
}

async fn heard(mut stream: TcpStream) -> String {
    let mut seen = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut seen)).await;
    // A connection that is reset is closed too.
    drop(read.expect("it closes in time"));
    String::from_utf8_lossy(&seen).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

fn post(path: &str, branch: &BranchName, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\
         unanimous-transaction: {}\r\nunanimous-branch: {branch}\r\n\
         idempotency-key: {branch}:act\r\n\r\n{body}",
        body.len(),
        branch.txn,
    )
}

fn step() -> BranchName {
    let now = UNIX_EPOCH.elapsed().expect("it is after 1970").as_millis() as u64;
    let txn = TxnId::mint(now, ShardId::of(0), 7 << 70);
    BranchName { cluster: "test".to_owned(), txn, branch: BranchId(0) }
}

/// What a deed waits for, and says when it begins.
struct Gate {
    began: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

/// Steps whose action waits in the middle of its work.
fn waiting_steps(folder: &TempDir) -> (Steps<SqliteStore>, Receiver<()>, Sender<()>) {
    let (began, has_begun) = channel();
    let (let_go, go_on) = channel();
    let gate = Gate { began, go_on: Mutex::new(go_on) };
    let set_up = |db: &Connection| {
        db.execute_batch("CREATE TABLE IF NOT EXISTS done (id INTEGER PRIMARY KEY)")
    };
    let store = SqliteStore::of_steps(folder.path().join("steps.db"), set_up).expect("opens");
    let steps = Steps::new(store).act("/wait", move |db, _| {
        gate.began.send(()).expect("the test listens");
        gate.go_on.lock().expect("no panic").recv().expect("the test lets it go on");
        db.execute("INSERT INTO done DEFAULT VALUES", [])?;
        Ok("waited")
    });
    (steps, has_begun, let_go)
}

async fn begun(has_begun: &Receiver<()>) {
    until("the step has begun", async || has_begun.try_recv().is_ok()).await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_apart_from_one_that_is_none() {
    let first = Worker::new().bind("127.0.0.1:0").await.expect("a free port");
    let taken = Worker::new().bind(first.address()).await.expect_err("it is taken");
    assert!(matches!(&taken, BindError::Taken(it) if *it == first.address().to_string()));
    assert!(taken.to_string().contains("is taken"), "{taken}");
    let nowhere = Worker::new().bind("192.0.2.1:0").await.expect_err("not of this machine");
    assert!(matches!(nowhere, BindError::Unusable { .. }), "{nowhere}");
}

#[tokio::test]
async fn a_step_that_is_under_way_is_answered_before_the_worker_ends() {
    let folder = TempDir::new().expect("a folder");
    let (steps, has_begun, let_go) = waiting_steps(&folder);
    let worker = Running::start(Worker::new().steps(steps)).await;
    let address = worker.address;
    let idle = worker.send(&get("/healthz").replace("close", "keep-alive")).await;
    let call = worker.send(&post("/wait", &step(), "")).await;
    begun(&has_begun).await;
    let ending = tokio::spawn(worker.stop());
    until("it listens no more", async || TcpStream::connect(address).await.is_err()).await;
    assert!(heard(idle).await.contains("200 OK"), "an idle connection ends with the worker");
    let_go.send(()).expect("it waits");
    let answer = heard(call).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\"waited\""), "{answer}");
    assert_eq!(ending.await.expect("it does not panic"), Ending::Finished);
}

#[tokio::test]
async fn a_worker_waits_no_longer_than_its_grace_and_says_how_many_calls_it_cut_off() {
    let folder = TempDir::new().expect("a folder");
    let (steps, has_begun, let_go) = waiting_steps(&folder);
    let worker = Running::start(Worker::new().steps(steps).grace_ms(50)).await;
    let call = worker.send(&post("/wait", &step(), "")).await;
    begun(&has_begun).await;
    assert_eq!(worker.stop().await, Ending::CutOff(1));
    assert_eq!(heard(call).await, "");
    let_go.send(()).expect("it waits");
}

#[tokio::test]
async fn a_participant_is_served_below_its_path_beside_steps() {
    let folder = TempDir::new().expect("a folder");
    let (steps, _has_begun, _let_go) = waiting_steps(&folder);
    let store = SqliteStore::open(folder.path().join("wallet.db"), Wallet).expect("opens");
    let coordinator = Client::connect("http://127.0.0.1:9").expect("an address");
    let service = Service::new(store, coordinator);
    let worker = Running::start(Worker::new().steps(steps).participant("/wallet", service)).await;
    let yes = worker.ask(&post("/wallet/prepare", &branch(1), r#"{"amount": 7}"#)).await;
    assert!(yes.starts_with("HTTP/1.1 200") && yes.ends_with(r#"{"result":{"held":7}}"#), "{yes}");
    let nothing = worker.ask(&get("/elsewhere")).await;
    assert!(nothing.starts_with("HTTP/1.1 404") && nothing.contains("no_such_path"), "{nothing}");
    assert_eq!(worker.stop().await, Ending::Finished);
}

#[tokio::test]
async fn a_call_that_is_too_large_is_told_so() {
    let folder = TempDir::new().expect("a folder");
    let (steps, ..) = waiting_steps(&folder);
    let worker = Running::start(Worker::new().steps(steps)).await;
    let body = "x".repeat(unanimous_client::limits::CALL_BYTES_MAX + 1);
    let mut stream = worker.send("").await;
    let request = post("/wait", &step(), &body);
    // It may close before it has read all.
    drop(stream.write_all(request.as_bytes()).await);
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn those_for_whom_a_worker_has_no_place_wait_until_there_is_one() {
    let worker = Running::start(Worker::new().connections_max(1)).await;
    let silent = worker.send("").await;
    let asked = worker.send(&get("/healthz")).await;
    let mut asked = tokio::spawn(heard(asked));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut asked).await;
    assert!(early.is_err(), "the only place is taken");
    drop(silent);
    let answer = asked.await.expect("it does not panic");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
}
