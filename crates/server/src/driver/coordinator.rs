//! The handle that requests, benchmarks and programs in this process go through.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use unanimous_api::{BranchInDoubt, EventView, LogView, TransactionView, Wait};
use unanimous_core::commit::{Branch, Key, Mode, Phases};
use unanimous_core::id::{BranchId, Lsn, ShardId, TxnId};
use unanimous_core::txn::Txn;
use unanimous_core::{Durability, Input, Opaque, Outcome, Reason, Resolution, Vote};
use unanimous_journal::{Filter, Journal, JournalError, Page, Stored};

use super::Census;
use super::begun::{BeginOrder, SagaOrder};
use super::clock::Clock;
use super::ears::Ears;
use super::event::{AskError, CheckedKey, Enlisted, Event, IfRunning, Order, Waiter, Want, What};
use super::ids::{Ids, shard_of_key};
use super::memo::Memo;
use super::order::{BranchOrder, Contention};
use super::run::Driver;
use super::view::{self, Frame};
use crate::Metrics;
use crate::limits::EVENTS_BEHIND_MAX;
use crate::resources::Resources;

/// What a coordinator is started with.
pub struct CoordinatorOptions {
    /// The cluster's name, part of every branch identifier.
    pub cluster: String,
    /// Drivers to run: one for each core that they should use.
    pub drivers: usize,
    /// Milliseconds a call may take.
    pub call_timeout_ms: u64,
    /// When statements in several databases run in one order.
    pub branch_order: BranchOrder,
    /// Transactions that may be open at once.
    pub open_max: usize,
    /// Events that may be queued before new transactions are refused.
    pub queue_max: usize,
    /// Where it counts; the resources report their calls there too.
    pub metrics: Arc<Metrics>,
}

/// What the drivers share.
pub(super) struct Shared {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) resources: Resources,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) cluster: String,
    pub(super) call_timeout_ms: u64,
    pub(super) branch_order: BranchOrder,
    pub(super) contention: Contention,
    pub(super) open: AtomicUsize,
    pub(super) queued: AtomicUsize,
    appended: AtomicU64,
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

/// The coordinator of one process. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator {
    shared: Arc<Shared>,
    drivers: Arc<[mpsc::UnboundedSender<Event>]>,
    ears: Arc<Ears>,
    ids: Arc<Ids>,
    open_max: usize,
    queue_max: usize,
}

