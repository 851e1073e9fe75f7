//! What every store of steps has to do, as one suite: an airline that holds seats in it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt;
use unanimous_client::participant::BranchName;
use unanimous_core::id::{BranchId, ShardId, TxnId};
use unanimous_participants::testing::{PATIENCE, until};

/// Seats that are held, each by one step. The paths: `/reserve` holds one or refuses, and writes before it
/// refuses; `/release` lets go of what was held, unless the counter is shut; `/fail` holds one and fails;
/// `/careless` goes on after a statement that failed; `/stall`, where calls do not
/// wait for each other, holds one and never ends.
pub(crate) trait Airline {
    /// As another process would serve it.
    async fn open(&self) -> Router;
    /// What is held.
    async fn seats(&self) -> Vec<i64>;
    /// Shuts the counter, or opens it.
    async fn shut(&self, shut: i64);
    /// Kills the server, and starts it again.
    fn crash(&mut self);
}

/// A step of a saga of its own for each number.
pub(crate) fn branch(number: u64) -> BranchName {
    static STARTED: LazyLock<Duration> =
        LazyLock::new(|| UNIX_EPOCH.elapsed().expect("it is after 1970"));
    branch_at(STARTED.as_millis() as u64, number)
}

pub(crate) fn branch_at(unix_ms: u64, number: u64) -> BranchName {
    // What `mint` keeps of its entropy is not its lowest bits.
    let entropy = u128::from(number) << 70 | u128::from(number);
    let txn = TxnId::mint(unix_ms, ShardId::of(0), entropy);
    BranchName { cluster: "test".to_owned(), txn, branch: BranchId(0) }
}

