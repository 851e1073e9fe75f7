//! The handle that requests, benchmarks and programs in this process go through.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use unanimous_api::{BranchInDoubt, EventView, TransactionView, Wait};
use unanimous_core::commit::{Branch, Key, Mode, Phases};
use unanimous_core::id::{Epoch, Lsn, ShardId, TxnId};
use unanimous_core::{Input, Opaque, Outcome, Reason, Resolution, Vote};
use unanimous_journal::{Journal, JournalError};

use super::Census;
use super::begin::{BeginOrder, Given, SagaOrder};
use super::clock::Clock;
use super::desk::Desk;
use super::ears::Ears;
use super::event::{AskError, CheckedKey, Enlisted, Event, IfRunning, Order, Waiter, Want, What};
use super::ids::{Ids, shard_of_key};
use super::memo::Memo;
use super::order::{BranchOrder, Contention};
use super::release;
use super::run::Driver;
use crate::Metrics;
use crate::limits::EVENTS_BEHIND_MAX;
use crate::resources::Resources;

/// What a coordinator is started with.
pub struct CoordinatorOptions {
    /// The cluster's name, part of every branch identifier.
    pub cluster: String,
    /// The shards that it takes over; at least one.
    pub shards: Vec<ShardId>,
    /// Drivers to run: one for each core that they should use.
    pub drivers: usize,
    /// Milliseconds a call may take.
    pub call_timeout_ms: u64,
    /// When statements in several databases run in one order.
    pub branch_order: BranchOrder,
    /// Where conflicts have been seen, by whichever coordinator.
    pub contention: Arc<Contention>,
    /// Transactions that may be open at once.
    pub open_max: usize,
    /// Events that may be queued before new transactions are refused.
    pub queue_max: usize,
    /// Where it counts; the resources report their calls there too.
    pub metrics: Arc<Metrics>,
    /// Where it tells every change of state; see [`events`].
    pub events: broadcast::Sender<EventView>,
}

/// A place to tell changes of state, which remembers the last for whoever is slow.
pub fn events() -> broadcast::Sender<EventView> {
    broadcast::Sender::new(EVENTS_BEHIND_MAX)
}

/// What the drivers share.
pub(super) struct Shared {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) resources: Resources,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) cluster: String,
    /// The shards that it has taken over.
    pub(super) shards: Vec<ShardId>,
    pub(super) call_timeout_ms: u64,
    pub(super) branch_order: BranchOrder,
    pub(super) contention: Arc<Contention>,
    pub(super) open: AtomicUsize,
    pub(super) queued: AtomicUsize,
    pub(super) appended: AtomicU64,
    events: broadcast::Sender<EventView>,
}

impl Shared {
    pub(super) fn queue(&self, driver: &mpsc::UnboundedSender<Event>, event: Event) {
        self.queued.fetch_add(1, Ordering::Relaxed);
        // A driver that is gone has stopped with the process.
        drop(driver.send(event));
    }

    pub(super) fn appended(&self, lsn: Lsn) {
        self.appended.fetch_max(lsn.0, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn watchers(&self) -> usize {
        self.events.receiver_count()
    }

    pub(super) fn publish(&self, event: EventView) {
        // Nobody may be watching any more.
        drop(self.events.send(event));
    }
}

/// Tells the drivers each time that a resource answers again, as long as there are any.
async fn pass_on(
    resource: Arc<str>,
    mut returns: watch::Receiver<u64>,
    shared: Weak<Shared>,
    drivers: Vec<mpsc::UnboundedSender<Event>>,
) {
    while returns.changed().await.is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        for driver in &drivers {
            shared.queue(driver, Event::Returned(Arc::clone(&resource)));
        }
    }
}

/// Drives the transactions of its shards: all of them, or those of one part where several nodes share
/// a journal. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator {
    pub(super) shared: Arc<Shared>,
    pub(super) drivers: Arc<[mpsc::UnboundedSender<Event>]>,
    pub(super) ears: Arc<Ears>,
    pub(super) desk: Arc<Desk>,
    ids: Arc<Ids>,
    epoch: Epoch,
    open_max: usize,
    queue_max: usize,
}

