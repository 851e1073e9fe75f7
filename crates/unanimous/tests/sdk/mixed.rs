//! A PostgreSQL server and a MariaDB server, worked on over the application's own connections.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Pool};
use tokio_postgres::Client as Connection;
use unanimous_client::api::OutcomeWord;
use unanimous_client::{Error, MysqlBranch, PostgresBranch, Txn};
use unanimous_participants::testing::{PrivateMariaDb, PrivatePostgres, Proxy, Toward, until};

use crate::scene::{
    Coordinator, TAKE, balance, bank, connect, connect_to, is_clean, prepared, url,
};

pub(crate) const EARN: &str = "UPDATE account SET balance = balance + ? WHERE id = 1";

pub(crate) struct Scene {
    pub(crate) coordinator: Coordinator,
    pub(crate) wallet: PrivatePostgres,
    pub(crate) ledger: PrivateMariaDb,
    /// Resets its connections when they come back, as pools do unless they are told otherwise.
    pool: Pool,
}

impl Scene {
    pub(crate) async fn set() -> Option<Self> {
        let (wallet, ledger) = (bank()?, PrivateMariaDb::start(&[])?);
        ledger.sql(
            "bank",
            "CREATE TABLE account (id INT PRIMARY KEY, balance BIGINT) ENGINE=InnoDB; \
             INSERT INTO account VALUES (1, 1000), (2, 1000)",
        );
        let pool = Pool::new(&*ledger.url("root", "bank"));
        let resources = [("wallet", url(&wallet)), ("ledger", ledger.url("root", "bank"))];
        let coordinator = Coordinator::start(&resources).await;
        Some(Self { coordinator, wallet, ledger, pool })
    }

    async fn conn(&self) -> Conn {
        self.pool.get_conn().await.expect("it lets us in")
    }

    pub(crate) async fn begin(&self) -> Txn {
        self.coordinator.client.transaction().begin().await.expect("begun")
    }

    pub(crate) fn balances(&self) -> (String, String) {
        let ledger = self.ledger.sql("bank", "SELECT balance FROM account WHERE id = 1");
        (balance(&self.wallet), ledger)
    }

    /// Whether nothing is prepared and no lock is held, by the names of branches or on rows.
    pub(crate) async fn nothing_is_left(&self) {
        until("nothing prepared", async || {
            // MariaDB renews what it shows here only when nobody has looked for 100 ms: who looks more
            // often sees the same for ever.
            tokio::time::sleep(Duration::from_millis(150)).await;
            let engine = "SELECT COUNT(*) FROM information_schema.innodb_trx";
            prepared(&self.wallet) == "0"
                && self.ledger.sql("bank", "XA RECOVER").is_empty()
                && self.ledger.sql("bank", engine) == "0"
        })
        .await;
    }
}

async fn worked_on<'c>(
    txn: &Txn,
    amount: i64,
    wallet: &'c mut Connection,
    ledger: Conn,
) -> (PostgresBranch<'c>, MysqlBranch) {
    let wallet = txn.enlist_postgres("wallet", wallet).await.expect("enlisted");
    let mut ledger = txn.enlist_mysql("ledger", ledger).await.expect("enlisted");
    assert_eq!(wallet.execute(TAKE, &[&amount]).await.expect("done"), 1);
    ledger.exec_drop(EARN, (amount,)).await.expect("done");
    (wallet, ledger)
}

#[tokio::test]
async fn postgresql_and_mariadb_commit_together_over_connections_of_the_application() {
    let Some(scene) = Scene::set().await else { return };
    let mut wallet_db = connect(&scene.wallet).await;
    for _ in 0..3 {
        let txn = scene.begin().await;
        let (wallet, ledger) = worked_on(&txn, 100, &mut wallet_db, scene.conn().await).await;
        let view = txn.commit_branches([wallet.into(), ledger.into()]).await.expect("committed");
        assert_eq!(view.outcome, Some(OutcomeWord::Committed));
        until("finished", async || {
            let view = txn.show().await.expect("known");
            assert!(view.participants.iter().all(|it| it.heuristic.is_none()), "{view:?}");
            view.participants.iter().all(|it| it.ack)
        })
        .await;
    }
    assert_eq!(scene.balances(), ("700".to_owned(), "1300".to_owned()));
    scene.nothing_is_left().await;
    assert!(is_clean(&wallet_db).await);
    scene.pool.clone().disconnect().await.expect("every connection came back");
}