pub(crate) async fn call(
    router: &Router,
    path: &str,
    branch: &BranchName,
    seat: i64,
) -> (u16, Value) {
    let half = if path == "/release" { "compensate" } else { "act" };
    let request = Request::post(path)
        .header("unanimous-transaction", branch.txn.to_string())
        .header("unanimous-branch", branch.to_string())
        .header("unanimous-attempt", "1")
        .header("idempotency-key", format!("{branch}:{half}"))
        .body(Body::from(seat.to_string()));
    let answered = router.clone().oneshot(request.expect("a request")).await;
    let response = answered.expect("a router always answers");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn held(seat: i64) -> (u16, Value) {
    (200, json!({"seat": seat}))
}

pub(crate) fn refused(status: (u16, Value)) -> String {
    assert_eq!(status.0, 409, "{}", status.1);
    status.1["kind"].as_str().expect("a kind").to_owned()
}

pub(crate) async fn suite(airline: &impl Airline) {
    begins_at_once(airline).await;
    repeats(airline).await;
    undoes(airline).await;
    bars(airline).await;
    refuses(airline).await;
    takes_back(airline).await;
    undoes_when_it_can(airline).await;
    races_itself(airline).await;
    races_its_compensation(airline).await;
    forgets(airline).await;
    assert_eq!(airline.seats().await, [0_i64; 0], "something was left");
}

/// Nothing has been made yet that steps need.
async fn begins_at_once(airline: &impl Airline) {
    let mut calls = JoinSet::new();
    for number in 101..=108 {
        let router = airline.open().await;
        calls.spawn(async move {
            let answer = call(&router, "/reserve", &branch(number), number as i64).await;
            (answer, number)
        });
    }
    for (answer, number) in calls.join_all().await {
        assert_eq!(answer, held(number as i64));
    }
    let router = airline.open().await;
    for number in 101..=108 {
        let undone = call(&router, "/release", &branch(number), 0).await;
        assert_eq!(undone, (200, Value::Null));
    }
}

async fn repeats(airline: &impl Airline) {
    let name = branch(1);
    for seat in [7, 7, 8] {
        assert_eq!(call(&airline.open().await, "/reserve", &name, seat).await, held(7));
    }
    assert_eq!(airline.seats().await, [7]);
    call(&airline.open().await, "/release", &name, 0).await;
}

async fn undoes(airline: &impl Airline) {
    let (first, second) = (branch(2), branch(3));
    let router = airline.open().await;
    call(&router, "/reserve", &first, 7).await;
    call(&router, "/reserve", &second, 8).await;
    for _ in 0..2 {
        let undone = call(&airline.open().await, "/release", &first, 0).await;
        assert_eq!(undone, (200, Value::Null));
        assert_eq!(airline.seats().await, [8]);
    }
    assert_eq!(refused(call(&router, "/reserve", &first, 7).await), "barred", "late");
    assert_eq!(airline.seats().await, [8]);
    call(&router, "/release", &second, 0).await;
}

async fn bars(airline: &impl Airline) {
    let (name, router) = (branch(4), airline.open().await);
    for _ in 0..2 {
        assert_eq!(call(&router, "/release", &name, 0).await, (200, Value::Null), "of nothing");
    }
    assert_eq!(refused(call(&router, "/reserve", &name, 7).await), "barred");
    assert_eq!(airline.seats().await, [0_i64; 0]);
}

async fn refuses(airline: &impl Airline) {
    let (holder, name) = (branch(5), branch(6));
    let router = airline.open().await;
    call(&router, "/reserve", &holder, 7).await;
    let no = (409, json!({"kind": "sold_out", "detail": "seat 7 is taken"}));
    assert_eq!(call(&router, "/reserve", &name, 7).await, no);
    assert_eq!(airline.seats().await, [7], "what it wrote before it refused is there");
    call(&router, "/release", &holder, 0).await;
    let again = call(&airline.open().await, "/reserve", &name, 7).await;
    assert_eq!(again, no, "though the seat is free by now");
    assert_eq!(call(&router, "/release", &name, 0).await, (200, Value::Null));
    assert_eq!(call(&router, "/reserve", &name, 7).await, no, "also after its compensation");
    assert_eq!(airline.seats().await, [0_i64; 0]);
}

async fn takes_back(airline: &impl Airline) {
    let (name, router) = (branch(7), airline.open().await);
    for path in ["/fail", "/fail", "/careless"] {
        let (status, body) = call(&router, path, &name, 7).await;
        assert_eq!((status, &body["kind"]), (500, &json!("failed")), "{path}: {body}");
        assert_eq!(airline.seats().await, [0_i64; 0], "{path}");
    }
}

/// A call whose caller goes away, as if this process had died.
pub(crate) async fn lets_go_of_the_dead(airline: &impl Airline) {
    let (name, router) = (branch(9), airline.open().await);
    {
        let stalled = call(&router, "/stall", &name, 7);
        tokio::select! {
            answer = stalled => panic!("it never ends, and was {answer:?}"),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    until("nobody holds what the dead call locked", async || {
        call(&router, "/reserve", &name, 7).await == held(7)
    })
    .await;
    assert_eq!(airline.seats().await, [7]);
    call(&router, "/release", &name, 0).await;
}

async fn undoes_when_it_can(airline: &impl Airline) {
    let (name, router) = (branch(8), airline.open().await);
    call(&router, "/reserve", &name, 7).await;
    airline.shut(1).await;
    for _ in 0..2 {
        assert_eq!(refused(call(&router, "/release", &name, 0).await), "shut");
        assert_eq!(airline.seats().await, [7], "nothing of a refused compensation is left");
    }
    airline.shut(0).await;
    assert_eq!(call(&router, "/release", &name, 0).await, (200, Value::Null));
    assert_eq!(airline.seats().await, [0_i64; 0]);
}

async fn races_itself(airline: &impl Airline) {
    let routers = [airline.open().await, airline.open().await];
    for number in 10..20 {
        let mut calls = JoinSet::new();
        for at in 0..6 {
            let router = routers[at % 2].clone();
            calls.spawn(async move { settle(&router, "/reserve", number, 7).await });
        }
        for answer in calls.join_all().await {
            assert_eq!(answer, held(7));
        }
        assert_eq!(airline.seats().await, [7]);
        settle(&routers[0], "/release", number, 0).await;
    }
}

/// Asks again until it is answered, as a coordinator does.
async fn settle(router: &Router, path: &str, number: u64, seat: i64) -> (u16, Value) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let answer = call(router, path, &branch(number), seat).await;
        if matches!(answer.0, 200 | 409) {
            return answer;
        }
        assert!(Instant::now() < give_up, "never answered but by {answer:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn races_its_compensation(airline: &impl Airline) {
    let routers = [airline.open().await, airline.open().await];
    for number in 20..40 {
        let act = || settle(&routers[0], "/reserve", number, 7);
        let undo = || settle(&routers[1], "/release", number, 0);
        let (first, second, undone, _, _) = tokio::join!(act(), act(), undo(), undo(), act());
        assert_eq!(undone.0, 200);
        assert!([first, second].iter().all(|it| matches!(it.0, 200 | 409)));
        assert_eq!(airline.seats().await, [0_i64; 0], "nothing acts behind its compensation");
    }
}

async fn forgets(airline: &impl Airline) {
    let router = airline.open().await;
    let old = branch_at(1_763_700_000_000, 99);
    assert_eq!(refused(call(&router, "/release", &old, 0).await), "forgotten");
}

/// The server is killed while steps are under way, again and again.
pub(crate) async fn survives_its_server(airline: &mut impl Airline) {
    const ROUNDS: i64 = 3;
    const STEPS: i64 = 40;
    let router = airline.open().await;
    for round in 0..ROUNDS {
        let done = Arc::new(AtomicI64::new(0));
        let mut calls = JoinSet::new();
        for seat in (1 + round * STEPS)..=((round + 1) * STEPS) {
            let (router, done) = (router.clone(), Arc::clone(&done));
            calls.spawn(async move {
                let answer = settle(&router, "/reserve", 1_000 + seat as u64, seat).await;
                done.fetch_add(1, Ordering::SeqCst);
                (answer, seat)
            });
        }
        until("some are done", async || done.load(Ordering::SeqCst) > 0).await;
        airline.crash();
        for (answer, seat) in calls.join_all().await {
            assert_eq!(answer, held(seat), "done once, or another would hold the seat");
        }
    }
    let seats: Vec<i64> = (1..=ROUNDS * STEPS).collect();
    assert_eq!(airline.seats().await, seats);
}
