//! Steps of sagas whose work is in one kind of database or another: all of them pass one suite.

use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use mysql_async::prelude::Queryable;
use redis::cmd;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use unanimous_client::PostgresPool;
use unanimous_client::participant::{
    BranchName, MysqlSteps, No, PostgresSteps, RedisSteps, SqliteStore, StepStore, Steps,
};
use unanimous_core::id::Timestamp;
use unanimous_participants::testing::{PrivateMariaDb, PrivatePostgres, PrivateRedis};

use crate::airline::{
    Airline, branch, branch_at, call, lets_go_of_the_dead, refused, suite, survives_its_server,
};
use crate::scene::url;

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

    fn crash(&mut self) {
        unreachable!("it has no server");
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

    fn crash(&mut self) {
        self.server.kill();
        self.server.up();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_passes_the_suite_of_stores_of_steps() {
    let Some(server) = PrivatePostgres::start(&[]) else { return };
    server.sql(
        "postgres",
        "CREATE TABLE seat (id bigint PRIMARY KEY, branch text NOT NULL); \
         CREATE TABLE counter AS SELECT 0::bigint AS shut",
    );
    let mut airline = InPostgres { server };
    suite(&airline).await;
    lets_go_of_the_dead(&airline).await;
    survives_its_server(&mut airline).await;
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

    fn crash(&mut self) {
        self.server.kill();
        self.server.up();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_passes_the_suite_of_stores_of_steps() {
    let Some(server) = PrivateMariaDb::start(&[]) else { return };
    server.sql(
        "bank",
        "CREATE TABLE seat (id BIGINT PRIMARY KEY, branch VARCHAR(128) NOT NULL); \
         CREATE TABLE counter (shut BIGINT NOT NULL); INSERT INTO counter VALUES (0)",
    );
    let mut airline = InMariaDb { server };
    suite(&airline).await;
    lets_go_of_the_dead(&airline).await;
    survives_its_server(&mut airline).await;
}

/// Looks for marks that are older than they are kept. There is one of the cluster that has called, one of
/// another, and the one of that call.
async fn removes_old_marks(
    store: impl StepStore,
    insert: impl Fn(&str),
    count: impl Fn() -> String,
) {
    let old = branch_at(1_700_000_000_000, 2);
    insert(&old.to_string());
    insert(&BranchName { cluster: "other".to_owned(), ..old }.to_string());
    let month = Duration::from_hours(30 * 24);
    let before = UNIX_EPOCH.elapsed().expect("it is after 1970") - month;
    let before = Timestamp(before.as_millis() as u64);
    for removed in [1, 0] {
        assert_eq!(store.prune_steps(before, 10).await.expect("it can be done"), removed);
    }
    assert_eq!(count().trim(), "2");
}

#[tokio::test]
async fn old_marks_are_removed_from_databases_but_only_those_of_clusters_that_called() {
    let Some(server) = PrivatePostgres::start(&[]) else { return };
    let pool = PostgresPool::new(url(&server).parse().expect("a URL"), NoTls);
    let store = PostgresSteps::new(pool);
    let steps = Steps::new(store.clone()).act("/count", |_, _| Box::pin(async { Ok(()) }));
    assert_eq!(call(&steps.router(), "/count", &branch(1), 0).await.0, 200);
    let insert = |name: &str| {
        let row = format!("('{name}', 'act', '1', now() - interval '31 days')");
        server.sql("postgres", &format!("INSERT INTO unanimous_barrier VALUES {row}"));
    };
    let count = || server.sql("postgres", "SELECT count(*) FROM unanimous_barrier");
    removes_old_marks(store, insert, count).await;

    let Some(server) = PrivateMariaDb::start(&[]) else { return };
    let store = MysqlSteps::new(mysql_async::Pool::new(&*server.url("root", "bank")));
    let steps = Steps::new(store.clone()).act("/count", |_, _| Box::pin(async { Ok(()) }));
    assert_eq!(call(&steps.router(), "/count", &branch(1), 0).await.0, 200);
    let insert = |name: &str| {
        let row = format!("('{name}', 'act', '1', 0, NOW() - INTERVAL 31 DAY)");
        server.sql("bank", &format!("INSERT INTO unanimous_barrier VALUES {row}"));
    };
    let count = || server.sql("bank", "SELECT count(*) FROM unanimous_barrier");
    removes_old_marks(store, insert, count).await;
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

    fn crash(&mut self) {
        self.server.kill();
        self.server.up();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_passes_the_suite_of_stores_of_steps() {
    let Some(server) = PrivateRedis::start(&[]) else { return };
    let mut airline = InRedis { server };
    suite(&airline).await;
    lets_go_of_the_dead(&airline).await;
    survives_its_server(&mut airline).await;
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
