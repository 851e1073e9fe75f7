//! Sagas whose steps are served by a worker that is replaced by another in the middle.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use unanimous_client::participant::{No, SqliteStore, StepCall, Steps};
use unanimous_client::{Client, Completed, Ending, Error, Step, Worker};
use unanimous_participants::testing::until;

use crate::scene::Coordinator;

/// A shop whose books are in one file, whoever serves it.
struct Shop {
    folder: TempDir,
    /// How often the work of `/charge` was begun.
    charges: Arc<AtomicUsize>,
}

/// Holds up the work of `/charge` for as long as its other end is there.
struct Pause {
    began: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

struct Running {
    stop: oneshot::Sender<()>,
    ending: JoinHandle<Ending>,
}

impl Running {
    async fn stop(self) -> Ending {
        self.stop.send(()).expect("it runs");
        self.ending.await.expect("it does not panic")
    }
}

fn note(db: &Connection, call: &StepCall, what: &str) -> Result<(), No> {
    db.execute("INSERT INTO done VALUES (?1, ?2)", [&call.branch().to_string(), what])?;
    Ok(())
}

impl Shop {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder"), charges: Arc::default() }
    }

    fn steps(&self, pause: Option<Pause>) -> Steps<SqliteStore> {
        let set_up = |db: &Connection| {
            db.execute_batch("CREATE TABLE IF NOT EXISTS done (branch TEXT, what TEXT)")
        };
        let store = SqliteStore::of_steps(self.folder.path().join("shop.db"), set_up);
        let charges = Arc::clone(&self.charges);
        Steps::new(store.expect("opens"))
            .act("/charge", move |db, call| {
                let amount: i64 = call.json()?;
                charges.fetch_add(1, Ordering::Relaxed);
                if let Some(Pause { began, go_on }) = &pause {
                    began.send(()).expect("the test listens");
                    // It is let go on when the other end is dropped.
                    go_on.lock().expect("no panic").recv().expect_err("nothing is sent");
                }
                note(db, call, "charge")?;
                Ok(json!({"charged": amount}))
            })
            .compensate("/refund", |db, call| note(db, call, "refund"))
            .act("/ticket", |db, call| note(db, call, "ticket"))
    }

    async fn serve(&self, address: SocketAddr, worker: Worker) -> (SocketAddr, Running) {
        let bound = worker.bind(address).await.expect("the address is free");
        let address = bound.address();
        let (stop, stopping) = oneshot::channel();
        (address, Running { stop, ending: tokio::spawn(bound.run_until(stopping)) })
    }

    /// What was done so far.
    fn done(&self) -> Vec<String> {
        let db = Connection::open(self.folder.path().join("shop.db")).expect("opens");
        let mut rows = db.prepare("SELECT what FROM done ORDER BY rowid").expect("readable");
        let done = rows.query_map([], |row| row.get(0)).expect("readable");
        done.collect::<Result<_, _>>().expect("texts")
    }
}

/// A saga of a charge and a ticket, under way at a worker that is held up in the charge.
struct Scene {
    shop: Shop,
    address: SocketAddr,
    first: Running,
    let_go: Sender<()>,
    saga: JoinHandle<Result<Completed, Error>>,
    _coordinator: Coordinator,
}

impl Scene {
    async fn in_the_charge(grace_ms: u64) -> Self {
        let shop = Shop::new();
        let (began, has_begun) = channel();
        let (let_go, go_on) = channel();
        let steps = shop.steps(Some(Pause { began, go_on: Mutex::new(go_on) }));
        let worker = Worker::new().steps(steps).grace_ms(grace_ms);
        let (address, first) = shop.serve(([127, 0, 0, 1], 0).into(), worker).await;
        let coordinator = Coordinator::start(&[("shop", format!("http://{address}"))]).await;
        let saga = tokio::spawn(order(coordinator.client.clone()));
        until("the charge has begun", async || has_begun.try_recv().is_ok()).await;
        Self { shop, address, first, let_go, saga, _coordinator: coordinator }
    }
}

async fn order(client: Client) -> Result<Completed, Error> {
    let charge = Step::new("charge").calls("shop", "/charge").body(json!(500));
    let order = client
        .saga()
        .step(charge.undone_by("shop", "/refund"))
        .step(Step::new("ticket").after(["charge"]).calls("shop", "/ticket").pivot());
    order.run().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_stopped_answers_its_step_and_the_next_one_goes_on_with_the_saga() {
    let scene = Scene::in_the_charge(60_000).await;
    let ending = tokio::spawn(scene.first.stop());
    drop(scene.let_go);
    assert_eq!(ending.await.expect("it does not panic"), Ending::Finished);
    let worker = Worker::new().steps(scene.shop.steps(None));
    let (_, second) = scene.shop.serve(scene.address, worker).await;
    scene.saga.await.expect("it does not panic").expect("it completes");
    assert_eq!(scene.shop.charges.load(Ordering::Relaxed), 1);
    assert_eq!(scene.shop.done(), ["charge", "ticket"]);
    assert_eq!(second.stop().await, Ending::Finished);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_did_and_could_not_say_is_answered_by_the_next_one_from_the_store() {
    let scene = Scene::in_the_charge(1).await;
    assert_eq!(scene.first.stop().await, Ending::CutOff(1));
    drop(scene.let_go);
    until("it is done all the same", async || scene.shop.done() == ["charge"]).await;
    let worker = Worker::new().steps(scene.shop.steps(None));
    let (_, second) = scene.shop.serve(scene.address, worker).await;
    let completed = scene.saga.await.expect("it does not panic").expect("it completes");
    let charged: serde_json::Value = completed.result("charge").expect("a result");
    assert_eq!(charged, json!({"charged": 500}));
    assert_eq!(scene.shop.charges.load(Ordering::Relaxed), 1, "asked for twice and done once");
    assert_eq!(scene.shop.done(), ["charge", "ticket"]);
    assert_eq!(second.stop().await, Ending::Finished);
}
