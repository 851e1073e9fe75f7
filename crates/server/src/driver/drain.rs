//! Comes to an end: what is being voted on is decided, as far as there is time.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use unanimous_core::commit::Phase;

use super::coordinator::Coordinator;
use super::event::Event;
use super::run::{Driver, Live};
use crate::limits::DRAIN_PARTS;

/// Somebody waits until everything is decided.
pub(super) struct Draining {
    /// Told whether everything is.
    reply: oneshot::Sender<bool>,
    /// How many were being voted on at first.
    at_first: usize,
}

impl Coordinator {
    /// Refuses new transactions from now on, and returns when every open one is decided and told: whether
    /// all are. Those that wait in a line that does not come to its end within `patience` are not waited for.
    pub async fn drain(&self, patience: Duration) -> bool {
        // All of them are told before the first is waited for.
        let told = self.drivers.iter().map(|driver| {
            let (reply, drained) = oneshot::channel();
            self.shared.queue(driver, Event::Drain(reply));
            drained
        });
        let told: Vec<_> = told.collect();
        let hastened = async {
            sleep(patience / DRAIN_PARTS).await;
            self.drivers.iter().for_each(|driver| self.shared.queue(driver, Event::Hasten));
            std::future::pending().await
        };
        let drained = async {
            tokio::select! {
                // An error means that the driver has stopped: then nothing is left to wait for.
                all = join_all(told) => all.into_iter().all(|it| it.unwrap_or(true)),
                () = hastened => false,
            }
        };
        timeout(patience, drained).await.unwrap_or(false)
    }
}

impl Driver {
    pub(super) fn drain(&mut self, reply: oneshot::Sender<bool>) {
        self.accepting = false;
        let at_first = self.live.values().filter(|live| is_voting(live)).count();
        self.draining = Some(Draining { reply, at_first });
    }

    /// One part of the time is over. If less than that part of the line is gone, its end does not come in
    /// time: who waits in it has no locks there yet, and stays for whoever takes over.
    pub(super) fn hasten(&mut self) {
        let parts = DRAIN_PARTS as usize;
        let left = self.live.values().filter(|live| is_voting(live)).count();
        let Some(draining) = self.draining.as_ref() else { return };
        if left * parts > draining.at_first * (parts - 1) {
            let lines = self.live.values().filter_map(|live| live.order.as_ref());
            lines.for_each(|order| order.stay());
        }
    }

    pub(super) fn report_drained(&mut self) {
        // All but the votes survives a restart.
        if self.draining.is_none()
            || self.gate.held() > 0
            || self.live.values().any(|live| is_voting(live) && !stays(live))
        {
            return;
        }
        if let Some(draining) = self.draining.take() {
            let _ = draining.reply.send(!self.live.values().any(stays)); // Whoever waited may have left.
        }
    }
}

fn is_voting(live: &Live) -> bool {
    live.commit().is_some_and(|machine| machine.durable().phase() == Phase::Preparing)
}

fn stays(live: &Live) -> bool {
    live.order.as_ref().is_some_and(|order| order.stays())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use tokio::sync::Mutex;
    use unanimous_core::commit::{Phases, Shape};
    use unanimous_core::id::ShardId;
    use unanimous_core::{Answer, Opaque, Outcome, Verb};
    use unanimous_journal::{FileJournal, Journal, Options};
    use unanimous_participants::{Call, Calling, Resource, Takes};

    use super::super::{
        BeginOrder, BranchOrder, Contention, CoordinatorOptions, Ears, IfRunning, events,
    };
    use super::*;
    use crate::{Metrics, Resources};

    /// Has one row that every first phase keeps for a while.
    #[derive(Default)]
    struct Bank {
        row: Arc<Mutex<()>>,
    }

    impl Resource for Bank {
        fn call(&self, call: Call) -> Calling {
            let row = Arc::clone(&self.row);
            Box::pin(async move {
                if call.verb == Verb::Prepare {
                    let row = row.lock().await;
                    sleep(Duration::from_millis(5)).await;
                    drop(row);
                    return Answer::Yes(Opaque::default());
                }
                Answer::Done(Opaque::default())
            })
        }

        fn takes(&self) -> Takes {
            Takes::Statements
        }

        fn phases(&self) -> Phases {
            Phases::Two
        }

        fn kind(&self) -> &'static str {
            "bank"
        }

        fn location(&self) -> &'static str {
            "here"
        }
    }

    /// How a coordinator comes to its end while so many wait for one row, and how many are committed then.
    async fn drained(waiting: usize, patience: Duration) -> (bool, usize) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ears = Ears::new();
        let journal = FileJournal::open(folder.path(), Options::default(), Arc::clone(&ears) as _);
        let journal = Arc::new(journal.expect("a new folder"));
        let contention = Arc::new(Contention::default());
        contention.seen(&Arc::from("wallet"), super::super::Clock::start().now());
        let options = CoordinatorOptions {
            shards: ShardId::all().collect(),
            cluster: journal.instance().to_owned(),
            drivers: 1,
            call_timeout_ms: 600_000,
            branch_order: BranchOrder::default(),
            contention,
            open_max: 10_000,
            queue_max: 10_000,
            metrics: Arc::new(Metrics::new()),
            events: events(),
        };
        let resources = ["ledger", "wallet"].into_iter().fold(Resources::default(), |all, name| {
            all.with(name, Arc::new(Bank::default()) as Arc<dyn Resource>)
        });
        let coordinator = Coordinator::start(options, journal, ears, resources);
        let coordinator = coordinator.expect("a new journal");
        let branch = |name: &str| (name.to_owned(), name.to_owned(), Opaque::default());
        let outcomes: Vec<_> = (0..waiting)
            .map(|_| {
                coordinator.run(BeginOrder {
                    txn: None,
                    shape: Shape::Atomic,
                    timeout_ms: 600_000,
                    branches: vec![branch("ledger"), branch("wallet")],
                    key: None,
                    running: IfRunning::Join,
                    wait: unanimous_api::Wait::Decided,
                    trace: None,
                    webhook: None,
                })
            })
            .collect();
        let is_all = coordinator.drain(patience).await;
        coordinator.stop();
        let outcomes = join_all(outcomes).await.into_iter();
        let committed = |it: &Result<_, _>| matches!(it, Ok(Ok(Outcome::Committed)));
        (is_all, outcomes.filter(committed).count())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_line_that_comes_to_its_end_in_time_is_waited_for() {
        assert_eq!(drained(100, Duration::from_secs(60)).await, (true, 100));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_a_line_without_end_only_those_are_waited_for_that_are_at_work() {
        let (patience, started) = (Duration::from_secs(10), Instant::now());
        let (is_all, committed) = drained(9_000, patience).await;
        assert!(!is_all);
        assert!(started.elapsed() < patience, "nothing is gained by waiting for the others");
        assert!(committed < 9_000, "{committed}");
    }
}
