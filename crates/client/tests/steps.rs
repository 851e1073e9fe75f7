//! Steps of sagas at a service: repeats, wrong orders, refusals, restarts, calls at the same time.

mod common;

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use common::send;
use http::Request;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tempfile::TempDir;
use unanimous_client::participant::{BranchName, No, SqliteStore, StepCall, Steps};
use unanimous_core::id::{BranchId, ShardId, TxnId};

/// A step of a saga of its own for each number.
fn branch(number: u128) -> BranchName {
    static STARTED: LazyLock<Duration> =
        LazyLock::new(|| UNIX_EPOCH.elapsed().expect("it is after 1970"));
    branch_at(STARTED.as_millis() as u64, number)
}

fn branch_at(unix_ms: u64, number: u128) -> BranchName {
    // What `mint` keeps of its entropy is not its lowest bits.
    let txn = TxnId::mint(unix_ms, ShardId::of(0), number << 70 | number);
    BranchName { cluster: "test".to_owned(), txn, branch: BranchId(0) }
}

#[derive(serde::Deserialize)]
struct Seat {
    seat: u32,
}

fn reserve(db: &Connection, call: &StepCall) -> Result<Value, No> {
    let Seat { seat } = call.json()?;
    let held = "INSERT OR IGNORE INTO seat VALUES (?1, ?2)";
    match db.execute(held, params![seat, call.branch().to_string()])? {
        1 => Ok(json!({"hold": seat, "user": call.headers()["user"].to_str().unwrap_or("nobody")})),
        _ => {
            db.execute("UPDATE calls SET refused = refused + 1", [])?;
            Err(No::refused("sold_out", format!("seat {seat} is taken")))
        }
    }
}

fn release(db: &Connection, call: &StepCall) -> Result<(), No> {
    let acted: Value = call.result()?;
    if db.query_row("SELECT shut FROM calls", [], |row| row.get(0))? {
        db.execute("DELETE FROM seat", [])?;
        return Err(No::refused("shut", "the counter is shut"));
    }
    let deleted = db.execute("DELETE FROM seat WHERE id = ?1", [acted["hold"].as_i64()])?;
    assert_eq!(deleted, 1, "undone only what was done");
    Ok(())
}

struct Airline {
    folder: TempDir,
    store: SqliteStore,
    router: Router,
}

impl Airline {
    fn open() -> Self {
        Self::in_folder(TempDir::new().expect("a folder"))
    }

    fn in_folder(folder: TempDir) -> Self {
        let set_up = |db: &Connection| {
            db.execute_batch(
                "CREATE TABLE IF NOT EXISTS seat (id INT PRIMARY KEY, branch TEXT NOT NULL);
                 CREATE TABLE IF NOT EXISTS calls AS SELECT 0 AS refused, 0 AS shut;",
            )
        };
        let store = SqliteStore::of_steps(folder.path().join("air.db"), set_up).expect("opens");
        let steps = Steps::new(store.clone())
            .act("/reserve", reserve)
            .compensate("/release", release)
            .act("/fail", |_, _| Err::<(), _>(No::Failed("not today".into())))
            .act("/panic", |_, _| -> Result<(), No> { panic!("not today") })
            .act("/large", |_, _| Ok("x".repeat(70_000)));
        Self { folder, store, router: steps.router() }
    }

    fn reopened(self) -> Self {
        let Self { folder, store, router } = self;
        drop((store, router));
        Self::in_folder(folder)
    }

