//! Many clients at once: with the SDK and without, that watch, that ask.
//!
//! The SDK repeats its requests under their key until it knows the outcome, so under whatever kills
//! each of its calls must end with one. Clients without it try once and go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use unanimous_client::api::{TransactionView, Wait};
use unanimous_client::{Client, ClientBuilder, Error, Filter};

use crate::chance::Chance;
use crate::coordinator::TOKEN;
use crate::deed::{Deed, TIMEOUT_MS, wait_of};
use crate::service::Work;
use crate::world::{SERVICES, World};

/// Clients of each kind.
const WITH_SDK: usize = 6;
const WITHOUT_SDK: usize = 6;
const TWINS: usize = 2;

/// Of ten clients of each kind, those that share their connections with each other.
const SHARE: [char; 5] = ['1', '3', '5', '7', '9'];

/// Longest pause of a client between two transactions.
const PAUSE_MS_MAX: u64 = 4;

/// Milliseconds within which the SDK must learn the outcome, whoever is killed meanwhile.
const DEADLINE_MS: u64 = 120_000;

/// Clients at work.
pub(crate) struct Crowd {
    clients: JoinSet<()>,
    stop: watch::Sender<bool>,
    tally: Arc<Tally>,
}

/// What the clients came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) committed: AtomicU64,
    pub(crate) aborted: AtomicU64,
    /// Requests without an answer.
    pub(crate) lost: AtomicU64,
}

/// One client.
struct One {
    world: Arc<World>,
    client: Client,
    tally: Arc<Tally>,
    stop: watch::Receiver<bool>,
    chance: Chance,
    name: String,
}

impl Crowd {
    /// Sends them off.
    pub(crate) fn start(world: &Arc<World>, chance: &mut Chance) -> Self {
        let (stop, stopped) = watch::channel(false);
        let tally = Arc::new(Tally::default());
        let mut clients = JoinSet::new();
        let server = world.setup.server();
        let shared = patience(&server).http2_prior_knowledge().build();
        let shared = shared.expect("the address is one");
        let mut one = |name: String| One {
            world: Arc::clone(world),
            client: match name.ends_with(SHARE) {
                true => shared.clone(),
                false => patient(&server),
            },
            tally: Arc::clone(&tally),
            stop: stopped.clone(),
            chance: chance.fork(),
            name,
        };
        for number in 0..WITH_SDK {
            clients.spawn(one(format!("sdk-{number}")).runs());
        }
        for number in 0..WITHOUT_SDK {
            clients.spawn(one(format!("raw-{number}")).tries());
        }
        for number in 0..TWINS {
            clients.spawn(one(format!("twins-{number}")).runs_twice());
        }
        clients.spawn(one("watcher".to_owned()).watches());
        clients.spawn(one("reader".to_owned()).reads());
        Self { clients, stop, tally }
    }

    /// Lets everybody come to an end. The coordinator must be there again.
    pub(crate) async fn finish(mut self) -> Arc<Tally> {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("no client panics");
        }
        self.tally
    }
}

/// A client that asks again soon, and for long.
pub(crate) fn patient(server: &str) -> Client {
    patience(server).build().expect("the address is one")
}

fn patience(server: &str) -> ClientBuilder {
    Client::builder(server).token(TOKEN).pauses_ms(2, 40).deadline_ms(DEADLINE_MS)
}

impl One {
    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn pause(&mut self) {
        sleep(self.chance.pause(PAUSE_MS_MAX)).await;
    }

    /// Runs one transaction after the other, each to its outcome.
    async fn runs(mut self) {
        for number in 0.. {
            if self.stopped() {
                return;
            }
            self.settle(&format!("{}-{number}", self.name)).await;
            self.pause().await;
        }
    }

    /// Makes every request twice at the same time, under the same key.
    async fn runs_twice(mut self) {
        for number in 0.. {
            if self.stopped() {
                return;
            }
            let key = format!("{}-{number}", self.name);
            tokio::join!(self.settle(&key), self.settle(&key));
            self.pause().await;
        }
    }

    async fn settle(&self, key: &str) {
        let ran = self.run(key).await;
        let witness = &self.world.witness;
        match ran {
            Ok(view) => {
                witness.view(&self.name, &view);
                witness.keyed(key, &view.id);
                self.tally.committed.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Aborted(view)) => {
                witness.view(&self.name, &view);
                witness.keyed(key, &view.id);
                self.tally.aborted.fetch_add(1, Ordering::Relaxed);
            }
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
            ) => witness.wrong(format!("{} {key}: {error}", self.name)),
        }
    }

    async fn run(&self, key: &str) -> Result<TransactionView, Error> {
        let wait = if wait_of(key) == "decided" { Wait::Decided } else { Wait::Finished };
        let transaction = self.client.transaction().key(key).timeout_ms(TIMEOUT_MS).wait(wait);
        let work = json!(Work::of(key));
        let transaction = match self.world.domain_of(key) {
            Some(domain) => transaction.domain(domain),
            None => transaction,
        };
        let run = transaction.deadline_ms(DEADLINE_MS).branch(SERVICES[0], work.clone());
        run.branch(SERVICES[1], work).run().await
    }

    /// Tries all kinds of transactions, without repeats.
    async fn tries(mut self) {
        for number in 0.. {
            if self.stopped() {
                return;
            }
            let deed = *self.chance.one_of(&Deed::ALL);
            let label = format!("{}-{number}", self.name);
            if self.world.perform(deed, &label).await.is_err() {
                self.tally.lost.fetch_add(1, Ordering::Relaxed);
            }
            self.pause().await;
        }
    }

    /// Watches what happens, as often as it is interrupted.
    async fn watches(self) {
        while !self.stopped() {
            let Ok(mut events) = self.client.events(None).await else { continue };
            let look = Duration::from_millis(100);
            while !self.stopped() {
                match timeout(look, events.next()).await {
                    Ok(Ok(event)) => {
                        if let Some(outcome) = event.outcome {
                            self.world.witness.outcome("a watcher", &event.id, outcome);
                        }
                    }
                    Ok(Err(_)) => break,
                    Err(_) => {}
                }
            }
        }
    }

    /// Asks again and again about transactions whose outcome somebody was told, and lists others.
    async fn reads(mut self) {
        while !self.stopped() {
            let filter = Filter { limit: Some(100), ..Filter::default() };
            let listed = self.client.list(&filter).await.map(|page| page.transactions);
            for row in listed.unwrap_or_default() {
                if let Some(outcome) = row.outcome {
                    self.world.witness.outcome("a reader of the list", &row.id, outcome);
                }
                if self.chance.below(4) == 0 {
                    let path = format!("/v1/transactions/{}", row.id);
                    let Ok(reply) = self.world.http.get(&path).await else { continue };
                    self.world.witness.reply("a reader", &row.id, &reply);
                }
            }
            self.pause().await;
        }
    }
}