impl Coordinator {
    /// Takes over its shards, and starts the drivers, which resume what is open in them before all else.
    ///
    /// `ears` are those the journal was made with. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`JournalError`] if the journal cannot be read or claimed.
    pub fn start(
        options: CoordinatorOptions,
        journal: Arc<dyn Journal>,
        ears: Arc<Ears>,
        resources: Resources,
    ) -> Result<Self, JournalError> {
        let shared = Arc::new(Shared {
            resources,
            metrics: options.metrics,
            clock: Clock::start(),
            cluster: options.cluster,
            shards: options.shards,
            call_timeout_ms: options.call_timeout_ms,
            branch_order: options.branch_order,
            contention: options.contention,
            open: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            appended: AtomicU64::new(0),
            events: options.events,
            journal,
        });
        let fenced = release::once_fenced(&shared);
        let claimed = shared.journal.claim_all_fencing(&shared.shards, fenced)?;
        let mut epochs = vec![Epoch::default(); ShardId::all().count()];
        for (shard, epoch) in shared.shards.iter().zip(claimed) {
            epochs[shard.index()] = epoch;
        }
        let count = options.drivers.max(1);
        let mut drivers = Vec::with_capacity(count);
        let mut senders = Vec::with_capacity(count);
        for _ in 0..count {
            let (sender, inbox) = mpsc::unbounded_channel();
            drivers.push((Driver::new(Arc::clone(&shared), epochs.clone(), sender.clone()), inbox));
            senders.push(sender);
        }
        for open in shared.journal.load()? {
            drivers[open.txn.shard().index() % count].0.load(open);
        }
        for (mut driver, inbox) in drivers {
            driver.remember_alerts()?;
            let heard = (ears.flushed.subscribe(), ears.failed.subscribe());
            tokio::spawn(driver.run(inbox, heard.0, heard.1));
        }
        for (name, resource) in shared.resources.iter() {
            if let Some(returns) = resource.returns() {
                let drivers = senders.clone();
                tokio::spawn(pass_on(Arc::clone(name), returns, Arc::downgrade(&shared), drivers));
            }
        }
        let desk = Arc::new(Desk::open(&Arc::downgrade(&shared)));
        let ids = Arc::new(Ids::new());
        let epoch = epochs.into_iter().max().unwrap_or_default();
        let (open_max, queue_max) = (options.open_max, options.queue_max);
        let drivers = senders.into();
        Ok(Self { shared, drivers, ears, desk, ids, epoch, open_max, queue_max })
    }

    /// Begins a transaction, runs it if it has branches, and answers as its `wait` says.
    ///
    /// # Errors
    ///
    /// [`AskError::Overloaded`], [`AskError::JournalFull`], [`AskError::ShuttingDown`]: nothing was
    /// begun. [`AskError::KeyReused`], [`AskError::KeyInUse`], [`AskError::KeyTaken`]: the key
    /// belongs to that transaction. The identity comes with the error, for whoever gives up waiting.
    pub fn begin(
        &self,
        order: BeginOrder,
    ) -> (TxnId, oneshot::Receiver<Result<TransactionView, AskError>>) {
        let (reply, answer) = oneshot::channel();
        (self.order(order, Want::View(reply)), answer)
    }

    /// The same as [`Coordinator::begin`] for a caller in this process that wants the outcome only.
    pub fn run(&self, order: BeginOrder) -> oneshot::Receiver<Result<Outcome, AskError>> {
        let (reply, answer) = oneshot::channel();
        self.order(order, Want::Outcome(reply));
        answer
    }

    /// Begins a saga, and answers as its `wait` says.
    ///
    /// # Errors
    ///
    /// As [`Coordinator::begin`].
    pub fn begin_saga(
        &self,
        order: SagaOrder,
    ) -> (TxnId, oneshot::Receiver<Result<TransactionView, AskError>>) {
        let (reply, answer) = oneshot::channel();
        let SagaOrder { steps, input, timeout_ms, delay_ms, .. } = order;
        let what = What::Steps { steps, input, timeout_ms, delay_ms };
        let memo = Memo { trace: order.trace, webhook: order.webhook, saga: order.saga };
        let waiter = Waiter { until: order.wait, want: Want::View(reply) };
        (self.send_order(order.txn, what, order.key, order.running, memo, waiter), answer)
    }