impl Coordinator {
    /// Takes over every shard of the journal, resumes what is open, and starts the drivers.
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
        let shards: Vec<ShardId> = ShardId::all().collect();
        let epochs = journal.claim_all(&shards)?;
        let shared = Arc::new(Shared {
            resources,
            metrics: options.metrics,
            clock: Clock::start(),
            cluster: options.cluster,
            call_timeout_ms: options.call_timeout_ms,
            branch_order: options.branch_order,
            contention: Contention::default(),
            open: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            appended: AtomicU64::new(0),
            events: broadcast::Sender::new(EVENTS_BEHIND_MAX),
            journal,
        });
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
            driver.resume();
            tokio::spawn(driver.run(inbox, ears.flushed.subscribe()));
        }
        for (name, resource) in shared.resources.iter() {
            if let Some(returns) = resource.returns() {
                let drivers = senders.clone();
                tokio::spawn(pass_on(Arc::clone(name), returns, Arc::downgrade(&shared), drivers));
            }
        }
        let ids = Arc::new(Ids::new());
        let (open_max, queue_max) = (options.open_max, options.queue_max);
        Ok(Self { shared, drivers: senders.into(), ears, ids, open_max, queue_max })
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
        (self.send_order(what, order.key, order.running, memo, waiter), answer)
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
        self.send_order(what, order.key, order.running, memo, Waiter { until, want })
    }

    fn send_order(
        &self,
        what: What,
        key: Option<Key>,
        running: IfRunning,
        memo: Memo,
        waiter: Waiter,
    ) -> TxnId {
        let shard = match &key {
            Some(key) => shard_of_key(&key.text),
            None => ShardId::of(self.ids.next() as u64),
        };
        let now = self.shared.clock.now();
        let txn = TxnId::mint(now.0, shard, self.ids.next());
        if let Err(refusal) = self.admits() {
            waiter.want.refuse(refusal);
            return txn;
        }
        let key = key.map(|key| CheckedKey { key, checked_at: now, running });
        let memo = memo.write();
        self.send(txn, Event::Begin(Box::new(Order { txn, what, key, memo, waiter })));
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
        answer.await.unwrap_or(Err(AskError::ShuttingDown))
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

    /// Shows a transaction, open or ended; `None` if it is not known. `inquirer` is a branch in
    /// doubt that asks: it will be told by the next call too.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    pub async fn show(
        &self,
        txn: TxnId,
        inquirer: Option<BranchId>,
    ) -> Result<Option<TransactionView>, JournalError> {
        let (reply, answer) = oneshot::channel();
        self.send(txn, Event::Show(txn, inquirer, reply));
        if let Ok(Some(view)) = answer.await {
            return Ok(Some(view));
        }
        let records = self.records(txn).await?;
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(None);
        };
        let frame = Frame {
            cluster: &self.shared.cluster,
            resources: &self.shared.resources,
            txn,
            begun_at: first.at,
            updated_at: last.at,
            version: u32::try_from(records.len()).unwrap_or(u32::MAX),
        };
        let machine = Txn::replay(records.iter().map(|stored| &stored.record))
            .map_err(|misfit| JournalError::Failed(misfit.to_string()))?;
        Ok(Some(frame.show(&machine)))
    }

    /// The log of a transaction; empty if it is not known.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    pub async fn log(&self, txn: TxnId) -> Result<LogView, JournalError> {
        let records = self.records(txn).await?;
        Ok(LogView { id: txn.to_string(), events: view::log(&records) })
    }

    /// The records of a transaction, as far as no crash can take them back or change what they say.
    async fn records(&self, txn: TxnId) -> Result<Vec<Stored>, JournalError> {
        let records = self.read_journal(move |journal| journal.read(txn)).await?;
        let forced = |stored: &&Stored| stored.record.durability() == Durability::Forced;
        if let Some(last) = records.iter().rev().find(forced) {
            self.flushed(last.lsn).await?;
        }
        Ok(records)
    }

    /// Transactions that pass the filter, newest first.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    pub async fn list(&self, filter: Filter) -> Result<Page, JournalError> {
        let page = self.read_journal(move |journal| journal.query(&filter)).await?;
        self.settled().await?;
        Ok(page)
    }

    /// The transaction that was begun under a key and may have ended long ago.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    pub async fn find_key(&self, key: &str) -> Result<Option<TxnId>, JournalError> {
        let key = key.to_owned();
        self.read_journal(move |journal| journal.find_key(&key)).await
    }

    /// The fingerprint of the request that began a transaction.
    ///
    /// # Errors
    ///
    /// [`JournalError::Failed`] if the journal cannot be read.
    pub async fn fingerprint(&self, txn: TxnId) -> Result<Option<[u8; 16]>, JournalError> {
        let records = self.read_journal(move |journal| journal.read(txn)).await?;
        let key = records.first().and_then(|stored| stored.record.key());
        Ok(key.map(|key| key.fingerprint))
    }

    async fn read_journal<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Journal) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let journal = Arc::clone(&self.shared.journal);
        let read = tokio::task::spawn_blocking(move || read(&*journal));
        read.await.unwrap_or_else(|error| Err(JournalError::Failed(error.to_string())))
    }

    /// Waits until everything appended so far is durable.
    async fn settled(&self) -> Result<(), JournalError> {
        self.flushed(Lsn(self.shared.appended.load(Ordering::Relaxed))).await
    }

    async fn flushed(&self, lsn: Lsn) -> Result<(), JournalError> {
        let mut flushed = self.ears.flushed.subscribe();
        let mut failed = self.ears.failed.subscribe();
        if self.shared.journal.flushed() >= lsn {
            return Ok(());
        }
        let gone = || JournalError::Failed("the journal has stopped".into());
        tokio::select! {
            flushed = flushed.wait_for(|&flushed| flushed >= lsn) => match flushed {
                Ok(_) => Ok(()),
                Err(_) => Err(gone()),
            },
            _ = failed.wait_for(Option::is_some) => Err(gone()),
        }
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

    /// Refuses new transactions from now on, and returns when every open one is decided and told.
    pub async fn drain(&self) {
        // All of them are told before the first is waited for.
        let told = self.drivers.iter().map(|driver| {
            let (reply, drained) = oneshot::channel();
            self.shared.queue(driver, Event::Drain(reply));
            drained
        });
        let told: Vec<_> = told.collect();
        for drained in told {
            // An error means that the driver has stopped: then nothing is left to wait for.
            drop(drained.await);
        }
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

    fn send(&self, txn: TxnId, event: Event) {
        let driver = &self.drivers[txn.shard().index() % self.drivers.len()];
        self.shared.queue(driver, event);
    }
}
