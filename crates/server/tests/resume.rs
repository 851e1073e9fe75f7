//! A coordinator that takes over goes on by itself, however fast its journal is; one that is over does
//! nothing more.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use unanimous_api::Wait;
use unanimous_core::commit::{self, Begun, Branch, Mode, Phases, Shape};
use unanimous_core::id::{BranchId, BranchName, Epoch, Lsn, ShardId, Timestamp, TxnId};
use unanimous_core::txn::Record;
use unanimous_core::{Answer, Durability, Opaque, Reason, Verb};
use unanimous_journal::{
    End, Entry, FileJournal, Filter, Journal, JournalError, OnceFenced, OpenTxn, Options, Page,
    Stats, Stored,
};
use unanimous_participants::{Call, Calling, Held, Listing, Resource};
use unanimous_server::driver::{
    AskError, BeginOrder, BranchOrder, Coordinator, CoordinatorOptions, Ears, IfRunning,
};
use unanimous_server::{Metrics, Resources};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_durable_before_the_drivers_run_is_told_and_acted_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let txn = leave_undecided(folder.path());

    let ears = Ears::new();
    let inner = FileJournal::open(folder.path(), Options::default(), ears.clone());
    let inner = inner.expect("nobody has the folder");
    let journal = Arc::new(Prompt { inner, before_load: Box::new(|| ()), claimed_since: 0 });
    let coordinator = Coordinator::start(options(&*journal), journal, ears, Resources::default());
    let coordinator = coordinator.expect("the journal is sound");

    let shown = tokio::time::timeout(Duration::from_secs(10), coordinator.show(txn, None)).await;
    let shown = shown.expect("nothing is held back for ever").expect("the journal can be read");
    let outcome = shown.expect("it was begun").outcome;
    assert_eq!(outcome.map(|outcome| outcome.as_str()), Some("aborted"));
}

fn options(journal: &dyn Journal) -> CoordinatorOptions {
    CoordinatorOptions {
        shards: ShardId::all().collect(),
        cluster: journal.instance().to_owned(),
        drivers: 1,
        call_timeout_ms: 60_000,
        branch_order: BranchOrder::default(),
        contention: Arc::default(),
        open_max: 10,
        queue_max: 10,
        metrics: Arc::new(Metrics::new()),
        events: unanimous_server::driver::events(),
    }
}

/// What still waits for its turn at a database must not be prepared there when another has aborted it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_under_way_end_with_the_drivers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ears = Ears::new();
    let journal = FileJournal::open(folder.path(), Options::default(), ears.clone());
    let journal = Arc::new(journal.expect("nobody has the folder"));
    let endless = Arc::new(Endless::default());
    let resources = Resources::default().with("wallet", Arc::clone(&endless) as _);
    let coordinator = Coordinator::start(options(&*journal), journal, ears, resources);
    let coordinator = coordinator.expect("the journal is sound");
    let mut under_way = endless.under_way.subscribe();
    let (_, answer) = coordinator.begin(BeginOrder {
        txn: None,
        shape: Shape::Atomic,
        timeout_ms: 60_000,
        branches: vec![("wallet".to_owned(), "wallet".to_owned(), Opaque::default())],
        key: None,
        running: IfRunning::Refuse,
        wait: Wait::Finished,
        trace: None,
        webhook: None,
    });
    let mut until = async |count: usize| {
        let reached = under_way.wait_for(|&calls| calls == count);
        let reached = tokio::time::timeout(Duration::from_secs(10), reached).await;
        reached.expect("it comes to that").expect("the resource is here");
    };
    until(1).await;
    coordinator.stop();
    until(0).await;
    assert!(!matches!(answer.await, Ok(Ok(_))), "nobody knows how it ends");
}

/// Takes calls, and answers none.
#[derive(Default)]
struct Endless {
    under_way: watch::Sender<usize>,
}