    fn order(&self, order: BeginOrder, want: Want) -> TxnId {
        let mode = match (order.branches.is_empty(), order.wait) {
            (true, _) => Mode::Interactive,
            (false, Wait::None) => Mode::RunLater,
            (false, Wait::Decided | Wait::Finished) => Mode::Run,
        };
        let until = match mode {
            Mode::Interactive | Mode::RunLater => Wait::None,
            Mode::Run => order.wait,
        };
        let branches = order.branches.into_iter();
        let branches = branches.map(|(name, resource, work)| self.branch(&name, &resource, work));
        let what = What::Branches {
            shape: order.shape,
            mode,
            timeout_ms: order.timeout_ms,
            branches: branches.collect(),
        };
        let memo = Memo { trace: order.trace, webhook: order.webhook, saga: None };
        let waiter = Waiter { until, want };
        self.send_order(order.txn, what, order.key, order.running, memo, waiter)
    }

    /// An identity for a transaction that begins now, in the shard of its key if it has one.
    fn mint(&self, key: Option<&str>) -> TxnId {
        let shard = match key {
            Some(key) => shard_of_key(key),
            None => self.shared.shards[self.ids.next() as usize % self.shared.shards.len()],
        };
        TxnId::mint(self.shared.clock.now().0, shard, self.ids.next())
    }

    fn send_order(
        &self,
        given: Option<Given>,
        what: What,
        key: Option<Key>,
        running: IfRunning,
        memo: Memo,
        waiter: Waiter,
    ) -> TxnId {
        let txn = match given {
            Some(given) => given.txn,
            None => self.mint(key.as_ref().map(|key| &*key.text)),
        };
        let now = self.shared.clock.now();
        let refused = if self.owns(txn.shard()) { self.admits() } else { Err(AskError::Lost) };
        if let Err(refusal) = refused {
            waiter.want.refuse(refusal);
            return txn;
        }
        let key = key.map(|key| CheckedKey { key, checked_at: now, running });
        let repeats = given.filter(|given| given.repeats).map(|_| now);
        let memo = memo.write();
        self.send(txn, Event::Begin(Box::new(Order { txn, repeats, what, key, memo, waiter })));
        txn
    }

    fn admits(&self) -> Result<(), AskError> {
        if self.shared.open.load(Ordering::Relaxed) >= self.open_max {
            return Err(AskError::Overloaded("too many transactions are open"));
        }
        if self.shared.queued.load(Ordering::Relaxed) >= self.queue_max {
            return Err(AskError::Overloaded("too many requests are queued"));
        }
        if !self.shared.journal.has_room() {
            return Err(AskError::JournalFull("the journal has no room".into()));
        }
        Ok(())
    }

    fn branch(&self, name: &str, resource: &str, work: Opaque) -> Branch {
        let known = self.shared.resources.get(resource);
        Branch {
            resource: known.map_or_else(|| Arc::from(resource), |(name, _)| Arc::clone(name)),
            name: match known {
                Some((shared, _)) if **shared == *name => Arc::clone(shared),
                Some(_) | None => Arc::from(name),
            },
            phases: known.map_or(Phases::Two, |(_, resource)| resource.phases()),
            work,
        }
    }

    /// Adds a participant.
    ///
    /// # Errors
    ///
    /// [`AskError::NotOpen`] if the transaction has ended or was never here, [`AskError::Refused`]
    /// if it takes no more participants.
    pub async fn enlist(
        &self,
        txn: TxnId,
        name: &str,
        resource: &str,
        work: Opaque,
    ) -> Result<Enlisted, AskError> {
        let (reply, answer) = oneshot::channel();
        let branch = Box::new(self.branch(name, resource, work));
        self.send(txn, Event::Enlist(txn, branch, reply));
        answer.await.unwrap_or(Err(AskError::Lost))
    }

    /// Asks for commit, with the votes of the participants that the client has prepared itself.
    pub fn commit(
        &self,
        txn: TxnId,
        votes: Vec<(String, Vote)>,
        wait: Wait,
    ) -> oneshot::Receiver<Result<TransactionView, AskError>> {
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { until: wait, want: Want::View(reply) };
        self.send(txn, Event::Commit(txn, votes, waiter));
        answer
    }

    /// Waits along with whoever began the transaction.
    pub fn join(
        &self,
        txn: TxnId,
        wait: Wait,
    ) -> oneshot::Receiver<Result<TransactionView, AskError>> {
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { until: wait, want: Want::View(reply) };
        self.send(txn, Event::Join(txn, waiter));
        answer
    }

