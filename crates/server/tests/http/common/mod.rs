//! A coordinator and service participants inside the test process, on free ports.

mod client;
mod journal;
mod service;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use unanimous_core::commit::Phases;
use unanimous_participants::TlsFiles;
use unanimous_server::config::{Config, Limits, Overrides, ResourceConfig};
use unanimous_server::journal::JournalConfig;
use unanimous_server::{Server, StopError};

pub(crate) use client::{Client, Reply, raw};
pub(crate) use journal::{Hand, HeldJournal, Step};
pub(crate) use service::{Called, Service};

/// Two branches, for a coordinator with the resources wallet and ledger.
pub(crate) const TWO: &str = r#"{"kind":"atomic","branches":[
    {"resource":"wallet","body":{"amount":500}},{"resource":"ledger","body":{"entry":500}}]}"#;

/// The same with another member at its beginning, such as `"wait":"none"`.
pub(crate) fn two_with(member: &str) -> String {
    TWO.replacen('{', &format!("{{{member},"), 1)
}

/// A coordinator in this process.
pub(crate) struct Coordinator {
    client: Client,
    stop: watch::Sender<bool>,
    running: Option<JoinHandle<Result<(), StopError>>>,
    config: Config,
    folder: Arc<TempDir>,
}

/// A configuration with these resources, in this folder, on a free port.
pub(crate) fn config(data: &Path, resources: &[(&str, &str)]) -> Config {
    let config = Config::parse("", data, Overrides::default(), &|_| None).expect("defaults");
    let resources = resources.iter().map(|&(name, url)| {
        let resource = ResourceConfig {
            url: url.to_owned(),
            calls_max: None,
            phases: Phases::Two,
            password: None,
            tls: TlsFiles::default(),
            signing: None,
        };
        (name.to_owned(), resource)
    });
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        journal: JournalConfig::Folder(data.to_owned()),
        resources: resources.collect(),
        limits: Limits { drain_ms: 2_000, ..config.limits.clone() },
        ..config
    }
}

/// A coordinator with the resources wallet and ledger, and their services.
pub(crate) async fn two() -> (Coordinator, Service, Service) {
    two_and(|config| config).await
}

/// The same with some more configured.
pub(crate) async fn two_and(
    more: impl FnOnce(Config) -> Config,
) -> (Coordinator, Service, Service) {
    let (wallet, ledger) = (Service::default(), Service::default());
    let urls = [wallet.serve().await, ledger.serve().await];
    let resources = [("wallet", &*urls[0]), ("ledger", &*urls[1])];
    (Coordinator::start_and(&resources, more).await, wallet, ledger)
}

impl Coordinator {
    /// Starts one in a temporary folder.
    pub(crate) async fn start(resources: &[(&str, &str)]) -> Self {
        Self::start_and(resources, |config| config).await
    }

    /// The same with some more configured.
    pub(crate) async fn start_and(
        resources: &[(&str, &str)],
        more: impl FnOnce(Config) -> Config,
    ) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let config = more(config(folder.path(), resources));
        let server = Server::start(config.clone()).await.expect("it starts");
        Self::run(server, config, folder)
    }

    /// Starts one on a journal that the test holds in its hand.
    pub(crate) async fn start_held(resources: &[(&str, &str)]) -> (Self, Hand) {
        Self::start_held_and(resources, |config| config).await
    }

    /// The same with some more configured.
    pub(crate) async fn start_held_and(
        resources: &[(&str, &str)],
        more: impl FnOnce(Config) -> Config,
    ) -> (Self, Hand) {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let config = more(config(folder.path(), resources));
        let data = config.journal.folder().expect("it is a folder").to_owned();
        let mut hand = None;
        let open = |ears| {
            let (journal, holding) = HeldJournal::open(&data, ears)?;
            hand = Some(holding);
            Ok(Arc::new(journal) as Arc<dyn unanimous_journal::Journal>)
        };
        let server = Server::start_on(config.clone(), open).await.expect("it starts");
        (Self::run(server, config, folder), hand.expect("it was opened"))
    }

    fn run(server: Server, config: Config, folder: Arc<TempDir>) -> Self {
        let client = Client::new(server.address().expect("bound"));
        let (stop, stopping) = watch::channel(false);
        let running = tokio::spawn(server.run(stopping));
        Self { client, stop, running: Some(running), config, folder }
    }

    /// Tells it to shut down, as a signal would.
    pub(crate) fn begin_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Result<(), StopError> {
        self.running.take().expect("ends once").await.expect("it does not panic")
    }

    /// As [`Coordinator::restart`], with something configured otherwise.
    pub(crate) async fn restart_as(mut self, more: impl FnOnce(Config) -> Config) -> Self {
        self.config = more(self.config);
        self.restart().await
    }

    /// Shuts it down and starts another one on its folder.
    pub(crate) async fn restart(mut self) -> Self {
        self.begin_stop();
        self.ended().await.expect("it stops");
        let mut server = None;
        // Calls that were under way hold on to the journal until they are given up.
        eventually("started again", async || {
            server = Server::start(self.config.clone()).await.ok();
            server.is_some()
        })
        .await;
        let server = server.expect("started");
        Self::run(server, self.config.clone(), Arc::clone(&self.folder))
    }

    /// A client of it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl std::ops::Deref for Coordinator {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Waits until `reached` holds, and fails the test if it does not within ten seconds.
pub(crate) async fn eventually(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !reached().await {
        assert!(started.elapsed() < Duration::from_secs(10), "never {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Long enough for anything that is wrongly let out to arrive.
pub(crate) const A_WHILE: Duration = Duration::from_millis(150);

/// A member that has to be text.
pub(crate) fn text(json: &Value) -> &str {
    json.as_str().unwrap_or_else(|| panic!("{json} is no text"))
}
