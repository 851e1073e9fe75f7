//! The two ways of making a transfer that the demo compares.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::{sleep, timeout};
use unanimous_client::api::BranchRequest;
use unanimous_client::{Client, Error};
use unanimous_core::Opaque;
use unanimous_participants::alone::{Alone, CommitAlone};

use super::bank::INSUFFICIENT_BALANCE;
use super::load::{Pay, Told};
use super::party::{Kind, Party};
use super::plan::{Role, Transfer};
use super::work;

/// Milliseconds within which a transfer must be decided.
const TIMEOUT_MS: u64 = 10_000;

/// How long a client of a single party waits for it.
const NAIVE_PATIENCE: Duration = Duration::from_secs(5);

/// Pause before a service that takes no connections is called again.
const SERVICE_PAUSE: Duration = Duration::from_millis(5);

/// The same for a database, which has more to do for each connection that it refuses.
const DATABASE_PAUSE: Duration = Duration::from_millis(50);

/// Why a database refuses work that does not have the effect it should: here, when a customer has not
/// enough.
const EXPECTATION: &str = "expectation";

/// All parties or none, by the coordinator.
pub(super) struct Unanimously {
    client: Client,
    kinds: Vec<(Role, Kind)>,
}

impl Unanimously {
    pub(super) fn new(client: Client, parties: &[Party<'_>]) -> Self {
        let kinds = parties.iter().map(|party| (party.role(), party.kind())).collect();
        Self { client, kinds }
    }
}

impl Pay for Unanimously {
    async fn pay(&self, transfer: &Transfer, attempt: u32) -> Told {
        let branches = self.kinds.iter().map(|&(role, kind)| work::branch(role, kind, transfer));
        let run = self
            .client
            .transaction()
            .key(format!("{}.{attempt}", transfer.transfer))
            .timeout_ms(TIMEOUT_MS)
            .branches(branches);
        match run.run().await {
            Ok(_) => Told::Committed,
            Err(Error::Aborted(view)) => match view.reason.map(|reason| reason.kind) {
                Some(kind) if kind == INSUFFICIENT_BALANCE || kind == EXPECTATION => {
                    Told::Refused(INSUFFICIENT_BALANCE.to_owned())
                }
                Some(kind) => Told::Aborted(kind),
                None => Told::Aborted("without a reason".to_owned()),
            },
            Err(
                error @ (Error::Usage(_)
                | Error::NotPrepared { .. }
                | Error::Compensated(_)
                | Error::NeedsAttention(_)
                | Error::Mixed(_)
                | Error::Refused(_)
                | Error::NotFound(_)
                | Error::Busy(_)
                | Error::Unreachable { .. }
                | Error::NotACoordinator { .. }
                | Error::Unknown { .. }),
            ) => Told::Unknown(error.to_string()),
        }
    }
}

/// Each party commits at once; done if all of them say so.
pub(super) struct Naively {
    counters: Vec<(Role, Counter)>,
    pool: Pool<HttpConnector, Full<Bytes>>,
}

/// Where one party takes its part of a transfer.
enum Counter {
    /// A service, by the URL.
    Service(String),
    Database(Kind, Box<dyn CommitAlone>),
}

/// What one party said.
enum Said {
    Done,
    Refused,
    Nothing,
}

impl Naively {
    pub(super) fn new(parties: &[Party<'_>]) -> Result<Self, String> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let counter = |party: &Party<'_>| {
            let counter = match party {
                Party::Service { .. } => Counter::Service(format!("{}/naive", party.url())),
                Party::Database { database, way, .. } => {
                    Counter::Database(party.kind(), database.alone(*way)?)
                }
            };
            Ok((party.role(), counter))
        };
        let counters = parties.iter().map(counter).collect::<Result<_, String>>()?;
        Ok(Self { counters, pool: Pool::builder(TokioExecutor::new()).build(connector) })
    }

    async fn ask(&self, role: Role, transfer: &Transfer) -> Said {
        let found = self.counters.iter().find(|&&(it, _)| it == role);
        let (_, counter) = found.expect("every party has a counter");
        let asked = async {
            match counter {
                Counter::Service(url) => self.ask_service(url, transfer).await,
                Counter::Database(kind, database) => {
                    ask_database(&**database, &work::branch(role, *kind, transfer)).await
                }
            }
        };
        timeout(NAIVE_PATIENCE, asked).await.unwrap_or(Said::Nothing)
    }

    async fn ask_service(&self, url: &str, transfer: &Transfer) -> Said {
        let body = Bytes::from(serde_json::to_vec(transfer).expect("a transfer is plain data"));
        let reply = loop {
            let request = Request::post(url)
                .header("content-type", "application/json")
                .body(Full::new(body.clone()))
                .expect("a good request");
            match self.pool.request(request).await {
                Ok(reply) => break reply,
                // Nothing was sent, so even without a coordinator it is safe to try again.
                Err(error) if error.is_connect() => sleep(SERVICE_PAUSE).await,
                Err(_) => return Said::Nothing,
            }
        };
        let status = reply.status();
        match (reply.into_body().collect().await, status) {
            (Ok(_), StatusCode::OK) => Said::Done,
            (Ok(_), StatusCode::CONFLICT) => Said::Refused,
            (Ok(_) | Err(_), _) => Said::Nothing,
        }
    }
}

async fn ask_database(database: &dyn CommitAlone, branch: &BranchRequest) -> Said {
    let work = match (&branch.statements, &branch.body) {
        (Some(statements), _) => serde_json::to_vec(statements),
        (None, body) => serde_json::to_vec(body),
    };
    let work = Opaque::new(&work.expect("a request is plain data"));
    loop {
        match database.commit_alone(work.clone()).await {
            Alone::Done => return Said::Done,
            Alone::Refused(reason) if &*reason.kind == EXPECTATION => return Said::Refused,
            Alone::Refused(_) | Alone::Unknown(_) => return Said::Nothing,
            // As with a service, it is safe to try again.
            Alone::Unsent(_) => sleep(DATABASE_PAUSE).await,
        }
    }
}

impl Pay for Naively {
    /// The wallet first, so that a customer without money costs nothing; then the others at once.
    async fn pay(&self, transfer: &Transfer, _: u32) -> Told {
        match self.ask(Role::Wallet, transfer).await {
            Said::Done => {}
            Said::Refused => return Told::Refused(INSUFFICIENT_BALANCE.to_owned()),
            Said::Nothing => return Told::Unknown("the wallet did not answer".to_owned()),
        }
        let others =
            tokio::join!(self.ask(Role::Ledger, transfer), self.ask(Role::Audit, transfer));
        match others {
            (Said::Done, Said::Done) => Told::Committed,
            (Said::Done, Said::Refused | Said::Nothing) => {
                Told::Unknown("the audit did not answer".to_owned())
            }
            (Said::Refused | Said::Nothing, _) => {
                Told::Unknown("the ledger did not answer".to_owned())
            }
        }
    }
}
