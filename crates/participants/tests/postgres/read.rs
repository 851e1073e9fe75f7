//! Queries outside of branches.

use std::time::{Duration, Instant};

use unanimous_participants::Resource;
use unanimous_participants::testing::until;

use crate::common::Bank;

const PATIENCE: Duration = Duration::from_secs(5);

async fn read(resource: &dyn Resource, queries: &[&str]) -> Result<Vec<Option<String>>, String> {
    resource.read(queries.iter().map(|it| (*it).to_owned()).collect(), PATIENCE).await
}

#[tokio::test]
async fn numbers_come_exactly_and_nothing_can_be_changed() {
    let Some(bank) = Bank::start(&[]) else { return };
    let resource = bank.at(&bank.server.url("postgres", "postgres"));
    let exact = [
        "SELECT SUM(balance) FROM account",
        "SELECT 0.10::numeric(40,30)",
        "SELECT SUM(balance) FROM account WHERE id > 7; -- none",
    ];
    let digits = format!("0.1{}", "0".repeat(29));
    let expected = [Some("2000".to_owned()), Some(digits), None];
    assert_eq!(read(&*resource, &exact).await, Ok(expected.into()));
    for (query, named) in [
        ("DELETE FROM account", "read-only"),
        ("WITH gone AS (DELETE FROM account RETURNING id) SELECT COUNT(*) FROM gone", "read-only"),
        ("COMMIT; DELETE FROM account", "42601"),
        ("COMMIT", "0 came"),
        ("SELECT balance FROM account", "2 came"),
        ("SELECT 1 AS a, 2 AS b", "2 came"),
        ("SELECT SUM(balnce) FROM account", "SELECT SUM(balnce) FROM account: "),
        ("COPY account TO STDOUT", "answers nothing"),
    ] {
        let why = read(&*resource, &[query]).await.expect_err(query);
        assert!(why.contains(named), "{query}: {why}");
    }
    assert_eq!(bank.number("SELECT SUM(balance) FROM account"), 2_000);
    assert!(read(&*resource, &exact).await.is_ok());
}

#[tokio::test]
async fn queries_of_one_reading_see_one_state_and_hold_nobody_up() {
    let Some(bank) = Bank::start(&[]) else { return };
    let resource = bank.at(&bank.server.url("postgres", "postgres"));
    let sum = "SELECT SUM(balance) FROM account";
    let slow = "SELECT COUNT(*) FROM (SELECT pg_sleep(0.5)) AS slept";
    let reading = tokio::spawn(resource.read([sum, slow, sum].map(str::to_owned).into(), PATIENCE));
    let sleeping = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    until("it sleeps", async || bank.number(sleeping) == 1).await;
    bank.server.sql("postgres", "UPDATE account SET balance = balance + 1");
    let values = reading.await.expect("it does not panic").expect("it is read");
    assert_eq!((&values[0], &values[2]), (&Some("2000".into()), &Some("2000".into())));
    assert_eq!(read(&*resource, &[sum]).await, Ok(vec![Some("2002".into())]));

    let begun = Instant::now();
    let endless = resource.read(vec!["SELECT pg_sleep(60)".into()], Duration::from_millis(300));
    assert!(endless.await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(5));
    until("the server gave up", async || bank.number(sleeping) == 0).await;
}
