//! Queries outside of branches.

use std::time::Duration;

use unanimous_participants::Resource;
use unanimous_participants::testing::until;

use crate::common::{Bank, at};

const PATIENCE: Duration = Duration::from_secs(5);

async fn read(resource: &dyn Resource, queries: &[&str]) -> Result<Vec<Option<String>>, String> {
    resource.read(queries.iter().map(|it| (*it).to_owned()).collect(), PATIENCE).await
}

#[tokio::test]
async fn numbers_come_exactly_and_nothing_can_be_changed() {
    let Some(bank) = Bank::start(&[]) else { return };
    let resource = at(&bank.server.url("app", "bank"));
    let exact = [
        "SELECT SUM(balance) FROM account",
        "SELECT CAST('0.1000000000000000000001' AS DECIMAL(40,22))",
        "SELECT SUM(balance) FROM account WHERE id > 7; -- none",
    ];
    let expected = [Some("2000".into()), Some("0.1000000000000000000001".into()), None];
    assert_eq!(read(&*resource, &exact).await, Ok(expected.into()));
    for (query, named) in [
        ("DELETE FROM account", "only reads"),
        ("SELECT 1; DELETE FROM account", "more than one statement"),
        ("COMMIT", "only reads"),
        ("SELECT id FROM account WHERE id = ?", "placeholders"),
        ("SELECT balance FROM account FOR UPDATE", "only reads"),
        ("SELECT balance FROM account", "2 came"),
        ("SELECT 1 AS a, 2 AS b", "2 came"),
        ("SELECT SUM(balnce) FROM account", "SELECT SUM(balnce) FROM account: "),
    ] {
        let why = read(&*resource, &[query]).await.expect_err(query);
        assert!(why.contains(named), "{query}: {why}");
    }
    assert_eq!(bank.number("SELECT SUM(balance) FROM account"), 2_000);
    assert!(read(&*resource, &exact).await.is_ok());
}

#[tokio::test]
async fn a_function_that_writes_is_refused_by_the_server() {
    let Some(bank) = Bank::start(&[]) else { return };
    bank.server.sql(
        "bank",
        "DELIMITER //\n\
         CREATE FUNCTION gift() RETURNS int DETERMINISTIC MODIFIES SQL DATA BEGIN \
         UPDATE account SET balance = balance + 1; RETURN 1; END//\nDELIMITER ;",
    );
    let resource = at(&bank.server.url("app", "bank"));
    let why = read(&*resource, &["SELECT gift()"]).await.expect_err("it writes");
    assert!(why.contains("READ ONLY"), "{why}");
    assert_eq!(bank.number("SELECT SUM(balance) FROM account"), 2_000);
}

#[tokio::test]
async fn queries_of_one_reading_see_one_state_and_a_slow_one_is_given_up() {
    let Some(bank) = Bank::start(&[]) else { return };
    let resource = at(&bank.server.url("app", "bank"));
    let sum = "SELECT SUM(balance) FROM account";
    let queries = [sum, "SELECT SLEEP(0.5)", sum].map(str::to_owned);
    let reading = tokio::spawn(resource.read(queries.into(), PATIENCE));
    let sleeping =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
    until("it sleeps", async || bank.number(sleeping) == 1).await;
    bank.server.sql("bank", "UPDATE account SET balance = balance + 1");
    let values = reading.await.expect("it does not panic").expect("it is read");
    assert_eq!((&values[0], &values[2]), (&Some("2000".into()), &Some("2000".into())));
    assert_eq!(read(&*resource, &[sum]).await, Ok(vec![Some("2002".into())]));

    let endless = resource.read(vec!["SELECT SLEEP(60)".into()], Duration::from_millis(300));
    assert!(endless.await.is_err());
    until("the server gave up", async || bank.number(sleeping) == 0).await;
}
