//! Two services that take part, in the test's own process: they never crash and forget nothing.
//!
//! A model of the contract, written apart from the product's own participant so that no mistake is
//! made twice. What a coordinator may never ask for is written down as wrong.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::sleep;
use unanimous_client::api::{Code, OutcomeWord, header};

use crate::http::Http;
use crate::witness::Witness;
use crate::world::SERVICES;

/// How long a branch waits for the outcome before it asks, and between two questions.
const INQUIRE_AFTER: Duration = Duration::from_millis(400);

/// Longest time that a service takes for a call.
const SLOW_MS_MAX: u64 = 30;

/// What a branch is asked to do.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Work {
    /// The business's own name for it: to be done once, in however many transactions it is tried.
    pub(crate) label: String,
    /// The service that refuses.
    #[serde(default)]
    pub(crate) refuse: Option<String>,
    /// How long each call takes.
    #[serde(default)]
    pub(crate) slow_ms: u64,
    /// Nothing but weight.
    #[serde(default)]
    pub(crate) ballast: String,
}

impl Work {
    /// The work of that name: the same whenever it is asked for. Some is refused, some is slow.
    pub(crate) fn of(label: &str) -> Self {
        let hash = label.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        let refuse = hash.is_multiple_of(8).then(|| SERVICES[1].to_owned());
        let slow_ms = if hash % 4 == 1 { hash / 16 % SLOW_MS_MAX } else { 0 };
        Self { label: label.to_owned(), refuse, slow_ms, ..Self::default() }
    }
}

/// How far a branch has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mark {
    Prepared,
    Refused,
    Committed,
    RolledBack,
}

#[derive(Clone, Debug)]
struct Branch {
    txn: String,
    label: String,
    slow_ms: u64,
    mark: Mark,
    /// When it was prepared, or last asked for the outcome.
    since: Instant,
}

/// One service.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    branches: Mutex<HashMap<String, Branch>>,
    witness: Arc<Witness>,
}

impl Service {
    pub(crate) fn new(name: &'static str, witness: Arc<Witness>) -> Arc<Self> {
        Arc::new(Self { name, branches: Mutex::default(), witness })
    }

    /// Takes calls at an address of its own, as long as the future is polled.
    pub(crate) async fn serve(
        self: Arc<Self>,
        place: IpAddr,
    ) -> (SocketAddr, impl Future<Output = ()> + Send) {
        let listener = TcpListener::bind((place, 0)).await;
        let listener = listener.expect("the system has free ports");
        let address = listener.local_addr().expect("it is bound");
        let app = Router::new().route("/{verb}", post(call)).with_state(self);
        (address, async move {
            axum::serve(listener, app).await.expect("it serves until it is dropped");
        })
    }

