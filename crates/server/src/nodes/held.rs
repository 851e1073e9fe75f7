//! A partition that this node drives: its journal, its coordinator and its own face.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tower::Service;
use unanimous_api::EventView;
use unanimous_core::id::Epoch;
use unanimous_journal::{JournalError, Stats};

use super::limits::HANDOVER;
use super::partition::Partition;
use super::spares::{Haste, Opened, Spares};
use crate::config::Config;
use crate::driver::{Contention, Coordinator, CoordinatorOptions};
use crate::http::{self, Lights};
use crate::invariants::Invariants;
use crate::metrics::Metrics;
use crate::orphans::Hunt;
use crate::resources::Resources;
use crate::serve::StopError;

/// What all partitions of a node have in common.
#[derive(Clone)]
pub(super) struct Premises {
    pub(super) spares: Arc<Spares>,
    pub(super) config: Config,
    pub(super) resources: Resources,
    pub(super) metrics: Arc<Metrics>,
    pub(super) contention: Arc<Contention>,
    pub(super) events: broadcast::Sender<EventView>,
    pub(super) invariants: Invariants,
    pub(super) stopping: watch::Receiver<bool>,
}

/// A partition that is driven here.
pub(crate) struct Held {
    pub(crate) partition: Partition,
    pub(crate) coordinator: Coordinator,
    face: Router,
    leaving: AtomicBool,
    quit: watch::Sender<bool>,
    /// Ends with this.
    _hunting: JoinSet<()>,
}

impl Held {
    /// Claims the partition, and resumes what is open in it. Waits for the journal's database, so call it
    /// where waiting is allowed, and where its tasks are to run.
    pub(super) fn open(
        partition: Partition,
        haste: Haste,
        premises: Premises,
    ) -> Result<Arc<Self>, JournalError> {
        let coordinator = claim(partition, haste, &premises)?;
        let (quit, quitting) = watch::channel(false);
        let lights = Lights { stopping: premises.stopping, quitting };
        let config = &premises.config;
        let face = http::router(coordinator.clone(), premises.invariants, config, lights);
        let hunting = Hunt::of(config).start(&coordinator);
        let leaving = AtomicBool::new(false);
        Ok(Arc::new(Self { partition, coordinator, face, leaving, quit, _hunting: hunting }))
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.coordinator.epoch()
    }

    /// Answers a request about a transaction of this partition.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response {
        let answer = self.face.clone().call(request).await;
        answer.unwrap_or_else(|never| match never {})
    }

    /// Whether requests are to wait for whoever takes over from here.
    pub(crate) fn is_over(&self) -> bool {
        self.leaving.load(Ordering::Acquire) || self.coordinator.has_failed()
    }

    /// From now on requests wait for whoever takes over.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Lets what is being voted on come to its decision, makes everything durable, and stops.
    pub(super) async fn let_go(&self, patience: Duration) -> Result<(), JournalError> {
        self.leave();
        if !self.coordinator.drain(patience.min(HANDOVER)).await {
            tracing::info!(
                partition = %self.partition,
                "some transactions are still collecting votes; they abort at their next owner"
            );
        }
        let closed = self.coordinator.close().await;
        let is_anothers = self.is_taken_over().await;
        self.stop();
        // Whoever has taken over has what was durable.
        if is_anothers { Ok(()) } else { closed }
    }

    /// Whether the journal has failed because another node claimed the partition.
    async fn is_taken_over(&self) -> bool {
        if !self.coordinator.has_failed() {
            return false;
        }
        match StopError::from(&*self.coordinator.failed().await) {
            StopError::TakenOver(_) => true,
            StopError::Journal(_) | StopError::Displaced(_) | StopError::Estranged(_) => false,
        }
    }

    /// Stops at once, and answers whoever waits that it has.
    pub(super) fn stop(&self) {
        self.leave();
        self.coordinator.stop();
        self.quit.send_replace(true);
    }

    pub(super) fn stats(&self) -> Stats {
        self.coordinator.journal().stats()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A claim may come out when nobody waits for it any more.
        self.stop();
    }
}

fn claim(
    partition: Partition,
    haste: Haste,
    premises: &Premises,
) -> Result<Coordinator, JournalError> {
    let Premises { spares, config, resources, metrics, contention, events, .. } = premises;
    let place = config.domains.journal_of(partition).unwrap_or(&config.journal);
    let Opened { journal, ears } = spares.take(place, haste)?;
    let options = CoordinatorOptions {
        cluster: config.cluster.clone().unwrap_or_else(|| journal.instance().to_owned()),
        shards: partition.shards().collect(),
        drivers: 1,
        call_timeout_ms: config.limits.call_timeout_ms,
        branch_order: config.limits.branch_order,
        contention: Arc::clone(contention),
        open_max: config.limits.open_max,
        queue_max: config.limits.queue_max,
        metrics: Arc::clone(metrics),
        events: events.clone(),
    };
    Coordinator::start(options, journal, ears, resources.clone())
}