    /// Asks for abort; if a version is given, only if the transaction still has it.
    pub fn abort(
        &self,
        txn: TxnId,
        reason: Reason,
        if_version: Option<u32>,
        wait: Wait,
    ) -> oneshot::Receiver<Result<TransactionView, AskError>> {
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { until: wait, want: Want::View(reply) };
        let input = Box::new(Input::AbortAsked(reason));
        self.send(txn, Event::Ask(txn, if_version, input, waiter));
        answer
    }

    /// Sends a step of a saga what it waits for.
    pub fn signal(
        &self,
        txn: TxnId,
        step: &str,
        payload: Opaque,
        wait: Wait,
    ) -> oneshot::Receiver<Result<TransactionView, AskError>> {
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { until: wait, want: Want::View(reply) };
        self.send(txn, Event::Signal(txn, step.to_owned(), payload, waiter));
        answer
    }

    /// Repeats every call that waits for its next attempt, at once.
    pub fn retry(&self, txn: TxnId) -> oneshot::Receiver<Result<TransactionView, AskError>> {
        self.ask(txn, Input::RetryAsked, Wait::None)
    }

    /// Settles by hand what the protocol cannot.
    pub fn resolve(
        &self,
        txn: TxnId,
        resolution: Resolution,
    ) -> oneshot::Receiver<Result<TransactionView, AskError>> {
        self.ask(txn, Input::ResolveAsked(resolution), Wait::None)
    }

    fn ask(
        &self,
        txn: TxnId,
        input: Input,
        until: Wait,
    ) -> oneshot::Receiver<Result<TransactionView, AskError>> {
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { until, want: Want::View(reply) };
        self.send(txn, Event::Ask(txn, None, Box::new(input), waiter));
        answer
    }

    /// Where it counts.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Branches that a resource has in doubt, as far as this coordinator knows.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal has stopped.
    pub async fn in_doubt(&self, resource: &str) -> Result<Vec<BranchInDoubt>, JournalError> {
        let mut found = Vec::new();
        for driver in self.drivers.iter() {
            let (reply, answer) = oneshot::channel();
            self.shared.queue(driver, Event::InDoubt(resource.to_owned(), reply));
            found.extend(answer.await.unwrap_or_default());
        }
        self.settled().await?;
        Ok(found)
    }

    /// Counts what is open.
    pub async fn census(&self) -> Census {
        let mut census = Census::default();
        for driver in self.drivers.iter() {
            let (reply, answer) = oneshot::channel();
            self.shared.queue(driver, Event::Census(reply));
            census.add(answer.await.unwrap_or_default());
        }
        census
    }

    /// Every change of state from now on. A reader that falls too far behind misses some.
    pub fn events(&self) -> broadcast::Receiver<EventView> {
        self.shared.events.subscribe()
    }

    /// Resolves once the journal has failed: stop the process.
    pub async fn failed(&self) -> Arc<JournalError> {
        let mut failed = self.ears.failed.subscribe();
        let error = failed.wait_for(Option::is_some).await;
        let error = error.expect("the sender lives as long as this handle");
        Arc::clone(error.as_ref().expect("waited for"))
    }

    /// Makes everything durable and stops the journal.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the disk refused.
    pub async fn close(&self) -> Result<(), JournalError> {
        self.read_journal(|journal| journal.close()).await
    }

    /// Stops the drivers. Whoever waits for them hears that the coordinator is gone.
    pub fn stop(&self) {
        self.drivers.iter().for_each(|driver| self.shared.queue(driver, Event::Stop));
    }

    /// The highest epoch of its shards: of two coordinators of a shard, the later one has more.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the journal has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.ears.failed.borrow().is_some()
    }

    /// Whether it has taken over this shard.
    pub fn owns(&self, shard: ShardId) -> bool {
        self.shared.shards.contains(&shard)
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.shared.cluster
    }

    /// The configured resources.
    pub fn resources(&self) -> &Resources {
        &self.shared.resources
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.shared.journal
    }

    /// The coordinator's clock.
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// The OpenMetrics text of everything that is counted.
    pub async fn scrape(&self) -> String {
        let census = self.census().await;
        self.shared.metrics.scrape(&census, self.shared.journal.stats(), self.shared.clock.now())
    }

    pub(super) fn send(&self, txn: TxnId, event: Event) {
        let driver = &self.drivers[txn.shard().index() % self.drivers.len()];
        self.shared.queue(driver, event);
    }
}
