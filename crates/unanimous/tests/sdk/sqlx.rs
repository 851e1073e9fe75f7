//! A PostgreSQL server and a MariaDB server, worked on over connections of sqlx.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use sqlx_core::Error as SqlxError;
use sqlx_core::acquire::Acquire;
use sqlx_core::executor::Executor;
use sqlx_core::pool::{Pool, PoolConnection};
use sqlx_core::query::query;
use sqlx_core::query_scalar::query_scalar;
use sqlx_mysql::{MySql, MySqlPool, MySqlPoolOptions};
use sqlx_postgres::{PgConnection, PgPool, PgPoolOptions, Postgres};
use tokio::sync::Barrier;
use tokio::time::timeout;
use unanimous_client::api::{OutcomeWord, VoteWord};
use unanimous_client::{Error, SqlxMysqlBranch, SqlxPostgresBranch, Txn};
use unanimous_participants::testing::until;

use crate::mixed::{EARN, Scene};
use crate::scene::{Coordinator, TAKE, balance, bank, prepared, url};

/// What can be done only outside of any transaction, and leaves nothing.
const NOT_WITHIN: [&str; 3] = ["XA START 'probe'", "XA END 'probe'", "XA ROLLBACK 'probe'"];

const UNTOUCHED: (&str, &str) = ("1000", "1000");

/// Pools of one connection each: what comes back is what is lent next.
struct Pools {
    wallet: PgPool,
    ledger: MySqlPool,
}

impl Pools {
    async fn open(scene: &Scene) -> Self {
        let wallet = PgPoolOptions::new().max_connections(1).connect(&url(&scene.wallet)).await;
        let ledger = scene.ledger.url("root", "bank");
        let ledger = MySqlPoolOptions::new().max_connections(1).connect(&ledger).await;
        Self { wallet: wallet.expect("it lets us in"), ledger: ledger.expect("it lets us in") }
    }

    async fn wallet(&self) -> PoolConnection<Postgres> {
        self.wallet.acquire().await.expect("it is free")
    }

    async fn ledger(&self) -> PoolConnection<MySql> {
        self.ledger.acquire().await.expect("it is free")
    }

    /// Which connections are lent next: of PostgreSQL and of MariaDB.
    async fn numbers(&self) -> (i32, u64) {
        let wallet = query_scalar("SELECT pg_backend_pid()").fetch_one(&self.wallet).await;
        let ledger = query_scalar("SELECT CONNECTION_ID()").fetch_one(&self.ledger).await;
        (wallet.expect("it is usable"), ledger.expect("it is usable"))
    }

    /// Whether what is lent next is outside of any transaction.
    async fn are_clean(&self) -> bool {
        let mut ledger = self.ledger().await;
        for probe in NOT_WITHIN {
            if ledger.execute(probe).await.is_err() {
                return false;
            }
        }
        is_clean(&mut *self.wallet().await).await
    }
}

async fn is_clean(conn: &mut PgConnection) -> bool {
    // Two statements of their own have two transactions of their own.
    let number = "SELECT pg_current_xact_id()::text";
    let first: String = query_scalar(number).fetch_one(&mut *conn).await.expect("it is usable");
    let second: String = query_scalar(number).fetch_one(&mut *conn).await.expect("it is usable");
    first != second
}

async fn worked_on<'c>(
    txn: &Txn,
    amount: i64,
    wallet: &'c mut PgConnection,
    ledger: PoolConnection<MySql>,
) -> (SqlxPostgresBranch<'c>, SqlxMysqlBranch) {
    let mut wallet = txn.enlist_sqlx_postgres("wallet", wallet).await.expect("enlisted");
    let mut ledger = txn.enlist_sqlx_mysql("ledger", ledger).await.expect("enlisted");
    let taken = query(TAKE).bind(amount).execute(&mut *wallet).await.expect("done");
    assert_eq!(taken.rows_affected(), 1);
    let earned = query(EARN).bind(amount).execute(&mut ledger).await.expect("done");
    assert_eq!(earned.rows_affected(), 1);
    (wallet, ledger)
}

