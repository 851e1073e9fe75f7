//! Claims what is this node's to drive, gives away what is not, and drops what was taken away.
//!
//! # Invariants
//!
//! 1. A partition is told to be claimed or owned from before it is until after its journal is closed:
//!    the others take only what nobody alive tells.
//! 2. Who is wrong about who is alive loses partitions, or takes them from somebody who is well; the
//!    epochs see to it that each transaction goes on at one place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use unanimous_journal::JournalError;

use super::beat::Beat;
use super::held::{Held, Premises};
use super::limits::{BEAT, CLAIM_AGAIN, FORGIVEN, GRUDGE, LONG_FREE, OFFER, SILENCE};
use super::node::Node;
use super::partition::Partition;
use super::placement::{Free, Move, Seen, moves};
use super::spares::Haste;
use crate::serve::StopError;

/// The one task that changes what a node holds.
pub(super) struct Keeper {
    node: Arc<Node>,
    premises: Premises,
    /// Where what it holds is driven. It has a thread of its own, and is not late when they are.
    threads: Handle,
    works: JoinSet<Done>,
    /// What is being claimed or given away.
    busy: BTreeMap<Partition, Doing>,
    /// Since when nobody alive owns what nobody alive owns.
    free: BTreeMap<Partition, Instant>,
    /// What was given away, for whom, and when.
    offers: BTreeMap<Partition, (String, Instant)>,
    /// What was taken away by others.
    losses: BTreeMap<Partition, Loss>,
    /// Of that, what the log has not been told.
    untold: BTreeSet<Partition>,
    /// When a claim that did not come out may be tried again.
    again: BTreeMap<Partition, Instant>,
    ran_at: Instant,
    /// Until then what is heard of others may be old.
    dazed_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Doing {
    Claiming,
    LettingGo,
}

/// What has come to its end.
enum Done {
    Claimed(Partition, Result<Arc<Held>, JournalError>),
    LetGo(Partition, Option<String>, Result<(), JournalError>),
}

#[derive(Clone, Copy, Debug)]
struct Loss {
    at: Instant,
    times: u32,
}

impl Keeper {
    pub(super) fn new(node: Arc<Node>, premises: Premises, threads: Handle) -> Self {
        Self {
            node,
            premises,
            threads,
            works: JoinSet::new(),
            busy: BTreeMap::new(),
            free: BTreeMap::new(),
            offers: BTreeMap::new(),
            losses: BTreeMap::new(),
            untold: BTreeSet::new(),
            again: BTreeMap::new(),
            ran_at: Instant::now(),
            dazed_until: None,
        }
    }

