//! Two PostgreSQL servers, worked on over the application's own connections.

use tokio_postgres::Client as Connection;
use unanimous_client::api::{OutcomeWord, VoteWord};
use unanimous_client::{Error, PostgresBranch, Txn};
use unanimous_participants::testing::{PrivatePostgres, until};

use crate::scene::{Coordinator, GIVE, TAKE, balance, bank, connect, is_clean, prepared, url};

struct Scene {
    coordinator: Coordinator,
    wallet: PrivatePostgres,
    ledger: PrivatePostgres,
}

impl Scene {
    async fn set() -> Option<Self> {
        let (wallet, ledger) = (bank()?, bank()?);
        let resources = [("wallet", url(&wallet)), ("ledger", url(&ledger))];
        let coordinator = Coordinator::start(&resources).await;
        Some(Self { coordinator, wallet, ledger })
    }

    async fn connect(&self) -> (Connection, Connection) {
        (connect(&self.wallet).await, connect(&self.ledger).await)
    }

    fn balances(&self) -> (String, String) {
        (balance(&self.wallet), balance(&self.ledger))
    }

    async fn begin(&self) -> Txn {
        self.coordinator.client.transaction().begin().await.expect("begun")
    }

    async fn nothing_is_left(&self) {
        until("nothing prepared", async || {
            prepared(&self.wallet) == "0" && prepared(&self.ledger) == "0"
        })
        .await;
    }
}

/// Both branches, with a transfer in them.
async fn worked_on<'c>(
    txn: &Txn,
    amount: i64,
    (wallet, ledger): (&'c mut Connection, &'c mut Connection),
) -> (PostgresBranch<'c>, PostgresBranch<'c>) {
    let wallet = txn.enlist_postgres("wallet", wallet).await.expect("enlisted");
    let ledger = txn.enlist_postgres("ledger", ledger).await.expect("enlisted");
    assert_eq!(wallet.execute(TAKE, &[&amount]).await.expect("done"), 1);
    assert_eq!(ledger.execute(GIVE, &[&amount]).await.expect("done"), 1);
    (wallet, ledger)
}

#[tokio::test]
async fn a_transfer_over_connections_of_the_application_commits_in_both_databases() {
    let Some(scene) = Scene::set().await else { return };
    let (mut wallet_db, mut ledger_db) = scene.connect().await;
    for _ in 0..2 {
        let txn = scene.begin().await;
        let (wallet, ledger) = worked_on(&txn, 100, (&mut wallet_db, &mut ledger_db)).await;
        let view = txn.commit_branches([wallet.into(), ledger.into()]).await.expect("committed");
        assert_eq!(view.outcome, Some(OutcomeWord::Committed));
        assert!(view.participants.iter().all(|it| it.ack && it.vote == Some(VoteWord::Yes)));
    }
    assert_eq!(scene.balances(), ("800".to_owned(), "1200".to_owned()));
    assert!(is_clean(&wallet_db).await && is_clean(&ledger_db).await);
}

#[tokio::test]
async fn a_statement_that_fails_leaves_both_databases_as_they_were() {
    let Some(scene) = Scene::set().await else { return };
    let (mut wallet_db, mut ledger_db) = scene.connect().await;
    let txn = scene.begin().await;
    let (wallet, ledger) = worked_on(&txn, 100, (&mut wallet_db, &mut ledger_db)).await;
    let error = wallet.execute(TAKE, &[&5_000_i64]).await.expect_err("not enough");
    assert_eq!(error.code().map(|it| it.code()), Some("23514"));
    drop((wallet, ledger));
    assert_eq!(scene.balances(), ("1000".to_owned(), "1000".to_owned()));
    assert!(is_clean(&wallet_db).await && is_clean(&ledger_db).await);
    until("aborted", async || {
        txn.show().await.expect("known").outcome == Some(OutcomeWord::Aborted)
    })
    .await;
}

#[tokio::test]
async fn an_error_that_the_application_passed_over_is_a_no() {
    let Some(scene) = Scene::set().await else { return };
    let (mut wallet_db, mut ledger_db) = scene.connect().await;
    let txn = scene.begin().await;
    let (wallet, ledger) = worked_on(&txn, 100, (&mut wallet_db, &mut ledger_db)).await;
    drop(wallet.execute(TAKE, &[&5_000_i64]).await);
    let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
    let error = committed.expect_err("it failed");
    assert!(matches!(error, Error::NotPrepared { .. }), "{error:?}");
    let reason = error.reason().expect("a reason");
    assert_eq!((reason.participant.as_deref(), &*reason.kind), (Some("wallet"), "statement"));
    assert!(
        error.to_string().contains("25P02") || error.to_string().contains("aborted"),
        "{error}"
    );
    scene.nothing_is_left().await;
    assert_eq!(scene.balances(), ("1000".to_owned(), "1000".to_owned()));
    assert!(is_clean(&wallet_db).await && is_clean(&ledger_db).await);
    let view = txn.show().await.expect("known");
    assert_eq!(view.outcome, Some(OutcomeWord::Aborted));
}

