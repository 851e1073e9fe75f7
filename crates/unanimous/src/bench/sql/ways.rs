//! The ways in which a transfer is made.
//!
//! By hand is the floor: a client that prepares in both servers, each in as few round trips as its
//! protocol takes, and then commits in both, with no record of the decision anywhere. It is as fast as it
//! gets, and not safe. All the others have a coordinator, which writes the decision down.
//!
//! A transfer has come out when both servers have committed it, whichever way it went.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use unanimous_api::{TIMEOUT_MS_DEFAULT, Wait};
use unanimous_core::commit;
use unanimous_core::id::{BranchId, BranchName, ShardId, Timestamp, TxnId};
use unanimous_core::{Answer, Opaque, Outcome, Verb};
use unanimous_journal::Journal;
use unanimous_participants::guard::Adapter;
use unanimous_participants::{Call, Settings, Trace, Turn, Unobserved, open};
use unanimous_server::Resources;
use unanimous_server::driver::{BeginOrder, Coordinator, IfRunning};

use super::banks::{Banks, Entry};
use super::sdk::Application;
use crate::bench::inside;
use crate::bench::lean::Caller;
use crate::bench::load::{Once, once, post_one};
use crate::bench::process::{Served, http_client, send, start_coordinator};
use crate::exit::Failure;

/// How long a call by hand may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The resources, in the order of the servers.
const RESOURCES: [&str; 2] = ["left", "right"];

/// Who makes a transfer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// This program, with nobody's help.
    ByHand,
    /// A coordinator that is sent the statements.
    Http,
    /// This program over its own connections, with the same coordinator.
    Sdk,
    /// A coordinator within this program.
    InProcess,
}

impl Way {
    /// The floor first.
    pub(super) const ALL: [Self; 4] = [Self::ByHand, Self::Http, Self::Sdk, Self::InProcess];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ByHand => "by hand, unsafe",
            Self::Http => "over HTTP",
            Self::Sdk => "by SDK",
            Self::InProcess => "in process",
        }
    }

    /// Whether a coordinator takes part that is a process of its own.
    pub(super) fn has_coordinator_process(self) -> bool {
        match self {
            Self::Http | Self::Sdk => true,
            Self::ByHand | Self::InProcess => false,
        }
    }
}

/// Two servers, and what transfers between them are made with.
pub(super) struct Ways {
    pub(super) banks: Arc<Banks>,
    served: Served,
    pid: u32,
    inside: Coordinator,
    journal: Arc<dyn Journal>,
}

impl Ways {
    /// Starts both coordinators, with journals in a folder.
    pub(super) async fn start(banks: Banks, folder: &Path) -> Result<Self, Failure> {
        let resources = [("left", banks.left.url()), ("right", banks.right.url())];
        let served = start_coordinator(&folder.join("served"), &resources).await?;
        let ended = || Failure::not_done("the coordinator has ended");
        let pid = served.child.id().ok_or_else(ended)?;
        let mut own = Resources::default();
        for (name, url) in resources {
            let resource = open(name, &url, &Settings::default(), Arc::new(Unobserved));
            own = own.with(name, resource.map_err(|error| Failure::not_done(error.to_string()))?);
        }
        let (inside, journal) = inside::start(&folder.join("own"), own)
            .map_err(|error| Failure::not_done(error.to_string()))?;
        Ok(Self { banks: Arc::new(banks), served, pid, inside, journal })
    }

    /// The coordinator's process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Transfers that go this way, with connections for so many in flight.
    pub(super) fn transfers(&self, way: Way, in_flight: usize) -> Result<Once, Failure> {
        let banks = Arc::clone(&self.banks);
        Ok(match way {
            Way::ByHand => {
                let adapters = [banks.left.adapter(in_flight)?, banks.right.adapter(in_flight)?];
                let adapters = Arc::new(adapters);
                once(move || by_hand(Arc::clone(&adapters), banks.transfer()))
            }
            Way::Http => {
                let caller = Caller::new(&format!("{}/v1/transactions", self.served.url));
                once(move || over_http(caller.clone(), banks.transfer()))
            }
            Way::Sdk => {
                let application = Application::new(&self.served.url, &banks, in_flight)?;
                let application = Arc::new(application);
                once(move || Arc::clone(&application).transfer(banks.transfer()))
            }
            Way::InProcess => {
                let coordinator = self.inside.clone();
                once(move || in_process(coordinator.clone(), banks.transfer()))
            }
        })
    }