    fn branches(&self) -> MutexGuard<'_, HashMap<String, Branch>> {
        self.branches.lock().expect("nobody panics with the branches")
    }

    /// Votes. A repeated question gets the same answer.
    pub(crate) fn prepare(&self, branch: &str, txn: &str, work: &Work) -> bool {
        let mark = match work.refuse.as_deref() == Some(self.name) {
            true => Mark::Refused,
            false => Mark::Prepared,
        };
        let new = || Branch {
            txn: txn.to_owned(),
            label: work.label.clone(),
            slow_ms: work.slow_ms,
            mark,
            since: Instant::now(),
        };
        let mut branches = self.branches();
        match branches.entry(branch.to_owned()).or_insert_with(new).mark {
            Mark::Prepared | Mark::Committed => true,
            Mark::Refused | Mark::RolledBack => false,
        }
    }

    fn commit(&self, branch: &str) {
        match self.branches().get_mut(branch) {
            Some(Branch { mark: mark @ (Mark::Prepared | Mark::Committed), .. }) => {
                *mark = Mark::Committed;
            }
            other => {
                let found = other.map(|branch| branch.mark);
                self.witness.wrong(format!("{}: commit of {branch}, {found:?}", self.name));
            }
        }
    }

    fn rollback(&self, branch: &str, txn: &str) {
        let mut branches = self.branches();
        let barred = || Branch {
            txn: txn.to_owned(),
            label: String::new(),
            slow_ms: 0,
            mark: Mark::RolledBack,
            since: Instant::now(),
        };
        let branch_now = branches.entry(branch.to_owned()).or_insert_with(barred);
        match branch_now.mark {
            Mark::Prepared => branch_now.mark = Mark::RolledBack,
            Mark::Refused | Mark::RolledBack => {}
            Mark::Committed => {
                self.witness.wrong(format!("{}: rollback of {branch}, committed", self.name));
            }
        }
    }

    /// Branches that are prepared.
    pub(crate) fn in_doubt(&self) -> Vec<String> {
        let branches = self.branches();
        let prepared = branches.iter().filter(|(_, it)| it.mark == Mark::Prepared);
        prepared.map(|(name, _)| name.clone()).collect()
    }

    /// Where the branch of each transaction stands.
    pub(crate) fn marks(&self) -> HashMap<String, Mark> {
        self.branches().values().map(|branch| (branch.txn.clone(), branch.mark)).collect()
    }

    /// Labels of work that was committed, each as often as that happened.
    pub(crate) fn committed(&self) -> Vec<String> {
        let branches = self.branches();
        let committed = branches.values().filter(|it| it.mark == Mark::Committed);
        committed.map(|branch| branch.label.clone()).collect()
    }

    /// The clusters that branches were named for.
    pub(crate) fn clusters(&self) -> HashSet<String> {
        let branches = self.branches();
        let clusters = branches.keys().filter_map(|name| name.split(':').nth(1));
        clusters.map(str::to_owned).collect()
    }

    /// Asks for the outcome of every branch that has been in doubt for long, and follows it. Never
    /// ends.
    pub(crate) async fn inquire(self: Arc<Self>, server: String) {
        let http = Http::new(&server);
        loop {
            for (branch, txn) in self.doubtful() {
                let Ok(reply) = http.inquire(&txn, &branch).await else { continue };
                let who = format!("{} in doubt", self.name);
                let outcome = match reply.code() {
                    Some(Code::UnknownTransaction) => Some(OutcomeWord::Aborted),
                    Some(_) => None,
                    None => reply.view().and_then(|view| view.outcome),
                };
                self.witness.reply(&who, &txn, &reply);
                match outcome {
                    Some(OutcomeWord::Committed) => self.commit(&branch),
                    Some(OutcomeWord::Aborted) => self.rollback(&branch, &txn),
                    Some(
                        OutcomeWord::Mixed
                        | OutcomeWord::Completed
                        | OutcomeWord::Compensated
                        | OutcomeWord::NeedsAttention,
                    )
                    | None => {}
                }
            }
            sleep(INQUIRE_AFTER / 4).await;
        }
    }

    fn doubtful(&self) -> Vec<(String, String)> {
        let mut branches = self.branches();
        let old = branches.iter_mut().filter(|(_, branch)| {
            branch.mark == Mark::Prepared && branch.since.elapsed() > INQUIRE_AFTER
        });
        let asked = old.map(|(name, branch)| {
            branch.since = Instant::now();
            (name.clone(), branch.txn.clone())
        });
        asked.collect()
    }
}

/// One call of the contract.
async fn call(
    State(service): State<Arc<Service>>,
    Path(verb): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(branch), Some(txn)) = (text(header::BRANCH), text(header::TRANSACTION)) else {
        return StatusCode::BAD_REQUEST;
    };
    match &*verb {
        "prepare" => {
            let Ok(work) = serde_json::from_slice::<Work>(&body) else {
                return StatusCode::BAD_REQUEST;
            };
            sleep(Duration::from_millis(work.slow_ms)).await;
            match service.prepare(branch, txn, &work) {
                true => StatusCode::OK,
                false => StatusCode::CONFLICT,
            }
        }
        "commit" | "rollback" => {
            let slow_ms = service.branches().get(branch).map_or(0, |branch| branch.slow_ms);
            sleep(Duration::from_millis(slow_ms)).await;
            match &*verb {
                "commit" => service.commit(branch),
                _ => service.rollback(branch, txn),
            }
            StatusCode::OK
        }
        _ => StatusCode::NOT_FOUND,
    }
}