#[tokio::test]
async fn a_statement_that_mariadb_refused_is_a_no_even_if_the_application_passes_over_it() {
    let Some(scene) = Scene::set().await else { return };
    let mut wallet_db = connect(&scene.wallet).await;
    let txn = scene.begin().await;
    let (wallet, mut ledger) = worked_on(&txn, 100, &mut wallet_db, scene.conn().await).await;
    let twice = "INSERT INTO account VALUES (1, 5)";
    drop(ledger.query_drop(twice).await.expect_err("it is there already"));
    let more = ledger.query_drop("INSERT INTO account VALUES (7, 5)").await;
    let more = more.expect_err("it takes no more").to_string();
    assert!(more.contains("a statement of the branch has failed"), "{more}");
    let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
    let error = committed.expect_err("it failed");
    assert!(matches!(error, Error::NotPrepared { .. }), "{error:?}");
    let reason = error.reason().expect("a reason");
    assert_eq!((reason.participant.as_deref(), &*reason.kind), (Some("ledger"), "constraint"));
    scene.nothing_is_left().await;
    assert_eq!(scene.balances(), ("1000".to_owned(), "1000".to_owned()));
}

#[tokio::test]
async fn a_no_of_postgresql_rolls_mariadb_back_over_its_own_connection() {
    let Some(scene) = Scene::set().await else { return };
    let mut wallet_db = connect(&scene.wallet).await;
    for _ in 0..2 {
        let txn = scene.begin().await;
        let (wallet, ledger) = worked_on(&txn, 100, &mut wallet_db, scene.conn().await).await;
        drop(wallet.execute(TAKE, &[&5_000_i64]).await);
        let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
        let error = committed.expect_err("not enough");
        assert_eq!(error.reason().and_then(|it| it.participant.as_deref()), Some("wallet"));
        // Its locks are free at once.
        let change = "SET innodb_lock_wait_timeout = 0; UPDATE account SET balance = balance + 1";
        scene.ledger.sql("bank", &format!("{change}; UPDATE account SET balance = balance - 1"));
    }
    scene.nothing_is_left().await;
    assert_eq!(scene.balances(), ("1000".to_owned(), "1000".to_owned()));
}

#[tokio::test]
async fn branches_that_are_dropped_leave_nothing_behind() {
    let Some(scene) = Scene::set().await else { return };
    let mut wallet_db = connect(&scene.wallet).await;
    let txn = scene.begin().await;
    let (wallet, ledger) = worked_on(&txn, 100, &mut wallet_db, scene.conn().await).await;
    drop((wallet, ledger));
    scene.nothing_is_left().await;
    until("aborted", async || {
        txn.show().await.expect("known").outcome == Some(OutcomeWord::Aborted)
    })
    .await;
    assert_eq!(scene.balances(), ("1000".to_owned(), "1000".to_owned()));
    assert!(is_clean(&wallet_db).await);
}