async fn is_aborted(txn: &Txn) {
    until("aborted", async || {
        txn.show().await.expect("known").outcome == Some(OutcomeWord::Aborted)
    })
    .await;
}

fn balances(scene: &Scene) -> (String, String) {
    scene.balances()
}

fn are_untouched(scene: &Scene) -> bool {
    let (wallet, ledger) = balances(scene);
    (&*wallet, &*ledger) == UNTOUCHED
}

#[tokio::test]
async fn both_databases_commit_together_over_connections_of_a_pool_that_are_used_again() {
    let Some(scene) = Scene::set().await else { return };
    let pools = Pools::open(&scene).await;
    let numbers = pools.numbers().await;
    for _ in 0..3 {
        let txn = scene.begin().await;
        let mut wallet_db = pools.wallet().await;
        let (wallet, ledger) = worked_on(&txn, 100, &mut wallet_db, pools.ledger().await).await;
        let view = txn.commit_branches([wallet.into(), ledger.into()]).await.expect("committed");
        assert_eq!(view.outcome, Some(OutcomeWord::Committed));
        assert!(view.participants.iter().all(|it| it.vote == Some(VoteWord::Yes)));
    }
    until("finished", async || balances(&scene) == ("700".to_owned(), "1300".to_owned())).await;
    scene.nothing_is_left().await;
    assert!(pools.are_clean().await);
    assert_eq!(pools.numbers().await, numbers);
}