impl Resource for Endless {
    fn call(&self, _: Call) -> Calling {
        self.under_way.send_modify(|calls| *calls += 1);
        let call = UnderWay(self.under_way.clone());
        Box::pin(async move {
            let _call = call;
            std::future::pending().await
        })
    }

    fn phases(&self) -> Phases {
        Phases::Two
    }

    fn kind(&self) -> &'static str {
        "endless"
    }

    fn location(&self) -> &'static str {
        "here"
    }
}

/// A call that has not ended and was not given up.
struct UnderWay(watch::Sender<usize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

/// Requests come while a coordinator stops, from several threads: each is in the queue, or on its way.
#[test]
fn whoever_asks_while_a_coordinator_stops_is_told() {
    const ROUNDS: usize = 50;
    const ASKED: usize = 20_000;
    let threads =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let threads = threads.expect("threads start");
    let _entered = threads.enter();
    for round in 0..ROUNDS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ears = Ears::new();
        let journal = FileJournal::open(folder.path(), Options::default(), ears.clone());
        let journal = Arc::new(journal.expect("nobody has the folder"));
        let coordinator =
            Coordinator::start(options(&*journal), journal, ears, Resources::default());
        let coordinator = coordinator.expect("the journal is sound");
        let ask = || {
            let txns = (0..ASKED as u128).map(|number| TxnId::mint(1, ShardId::of(1), number));
            txns.map(|txn| coordinator.join(txn, Wait::None)).collect::<Vec<_>>()
        };
        let asked: Vec<_> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
            coordinator.stop();
            asking.into_iter().flat_map(|it| it.join().expect("it asks")).collect()
        });
        let all = futures_util::future::join_all(asked);
        let told =
            threads.block_on(async { tokio::time::timeout(Duration::from_secs(10), all).await });
        assert!(told.is_ok(), "in round {round} somebody waits for ever");
    }
}

/// Of thousands that wait in line one holds the lock that all others wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_prepared_is_rolled_back_before_those_that_wait_in_line() {
    const OPEN: u128 = 500;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let txns = leave_open(folder.path(), OPEN, &["wallet"]);
    let holder = txns[txns.len() / 2];
    let ears = Ears::new();
    let journal = FileJournal::open(folder.path(), Options::default(), ears.clone());
    let journal = Arc::new(journal.expect("nobody has the folder"));
    let branch = BranchId(0);
    let name = BranchName { cluster: journal.instance().to_owned(), txn: holder, branch };
    let bank = Arc::new(Bank { prepared: name, asked: watch::Sender::default() });
    let resources = Resources::default().with("wallet", Arc::clone(&bank) as _);
    let coordinator = Coordinator::start(options(&*journal), journal, ears, resources);
    let _coordinator = coordinator.expect("the journal is sound");
    let mut asked = bank.asked.subscribe();
    let all = asked.wait_for(|asked| asked.len() == txns.len());
    let all = tokio::time::timeout(Duration::from_secs(20), all).await;
    let all = all.expect("each is rolled back").expect("the bank is here");
    assert_eq!(all[0], (holder, true));
    assert!(all[1..].iter().all(|&(_, is_listed)| !is_listed));
}

/// What is open of thousands takes a while to be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_prepared_is_rolled_back_before_the_others_are_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Nobody can commit one of several branches any more.
    let txns = leave_open(folder.path(), 3, &["wallet", "ledger"]);
    let ears = Ears::new();
    let inner = FileJournal::open(folder.path(), Options::default(), ears.clone());
    let inner = inner.expect("nobody has the folder");
    let cluster = inner.instance().to_owned();
    let prepared = BranchName { cluster, txn: txns[1], branch: BranchId(0) };
    let bank = Arc::new(Bank { prepared, asked: watch::Sender::default() });
    let (reading, holder) = (Arc::clone(&bank), txns[1]);
    let before_load = move || {
        let started = Instant::now();
        while reading.asked.borrow().is_empty() {
            assert!(started.elapsed() < Duration::from_secs(20), "nobody was rolled back");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(*reading.asked.borrow(), [(holder, true)]);
    };
    let journal = Arc::new(Prompt { inner, before_load: Box::new(before_load), claimed_since: 0 });
    let resources = Resources::default().with("wallet", Arc::clone(&bank) as _);
    let coordinator = Coordinator::start(options(&*journal), journal, ears, resources);
    let _coordinator = coordinator.expect("the journal is sound");
    // Recovery does not rest on that.
    let mut asked = bank.asked.subscribe();
    let all = asked.wait_for(|asked| asked.len() == txns.len() + 1);
    let all = tokio::time::timeout(Duration::from_secs(20), all).await;
    all.expect("each is rolled back").expect("the bank is here");
}

