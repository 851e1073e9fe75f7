//! A coordinator inside of the test's process, and databases with one account of 1,000 each.

use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio_postgres::NoTls;
use unanimous_client::Client;
use unanimous_core::commit::Phases;
use unanimous_participants::TlsFiles;
use unanimous_participants::testing::PrivatePostgres;
use unanimous_server::Server;
use unanimous_server::config::{Config, Limits, Overrides, ResourceConfig};
use unanimous_server::journal::JournalConfig;

pub(crate) const TAKE: &str = "UPDATE account SET balance = balance - $1 WHERE id = 1";
pub(crate) const GIVE: &str = "UPDATE account SET balance = balance + $1 WHERE id = 1";

/// How long the coordinators of these tests let a branch be that nobody knows.
const ORPHAN_GRACE: Duration = Duration::from_millis(300);

/// A coordinator that ends with the test's runtime.
pub(crate) struct Coordinator {
    pub(crate) client: Client,
    _stop: watch::Sender<bool>,
    _folder: TempDir,
}

impl Coordinator {
    pub(crate) async fn start(resources: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = Config::parse("", folder.path(), Overrides::default(), &|_| None);
        let config = config.expect("defaults");
        let resources = resources.iter().map(|(name, url)| {
            let resource = ResourceConfig {
                url: url.clone(),
                calls_max: None,
                phases: Phases::Two,
                password: None,
                tls: TlsFiles::default(),
                signing: None,
            };
            ((*name).to_owned(), resource)
        });
        let orphan_grace_ms = ORPHAN_GRACE.as_millis() as u64;
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            journal: JournalConfig::Folder(folder.path().to_owned()),
            cluster: Some("test".to_owned()),
            resources: resources.collect(),
            limits: Limits { orphan_grace_ms, ..config.limits.clone() },
            ..config
        };
        let server = Server::start(config).await.expect("it starts");
        let address = server.address().expect("bound");
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(server.run(stopping));
        let client = Client::connect(&format!("http://{address}")).expect("an address");
        Self { client, _stop: stop, _folder: folder }
    }
}

/// A PostgreSQL server with an account.
pub(crate) fn bank() -> Option<PrivatePostgres> {
    let bank = PrivatePostgres::start(&[])?;
    bank.sql(
        "postgres",
        "CREATE TABLE account (id int PRIMARY KEY, balance bigint CHECK (balance >= 0)); \
         INSERT INTO account VALUES (1, 1000)",
    );
    Some(bank)
}

pub(crate) fn url(bank: &PrivatePostgres) -> String {
    bank.url("postgres", "postgres")
}

/// A connection of the application's own.
pub(crate) async fn connect(bank: &PrivatePostgres) -> tokio_postgres::Client {
    connect_to(&url(bank)).await
}

pub(crate) async fn connect_to(url: &str) -> tokio_postgres::Client {
    let connected = tokio_postgres::connect(url, NoTls).await;
    let (client, connection) = connected.expect("it lets us in");
    tokio::spawn(connection);
    client
}

pub(crate) fn balance(bank: &PrivatePostgres) -> String {
    bank.sql("postgres", "SELECT balance FROM account")
}

pub(crate) fn prepared(bank: &PrivatePostgres) -> String {
    bank.sql("postgres", "SELECT count(*) FROM pg_prepared_xacts")
}

/// Whether a connection is outside of any transaction.
pub(crate) async fn is_clean(client: &tokio_postgres::Client) -> bool {
    // Two statements of their own have two transactions of their own.
    let number = "SELECT pg_current_xact_id()::text";
    let first: String = client.query_one(number, &[]).await.expect("it is usable").get(0);
    let second: String = client.query_one(number, &[]).await.expect("it is usable").get(0);
    first != second
}