#[tokio::test]
async fn a_transaction_that_the_work_has_ended_itself_is_a_no() {
    let Some(scene) = Scene::set().await else { return };
    let (mut wallet_db, mut ledger_db) = scene.connect().await;
    for end in ["ROLLBACK", "ROLLBACK; BEGIN"] {
        let txn = scene.begin().await;
        let (wallet, ledger) = worked_on(&txn, 100, (&mut wallet_db, &mut ledger_db)).await;
        wallet.batch_execute(end).await.expect("nobody hinders it");
        let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
        let error = committed.expect_err("it has ended").to_string();
        assert!(error.contains("its work has ended the transaction"), "{error}");
        assert!(is_clean(&wallet_db).await && is_clean(&ledger_db).await);
    }
    scene.nothing_is_left().await;
    assert_eq!(scene.balances(), ("1000".to_owned(), "1000".to_owned()));
}

#[tokio::test]
async fn a_branch_that_only_read_is_not_prepared_and_what_cannot_be_prepared_is_told() {
    let Some(scene) = Scene::set().await else { return };
    let (mut wallet_db, mut ledger_db) = scene.connect().await;
    let txn = scene.begin().await;
    let wallet = txn.enlist_postgres("wallet", &mut wallet_db).await.expect("enlisted");
    let ledger = txn.enlist_postgres("ledger", &mut ledger_db).await.expect("enlisted");
    wallet.query_one("SELECT balance FROM account", &[]).await.expect("read");
    ledger.execute(GIVE, &[&1_i64]).await.expect("done");
    let view = txn.commit_branches([wallet.into(), ledger.into()]).await.expect("committed");
    let votes: Vec<_> = view.participants.iter().map(|it| it.vote).collect();
    assert_eq!(votes, [Some(VoteWord::ReadOnly), Some(VoteWord::Yes)]);

    let txn = scene.begin().await;
    let (wallet, ledger) = worked_on(&txn, 100, (&mut wallet_db, &mut ledger_db)).await;
    wallet.batch_execute("NOTIFY anybody").await.expect("done");
    let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
    let error = committed.expect_err("not with NOTIFY");
    assert_eq!(error.reason().map(|it| &*it.kind), Some("unsupported"), "{error}");
    scene.nothing_is_left().await;
    assert_eq!(scene.balances(), ("1000".to_owned(), "1001".to_owned()));
}

#[tokio::test]
async fn what_a_dead_application_left_prepared_is_rolled_back_by_the_coordinator() {
    let Some(scene) = Scene::set().await else { return };
    let txn = scene.coordinator.client.transaction().timeout_ms(1_500).begin().await;
    let txn = txn.expect("begun");
    // Prepared under the branch's name, and then never heard of again.
    for (resource, bank) in [("wallet", &scene.wallet), ("ledger", &scene.ledger)] {
        let name = txn.enlist(resource, resource).await.expect("enlisted");
        let connection = connect(bank).await;
        let work = "BEGIN; UPDATE account SET balance = 0";
        connection.batch_execute(work).await.expect("done");
        let prepare = format!("PREPARE TRANSACTION '{name}'");
        connection.batch_execute(&prepare).await.expect("prepared");
    }
    assert_eq!((prepared(&scene.wallet), prepared(&scene.ledger)), ("1".into(), "1".into()));
    scene.nothing_is_left().await;
    assert_eq!(scene.balances(), ("1000".to_owned(), "1000".to_owned()));
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_commit_aborts_the_whole() {
    let Some(scene) = Scene::set().await else { return };
    let (mut wallet_db, mut ledger_db) = scene.connect().await;
    let txn = scene.begin().await;
    let (wallet, ledger) = worked_on(&txn, 100, (&mut wallet_db, &mut ledger_db)).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE state = 'idle in transaction'";
    assert_eq!(scene.wallet.sql("postgres", end), "1");
    let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
    let error = committed.expect_err("the work is lost");
    assert_eq!(error.reason().and_then(|it| it.participant.as_deref()), Some("wallet"), "{error}");
    scene.nothing_is_left().await;
    assert_eq!(scene.balances(), ("1000".to_owned(), "1000".to_owned()));
    assert!(is_clean(&ledger_db).await);
}