#[tokio::test]
async fn a_branch_that_only_read_is_not_prepared_and_its_connection_is_free() {
    let Some(scene) = Scene::set().await else { return };
    let pools = Pools::open(&scene).await;
    let txn = scene.begin().await;
    let mut wallet_db = pools.wallet().await;
    let mut wallet = txn.enlist_sqlx_postgres("wallet", &mut wallet_db).await.expect("enlisted");
    let mut ledger = txn.enlist_sqlx_mysql("ledger", pools.ledger().await).await.expect("enlisted");
    let read = query_scalar("SELECT balance FROM account").fetch_one(&mut *wallet).await;
    assert_eq!(read.ok(), Some(1_000_i64));
    let read = "SELECT balance FROM account WHERE id = ?";
    let read = query_scalar(read).bind(1).fetch_one(&mut ledger).await;
    assert_eq!(read.ok(), Some(1_000_i64));
    let view = txn.commit_branches([wallet.into(), ledger.into()]).await.expect("committed");
    let votes: Vec<_> = view.participants.iter().map(|it| it.vote).collect();
    assert_eq!(votes, [Some(VoteWord::ReadOnly), Some(VoteWord::Yes)]);
    assert!(is_clean(&mut wallet_db).await);
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn a_statement_that_postgresql_refused_is_a_no_and_rolls_both_back() {
    let Some(scene) = Scene::set().await else { return };
    let pools = Pools::open(&scene).await;
    let numbers = pools.numbers().await;
    for _ in 0..2 {
        let txn = scene.begin().await;
        let mut wallet_db = pools.wallet().await;
        let (mut wallet, ledger) = worked_on(&txn, 100, &mut wallet_db, pools.ledger().await).await;
        let refused = query(TAKE).bind(5_000_i64).execute(&mut *wallet).await;
        drop(refused.expect_err("not enough"));
        let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
        let error = committed.expect_err("it failed");
        assert!(matches!(error, Error::NotPrepared { .. }), "{error:?}");
        let reason = error.reason().expect("a reason");
        assert_eq!((reason.participant.as_deref(), &*reason.kind), (Some("wallet"), "statement"));
        assert_eq!(txn.show().await.expect("known").outcome, Some(OutcomeWord::Aborted));
        assert!(is_clean(&mut wallet_db).await);
    }
    scene.nothing_is_left().await;
    assert!(are_untouched(&scene) && pools.are_clean().await);
    assert_eq!(pools.numbers().await, numbers);
}

#[tokio::test]
async fn a_statement_that_mariadb_refused_is_a_no_even_if_the_application_passes_over_it() {
    let Some(scene) = Scene::set().await else { return };
    let pools = Pools::open(&scene).await;
    let numbers = pools.numbers().await;
    let txn = scene.begin().await;
    let mut wallet_db = pools.wallet().await;
    let (wallet, mut ledger) = worked_on(&txn, 100, &mut wallet_db, pools.ledger().await).await;
    let twice = "INSERT INTO account VALUES (1, 5)";
    drop(ledger.execute(twice).await.expect_err("it is there already"));
    let more = ledger.execute("INSERT INTO account VALUES (7, 5)").await;
    let more = more.expect_err("it takes no more").to_string();
    assert!(more.starts_with("a statement of the branch has failed"), "{more}");
    let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
    let error = committed.expect_err("it failed");
    let reason = error.reason().expect("a reason");
    assert_eq!((reason.participant.as_deref(), &*reason.kind), (Some("ledger"), "constraint"));
    scene.nothing_is_left().await;
    drop(wallet_db);
    assert!(are_untouched(&scene) && pools.are_clean().await);
    assert_eq!(pools.numbers().await, numbers);
}

#[tokio::test]
async fn branches_that_are_dropped_leave_nothing_behind_before_their_connections_are_used_again() {
    let Some(scene) = Scene::set().await else { return };
    let pools = Pools::open(&scene).await;
    let txn = scene.begin().await;
    let mut wallet_db = pools.wallet().await;
    let (mut wallet, ledger) = worked_on(&txn, 100, &mut wallet_db, pools.ledger().await).await;
    // With a savepoint open, too.
    std::mem::forget(wallet.begin().await.expect("a savepoint"));
    drop((wallet, ledger));
    is_aborted(&txn).await;
    // Nobody has asked anything of the connection since.
    let free = "SET lock_timeout = 5000; UPDATE account SET balance = balance";
    scene.wallet.sql("postgres", free);
    scene.nothing_is_left().await;
    assert!(are_untouched(&scene) && is_clean(&mut wallet_db).await);
    drop(wallet_db);
    assert!(pools.are_clean().await);
}

#[tokio::test]
async fn what_is_begun_within_a_branch_of_postgresql_is_a_savepoint() {
    let Some(scene) = Scene::set().await else { return };
    let pools = Pools::open(&scene).await;
    let mut wallet_db = pools.wallet().await;

    let txn = scene.begin().await;
    let mut wallet = txn.enlist_sqlx_postgres("wallet", &mut wallet_db).await.expect("enlisted");
    for (amount, commits) in [(10_i64, true), (100, false)] {
        let mut within = wallet.begin().await.expect("a savepoint");
        query(TAKE).bind(amount).execute(&mut *within).await.expect("done");
        match commits {
            true => within.commit().await.expect("released"),
            false => drop(within),
        }
    }
    assert_eq!(balance(&scene.wallet), "1000");
    txn.commit_branches([wallet.into()]).await.expect("committed");
    assert_eq!(balance(&scene.wallet), "990");

    let txn = scene.begin().await;
    let mut wallet = txn.enlist_sqlx_postgres("wallet", &mut wallet_db).await.expect("enlisted");
    let mut within = wallet.begin().await.expect("a savepoint");
    query(TAKE).bind(10_i64).execute(&mut *within).await.expect("done");
    std::mem::forget(within);
    let error = txn.commit_branches([wallet.into()]).await.expect_err("one is open").to_string();
    assert!(error.contains("it is at level 2 of transactions"), "{error}");
    assert!(is_clean(&mut wallet_db).await);
    assert_eq!((balance(&scene.wallet), prepared(&scene.wallet)), ("990".into(), "0".into()));
}

#[tokio::test]
async fn a_transaction_that_the_work_has_ended_itself_is_a_no() {
    let Some(scene) = Scene::set().await else { return };
    let pools = Pools::open(&scene).await;
    let mut wallet_db = pools.wallet().await;
    for end in ["ROLLBACK", "ROLLBACK; BEGIN"] {
        let txn = scene.begin().await;
        let (mut wallet, ledger) = worked_on(&txn, 100, &mut wallet_db, pools.ledger().await).await;
        wallet.execute(end).await.expect("nobody hinders it");
        let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
        let error = committed.expect_err("it has ended").to_string();
        assert!(error.contains("its work has ended the transaction"), "{error}");
        assert!(is_clean(&mut wallet_db).await);
    }
    scene.nothing_is_left().await;
    assert!(are_untouched(&scene));

    let mut own = wallet_db.begin().await.expect("begun");
    let txn = scene.begin().await;
    let refused = txn.enlist_sqlx_postgres("wallet", &mut own).await.map(drop);
    assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
    query(TAKE).bind(1_i64).execute(&mut *own).await.expect("it is as it was");
    own.commit().await.expect("committed");
    assert_eq!(balance(&scene.wallet), "999");
}

#[tokio::test]
async fn a_statement_that_was_given_up_is_a_no_and_a_stream_left_behind_a_row_is_not() {
    let Some(scene) = Scene::set().await else { return };
    let pools = Pools::open(&scene).await;
    let mut wallet_db = pools.wallet().await;
    let txn = scene.begin().await;
    let (wallet, mut ledger) = worked_on(&txn, 100, &mut wallet_db, pools.ledger().await).await;
    let first = query_scalar("SELECT balance FROM account ORDER BY id");
    assert_eq!(first.fetch_optional(&mut ledger).await.expect("read"), Some(1_100_i64));
    txn.commit_branches([wallet.into(), ledger.into()]).await.expect("committed");

    let txn = scene.begin().await;
    let (wallet, mut ledger) = worked_on(&txn, 100, &mut wallet_db, pools.ledger().await).await;
    let slow = query("SELECT SLEEP(1)").execute(&mut ledger);
    timeout(Duration::from_millis(100), slow).await.map(drop).expect_err("it takes a second");
    drop(ledger.execute("SELECT 1").await.expect_err("it takes no more"));
    let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
    let error = committed.expect_err("nobody knows what it did");
    assert!(error.to_string().contains("given up before its answer came"), "{error}");
    scene.nothing_is_left().await;

    // PostgreSQL's answer is heard later.
    let txn = scene.begin().await;
    let (mut wallet, ledger) = worked_on(&txn, 100, &mut wallet_db, pools.ledger().await).await;
    let slow = query("SELECT 1 / (2 - length(pg_sleep(0.3)::text || 'xx'))").execute(&mut *wallet);
    timeout(Duration::from_millis(100), slow).await.map(drop).expect_err("it takes longer");
    let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
    let error = committed.expect_err("it divides by zero");
    assert_eq!(error.reason().map(|it| &*it.kind), Some("data"), "{error}");
    scene.nothing_is_left().await;
    assert_eq!(balances(&scene), ("900".to_owned(), "1100".to_owned()));
    assert!(is_clean(&mut wallet_db).await);
    drop(wallet_db);
    assert!(pools.are_clean().await);
}

/// Waits at the least after which a transaction is given up.
const WAITS_MIN: usize = 10;

/// Drops it when it has had to wait so many times.
async fn given_up<F: Future>(waits: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = waits;
    poll_fn(|context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
            Poll::Ready(output) => Poll::Ready(Some(output)),
        }
    })
    .await
}

