//! Steps of sagas whose work is in one kind of database or another: one suite that all of them pass.

use std::sync::LazyLock;
use std::time::{Duration, Instant, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use mysql_async::prelude::Queryable;
use redis::cmd;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use tower::ServiceExt;
use unanimous_client::PostgresPool;
use unanimous_client::participant::{
    BranchName, MysqlSteps, No, PostgresSteps, RedisSteps, SqliteStore, Steps,
};
use unanimous_core::id::{BranchId, ShardId, TxnId};
use unanimous_participants::testing::{
    PATIENCE, PrivateMariaDb, PrivatePostgres, PrivateRedis, until,
};

use crate::scene::url;

/// Seats that are held, each by one step. The paths: `/reserve` holds one or refuses, and writes before it
/// refuses; `/release` lets go of what was held, unless the counter is shut; `/fail` holds one and fails;
/// `/careless` goes on after a statement that failed; `/stall`, where calls do not
/// wait for each other, holds one and never ends.
trait Airline {
    /// As another process would serve it.
    async fn open(&self) -> Router;
    /// What is held.
    async fn seats(&self) -> Vec<i64>;
    /// Shuts the counter, or opens it.
    async fn shut(&self, shut: i64);
}

/// A step of a saga of its own for each number.
fn branch(number: u64) -> BranchName {
    static STARTED: LazyLock<Duration> =
        LazyLock::new(|| UNIX_EPOCH.elapsed().expect("it is after 1970"));
    branch_at(STARTED.as_millis() as u64, number)
}

fn branch_at(unix_ms: u64, number: u64) -> BranchName {
    // What `mint` keeps of its entropy is not its lowest bits.
    let entropy = u128::from(number) << 70 | u128::from(number);
    let txn = TxnId::mint(unix_ms, ShardId::of(0), entropy);
    BranchName { cluster: "test".to_owned(), txn, branch: BranchId(0) }
}

async fn call(router: &Router, path: &str, branch: &BranchName, seat: i64) -> (u16, Value) {
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

fn refused(status: (u16, Value)) -> String {
    assert_eq!(status.0, 409, "{}", status.1);
    status.1["kind"].as_str().expect("a kind").to_owned()
}

async fn suite(airline: &impl Airline) {
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
async fn lets_go_of_the_dead(airline: &impl Airline) {
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

struct InSqlite {
    folder: tempfile::TempDir,
}

impl Airline for InSqlite {
    async fn open(&self) -> Router {
        let store = SqliteStore::of_steps(self.folder.path().join("air.db"), |db| {
            db.execute_batch(
                "CREATE TABLE IF NOT EXISTS seat (id INT PRIMARY KEY, branch TEXT NOT NULL);
                 CREATE TABLE IF NOT EXISTS counter AS SELECT 0 AS shut;",
            )
        });
        let hold = "INSERT OR IGNORE INTO seat VALUES (?1, ?2)";
        Steps::new(store.expect("opens"))
            .act("/reserve", move |db, call| {
                let seat: i64 = call.json()?;
                if db.execute(hold, params![seat, call.branch().to_string()])? == 1 {
                    return Ok(json!({"seat": seat}));
                }
                db.execute("INSERT INTO seat VALUES (100, 'nobody')", [])?;
                Err(No::refused("sold_out", format!("seat {seat} is taken")))
            })
            .compensate("/release", |db, call| {
                let seat = call.result::<Value>()?["seat"].as_i64();
                db.execute("DELETE FROM seat WHERE id = ?1", [seat])?;
                match db.query_row("SELECT shut FROM counter", [], |row| row.get(0))? {
                    1 => Err(No::refused("shut", "the counter is shut")),
                    _ => Ok(()),
                }
            })
            .act("/fail", move |db, call| {
                db.execute(hold, params![call.json::<i64>()?, call.branch().to_string()])?;
                Err::<(), _>(No::Failed("not today".into()))
            })
            .act("/careless", move |db, call| {
                db.execute(hold, params![call.json::<i64>()?, call.branch().to_string()])?;
                // A statement that failed does not spoil a transaction of SQLite; an error does.
                db.execute("SELECT nothing", []).map(drop).map_err(No::from)
            })
            .router()
    }

    async fn seats(&self) -> Vec<i64> {
        let db = Connection::open(self.folder.path().join("air.db")).expect("opens");
        let mut rows = db.prepare("SELECT id FROM seat ORDER BY id").expect("readable");
        let seats = rows.query_map([], |row| row.get(0)).expect("readable");
        seats.collect::<Result<_, _>>().expect("numbers")
    }

    async fn shut(&self, shut: i64) {
        let db = Connection::open(self.folder.path().join("air.db")).expect("opens");
        db.execute("UPDATE counter SET shut = ?1", [shut]).expect("written");
    }
}

#[tokio::test]
async fn sqlite_passes_the_suite_of_stores_of_steps() {
    let folder = tempfile::tempdir().expect("a folder");
    suite(&InSqlite { folder }).await;
}

struct InPostgres {
    server: PrivatePostgres,
}

impl Airline for InPostgres {
    async fn open(&self) -> Router {
        let pool = PostgresPool::new(url(&self.server).parse().expect("a URL"), NoTls);
        let hold = "INSERT INTO seat VALUES ($1, $2) ON CONFLICT DO NOTHING";
        Steps::new(PostgresSteps::new(pool))
            .act("/reserve", move |db, call| {
                Box::pin(async move {
                    let seat: i64 = call.json()?;
                    if db.execute(hold, &[&seat, &call.branch().to_string()]).await? == 1 {
                        return Ok(json!({"seat": seat}));
                    }
                    db.execute("INSERT INTO seat VALUES (100, 'nobody')", &[]).await?;
                    Err(No::refused("sold_out", format!("seat {seat} is taken")))
                })
            })
            .compensate("/release", |db, call| {
                Box::pin(async move {
                    let seat = call.result::<Value>()?["seat"].as_i64();
                    db.execute("DELETE FROM seat WHERE id = $1", &[&seat]).await?;
                    match db.query_one("SELECT shut FROM counter", &[]).await?.get(0) {
                        1_i64 => Err(No::refused("shut", "the counter is shut")),
                        _ => Ok(()),
                    }
                })
            })
            .act("/fail", move |db, call| {
                Box::pin(async move {
                    db.execute(hold, &[&call.json::<i64>()?, &call.branch().to_string()]).await?;
                    Err::<(), _>(No::Failed("not today".into()))
                })
            })
            .act("/careless", move |db, call| {
                Box::pin(async move {
                    db.execute(hold, &[&call.json::<i64>()?, &call.branch().to_string()]).await?;
                    assert!(db.execute("SELECT nothing", &[]).await.is_err());
                    Ok(())
                })
            })
            .act("/stall", move |db, call| {
                Box::pin(async move {
                    db.execute(hold, &[&call.json::<i64>()?, &call.branch().to_string()]).await?;
                    std::future::pending::<Result<(), No>>().await
                })
            })
            .router()
    }

    async fn seats(&self) -> Vec<i64> {
        let rows = self.server.sql("postgres", "SELECT id FROM seat ORDER BY id");
        rows.lines().map(|line| line.trim().parse().expect("a number")).collect()
    }

    async fn shut(&self, shut: i64) {
        self.server.sql("postgres", &format!("UPDATE counter SET shut = {shut}"));
    }
}

#[tokio::test]
async fn postgres_passes_the_suite_of_stores_of_steps() {
    let Some(server) = PrivatePostgres::start(&[]) else { return };
    server.sql(
        "postgres",
        "CREATE TABLE seat (id bigint PRIMARY KEY, branch text NOT NULL); \
         CREATE TABLE counter AS SELECT 0::bigint AS shut",
    );
    let airline = InPostgres { server };
    suite(&airline).await;
    lets_go_of_the_dead(&airline).await;
}

struct InMariaDb {
    server: PrivateMariaDb,
}

impl Airline for InMariaDb {
    async fn open(&self) -> Router {
        let pool = mysql_async::Pool::new(&*self.server.url("root", "bank"));
        let hold = "INSERT IGNORE INTO seat VALUES (?, ?)";
        Steps::new(MysqlSteps::new(pool))
            .act("/reserve", move |db, call| {
                Box::pin(async move {
                    let seat: i64 = call.json()?;
                    db.exec_drop(hold, (seat, call.branch().to_string())).await?;
                    if db.affected_rows() == 1 {
                        return Ok(json!({"seat": seat}));
                    }
                    db.query_drop("INSERT INTO seat VALUES (100, 'nobody')").await?;
                    Err(No::refused("sold_out", format!("seat {seat} is taken")))
                })
            })
            .compensate("/release", |db, call| {
                Box::pin(async move {
                    let seat = call.result::<Value>()?["seat"].as_i64();
                    db.exec_drop("DELETE FROM seat WHERE id = ?", (seat,)).await?;
                    match db.query_first("SELECT shut FROM counter").await? {
                        Some(1_i64) => Err(No::refused("shut", "the counter is shut")),
                        _ => Ok(()),
                    }
                })
            })
            .act("/fail", move |db, call| {
                Box::pin(async move {
                    db.exec_drop(hold, (call.json::<i64>()?, call.branch().to_string())).await?;
                    Err::<(), _>(No::Failed("not today".into()))
                })
            })
            .act("/careless", move |db, call| {
                Box::pin(async move {
                    db.exec_drop(hold, (call.json::<i64>()?, call.branch().to_string())).await?;
                    for sql in ["COMMIT", "BEGIN", "CREATE TABLE sly (id INT)"] {
                        assert!(db.query_drop(sql).await.is_err(), "{sql} is let through");
                    }
                    Err::<(), _>(No::Failed("not today".into()))
                })
            })
            .act("/stall", move |db, call| {
                Box::pin(async move {
                    db.exec_drop(hold, (call.json::<i64>()?, call.branch().to_string())).await?;
                    std::future::pending::<Result<(), No>>().await
                })
            })
            .router()
    }

    async fn seats(&self) -> Vec<i64> {
        let rows = self.server.sql("bank", "SELECT id FROM seat ORDER BY id");
        rows.lines().map(|line| line.trim().parse().expect("a number")).collect()
    }

    async fn shut(&self, shut: i64) {
        self.server.sql("bank", &format!("UPDATE counter SET shut = {shut}"));
    }
}

#[tokio::test]
async fn mariadb_passes_the_suite_of_stores_of_steps() {
    let Some(server) = PrivateMariaDb::start(&[]) else { return };
    server.sql(
        "bank",
        "CREATE TABLE seat (id BIGINT PRIMARY KEY, branch VARCHAR(128) NOT NULL); \
         CREATE TABLE counter (shut BIGINT NOT NULL); INSERT INTO counter VALUES (0)",
    );
    let airline = InMariaDb { server };
    suite(&airline).await;
    lets_go_of_the_dead(&airline).await;
}

struct InRedis {
    server: PrivateRedis,
}

impl Airline for InRedis {
    async fn open(&self) -> Router {
        let client = redis::Client::open(&*self.server.url()).expect("a URL");
        Steps::new(RedisSteps::new(client))
            .act("/reserve", |db, call| {
                Box::pin(async move {
                    let seat: i64 = call.json()?;
                    let taken = db.read(&["seats"], cmd("HEXISTS").arg("seats").arg(seat)).await?;
                    if taken {
                        db.write(cmd("HSET").arg("seats").arg(100).arg("nobody"));
                        return Err(No::refused("sold_out", format!("seat {seat} is taken")));
                    }
                    db.write(cmd("HSET").arg("seats").arg(seat).arg(call.branch().to_string()));
                    Ok(json!({"seat": seat}))
                })
            })
            .compensate("/release", |db, call| {
                Box::pin(async move {
                    let seat = call.result::<Value>()?["seat"].as_i64();
                    db.write(cmd("HDEL").arg("seats").arg(seat));
                    match db.read(&["shut"], cmd("GET").arg("shut")).await? {
                        Some(1_i64) => Err(No::refused("shut", "the counter is shut")),
                        _ => Ok(()),
                    }
                })
            })
            .act("/fail", |db, _| {
                Box::pin(async move {
                    db.write(cmd("HSET").arg("seats").arg(7).arg("nobody"));
                    Err::<(), _>(No::Failed("not today".into()))
                })
            })
            .act("/careless", |db, _| {
                Box::pin(async move {
                    Ok(db.read::<()>(&[], cmd("HSET").arg("seats").arg(7).arg("nobody")).await?)
                })
            })
            .act("/half", |db, _| {
                Box::pin(async move {
                    db.write(cmd("SET").arg("word").arg("seat"));
                    db.write(cmd("INCR").arg("word"));
                    Ok(())
                })
            })
            .act("/first", |db, _| {
                Box::pin(async move {
                    db.write(cmd("INCR").arg("seats"));
                    db.write(cmd("SET").arg("later").arg("1"));
                    Ok(())
                })
            })
            .act("/stall", |db, _| {
                Box::pin(async move {
                    db.read::<i64>(&["seats"], cmd("HLEN").arg("seats")).await?;
                    db.write(cmd("HSET").arg("seats").arg(7).arg("nobody"));
                    std::future::pending::<Result<(), No>>().await
                })
            })
            .router()
    }

    async fn seats(&self) -> Vec<i64> {
        let rows = self.server.ask(&["HKEYS", "seats"]);
        let numbers = rows.lines().filter(|line| !line.trim().is_empty());
        let mut seats: Vec<i64> =
            numbers.map(|line| line.trim().parse().expect("a number")).collect();
        seats.sort_unstable();
        seats
    }

    async fn shut(&self, shut: i64) {
        self.server.ask(&["SET", "shut", &shut.to_string()]);
    }
}

#[tokio::test]
async fn redis_passes_the_suite_of_stores_of_steps() {
    let Some(server) = PrivateRedis::start(&[]) else { return };
    let airline = InRedis { server };
    suite(&airline).await;
    lets_go_of_the_dead(&airline).await;
}

#[tokio::test]
async fn a_step_that_redis_can_only_do_in_part_waits_for_somebody_to_look() {
    let Some(server) = PrivateRedis::start(&[]) else { return };
    let airline = InRedis { server };
    let router = airline.open().await;
    for _ in 0..2 {
        let (status, body) = call(&router, "/half", &branch(1), 0).await;
        assert_eq!(status, 500, "{body}");
        assert_eq!(refused(call(&router, "/release", &branch(1), 0).await), "half_done");
    }
    airline.server.ask(&["HSET", "seats", "1", "somebody"]);
    let (status, body) = call(&router, "/first", &branch(2), 0).await;
    assert_eq!(status, 500, "{body}");
    assert_eq!(airline.server.ask(&["EXISTS", "later"]).trim(), "0", "nothing behind it is done");
    assert_eq!(call(&router, "/release", &branch(2), 0).await.0, 200, "nothing was done");
}

#[tokio::test]
async fn redis_that_may_forget_takes_no_steps_unless_it_is_told_to() {
    let Some(server) = PrivateRedis::start(&["appendfsync everysec"]) else { return };
    let client = redis::Client::open(&*server.url()).expect("a URL");
    let count = |store: RedisSteps| {
        let count = Steps::new(store).act("/count", |db, _| {
            Box::pin(async move {
                db.write(cmd("INCR").arg("count"));
                Ok(())
            })
        });
        count.router()
    };
    let (status, body) =
        call(&count(RedisSteps::new(client.clone())), "/count", &branch(1), 0).await;
    assert_eq!(status, 503);
    assert!(
        body["detail"].as_str().is_some_and(|why| why.contains("appendfsync always")),
        "{body}"
    );
    let weak = count(RedisSteps::new(client).weakly_durable());
    for _ in 0..2 {
        assert_eq!(call(&weak, "/count", &branch(1), 0).await.0, 200);
    }
    assert_eq!(server.ask(&["GET", "count"]).trim(), "1");
}