/// Whoever has claimed since drives what is open, and may be about to commit what is prepared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_paused_after_his_claim_rolls_nothing_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let txns = leave_open(folder.path(), 1, &["wallet", "ledger"]);
    let ears = Ears::new();
    let inner = FileJournal::open(folder.path(), Options::default(), ears.clone());
    let inner = inner.expect("nobody has the folder");
    let cluster = inner.instance().to_owned();
    let prepared = BranchName { cluster, txn: txns[0], branch: BranchId(0) };
    let bank = Arc::new(Bank { prepared, asked: watch::Sender::default() });
    let journal = Prompt { inner, before_load: Box::new(|| ()), claimed_since: 1 };
    let resources = Resources::default().with("wallet", Arc::clone(&bank) as _);
    let journal = Arc::new(journal);
    let started = Coordinator::start(options(&*journal), journal, ears, resources);
    assert!(matches!(started.err(), Some(JournalError::Fenced { .. })));
    // What was let go before the rest was read would have been heard of by now.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(*bank.asked.borrow(), []);
}

/// Those in line wait until nobody who holds a lock needs the machine; but not if somebody asks for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_asked_to_end_is_resumed_at_once() {
    const OPEN: u128 = 500;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let txns = leave_open(folder.path(), OPEN, &["wallet"]);
    let ears = Ears::new();
    let journal = FileJournal::open(folder.path(), Options::default(), ears.clone());
    let journal = Arc::new(journal.expect("nobody has the folder"));
    let (cluster, branch) = (journal.instance().to_owned(), BranchId(0));
    let name = BranchName { cluster, txn: txns[0], branch };
    let bank = Arc::new(Bank { prepared: name, asked: watch::Sender::default() });
    let resources = Resources::default().with("wallet", Arc::clone(&bank) as _);
    let coordinator = Coordinator::start(options(&*journal), journal, ears, resources);
    let coordinator = coordinator.expect("the journal is sound");
    for &txn in &txns {
        let reason = Reason::new("client", "not wanted any more");
        match coordinator.abort(txn, reason, None, Wait::Finished).await.expect("it is told") {
            Ok(view) => assert_eq!(view.outcome.map(|it| it.as_str()), Some("aborted")),
            // Its turn had come before.
            Err(error) => assert!(matches!(error, AskError::NotOpen), "{error:?}"),
        }
    }
    // Nobody was resumed twice.
    let asked: HashSet<TxnId> = bank.asked.borrow().iter().map(|&(txn, _)| txn).collect();
    assert_eq!((asked.len(), bank.asked.borrow().len()), (txns.len(), txns.len()));
}

/// Holds one branch prepared, and notes who is rolled back.
struct Bank {
    prepared: BranchName,
    asked: watch::Sender<Vec<(TxnId, bool)>>,
}

impl Resource for Bank {
    fn call(&self, call: Call) -> Calling {
        assert_eq!(call.verb, Verb::Rollback);
        self.asked.send_modify(|asked| asked.push((call.name.txn, call.is_listed)));
        Box::pin(std::future::ready(Answer::Done(Opaque::default())))
    }

