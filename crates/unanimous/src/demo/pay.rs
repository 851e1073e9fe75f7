//! The two ways of making a transfer that the demo compares.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::time::{sleep, timeout};
use unanimous_client::{Client, Error};

use super::bank::INSUFFICIENT_BALANCE;
use super::load::{Pay, Told};
use super::plan::{Role, Transfer};

/// Milliseconds within which a transfer must be decided.
const TIMEOUT_MS: u64 = 10_000;

/// How long a client of a single service waits for it.
const NAIVE_PATIENCE: Duration = Duration::from_secs(5);

/// Pause before a service that takes no connections is called again.
const NAIVE_PAUSE: Duration = Duration::from_millis(5);

/// All services or none, by the coordinator.
pub(crate) struct Unanimously(pub(crate) Client);

impl Pay for Unanimously {
    async fn pay(&self, transfer: &Transfer, attempt: u32) -> Told {
        let mut run = self
            .0
            .transaction()
            .key(format!("{}.{attempt}", transfer.transfer))
            .timeout_ms(TIMEOUT_MS)
            .branch(Role::Wallet.as_str(), json!(transfer));
        for role in [Role::Ledger, Role::Audit] {
            run = run.branch(role.as_str(), json!(transfer));
        }
        match run.run().await {
            Ok(_) => Told::Committed,
            Err(Error::Aborted(view)) => match view.reason.map(|reason| reason.kind) {
                Some(kind) if kind == INSUFFICIENT_BALANCE => Told::Refused(kind),
                Some(kind) => Told::Aborted(kind),
                None => Told::Aborted("without a reason".to_owned()),
            },
            Err(
                error @ (Error::Usage(_)
                | Error::NotPrepared { .. }
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

/// Each service commits at once; done if all of them say so.
pub(crate) struct Naively {
    services: Vec<(Role, String)>,
    pool: Pool<HttpConnector, Full<Bytes>>,
}

/// What one service said.
enum Said {
    Done,
    Refused,
    Nothing,
}

impl Naively {
    /// With the services at these addresses.
    pub(crate) fn new(services: impl IntoIterator<Item = (Role, std::net::SocketAddr)>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let url = |address| format!("http://{address}/naive");
        Self {
            services: services.into_iter().map(|(role, address)| (role, url(address))).collect(),
            pool: Pool::builder(TokioExecutor::new()).build(connector),
        }
    }

    async fn ask(&self, service: Role, transfer: &Transfer) -> Said {
        let (_, url) = self
            .services
            .iter()
            .find(|&&(role, _)| role == service)
            .expect("every service has an address");
        let body = Bytes::from(serde_json::to_vec(transfer).expect("a transfer is plain data"));
        let exchange = async {
            let reply = loop {
                let request = Request::post(url)
                    .header("content-type", "application/json")
                    .body(Full::new(body.clone()))
                    .expect("a good request");
                match self.pool.request(request).await {
                    Ok(reply) => break reply,
                    // Nothing was sent, so even without a coordinator it is safe to try again.
                    Err(error) if error.is_connect() => sleep(NAIVE_PAUSE).await,
                    Err(_) => return None,
                }
            };
            let status = reply.status();
            reply.into_body().collect().await.ok()?;
            Some(status)
        };
        match timeout(NAIVE_PATIENCE, exchange).await {
            Ok(Some(StatusCode::OK)) => Said::Done,
            Ok(Some(StatusCode::CONFLICT)) => Said::Refused,
            Ok(Some(_) | None) | Err(_) => Said::Nothing,
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
            (Said::Done | Said::Refused | Said::Nothing, _) => {
                Told::Unknown("a service did not answer".to_owned())
            }
        }
    }
}
