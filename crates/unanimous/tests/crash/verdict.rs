//! What must be true once nobody is killed any more.
//!
//! In the words of the fault catalogue: everything ends and nothing stays prepared (I4); the
//! services agree (I1); what was told still holds, whoever is asked (I3, I11); no work is done twice
//! (I6); and all of it was done under one cluster's name (I5).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use unanimous_client::api::{BranchInDoubt, StatusWord};
use unanimous_client::{Client, Filter};

use crate::crowd::patient;
use crate::deed::wait_of;
use crate::place::eventually;
use crate::service::{Mark, Work};
use crate::witness::Outcome;
use crate::world::{SERVICES, World};

/// Where transactions stand that have not ended.
const OPEN: [StatusWord; 4] =
    [StatusWord::Initiated, StatusWord::Preparing, StatusWord::Committing, StatusWord::Aborting];

/// Questions at a time.
const ASKED_AT_ONCE: usize = 16;

/// Keys that are tried again.
const KEYS_MAX: usize = 2_000;

impl World {
    /// Waits until everything has ended, and fails unless all that was done and told agrees. The
    /// coordinator must be there.
    pub(crate) async fn verdict(self: &Arc<Self>) {
        eventually("over", async || self.over().await).await;
        self.ask_about_all().await;
        self.ask_again_under_keys().await;
        // A request that was on its way while a wire was cut may have come only now.
        eventually("all told", async || {
            self.over().await?;
            self.ask_about(self.untold()).await;
            match self.untold().pop() {
                None => Ok(()),
                Some(txn) => Err(format!("{txn} has no outcome")),
            }
        })
        .await;
        self.compare();
        self.witness.assert_nothing_wrong();
    }

    async fn over(&self) -> Result<(), String> {
        for service in &self.services {
            if let Some(branch) = service.in_doubt().first() {
                return Err(format!("{branch} is prepared"));
            }
        }
        nothing_open(&patient(&self.setup.server()), &SERVICES).await
    }

    /// Has the witness hear of every transaction that anybody knows.
    pub(crate) async fn ask_about_all(self: &Arc<Self>) {
        let mut all: HashSet<String> = self.witness.told().into_keys().collect();
        all.extend(self.untold());
        self.ask_about(all).await;
    }

    /// What services know and nobody was told the outcome of.
    fn untold(&self) -> Vec<String> {
        let told = self.witness.told();
        let marked = self.services.iter().flat_map(|service| service.marks().into_keys());
        marked.filter(|txn| !told.contains_key(txn)).collect()
    }

    async fn ask_about(self: &Arc<Self>, all: impl IntoIterator<Item = String>) {
        self.for_each(all, async |world, txn| {
            let reply = world.http.get(&format!("/v1/transactions/{txn}")).await;
            let reply = reply.expect("nobody is killed any more");
            world.witness.reply("whoever asks", &txn, &reply);
        })
        .await;
    }

    /// The same key with the same request must give the same transaction, and do nothing.
    async fn ask_again_under_keys(self: &Arc<Self>) {
        let keys = self.witness.keys().into_keys().take(KEYS_MAX);
        self.for_each(keys, async |world, key| {
            let request = world.asked(&Work::of(&key), wait_of(&key));
            let reply = world.http.post("/v1/transactions", Some(&key), &request).await;
            let reply = reply.expect("nobody is killed any more");
            match reply.view() {
                Some(view) => {
                    world.witness.view("a client that tried its key again", &view);
                    world.witness.keyed(&key, &view.id);
                }
                None => world.witness.wrong(format!("{key} again: {reply:?}")),
            }
        })
        .await;
    }

    /// Does it for each, several at a time.
    async fn for_each<F>(
        self: &Arc<Self>,
        each: impl IntoIterator<Item = String>,
        ask: impl Fn(Arc<Self>, String) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let left = Arc::new(Mutex::new(each.into_iter().collect::<Vec<_>>()));
        let mut asking = JoinSet::new();
        for _ in 0..ASKED_AT_ONCE {
            let (world, left, ask) = (Arc::clone(self), Arc::clone(&left), ask.clone());
            asking.spawn(async move {
                loop {
                    let next = left.lock().expect("popping does not panic").pop();
                    let Some(next) = next else { return };
                    ask(Arc::clone(&world), next).await;
                }
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked.expect("the coordinator answers");
        }
    }

    /// Compares what was done with what was told.
    fn compare(&self) {
        let wrong = |what| self.witness.wrong(what);
        let marks = self.services.each_ref().map(|service| service.marks());
        let committed = |txn: &String| {
            let marks = marks.iter().map(|marks| marks.get(txn).copied());
            marks.filter(|mark| *mark == Some(Mark::Committed)).count()
        };
        let told = self.witness.told();
        for (txn, outcome) in told {
            let expected = match outcome {
                Outcome::Committed => SERVICES.len(),
                Outcome::Aborted => 0,
            };
            let found = committed(&txn);
            if found != expected {
                wrong(format!("{txn} was told {outcome:?}, committed by {found} services"));
            }
        }
        let mut clusters = HashSet::new();
        for service in &self.services {
            clusters.extend(service.clusters());
            let mut times: HashMap<String, u32> = HashMap::new();
            for label in service.committed() {
                *times.entry(label).or_default() += 1;
            }
            for (label, times) in times.into_iter().filter(|&(_, times)| times > 1) {
                wrong(format!("{} has done {label} {times} times", service.name));
            }
        }
        if clusters.len() > 1 {
            wrong(format!("branches of several clusters: {clusters:?}"));
        }
    }
}

/// Whether a coordinator has nothing left to do, or what that is.
pub(crate) async fn nothing_open(client: &Client, resources: &[&str]) -> Result<(), String> {
    for status in OPEN {
        let filter = Filter { status: Some(status), ..Filter::default() };
        let page = client.list(&filter).await.map_err(|error| error.to_string())?;
        if let Some(open) = page.transactions.first() {
            return Err(format!("{} is {}", open.id, status.as_str()));
        }
    }
    for resource in resources {
        let doubts = client.in_doubt(resource).await.map_err(|error| error.to_string())?;
        if let Some(BranchInDoubt { branch, .. }) = doubts.first() {
            return Err(format!("{branch} counts as in doubt"));
        }
    }
    Ok(())
}
