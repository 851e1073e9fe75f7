//! Transactions that meet each other, and are made again.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Barrier;
use unanimous_client::api::OutcomeWord;
use unanimous_client::{Error, Txn};

use crate::scene::{Coordinator, GIVE, TAKE, balance, bank, connect, connect_to, prepared, url};

const SERIALIZABLE: &str = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";

#[tokio::test]
async fn a_failed_serialization_is_made_again_until_both_have_come_through() {
    let Some(wallet) = bank() else { return };
    let coordinator = Coordinator::start(&[("wallet", url(&wallet))]).await;
    let both_have_read = Arc::new(Barrier::new(2));
    let payments = [1, 2].map(|_| {
        let (client, barrier) = (coordinator.client.clone(), Arc::clone(&both_have_read));
        let url = url(&wallet);
        tokio::spawn(async move {
            let attempts = AtomicU32::new(0);
            let paid = client.transaction().retrying(async |txn: Txn| {
                let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
                let mut wallet_db = connect_to(&url).await;
                let wallet = txn.enlist_postgres("wallet", &mut wallet_db).await?;
                wallet.batch_execute(SERIALIZABLE).await?;
                let row = wallet.query_one("SELECT balance FROM account", &[]).await?;
                if is_first {
                    barrier.wait().await;
                }
                let rest = row.get::<_, i64>(0) - 100;
                wallet.execute("UPDATE account SET balance = $1", &[&rest]).await?;
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
async fn a_deadlock_across_two_databases_ends_and_both_come_through() {
    let (Some(wallet), Some(ledger)) = (bank(), bank()) else { return };
    let resources = [("wallet", url(&wallet)), ("ledger", url(&ledger))];
    let coordinator = Coordinator::start(&resources).await;
    let both_have_one = Arc::new(Barrier::new(2));
    let transfers = [("wallet", "ledger"), ("ledger", "wallet")].map(|(first, second)| {
        let (client, barrier) = (coordinator.client.clone(), Arc::clone(&both_have_one));
        let mut urls = [url(&wallet), url(&ledger)];
        if first == "ledger" {
            urls.reverse();
        }
        async move {
            let attempts = Cell::new(0);
            // Whoever waits for a lock longer than three quarters of this gives way.
            let transfer = client.transaction().timeout_ms(2_000);
            let done = transfer.retrying(async |txn: Txn| {
                attempts.set(attempts.get() + 1);
                let mut first_db = connect_to(&urls[0]).await;
                let mut second_db = connect_to(&urls[1]).await;
                let from = txn.enlist_postgres(first, &mut first_db).await?;
                let to = txn.enlist_postgres(second, &mut second_db).await?;
                from.execute(TAKE, &[&1_i64]).await?;
                if attempts.get() == 1 {
                    barrier.wait().await;
                }
                // Not both at the same moment.
                let wait_ms = if first == "wallet" { 200 } else { 1_500 };
                to.batch_execute(&format!("SET LOCAL lock_timeout = {wait_ms}")).await?;
                to.execute(GIVE, &[&1_i64]).await?;
                Ok(txn.commit_branches([from.into(), to.into()]).await?)
            });
            done.await.expect("in the end");
        }
    });
    let [one, other] = transfers;
    tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(one, other) })
        .await
        .expect("it ends");
    assert_eq!((balance(&wallet), balance(&ledger)), ("1000".to_owned(), "1000".to_owned()));
}

#[tokio::test]
async fn other_errors_abort_and_come_back_as_they_are() {
    let Some(wallet) = bank() else { return };
    let coordinator = Coordinator::start(&[("wallet", url(&wallet))]).await;
    let attempts = Cell::new(0);
    let id = Cell::new(String::new());
    let refused = coordinator.client.transaction().retrying(async |txn: Txn| {
        attempts.set(attempts.get() + 1);
        id.set(txn.id().to_owned());
        let mut wallet_db = connect(&wallet).await;
        let wallet = txn.enlist_postgres("wallet", &mut wallet_db).await?;
        wallet.execute(TAKE, &[&5_000_i64]).await?;
        Ok(txn.commit_branches([wallet.into()]).await?)
    });
    let error = refused.await.expect_err("not enough");
    let error = error.downcast::<tokio_postgres::Error>().expect("as it was");
    assert_eq!(error.code().map(|code| code.code()), Some("23514"));
    assert_eq!(attempts.get(), 1);
    let view = coordinator.client.show(&id.take()).await.expect("known");
    assert_eq!(view.outcome, Some(OutcomeWord::Aborted));

    let forgetful = coordinator.client.transaction().retrying(async |txn: Txn| {
        id.set(txn.id().to_owned());
        Ok(())
    });
    let error = forgetful.await.expect_err("nothing was committed");
    assert!(matches!(error.downcast_ref(), Some(Error::Usage(_))), "{error}");
    let view = coordinator.client.show(&id.take()).await.expect("known");
    assert_eq!(view.outcome, Some(OutcomeWord::Aborted));
    assert_eq!(balance(&wallet), "1000");
}

#[tokio::test]
async fn what_failed_behind_the_commit_is_not_made_again() {
    let Some(wallet) = bank() else { return };
    let coordinator = Coordinator::start(&[("wallet", url(&wallet))]).await;
    let other = connect(&wallet).await;
    let paid = coordinator.client.transaction().retrying(async |txn: Txn| {
        let mut wallet_db = connect(&wallet).await;
        let wallet = txn.enlist_postgres("wallet", &mut wallet_db).await?;
        wallet.execute(TAKE, &[&1_i64]).await?;
        txn.commit_branches([wallet.into()]).await?;
        // It looks like a conflict, and the money is gone already.
        let raise = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$";
        Ok(other.batch_execute(raise).await?)
    });
    paid.await.expect_err("it raises");
    assert_eq!(balance(&wallet), "999");
}