#[tokio::test]
async fn a_commit_that_is_given_up_in_the_middle_is_all_or_nothing() {
    let Some(scene) = Scene::set().await else { return };
    let mut wallet_db = connect(&scene.wallet).await;
    let mut expected = 1_000;
    for delay_ms in 0..12 {
        let txn = scene.coordinator.client.transaction().timeout_ms(1_500).begin().await;
        let txn = txn.expect("begun");
        let (wallet, ledger) = worked_on(&txn, 1, &mut wallet_db, scene.conn().await).await;
        let commit = txn.commit_branches([wallet.into(), ledger.into()]);
        // Given up wherever it is then, with its connections.
        drop(tokio::time::timeout(Duration::from_millis(delay_ms), commit).await);
        scene.nothing_is_left().await;
        let mut outcome = None;
        until("decided", async || {
            outcome = txn.show().await.expect("known").outcome;
            outcome.is_some()
        })
        .await;
        expected -= i64::from(outcome == Some(OutcomeWord::Committed));
        let balances = (expected.to_string(), (2_000 - expected).to_string());
        until("as decided", async || scene.balances() == balances).await;
    }
}

/// Cuts one of the two connections after so many bytes of the commit.
async fn commit_and_cut(scene: &Scene, proxies: &[Proxy; 2], cut: (usize, i64, Toward)) -> bool {
    let (whose, bytes, toward) = cut;
    let wallet_url = scene.wallet.url("postgres", "postgres");
    let wallet_url = wallet_url.replace(&scene.wallet.port().to_string(), &port(&proxies[0]));
    let ledger_url = scene.ledger.url("root", "bank");
    let ledger_url = ledger_url.replace(&scene.ledger.port().to_string(), &port(&proxies[1]));
    // The driver would change over to the server's socket, past the proxy.
    let ledger_url = format!("{ledger_url}?prefer_socket=false");
    let mut wallet_db = connect_to(&wallet_url).await;
    let ledger_db = Conn::from_url(ledger_url).await.expect("it lets us in");

    let before = scene.balances();
    let txn = scene.coordinator.client.transaction().timeout_ms(3_000).begin().await;
    let txn = txn.expect("begun");
    let (wallet, ledger) = worked_on(&txn, 1, &mut wallet_db, ledger_db).await;
    proxies[whose].cut_after(bytes, toward);
    let committed = txn.commit_branches([wallet.into(), ledger.into()]).await;
    let has_cut = proxies[whose].has_cut();
    proxies[whose].mend();
    scene.nothing_is_left().await;

    let view = txn.show().await.expect("known");
    assert!(view.participants.iter().all(|it| it.heuristic.is_none()), "{cut:?}: {view:?}");
    let is_committed = view.outcome == Some(OutcomeWord::Committed);
    assert_eq!(committed.is_ok(), is_committed, "{cut:?}: {committed:?}");
    let moved = |from: &str, by: i64| (from.parse::<i64>().expect("a number") + by).to_string();
    let by = i64::from(is_committed);
    let expected = (moved(&before.0, -by), moved(&before.1, by));
    until("as decided", async || scene.balances() == expected).await;
    has_cut
}

fn port(proxy: &Proxy) -> String {
    proxy.port().to_string()
}

#[tokio::test]
async fn a_connection_that_breaks_anywhere_in_the_commit_leaves_all_or_nothing() {
    let Some(scene) = Scene::set().await else { return };
    let ports = [scene.wallet.port(), scene.ledger.port()];
    let proxies = [Proxy::start(ports[0]).await, Proxy::start(ports[1]).await];
    // Each direction from the first byte of the commit to behind its last.
    let mut cuts = 0;
    for bytes in (5..400).step_by(40) {
        for whose in [0, 1] {
            let cut = (whose, bytes, Toward::Server);
            cuts += usize::from(commit_and_cut(&scene, &proxies, cut).await);
        }
    }
    // Answers of MariaDB have eleven bytes, those of PostgreSQL some more.
    for (whose, bytes) in [(1, 5), (1, 11), (1, 16), (1, 22), (1, 27), (1, 33), (1, 38)]
        .into_iter()
        .chain((10..250).step_by(40).map(|bytes| (0, bytes)))
    {
        let cut = (whose, bytes, Toward::Client);
        cuts += usize::from(commit_and_cut(&scene, &proxies, cut).await);
    }
    assert!(cuts >= 25, "it broke {cuts} times only");
}