#[tokio::test]
async fn a_transaction_that_is_given_up_anywhere_is_all_or_nothing() {
    let Some(scene) = Scene::set().await else { return };
    let pools = Pools::open(&scene).await;
    let (mut expected, mut waits, mut is_whole) = (1_000, 0, false);
    // On a busy machine several answers come together and are one wait: then it is tried further on.
    while !is_whole || waits <= WAITS_MIN {
        waits += 1;
        let txn = scene.coordinator.client.transaction().timeout_ms(1_500).begin().await;
        let txn = txn.expect("begun");
        // From the first word to PostgreSQL to the last of the commit.
        let whole = async {
            let mut wallet_db = pools.wallet().await;
            let (wallet, ledger) = worked_on(&txn, 1, &mut wallet_db, pools.ledger().await).await;
            txn.commit_branches([wallet.into(), ledger.into()]).await
        };
        is_whole = given_up(waits, whole).await.is_some_and(|committed| committed.is_ok());
        assert!(pools.are_clean().await, "{waits}");
        scene.nothing_is_left().await;
        let mut outcome = None;
        until("decided", async || {
            outcome = txn.show().await.expect("known").outcome;
            outcome.is_some()
        })
        .await;
        expected -= i64::from(outcome == Some(OutcomeWord::Committed));
        let expected = (expected.to_string(), (2_000 - expected).to_string());
        until("as decided", async || balances(&scene) == expected).await;
    }
}