    /// Of the journal of the coordinator that takes part.
    pub(super) async fn journal_flushes(&self, way: Way) -> Result<u64, Failure> {
        match way {
            Way::ByHand => Ok(0),
            Way::Http | Way::Sdk => self.flushes_told().await,
            Way::InProcess => Ok(self.journal.stats().syncs),
        }
    }

    async fn flushes_told(&self) -> Result<u64, Failure> {
        let url = format!("{}/metrics", self.served.url);
        let answer = send(&http_client(), "GET", &url, Bytes::new()).await;
        let told = answer.and_then(|(_, body)| {
            let text = String::from_utf8_lossy(&body);
            let line =
                text.lines().find_map(|it| it.strip_prefix("unanimous_journal_syncs_total "));
            line?.trim().parse().ok()
        });
        told.ok_or_else(|| Failure::not_done(format!("{url} does not tell the syncs of a journal")))
    }

    pub(super) async fn close(self) -> Result<(), Failure> {
        self.inside.close().await.map_err(|error| Failure::not_done(error.to_string()))
    }
}

/// An identity that no transfer before has had.
fn fresh() -> TxnId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    TxnId::mint(1, ShardId::of(0), number)
}

/// Two-phase commit by a client that writes nothing down.
async fn by_hand(banks: Arc<[Box<dyn Adapter>; 2]>, entries: [Entry; 2]) -> Result<(), Failure> {
    let txn = fresh();
    let call = |index: usize, verb: Verb, work: Opaque, returned: Opaque| {
        let name = BranchName { cluster: "bench".into(), txn, branch: BranchId(index as u16) };
        banks[index].call(Call {
            name,
            verb,
            shape: commit::Shape::Atomic,
            work,
            returned,
            attempt: 1,
            trace: Trace::of(txn),
            deadline: Timestamp(u64::MAX),
            patience: PATIENCE,
            is_listed: false,
            turn: Turn::default(),
        })
    };
    let [left, right] = entries.map(work);
    let votes = tokio::join!(
        call(0, Verb::Prepare, left, Opaque::default()),
        call(1, Verb::Prepare, right, Opaque::default())
    );
    let (left, right) = match (votes.0.answer, votes.1.answer) {
        (Answer::Yes(left), Answer::Yes(right)) => (left, right),
        other => return Err(Failure::not_done(format!("a server did not prepare: {other:?}"))),
    };
    let done = tokio::join!(
        call(0, Verb::Commit, Opaque::default(), left),
        call(1, Verb::Commit, Opaque::default(), right)
    );
    match (done.0.answer, done.1.answer) {
        (Answer::Done(_), Answer::Done(_)) => Ok(()),
        other => Err(Failure::not_done(format!("a server did not commit: {other:?}"))),
    }
}

fn work(entry: Entry) -> Opaque {
    Opaque::new(entry.statements().to_string().as_bytes())
}

async fn over_http(caller: Caller, entries: [Entry; 2]) -> Result<(), Failure> {
    let branches = RESOURCES.into_iter().zip(entries);
    let branches: Vec<_> = branches
        .map(|(name, entry)| json!({"resource": name, "statements": entry.statements()}))
        .collect();
    let body = json!({"kind": "atomic", "branches": branches});
    post_one(&caller, body.to_string().as_bytes()).await
}

async fn in_process(coordinator: Coordinator, entries: [Entry; 2]) -> Result<(), Failure> {
    let branches = RESOURCES.into_iter().zip(entries);
    let branches = branches.map(|(name, entry)| (name.to_owned(), name.to_owned(), work(entry)));
    let outcome = coordinator.run(BeginOrder {
        txn: None,
        shape: commit::Shape::Atomic,
        timeout_ms: TIMEOUT_MS_DEFAULT,
        branches: branches.collect(),
        key: None,
        running: IfRunning::Refuse,
        wait: Wait::Finished,
        trace: None,
        webhook: None,
    });
    match outcome.await {
        Ok(Ok(Outcome::Committed)) => Ok(()),
        other => Err(Failure::not_done(format!("not committed: {other:?}"))),
    }
}