    fn in_doubt(&self, _: Duration) -> Listing {
        let held = Held { name: self.prepared.to_string(), since: None };
        Box::pin(std::future::ready(Ok(Some(vec![held]))))
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

/// A transaction that was collecting votes when its coordinator died.
fn leave_undecided(folder: &Path) -> TxnId {
    leave_open(folder, 1, &["wallet"])[0]
}

/// So many of them, with these branches.
fn leave_open(folder: &Path, count: u128, branches: &[&str]) -> Vec<TxnId> {
    let journal = FileJournal::open(folder, Options::default(), Ears::new()).expect("a new folder");
    let shard = ShardId::of(0);
    let epoch = journal.claim(shard).expect("the disk is sound");
    let txns: Vec<TxnId> =
        (1..=count).map(|it| TxnId::mint(1_763_700_000_000, shard, it)).collect();
    txns.iter().for_each(|&txn| leave(&journal, txn, epoch, branches));
    journal.close().expect("the disk is sound");
    txns
}

fn leave(journal: &FileJournal, txn: TxnId, epoch: Epoch, branches: &[&str]) {
    let branch = |&name: &&str| Branch {
        name: Arc::from(name),
        resource: Arc::from(name),
        phases: Phases::Two,
        work: Opaque::default(),
    };
    let begun = Begun {
        shape: Shape::Atomic,
        mode: Mode::RunLater,
        timeout_ms: 1_000,
        deadline: Timestamp(u64::MAX),
        branches: branches.iter().map(branch).collect(),
        key: None,
        memo: Opaque::default(),
    };
    let records = [Record::Commit(commit::Record::Begun(Arc::new(begun)))];
    let at = Timestamp(1_763_700_000_000);
    let entry = Entry { txn, epoch, expected: 0, at, records: &records, end: End::Open };
    journal.append(entry).expect("there is room");
}

/// A journal that is so fast that what is appended is durable before anybody can look.
struct Prompt {
    inner: FileJournal,
    /// Called before what is open is read.
    before_load: Box<dyn Fn() + Send + Sync>,
    /// How often others have claimed each shard by then.
    claimed_since: u64,
}

impl Journal for Prompt {
    fn append(&self, entry: Entry<'_>) -> Result<Lsn, JournalError> {
        let lsn = self.inner.append(entry)?;
        let forced = entry.records.iter().any(|it| it.durability() == Durability::Forced);
        while forced && self.inner.flushed() < lsn {
            std::thread::yield_now();
        }
        Ok(lsn)
    }

    fn instance(&self) -> &str {
        self.inner.instance()
    }

    fn claim(&self, shard: ShardId) -> Result<Epoch, JournalError> {
        self.inner.claim(shard)
    }

    fn claim_all_fencing(
        &self,
        shards: &[ShardId],
        fenced: OnceFenced,
    ) -> Result<Vec<Epoch>, JournalError> {
        let epochs = self.claim_all(shards)?;
        fenced(&epochs);
        Ok(epochs)
    }

    fn epochs(&self, shards: &[ShardId]) -> Result<Vec<Epoch>, JournalError> {
        let epochs = self.inner.epochs(shards)?;
        Ok(epochs.into_iter().map(|it| Epoch(it.0 + self.claimed_since)).collect())
    }

    fn load(&self) -> Result<Vec<OpenTxn>, JournalError> {
        (self.before_load)();
        match self.claimed_since {
            0 => self.inner.load(),
            since => Err(JournalError::Fenced { ours: Epoch(1), current: Epoch(1 + since) }),
        }
    }

    fn flushed(&self) -> Lsn {
        self.inner.flushed()
    }

    fn has_room(&self) -> bool {
        self.inner.has_room()
    }

    fn read(&self, txn: TxnId) -> Result<Vec<Stored>, JournalError> {
        self.inner.read(txn)
    }

    fn find_key(&self, key: &str) -> Result<Option<TxnId>, JournalError> {
        self.inner.find_key(key)
    }

    fn query(&self, filter: &Filter) -> Result<Page, JournalError> {
        self.inner.query(filter)
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn close(&self) -> Result<(), JournalError> {
        self.inner.close()
    }
}