#[tokio::test]
async fn a_failed_serialization_is_made_again_until_both_have_come_through() {
    let Some(wallet) = bank() else { return };
    let coordinator = Coordinator::start(&[("wallet", url(&wallet))]).await;
    let pool = PgPool::connect(&url(&wallet)).await.expect("it lets us in");
    let both_have_read = Arc::new(Barrier::new(2));
    let payments = [1, 2].map(|_| {
        let (client, barrier) = (coordinator.client.clone(), Arc::clone(&both_have_read));
        let pool = pool.clone();
        tokio::spawn(async move {
            let attempts = AtomicU32::new(0);
            let paid = client.transaction().retrying(async |txn: Txn| {
                let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
                let mut wallet_db = pool.acquire().await?;
                let mut wallet = txn.enlist_sqlx_postgres("wallet", &mut wallet_db).await?;
                wallet.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await?;
                let read = query_scalar("SELECT balance FROM account");
                let balance: i64 = read.fetch_one(&mut *wallet).await?;
                if is_first {
                    barrier.wait().await;
                }
                let write = query("UPDATE account SET balance = $1").bind(balance - 100);
                write.execute(&mut *wallet).await?;
                Ok(txn.commit_branches([wallet.into()]).await?)
            });
            assert_eq!(paid.await.expect("in the end").outcome, Some(OutcomeWord::Committed));
            attempts.into_inner()
        })
    });
    let [first, second] = payments;
    let (first, second) = tokio::try_join!(first, second).expect("neither panics");
    assert!(first + second > 2, "{first} and {second} attempts");
    assert_eq!((balance(&wallet), prepared(&wallet)), ("800".to_owned(), "0".to_owned()));
}

#[tokio::test]
async fn a_lock_of_mariadb_that_is_not_free_in_time_is_waited_for_again_and_other_errors_come_back()
{
    let Some(scene) = Scene::set().await else { return };
    let pool: Pool<MySql> =
        MySqlPool::connect(&scene.ledger.url("root", "bank")).await.expect("in");
    let mut other = pool.begin().await.expect("begun");
    query(EARN).bind(0).execute(&mut *other).await.expect("locked");
    let (other, attempts) = (Cell::new(Some(other)), Cell::new(0));
    let paid = scene.coordinator.client.transaction().retrying(async |txn: Txn| {
        attempts.set(attempts.get() + 1);
        let mut conn = pool.acquire().await?;
        conn.execute("SET innodb_lock_wait_timeout = 1").await?;
        let mut ledger = txn.enlist_sqlx_mysql("ledger", conn).await?;
        let earned = query(EARN).bind(1).execute(&mut ledger).await;
        if let Some(other) = other.take() {
            other.rollback().await?;
        }
        earned?;
        Ok(txn.commit_branches([ledger.into()]).await?)
    });
    paid.await.expect("in the end");
    assert_eq!((attempts.get(), &*balances(&scene).1), (2, "1001"));

    let refused = scene.coordinator.client.transaction().retrying(async |txn: Txn| {
        attempts.set(attempts.get() + 1);
        let mut ledger = txn.enlist_sqlx_mysql("ledger", pool.acquire().await?).await?;
        ledger.execute("INSERT INTO account VALUES (1, 5)").await?;
        Ok(txn.commit_branches([ledger.into()]).await?)
    });
    let error = refused.await.expect_err("it is there already");
    let error = error.downcast::<SqlxError>().expect("as it was");
    assert!(error.as_database_error().is_some_and(|it| it.is_unique_violation()), "{error}");
    assert_eq!(attempts.get(), 3);
    scene.nothing_is_left().await;
}