    async fn act(&self, number: u128, seat: u32) -> (u16, Value) {
        let body = format!(r#"{{"seat":{seat}}}"#);
        step(&self.router, "/reserve", "act", &branch(number), &body).await
    }

    async fn undo(&self, number: u128) -> (u16, Value) {
        step(&self.router, "/release", "compensate", &branch(number), "{}").await
    }

    async fn seats(&self) -> Vec<u32> {
        let read = self.store.local(|db| {
            let mut rows = db.prepare("SELECT id FROM seat ORDER BY id")?;
            let seats = rows.query_map([], |row| row.get(0))?;
            Ok(seats.collect::<Result<_, _>>()?)
        });
        read.await.expect("the seats can be read")
    }
}

async fn step(
    router: &Router,
    path: &str,
    word: &str,
    branch: &BranchName,
    body: &str,
) -> (u16, Value) {
    let request = Request::post(path)
        .header("unanimous-transaction", branch.txn.to_string())
        .header("unanimous-branch", branch.to_string())
        .header("unanimous-attempt", "1")
        .header("idempotency-key", format!("{branch}:{word}"))
        .header("user", "ann");
    send(router, request.body(Body::from(body.to_owned())).expect("a request")).await
}

#[tokio::test]
async fn a_step_acts_once_and_its_result_is_told_again_also_after_a_restart() {
    let airline = Airline::open();
    let acted = (200, json!({"hold": 7, "user": "ann"}));
    assert_eq!(airline.act(1, 7).await, acted);
    assert_eq!(airline.act(1, 7).await, acted);
    let airline = airline.reopened();
    assert_eq!(airline.act(1, 8).await, acted, "the body of a repeat does not count");
    assert_eq!(airline.seats().await, [7]);
}

#[tokio::test]
async fn a_step_is_undone_once_and_bars_what_comes_later() {
    let mut airline = Airline::open();
    airline.act(1, 7).await;
    airline.act(2, 8).await;
    for _ in 0..2 {
        assert_eq!(airline.undo(1).await, (200, Value::Null));
        assert_eq!(airline.seats().await, [8]);
        airline = airline.reopened();
    }
    let (status, body) = airline.act(1, 7).await;
    assert_eq!((status, &body["kind"]), (409, &json!("barred")));
    assert_eq!(airline.seats().await, [8]);
}

#[tokio::test]
async fn a_compensation_of_what_never_acted_bars_it_and_does_nothing() {
    let airline = Airline::open();
    airline.act(2, 7).await;
    assert_eq!(airline.undo(1).await, (200, Value::Null));
    let (status, body) = airline.act(1, 8).await;
    assert_eq!((status, &body["kind"]), (409, &json!("barred")));
    assert_eq!(airline.seats().await, [7]);
}

#[tokio::test]
async fn a_refusal_is_final_leaves_nothing_and_has_nothing_to_undo() {
    let airline = Airline::open();
    airline.act(1, 7).await;
    let no = (409, json!({"kind": "sold_out", "detail": "seat 7 is taken"}));
    assert_eq!(airline.act(2, 7).await, no);
    airline.undo(1).await;
    assert_eq!(airline.act(2, 7).await, no, "though the seat is free by now");
    assert_eq!(airline.undo(2).await, (200, Value::Null));
    assert_eq!(airline.seats().await, [0_u32; 0]);
    let read = airline
        .store
        .local(|db| Ok(db.query_row("SELECT refused FROM calls", [], |row| row.get::<_, u32>(0))?));
    assert_eq!(read.await.expect("readable"), 0, "what a refusal wrote was kept");
    let (status, body) = step(&airline.router, "/reserve", "act", &branch(3), "[]").await;
    assert_eq!((status, &body["kind"]), (409, &json!("bad_body")));
}

#[tokio::test]
async fn a_compensation_that_was_refused_is_done_when_it_is_asked_again() {
    let airline = Airline::open();
    airline.act(1, 7).await;
    let shut = |shut: bool| {
        airline.store.local(move |db| Ok(db.execute("UPDATE calls SET shut = ?1", [shut])?))
    };
    shut(true).await.expect("written");
    let no = (409, json!({"kind": "shut", "detail": "the counter is shut"}));
    assert_eq!((airline.undo(1).await, airline.undo(1).await), (no.clone(), no));
    assert_eq!(airline.seats().await, [7], "nothing of a refused compensation is left");
    shut(false).await.expect("written");
    assert_eq!(airline.undo(1).await, (200, Value::Null));
    assert_eq!(airline.seats().await, [0_u32; 0]);
}

#[tokio::test]
async fn calls_of_one_step_at_the_same_time_are_one_effect() {
    let airline = Airline::open();
    for number in 1..=20 {
        let act = || airline.act(number, number as u32);
        let answers = tokio::join!(act(), airline.undo(number), act(), airline.undo(number), act());
        let (a, first, b, second, c) = answers;
        assert_eq!((first.0, second.0), (200, 200));
        assert!([a, b, c].iter().all(|it| it.0 == 200 || it.0 == 409));
        assert_eq!(airline.seats().await, [0_u32; 0], "nothing acts behind its compensation");
    }
}

#[tokio::test]
async fn what_fails_or_panics_is_asked_again_and_leaves_nothing() {
    let airline = Airline::open();
    for path in ["/fail", "/panic", "/large"] {
        for _ in 0..2 {
            let (status, body) = step(&airline.router, path, "act", &branch(1), "").await;
            assert_eq!((status, &body["kind"]), (500, &json!("failed")), "{path}");
        }
    }
    assert_eq!(airline.act(1, 7).await.0, 200);
}

#[tokio::test]
async fn a_path_that_is_meant_otherwise_does_nothing() {
    let airline = Airline::open();
    airline.act(1, 7).await;
    let (status, body) = step(&airline.router, "/reserve", "compensate", &branch(1), "").await;
    assert_eq!((status, &body["kind"]), (409, &json!("wrong_path")));
    let (status, body) = step(&airline.router, "/release", "act", &branch(1), "").await;
    assert_eq!((status, &body["kind"]), (409, &json!("wrong_path")));
    for key in ["order-42", "una:test:x:0:act"] {
        let branch = branch(2);
        let request = Request::post("/reserve")
            .header("unanimous-transaction", branch.txn.to_string())
            .header("unanimous-branch", branch.to_string())
            .header("idempotency-key", key);
        let request = request.body(Body::from(r#"{"seat":9}"#)).expect("a request");
        let (status, body) = send(&airline.router, request).await;
        assert_eq!((status, &body["kind"]), (400, &json!("malformed")));
    }
    let anonymous = Request::post("/reserve").body(Body::empty()).expect("a request");
    assert_eq!(send(&airline.router, anonymous).await.0, 400);
    assert_eq!(airline.seats().await, [7]);
}

#[tokio::test]
async fn a_saga_older_than_what_is_remembered_is_not_taken_for_undone() {
    let airline = Airline::open();
    let old = branch_at(1_763_700_000_000, 1);
    let (status, body) = step(&airline.router, "/release", "compensate", &old, "").await;
    assert_eq!((status, &body["kind"]), (409, &json!("forgotten")));
}