    /// Works until `stop` is set and everything is given away, or `drain` after that.
    ///
    /// # Errors
    ///
    /// [`StopError`] if a journal failed for another reason than that somebody else has taken over.
    pub(super) async fn run(
        mut self,
        mut stop: watch::Receiver<bool>,
        drain: Duration,
    ) -> Result<(), StopError> {
        let mut changed = self.node.changed.subscribe();
        let mut ticks = tokio::time::interval(BEAT);
        let mut stopping: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = changed.changed() => {}
                _ = ticks.tick() => {}
                Some(done) = self.works.join_next() => self.settle(done)?,
                _ = stop.wait_for(|&stop| stop), if stopping.is_none() => {
                    stopping = Some(Instant::now());
                    self.node.draining.store(true, Ordering::Relaxed);
                }
            }
            self.look_at_the_clock();
            self.drop_what_was_lost().await?;
            self.forget_offers();
            self.place();
            self.tell();
            if let Some(since) = stopping
                && (self.has_given_away_all() || since.elapsed() > drain)
            {
                return self.close(drain.saturating_sub(since.elapsed())).await;
            }
        }
    }

    /// A process that was paused has heard nothing meanwhile, and nobody has heard it.
    fn look_at_the_clock(&mut self) {
        let gap = self.ran_at.elapsed();
        self.ran_at = Instant::now();
        if gap > SILENCE {
            tracing::warn!(ms = gap.as_millis() as u64, "this node was paused");
            self.dazed_until = Some(self.ran_at + SILENCE);
        }
        self.dazed_until = self.dazed_until.filter(|&until| until > self.ran_at);
    }

    fn settle(&mut self, done: Result<Done, tokio::task::JoinError>) -> Result<(), StopError> {
        let done = done.map_err(|error| StopError::Journal(error.to_string()))?;
        match done {
            Done::Claimed(partition, Ok(held)) => {
                self.busy.remove(&partition);
                let epoch = held.epoch().0;
                tracing::info!(%partition, epoch, "this node drives a partition now");
                self.node.add(held);
            }
            Done::Claimed(partition, Err(error)) => {
                self.busy.remove(&partition);
                tracing::warn!(%partition, %error, "a partition could not be claimed; trying again");
                self.again.insert(partition, Instant::now() + CLAIM_AGAIN);
            }
            Done::LetGo(partition, to, closed) => {
                self.busy.remove(&partition);
                self.node.remove(partition);
                if let Err(error) = closed {
                    // Whoever takes over finds what is there.
                    tracing::warn!(%partition, %error, "a partition was given away unclosed");
                }
                if let Some(to) = to {
                    tracing::info!(%partition, to, "given away");
                    self.offers.insert(partition, (to, Instant::now()));
                }
            }
        }
        Ok(())
    }

    async fn drop_what_was_lost(&mut self) -> Result<(), StopError> {
        for held in self.node.held() {
            if held.coordinator.has_failed() {
                let error = held.coordinator.failed().await;
                match StopError::from(&*error) {
                    StopError::TakenOver(_) => {}
                    error @ (StopError::Journal(_)
                    | StopError::Displaced(_)
                    | StopError::Estranged(_)) => return Err(error),
                }
            } else if !self.node.is_outbid(&held) {
                continue;
            }
            self.node.remove(held.partition);
            let before = self.losses.get(&held.partition);
            let before = before.filter(|it| it.at.elapsed() < FORGIVEN);
            let times = before.map_or(0, |it| it.times) + 1;
            self.losses.insert(held.partition, Loss { at: Instant::now(), times });
            self.untold.insert(held.partition);
        }
        let last = self.untold.iter().filter_map(|it| self.losses.get(it)).map(|it| it.at).max();
        // Losses come together: one line for all of them.
        if last.is_some_and(|at| at.elapsed() > SILENCE) {
            let lost: Vec<String> = self.untold.iter().map(Partition::to_string).collect();
            self.untold.clear();
            tracing::warn!(
                partitions = lost.join(", "),
                "other nodes have taken over what this one drove, because they did not hear it; \
                 nothing of that is decided or told here any more"
            );
        }
        Ok(())
    }

    /// An offer stands until it was taken, or not taken for long.
    fn forget_offers(&mut self) {
        let heard = self.node.peers.heard();
        let owned = |partition| heard.iter().any(|(_, beat)| beat.owns.contains_key(&partition));
        self.offers.retain(|&partition, (_, at)| at.elapsed() < OFFER && !owned(partition));
    }

    fn place(&mut self) {
        let nodes = self.nodes();
        let now = Instant::now();
        for partition in Partition::all() {
            let owned = nodes.values().any(|node| node.owns.contains(&partition));
            match owned {
                true => drop(self.free.remove(&partition)),
                false => drop(self.free.entry(partition).or_insert(now)),
            }
        }
        if self.node.is_cut_off() || self.dazed_until.is_some() {
            return;
        }
        let free = |partition| Free {
            for_long: self.free.get(&partition).is_some_and(|at| at.elapsed() > LONG_FREE),
        };
        for to_do in moves(&self.node.name, &nodes, &free) {
            match to_do {
                Move::Claim(partition) if self.may_claim(partition) => self.claim(partition),
                Move::Claim(_) => {}
                Move::LetGo(partition, to) => self.let_go(partition, to),
            }
        }
    }

    /// The nodes that are alive. One that cannot reach the journal is as good as dead.
    fn nodes(&self) -> BTreeMap<String, Seen> {
        let heard = self.node.peers.heard().into_iter().map(|(_, beat)| beat);
        let mut nodes: BTreeMap<String, Seen> = heard
            .filter(|beat| !beat.cut_off)
            .map(|beat| (beat.node.clone(), seen(beat)))
            .collect();
        nodes.insert(self.node.name.clone(), seen(self.beat()));
        nodes
    }

    fn may_claim(&self, partition: Partition) -> bool {
        let now = Instant::now();
        let waits = self.again.get(&partition).is_some_and(|&at| at > now);
        let grudge = self.losses.get(&partition).is_some_and(|loss| {
            let pause = GRUDGE.0.saturating_mul(1 << loss.times.min(10));
            loss.at.elapsed() < GRUDGE.1.min(pause)
        });
        !waits && (!grudge || self.is_offered(partition))
    }

    fn is_offered(&self, partition: Partition) -> bool {
        let heard = self.node.peers.heard().into_iter();
        heard.into_iter().any(|(_, beat)| beat.offers.get(&partition) == Some(&self.node.name))
    }

    fn claim(&mut self, partition: Partition) {
        if self.busy.insert(partition, Doing::Claiming).is_some() {
            return;
        }
        self.offers.remove(&partition);
        let premises = self.premises.clone();
        let haste = match self.is_offered(partition) {
            true => Haste::No,
            false => Haste::Yes,
        };
        let open = move || Done::Claimed(partition, Held::open(partition, haste, premises));
        self.works.spawn_blocking_on(open, &self.threads);
    }

    /// One at a time, so that what is given away next is decided on what has become of this: until it is
    /// taken, others may be about to give to the same node. A node that is to stop does not wait for that.
    fn let_go(&mut self, partition: Partition, to: String) {
        let waits = !self.offers.is_empty() && !self.node.is_draining();
        if waits || !self.busy.is_empty() {
            return;
        }
        let Some(held) = self.node.held().into_iter().find(|it| it.partition == partition) else {
            return;
        };
        self.busy.insert(partition, Doing::LettingGo);
        held.leave();
        let patience = Duration::from_millis(self.premises.config.limits.drain_ms);
        let letting_go = async move {
            let closed = held.let_go(patience).await;
            Done::LetGo(partition, Some(to), closed)
        };
        self.works.spawn_on(letting_go, &self.threads);
    }

    fn beat(&self) -> Beat {
        let owns = self.node.held().iter().map(|held| (held.partition, held.epoch().0)).collect();
        let offers = self.offers.iter().map(|(&partition, (to, _))| (partition, to.clone()));
        let claims = self.busy.iter().filter(|(_, doing)| **doing == Doing::Claiming);
        Beat {
            claims: claims.map(|(&partition, _)| partition).collect(),
            node: self.node.name.clone(),
            incarnation: self.node.incarnation,
            draining: self.node.is_draining(),
            cut_off: self.node.is_cut_off(),
            owns,
            offers: offers.collect(),
            layout: self.premises.config.domains.layout(),
        }
    }

    fn tell(&self) {
        let beat = self.beat();
        self.node.said.send_if_modified(|said| {
            let is_news = *said != beat;
            *said = beat;
            is_news
        });
    }

    fn has_given_away_all(&self) -> bool {
        let nobody_else = self.node.peers.heard().iter().all(|(_, it)| it.draining || it.cut_off);
        let nothing = self.node.held().is_empty() && self.offers.is_empty();
        self.busy.is_empty() && (nothing || nobody_else)
    }

    /// Closes what nobody else takes.
    async fn close(mut self, patience: Duration) -> Result<(), StopError> {
        for held in self.node.held() {
            let partition = held.partition;
            let closing = async move { Done::LetGo(partition, None, held.let_go(patience).await) };
            self.works.spawn_on(closing, &self.threads);
        }
        let mut closed = Ok(());
        while let Some(done) = self.works.join_next().await {
            match done {
                Ok(Done::LetGo(partition, _, result)) => {
                    self.node.remove(partition);
                    closed = closed.and(result.map_err(|error| StopError::from(&error)));
                }
                Ok(Done::Claimed(_, Ok(held))) => held.stop(),
                Ok(Done::Claimed(_, Err(_))) | Err(_) => {}
            }
        }
        self.node.said.send_replace(self.beat());
        closed
    }
}

fn seen(beat: Beat) -> Seen {
    Seen {
        draining: beat.draining,
        owns: beat.owns.into_keys().chain(beat.claims).collect(),
        offers: beat.offers,
    }
}
